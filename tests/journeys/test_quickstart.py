"""`rdt quickstart`, interrupted and finished, and what its checkpoint is good for.

Run: pytest tests/journeys
"""

import json

import h5py
import numpy as np
import pytest

from data_pipeline.storage import EpisodeStore

for library in ("mujoco", "gym_aloha", "matplotlib", "imageio", "jinja2", "scipy"):
    pytest.importorskip(library, reason="needs the extra `sim`")

TASKS = {"transfer_right_to_left", "transfer_left_to_right"}
REPORT_KEYS = {
    "success_rate",
    "success_interval_95",
    "benchmark_success_rate",
    "tasks",
    "episodes",
    "seed",
    "wall_seconds",
    "train_seconds",
    "action_latency_ms",
    "checkpoint",
    "versions",
}


def test_an_interrupt_is_one_message_and_the_same_command_finishes(journey):
    assert journey.interrupted_code == 1
    assert "rdt: interrupted" in journey.interrupted
    assert "Traceback" not in journey.interrupted
    assert journey.finished.returncode == 0, journey.finished.stderr
    assert "record: done before" in journey.finished.stdout


def test_nothing_half_written_is_left(journey):
    assert [path.name for path in journey.out.rglob(".*")] == []


def test_the_report_holds_what_the_contract_names(journey):
    report = json.loads((journey.out / "report.json").read_text(encoding="utf-8"))
    assert set(report) >= REPORT_KEYS
    assert set(report["tasks"]) == TASKS
    for task in report["tasks"].values():
        low, high = task["success_interval_95"]
        assert 0 <= low <= task["success_rate"] <= high <= 1
        assert 0 <= task["wrong_task_rate"] <= 1
        assert task["episodes"] == task["held_out_phrasings"]["episodes"] == 1
    assert set(report["control"]["did"]) == TASKS
    assert report["action_latency_ms"]["p50"] <= report["action_latency_ms"]["p99"]
    assert report["demonstrations"] == {task: {"accepted": 2, "attempts": 2} for task in TASKS}
    assert report["train_seconds"] < report["wall_seconds"]


def test_the_page_shows_videos_curves_and_actions(journey):
    page = (journey.out / "report.html").read_text(encoding="utf-8")
    videos = sorted(path.name for path in (journey.out / "rollouts").glob("*.mp4"))
    assert len(videos) == 2
    assert all(f"rollouts/{name}" in page for name in videos)
    assert page.count("data:image/png;base64,") >= 6
    assert set(json.loads((journey.out / "open_loop.json").read_text(encoding="utf-8"))) == TASKS


def test_demonstrations_are_aloha_files_and_unified_episodes(journey):
    files = sorted((journey.out / "demonstrations").rglob("*.hdf5"))
    assert len(files) == 4
    with h5py.File(files[0]) as file:
        assert file["action"].shape == file["observations/qpos"].shape == (100, 14)
        qpos = file["observations/qpos"][()]
    store = EpisodeStore.open(journey.out / "store")
    assert len(store) == 4
    names = [f"{path.parent.name}/{path.stem}" for path in files]
    episode = store[store.names.index(names[0])]
    assert np.allclose(store.embodiment.from_unified(episode.states, "state"), qpos, atol=1e-6)


def test_a_finished_run_is_not_repeated(journey, run_rdt):
    before = (journey.out / "report.json").read_bytes()
    again = run_rdt(*journey.words, cwd=journey.folder)
    assert again.returncode == 0
    assert "holds the finished run" in again.stdout
    assert "unseen words" in again.stdout
    assert (journey.out / "report.json").read_bytes() == before


def test_other_settings_do_not_mix_with_a_run(journey, run_rdt):
    other = run_rdt(*journey.words, "--seed", "1", cwd=journey.folder)
    assert other.returncode == 1
    assert "other settings" in other.stderr
    assert "train.seed: 0 -> 1" in other.stderr


def test_a_folder_of_something_else_is_left_alone(journey, run_rdt, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    result = run_rdt("quickstart", "--out", tmp_path, "--config", journey.folder / "small.yaml", cwd=tmp_path)
    assert result.returncode == 1
    assert "is not empty" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_eval_opens_the_checkpoint_alone(journey, run_rdt, tmp_path):
    words = ("eval", journey.out / "checkpoint", "--env", "sim_transfer", "--episodes", "2", "--seed", "3")
    result = run_rdt(*words, "--out", tmp_path / "eval", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    report = json.loads((tmp_path / "eval/report.json").read_text(encoding="utf-8"))
    assert set(report) >= REPORT_KEYS
    assert list(report["tasks"]) == ["transfer_right_to_left"]
    assert report["tasks"]["transfer_right_to_left"]["wrong_task_rate"] is None
    assert report["seed"] == 3
    again = run_rdt(*words, "--out", tmp_path / "eval", cwd=tmp_path)
    assert again.returncode == 1
    assert "report already" in again.stderr


def test_inspect_says_what_is_inside(journey, run_rdt):
    result = run_rdt("checkpoint", "inspect", journey.out / "checkpoint", cwd=journey.folder)
    assert result.returncode == 0, result.stderr
    assert "24 of 24 steps" in result.stdout
    assert "2 episodes, 200 steps" in result.stdout
    assert "left_gripper_joint_0_pos" in result.stdout
