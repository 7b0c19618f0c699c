"""The data road as a user walks it: convert, look, mix, export; killed in the middle, damaged on the way.

Run: pytest tests/journeys/test_data_road.py
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from data_pipeline.storage import EpisodeStore
from tests import lerobot_rules, sample_data
from tests.journeys.conftest import environment

NAMES = ("tiny_rlds", "tiny_aloha", "tiny_lerobot")


@pytest.fixture(scope="module")
def road(tmp_path_factory, run_rdt):
    """(folder, datasets, what the conversion of all three said)"""
    folder = tmp_path_factory.mktemp("road")
    datasets = {dataset.name: dataset for dataset in sample_data.make_all(folder).values()}
    yamls = [f"{name}.yaml" for name in NAMES]
    done = run_rdt("data", "convert", *yamls, "--out", "stores", "--workers", "2", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder, datasets, done


@pytest.mark.parametrize("name", NAMES)
def test_three_formats_become_one_language(road, name):
    folder, datasets, done = road
    dataset, store = datasets[name], EpisodeStore.open(folder / "stores" / name)
    assert f"{name}: {len(dataset.states)} episodes" in done.stdout
    assert len(store) == len(dataset.states)
    for episode, states in zip(store, dataset.states, strict=True):
        assert np.flatnonzero(episode.state_mask).tolist() == sorted(dataset.slots)
        np.testing.assert_allclose(episode.states[:, dataset.slots], states, atol=2e-6)
        assert episode.instructions == dataset.instructions
        first = episode.images["external"][0]
        assert first[25].std(axis=0)[0] > 20 and first[..., 0].mean() > first[..., 2].mean()  # red is red


def test_what_leads_back_to_the_source_is_kept(road):
    folder, _, _ = road
    store = EpisodeStore.open(folder / "stores/tiny_rlds")
    assert store.native(0)["observation/state"].shape == (36, 15)
    assert store.sources[store.names[0]]["dataset"] == "tiny_rlds"
    report = json.loads((folder / "stores/tiny_rlds/conversion/report.json").read_text())
    assert (report["episodes"], report["quarantined"]) == (4, [])


MIXED = """
preset: rdt_tiny
robot: agilex_cobot_magic
steps: 4
out: mixed
condition: {cameras: [external], image_history: 1}
data:
  stores: [stores]
  weights: {tiny_rlds: 2, tiny_aloha: 1, tiny_lerobot: 1}
  weight_unit: episode
  batch_size: 8
  workers: 1
  state_noise_snr_db: 40
  augment: {probability: 0.5}
optim: {warmup_steps: 1}
validate_every: 4
checkpoint_every: 4
device: cpu
"""


def test_a_policy_trains_on_all_of_them_by_weight(road, run_rdt):
    folder, _, _ = road
    (folder / "mixed.yaml").write_text(MIXED)
    done = run_rdt("train", "mixed.yaml", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "of one unknown, are: tiny_rlds, tiny_lerobot" in done.stdout
    lines = [json.loads(line) for line in (folder / "mixed/metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 4 and np.isfinite(lines[-1]["loss"]) and "substituted" not in lines[-1]
    done = run_rdt("train", "mixed.yaml", "--out", "other", "--data.weights", "{tiny_rdls: 1}", cwd=folder)
    assert done.returncode == 1 and "tiny_rdls" in done.stderr


def test_a_clean_conversion_has_nothing_to_be_told(road, run_rdt):
    folder, datasets, _ = road
    yamls = [dataset.yaml.name for dataset in datasets.values()]
    done = run_rdt("data", "validate", "stores", *yamls, cwd=folder)
    assert done.returncode == 0 and "0 errors, 0 warnings, 0 notes" in done.stdout, done.stdout


@pytest.mark.parametrize("to", ["lerobot-v3.0", "lerobot-v2.1"])
@pytest.mark.parametrize("name", NAMES)
def test_exports_keep_every_rule_of_the_format(road, run_rdt, name, to):
    folder, datasets, _ = road
    done = run_rdt("data", "export", f"stores/{name}", "--to", to, "--out", f"export/{name}-{to}", cwd=folder)
    assert done.returncode == 0, done.stderr
    check = lerobot_rules.check_v3 if to == "lerobot-v3.0" else lerobot_rules.check_v2
    assert len(check(folder / f"export/{name}-{to}")) == len(datasets[name].states)


def test_all_stores_of_a_folder_are_exported_at_once(road, run_rdt):
    folder, _, _ = road
    done = run_rdt("data", "export", "stores", "--to", "lerobot-v3.0", "--out", "all", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (folder / "all").iterdir()) == sorted(NAMES)


def test_a_robot_gets_its_own_files_back(road, run_rdt):
    folder, datasets, _ = road
    done = run_rdt("data", "export", "stores/tiny_aloha", "--to", "hdf5", "--out", "aloha", cwd=folder)
    assert done.returncode == 0, done.stderr
    (folder / "again.yaml").write_text(
        datasets["tiny_aloha"]
        .yaml.read_text()
        .replace("tiny_aloha", "aloha")
        .replace("colour: bgr", "colour: rgb")
        .replace('["sidecar:instruction", "sidecar:simplified_instruction"]', "[instruction]")
    )
    done = run_rdt("data", "convert", "again.yaml", "--out", "again", "--workers", "1", cwd=folder)
    assert done.returncode == 0, done.stderr
    for one, other in zip(
        EpisodeStore.open(folder / "stores/tiny_aloha"), EpisodeStore.open(folder / "again"), strict=True
    ):
        np.testing.assert_allclose(one.states, other.states, atol=1e-5)
        np.testing.assert_allclose(one.actions, other.actions, atol=1e-5)
    done = run_rdt("data", "export", "stores/tiny_rlds", "--to", "hdf5", "--out", "no", cwd=folder)
    assert done.returncode == 1 and "without a robot description" in done.stderr


def test_a_killed_conversion_finishes_with_the_same_bytes(road, run_rdt):
    folder, _, _ = road
    words = ("data", "convert", "tiny_aloha.yaml", "--out", "killed", "--workers", "2")
    process = subprocess.Popen(
        [sys.executable, "-m", "deploy.cli", *words],
        cwd=folder,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while process.poll() is None and not list((folder / "killed/conversion").glob("tiny_aloha*.json")):
        time.sleep(0.01)
    assert process.poll() is None, "the conversion ended before it could be killed"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = run_rdt(*words, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "done before" in done.stdout
    for name in ("data", "meta", "index"):
        for path in (folder / "killed" / name).rglob("*"):
            whole = folder / "stores/tiny_aloha" / path.relative_to(folder / "killed")
            assert path.is_dir() or path.read_bytes() == whole.read_bytes(), path
    assert not list((folder / "killed").rglob(".*.tmp-*")) and not list((folder / "killed").rglob("incoming"))


def test_tensorflow_is_never_imported(road):
    folder, _, _ = road
    code = (
        "import sys; from deploy.cli import main; "
        "code = main(['data', 'convert', 'tiny_rlds.yaml', '--out', 'plain', '--workers', '1']); "
        "assert not {'tensorflow', 'tensorflow_datasets'} & set(sys.modules); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_mistakes_get_a_helpful_answer(road, run_rdt):
    folder, datasets, _ = road
    done = run_rdt("data", "convert", "dorid", "--out", "x", cwd=folder)
    assert done.returncode == 1 and "did you mean 'droid'?" in done.stderr
    done = run_rdt("data", "convert", "droid", "--out", "x", cwd=folder)
    assert (
        done.returncode == 1 and "nothing matches source.glob 'droid/1.0.0'" in done.stderr and "--root" in done.stderr
    )
    text = datasets["tiny_rlds"].yaml.read_text().replace("observation/wrist_image", "observation/wirst_image")
    (folder / "typo.yaml").write_text(text)
    done = run_rdt("data", "convert", "typo.yaml", "--out", "x", cwd=folder)
    assert done.returncode == 1 and "did you mean 'observation/wrist_image'?" in done.stderr
    done = run_rdt("data", "export", "stores/tiny_rlds", "--to", "lerobot-v3", "--out", "x", cwd=folder)
    assert done.returncode == 1 and "did you mean 'lerobot-v3.0'?" in done.stderr
    done = run_rdt("data", "export", "nowhere", "--to", "lerobot-v3.0", "--out", "x", cwd=folder)
    assert done.returncode == 1 and "nowhere" in done.stderr
    assert not (folder / "x").exists()
