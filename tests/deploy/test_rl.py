"""Run: pytest tests/deploy/test_rl.py"""

import json
import shutil

import numpy as np
import pytest
import yaml

from data_pipeline.schema.registry import shipped_configs
from data_pipeline.sources.transitions import read_d4rl
from deploy.cli import main
from deploy.rl import actor_files, load_rl, run_of
from deploy.rl_table import published, table
from rdt.alignment.rl_config import RLConfig

TINY = ["--task", "InvertedPendulum-v5", "--steps", "60", "--hidden", "[8]", "--evaluate_every", "20"]
TINY += ["--evaluation_episodes", "2", "--batch_size", "16"]


@pytest.mark.parametrize("path", sorted(shipped_configs("rl").values()), ids=lambda path: path.stem)
def test_a_shipped_config_is_its_algorithms(path):
    config = load_rl(path)
    assert config.algorithm == path.stem
    assert published("Ant-v5", config.algorithm) is not None
    assert config.folder == f"runs/rl/Hopper-v5/{path.stem}_0"


def test_a_wrong_key_is_named():
    with pytest.raises(ValueError, match="random_step"):
        load_rl(shipped_configs("rl")["sac"], ["--replay.random_step", "3"])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    pytest.importorskip("tianshou", reason="needs the extra `rl`")
    pytest.importorskip("mujoco", reason="needs the extra `rl`")
    out = tmp_path_factory.mktemp("rl") / "run"
    assert main(["rl", "train", "td3", *TINY, "--replay.random_steps", "30", "--out", str(out)]) == 0
    return out


def test_a_run_keeps_config_curve_and_actors(run):
    config, rows = run_of(run)
    assert (config.algorithm, config.task, config.steps) == ("td3", "InvertedPendulum-v5", 60)
    assert [row["steps"] for row in rows] == [0, 40, 60]
    assert all(len(row["returns"]) == 2 and row["mean"] == np.mean(row["returns"]) for row in rows)
    assert list(actor_files(run)) == [0, 60]  # a tenth of the evaluations, and the last


def test_a_finished_run_is_left_alone_and_another_one_is_refused(run, capsys):
    before = (run / "curve.json").stat().st_mtime_ns
    assert main(["rl", "train", str(run / "rl.yaml")]) == 0
    assert "is done" in capsys.readouterr().out
    assert (run / "curve.json").stat().st_mtime_ns == before
    assert main(["rl", "train", str(run / "rl.yaml"), "--seed", "1"]) == 1
    assert "seed: 0 -> 1" in capsys.readouterr().err


def test_an_interrupted_run_begins_again(run, tmp_path, capsys):
    out = tmp_path / "half"
    shutil.copytree(run, out)
    half = yaml.safe_load((out / "rl.yaml").read_text()) | {"out": str(out)}
    (out / "rl.yaml").write_text(yaml.safe_dump(half, sort_keys=False))
    curve = json.loads((out / "curve.json").read_text())
    (out / "curve.json").write_text(json.dumps(curve | {"evaluations": curve["evaluations"][:2]}))
    (out / "actors/step_00000050.safetensors").write_bytes(b"of another time")
    assert main(["rl", "train", str(out / "rl.yaml")]) == 0
    assert "it begins again" in capsys.readouterr().out
    assert list(actor_files(out)) == [0, 60]
    again = [row["returns"] for row in run_of(out)[1]]
    assert again == [row["returns"] for row in curve["evaluations"]]  # the same seed


def test_data_of_several_actors(run, tmp_path, capsys):
    out = tmp_path / "mixed.hdf5"
    words = ["rl", "collect", str(run), "--out", str(out), "--at", "random,0,last", "--episodes", "2"]
    assert main(words) == 0
    read = read_d4rl(out)
    assert read.faults == ()
    steps = read.transition.infos["trained_steps"]
    assert np.unique(steps).tolist() == [0, 60]
    assert read.transition.ends().sum() == 6
    assert main(words) == 1
    assert "exists already" in capsys.readouterr().err
    words[words.index(str(out))] = str(tmp_path / "other.hdf5")
    words[words.index("random,0,last")] = "17"
    assert main(words) == 1
    assert "no actor of step '17'" in capsys.readouterr().err


def rows(*means: float) -> list[dict]:
    return [{"steps": 10 * i, "mean": mean} for i, mean in enumerate(means)]


def test_the_table_takes_the_best_mean_over_seeds():
    runs = [
        (RLConfig(task="Reacher-v5", algorithm="sac", seed=0), rows(-40, -2, -6)),
        (RLConfig(task="Reacher-v5", algorithm="sac", seed=1), rows(-40, -8, -5, -1)),  # one evaluation ahead
        (RLConfig(task="CartPole-v1", algorithm="ppo"), rows(1, 2)),
    ]
    other, reacher = table(runs)
    assert other.published is None
    assert reacher.seeds == (0, 1) and reacher.steps == (0, 10, 20)
    assert (reacher.best, reacher.std, reacher.published) == (-5.0, 3.0, -2.6)
    assert "published -2.6" in str(reacher)
