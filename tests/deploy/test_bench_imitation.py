"""Run: pytest tests/deploy/test_bench_imitation.py"""

import json

import numpy as np
import pytest
import yaml

for needed in ("tianshou", "gymnasium", "mujoco", "matplotlib"):
    pytest.importorskip(needed)

from data_pipeline.schema.registry import read_yaml, shipped_configs  # noqa: E402
from deploy.cli import build_parser, main  # noqa: E402
from deploy.imitation_runs import Learner, clone, states_of, unit_between  # noqa: E402
from deploy.imitation_table import FIGURES, figures_of, leaves_out_zero, lines_of_table, paired, summary  # noqa: E402
from rdt.alignment.absorbing import ExpertPairs  # noqa: E402
from rdt.alignment.actors import Actor, ActorConfig, Rollout  # noqa: E402
from rdt.alignment.imitation_config import ImitationConfig  # noqa: E402
from rdt.train.config import config_as  # noqa: E402

SHORT = {"hidden": [8], "batch_size": 16, "evaluation_episodes": 2}
TINY = {
    "task": "InvertedPendulum-v5",  # an actor that does nothing yet outlives a random one
    "expert": {**SHORT, "algorithm": "ppo", "steps": 32, "envs": 2, "collect_steps": 32, "evaluate_every": 32},
    "demonstrations": 2,
    "steps_each": 10,
    "dac": {
        **SHORT,
        "algorithm": "sac",
        "steps": 40,
        "collect_steps": 10,
        "evaluate_every": 10,
        "replay": {"random_steps": 10, "updates_per_step": 0.5, "size": 100},
    },
    "gail": {
        **SHORT,
        "algorithm": "ppo",
        "steps": 48,
        "envs": 2,
        "collect_steps": 16,
        "evaluate_every": 16,
        "on_policy": {"normalise_observations": False, "repeat": 1},
    },
    "actor_delay": 2,
    "discriminator": {"hidden": [8], "scaled": True},
    "cloning": {"steps": 5},
}
ALL = "bc,dac,c-gail-dac,gail,c-gail"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("imitation")


@pytest.fixture(scope="module")
def words(folder):
    (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    return ["--debug", "bench", "imitation", "--tasks", str(folder / "tiny.yaml"), "--out", str(folder / "out")]


@pytest.fixture(scope="module")
def figures(folder, words):
    assert main([*words, "--methods", ALL, "--seeds", "2", "--json", str(folder / "figures.json")]) == 0
    return json.loads((folder / "figures.json").read_text())


def test_every_method_has_its_figures_and_controlled_ones_a_difference(figures, folder):
    found = figures["tasks"]["InvertedPendulum-v5"]
    assert list(found["methods"]) == ["bc", "dac", "c-gail-dac_k1", "gail", "c-gail_k1"]
    assert list(found["differences"]) == ["c-gail-dac_k1 - dac", "c-gail_k1 - gail"]
    assert set(found["methods"]["bc"]) == {f.label for f in FIGURES if not f.needs_curve}
    for name in ("dac", "c-gail-dac_k1"):
        assert set(found["methods"][name]) == {f.label for f in FIGURES}
        assert len(found["methods"][name]["n at the end"]["values"]) == 2
    assert found["expert"] > found["random"] and found["floor"] >= 0
    assert len(figures["one step"]) == 8
    for picture in ("one_step.png", "InvertedPendulum-v5/curves.png"):
        assert (folder / "out" / picture).stat().st_size > 1000


def test_a_benchmark_goes_on_where_it_was(figures, folder, words):
    files = {path: path.stat().st_mtime_ns for path in (folder / "out/InvertedPendulum-v5").glob("*_s*.json")}
    assert len(files) == 10
    lost = folder / "out/InvertedPendulum-v5/dac_s1.json"
    before = json.loads(lost.read_text())
    lost.unlink()
    assert main([*words, "--methods", ALL, "--seeds", "2"]) == 0
    assert all(path.stat().st_mtime_ns == files[path] for path in files if path != lost)
    after = json.loads(lost.read_text())
    assert after["curve"] == before["curve"]  # of the same seed


def test_files_of_other_settings_are_not_mixed_in(figures, folder, words):
    other = {**TINY, "actor_delay": 3}
    (folder / "other.yaml").write_text(yaml.safe_dump(other))
    with pytest.raises(ValueError, match="actor_delay: 2 -> 3"):
        main([*words[:4], str(folder / "other.yaml"), *words[5:], "--methods", "dac"])


def test_a_mistyped_method_hears_of_its_neighbour(words):
    with pytest.raises(ValueError, match="c-gail-dac"):
        main([*words, "--methods", "c-gail-dca"])


@pytest.mark.parametrize("name", sorted(shipped_configs("imitation")))
def test_shipped_tasks_are_read(name):
    config = config_as(ImitationConfig, read_yaml(shipped_configs("imitation")[name]), where=name)
    assert config.task == name


def test_weights_of_the_controller_are_positive_numbers(capsys):
    args = build_parser().parse_args(["bench", "imitation", "--k", "0.1,1,10"])
    assert args.k == (0.1, 1.0, 10.0) and len(args.tasks) == 2
    with pytest.raises(SystemExit):
        build_parser().parse_args(["bench", "imitation", "--k", "0"])
    assert "positive numbers" in capsys.readouterr().err


def record(n, k=0.0):
    curve = [
        {"updates": 100 * i, "n": value, "wasserstein": 0.1, "losses": {"D_policy": 0.4} if i else {}}
        for i, value in enumerate(n)
    ]
    return {"curve": curve, "cpu_seconds": 1.0}


def test_figures_are_those_of_the_curve():
    found = figures_of([record([0, 0.5, 0.9, 0.9, 0.9, 0.9, 1.0]), record([0, 0, 0, 0, 0, 0, 0.5])])
    assert found["n at the end"]["values"] == [1.0, 0.5]
    assert found["updates to n >= 0.9, thrice"]["values"] == [200, 600]  # the second one is cut at its budget
    assert found["D on policy, last quarter"]["mean"] == pytest.approx(0.4)
    assert "D on expert, last quarter" not in found


def test_differences_are_taken_seed_by_seed():
    baseline = [0.4, 0.6, 0.8, 0.7, 0.5]
    one, two = ({"n at the end": summary(values)} for values in ([x + 0.1 for x in baseline], baseline))
    difference = paired(one, two)["n at the end"]
    assert difference["values"] == pytest.approx([0.1] * 5)
    assert leaves_out_zero(difference)
    assert not leaves_out_zero(summary([-0.1, 0.2, 0.1, 0.0, -0.2]))
    assert not leaves_out_zero(summary([0.1, 0.1]))  # too few to say
    table = "\n".join(lines_of_table({"a": one, "b": two}, {"a - b": paired(one, two)}))
    assert "+0.100 [+0.100, +0.100]*" in table and "0.700" in table


def test_names_tell_methods_and_weights_apart():
    assert [Learner("dac").name, Learner("c-gail-dac", 0.1).name, Learner("bc").name] == [
        "dac",
        "c-gail-dac_k0.1",
        "bc",
    ]


def test_states_in_life_have_no_indicator():
    seen = np.array([[1.0, 2.0, 0.0], [3.0, 4.0, 0.0], [0.0, 0.0, 1.0]], np.float32)
    rollout = Rollout(seen, np.zeros((3, 1)), np.zeros(3), seen[-1], True)
    assert states_of([rollout], indicator=True).tolist() == [[1, 2], [3, 4]]
    assert states_of([rollout]).shape == (3, 3)


def test_a_unit_lies_between_the_spread_of_the_expert_and_of_chance():
    generator = np.random.default_rng(0)
    still, flung = (generator.standard_normal((5000, 2)) * scale for scale in ([0.01, 1], [1, 4]))
    assert unit_between(still, flung) == pytest.approx([0.1, 2], rel=0.05)


def test_cloning_learns_what_is_shown():
    import torch

    torch.manual_seed(0)
    x = torch.rand(200, 1) * 2 - 1
    actor = Actor(ActorConfig(1, (-2.0,), (2.0,), (16,)))
    assert clone(actor, ExpertPairs(x, -0.5 * x, torch.ones(200)), 300, 1e-2, 50) < 1e-3
    assert actor.act(np.array([[0.8]], np.float32))[0, 0] == pytest.approx(-0.8, abs=0.1)  # twice -0.4
