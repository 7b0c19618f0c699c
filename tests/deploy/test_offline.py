"""`rdt align` on states, each method with next to no training; what it learns is tested in tests/rdt/alignment.

Run: pytest tests/deploy/test_offline.py
"""

import json

import numpy as np
import pytest
import torch

from data_pipeline.schema.registry import shipped_configs
from data_pipeline.schema.types import Transition
from data_pipeline.sources.hdf5 import write_tree
from data_pipeline.sources.transitions import read_reference_returns, read_transitions, write_d4rl
from deploy import offline
from deploy.cli import main
from deploy.control_tasks import References, make_environment, references_of
from deploy.offline import run_offline, shared_stages
from deploy.offline_config import load_offline
from rdt.alignment.state_policy import load_state_policy

METHODS = ("bc", "diffusion_bc", "iql", "sfbc", "qgpo", "eda", "srpo")
TINY = [
    *("--budget", "small", "--behaviour.network.hidden", "[8,8,8]", "--critic.hidden", "[8]"),
    *("--behaviour.train.batch_size", "8", "--critic.train.batch_size", "8", "--policy.train.batch_size", "8"),
    *("--behaviour.train.steps", "2", "--critic.train.steps", "2", "--policy.train.steps", "2"),
    *("--support.candidates", "3", "--support.sampling_steps", "2"),
    *("--acting.sampling_steps", "2", "--acting.candidates", "4"),
]


def transition(rows=40, seed=0):
    rng = np.random.default_rng(seed)
    states = rng.normal(size=(rows + 1, 3)).astype(np.float32)
    ends = np.arange(rows) % 10 == 9
    return Transition(
        "tiny",
        observations=states[:-1],
        actions=rng.uniform(-1, 1, size=(rows, 1)).astype(np.float32),
        rewards=rng.normal(size=rows).astype(np.float32),
        next_observations=states[1:],
        terminals=ends & (np.arange(rows) % 20 == 9),
        timeouts=ends & (np.arange(rows) % 20 == 19),
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    file = tmp_path_factory.mktemp("data") / "tiny.hdf5"
    write_d4rl(file, transition())
    return file


def config_of(method, data, out, *words):
    options = ["--data", str(data), "--out", str(out), *TINY, *words]
    return load_offline(shipped_configs("align/offline")[method], options)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_leaves_a_policy_that_acts(method, data, tmp_path):
    policy = run_offline(config_of(method, data, tmp_path / "run"))
    states = torch.randn(2, 3)
    found = [
        p.act(states, torch.Generator().manual_seed(0))
        for p in (policy, load_state_policy(tmp_path / "run/checkpoint"))
    ]
    assert torch.equal(*found) and found[0].shape == (2, 1)


@pytest.mark.parametrize("method", ["iql", "eda", "sfbc"])
def test_an_interrupted_run_goes_on_as_if_it_had_not_stopped(method, data, tmp_path, monkeypatch):
    whole = run_offline(config_of(method, data, tmp_path / "whole"))
    rows = offline.row_batches

    def stopping(*arguments):
        """The first stage is interrupted in its second step."""
        batches, left = rows(*arguments), iter([True])

        def batch(step):
            if step == 1 and next(left, False):
                raise KeyboardInterrupt
            return batches(step)

        return batch

    config = config_of(method, data, tmp_path / "parts")
    monkeypatch.setattr(offline, "row_batches", stopping)
    with pytest.raises(KeyboardInterrupt):
        run_offline(config)
    monkeypatch.setattr(offline, "row_batches", rows)
    run_offline(config)
    again = load_state_policy(tmp_path / "parts/checkpoint")
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))


def test_a_folder_of_other_settings_is_refused(data, tmp_path):
    run_offline(config_of("bc", data, tmp_path))
    with pytest.raises(ValueError, match="other settings"):
        run_offline(config_of("bc", data, tmp_path, "--policy.train.steps", "3"))


def test_methods_share_what_has_equal_settings(data, tmp_path):
    shared = {method: shared_stages(config_of(method, data, tmp_path)) for method in METHODS}
    assert shared["srpo"]["critic"] == shared["iql"]["critic"]
    assert shared["sfbc"]["behaviour"] == shared["srpo"]["behaviour"] != shared["eda"]["behaviour"]
    assert shared["sfbc"]["critic"] != shared["qgpo"]["critic"]


def test_a_config_knows_its_task_its_budget_and_the_command_line():
    path = shipped_configs("align/offline")["srpo"]
    assert load_offline(path).beta == 0.2 and load_offline(path).critic.train.steps == 1_500_000
    assert load_offline(path, ["--task", "halfcheetah-medium-expert-v2"]).beta == 0.01
    maze = load_offline(path, ["--task", "antmaze-large-play-v2"])
    assert (maze.beta, maze.critic.expectile, maze.unit_q_gradient) == (0.06, 0.9, True)
    small = load_offline(path, ["--task", "antmaze-umaze-v2", "--budget", "small", "--critic.train.steps", "7"])
    assert (small.reward_scaling, small.beta, small.weight, small.critic.train.steps) == ("antmaze", 0.01, "alpha", 7)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--method", "sfbcc"], "Got value: sfbcc"),
        (["--weight", "alfa"], "did you mean 'alpha'"),
        (["--method", "eda"], "must be bottleneck"),
        (["--critic.kind", "planned"], "asks twins"),
        (["--label_fraction", "0"], "share of the states"),
        (["--budget", "smal"], "small"),
    ],
)
def test_settings_that_mean_nothing_are_refused(words, told):
    with pytest.raises((ValueError, FileNotFoundError), match=told):
        load_offline(shipped_configs("align/offline")["srpo"], words)


def test_a_folder_of_files_is_one_data_set(tmp_path):
    for name, seed in (("a", 0), ("b", 1)):
        write_d4rl(tmp_path / f"{name}.hdf5", transition(15, seed))
    found = read_transitions(tmp_path).transition
    assert found.num_rows == 30 and found.ends()[14] and len(found.episode_returns()) == 4


def test_scores_are_counted_between_the_datas_own_returns(tmp_path):
    file = tmp_path / "own.hdf5"
    write_d4rl(file, transition(), {"random_return": 10.0, "expert_return": 30.0})
    assert read_reference_returns(file) == (10, 30)
    assert references_of("anything", file).score(20) == 50
    assert references_of("Hopper-v5").score(3234.3) == 100
    with pytest.raises(ValueError, match="attributes random_return"):
        references_of("Pendulum-v1")
    with pytest.raises(ValueError, match="above the random one"):
        References(1.0, 1.0, "nowhere")


def test_commands_align_try_and_compare(tmp_path, capsys):
    pytest.importorskip("mujoco")
    gymnasium = pytest.importorskip("gymnasium")
    with pytest.raises(ValueError, match="did you mean"):
        make_environment("InvertedPendulm-v5")
    env = gymnasium.make("InvertedPendulum-v5")
    width = env.observation_space.shape[0]
    made = transition(60)
    states = np.random.default_rng(2).normal(size=(61, width)).astype(np.float32)
    file = tmp_path / "pendulum.hdf5"
    columns = {"observations": states[:-1], "next_observations": states[1:]}
    arrays = {key: getattr(made, key) for key in ("actions", "rewards", "terminals", "timeouts")} | columns
    write_tree(file, arrays, {"random_return": 0.0, "expert_return": 1000.0})
    out = tmp_path / "run"
    words = ["--data", str(file), "--environment", "InvertedPendulum-v5", "--out", str(out), *TINY]
    assert main(["--debug", "align", "offline/bc", *words]) == 0
    trial = [
        "eval",
        str(out / "checkpoint"),
        "--env",
        "InvertedPendulum-v5",
        "--episodes",
        "2",
        "--out",
        str(out / "eval"),
    ]
    assert main(["--debug", *trial]) == 0
    report = json.loads((out / "eval/report.json").read_text())
    assert len(report["scores"]) == 2 and report["references"]["expert"] == 1000 and report["milliseconds"] > 0
    bench = [
        "bench",
        "offline",
        f"swing={file}",
        "--env",
        "InvertedPendulum-v5",
        "--quick",
        "--out",
        str(tmp_path / "b"),
    ]
    bench += ["--json", str(tmp_path / "figures.json")]
    assert main(["--debug", *bench]) == 0
    figures = json.loads((tmp_path / "figures.json").read_text())["swing"]
    assert len(figures["rows"]) == 8 and (tmp_path / "b/swing.png").stat().st_size > 1000
    capsys.readouterr()
    assert main(["--debug", *bench]) == 0  # nothing is trained again
    assert "from 0" not in capsys.readouterr().out
