"""Demonstrations that went well and badly, operators who felt it, and a fine-tuning run that listens to them.

How episodes ended is planted in the operators' synthetic EEG with a known correlation, and annotation, weights, report
and training are the commands of a user.

Run: pytest tests/journeys/test_eeg.py
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from data_pipeline.annotation.outcome import episode_success
from data_pipeline.annotation.valence import operator_states, relative_valence, valence_weights
from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.registry import find_config
from data_pipeline.schema.types import Episode
from data_pipeline.selection import EpisodeSelection
from data_pipeline.storage import EpisodeStore
from deploy.align import align, load_align
from deploy.cli import main
from rdt.train.checkpoint import load_checkpoint
from rdt.train.config import load_config
from rdt.train.data import sample_stream
from tests.data_pipeline.annotation.eeg.sessions import steps_of, write_study

pytest.importorskip("sklearn")
pytest.importorskip("mujoco", reason="needs the extra `sim`")

OPERATORS, EPISODES, WINDOWS, RATE = ("anna", "ben"), 16, 2, 2.5
AGREES = 0.85  # chance that an operator felt as an episode ended; correlation 0.7
STRENGTH = 2.0


@dataclass(frozen=True)
class Road:
    folder: Path
    plain: EpisodeStore
    annotated: EpisodeStore
    shuffled: EpisodeStore  # annotated by the EEG of other episodes


@pytest.fixture(scope="module")
def road(tmp_path_factory) -> Road:
    folder = tmp_path_factory.mktemp("eeg")
    robot = Embodiment.from_yaml(find_config("robots", "sim_bimanual"))
    rng = np.random.default_rng(1)
    steps = steps_of(WINDOWS, RATE)
    ended = {who: rng.permutation(np.arange(EPISODES) % 2 == 0) for who in OPERATORS}
    with EpisodeStore.create(folder / "plain", robot) as plain:
        for who in OPERATORS:
            for number, success in enumerate(ended[who]):
                native = rng.uniform(0, 0.1, robot.num_native) + np.zeros((steps, 1))
                native[:, 0] += np.linspace(0, 1.0 if success else -1.0, steps)
                states, mask = robot.to_unified(native)
                actions, _ = robot.to_unified(native, kind="action")
                episode = Episode(
                    name=f"{who}_{number}",
                    states=states,
                    state_mask=mask,
                    actions=actions,
                    action_mask=mask,
                    images={"external": rng.integers(0, 256, (steps, 32, 32, 3), dtype=np.uint8)},
                    instructions=("from right to left",),
                    rate_hz=RATE,
                    action_offset_steps=1,
                )
                plain.add(episode, source={"success": bool(success)})
    felt = {who: [1 if success == (rng.random() < AGREES) else -1 for success in ended[who]] for who in OPERATORS}
    stores = [plain]
    for name, shuffled in (("annotated", False), ("shuffled", True)):
        study = write_study(folder / f"eeg_{name}", felt, WINDOWS, shuffled=shuffled)
        assert (
            main(["--debug", "data", "annotate", str(plain.path), "--eeg", str(study), "--out", str(folder / name)])
            == 0
        )
        stores.append(EpisodeStore.open(folder / name))
    return Road(folder, *stores)


def ordering(store: EpisodeStore) -> float:
    """Chance that a success has a larger weight than a failure: 1 always, 0.5 by chance."""
    weights, success = valence_weights([store], STRENGTH)[0], episode_success(store) == 1
    return float((weights[success][:, None] > weights[~success][None]).mean())


def drawn_success(store: EpisodeStore) -> float:
    """Share of successes among what training draws."""
    weights, success = valence_weights([store], STRENGTH)[0], episode_success(store)
    return float((weights * success).sum() / weights.sum())


def test_weights_order_episodes_by_how_they_ended_and_shuffled_eeg_does_not(road):
    assert ordering(road.annotated) > 0.7
    assert 0.3 < ordering(road.shuffled) < 0.65
    assert drawn_success(road.annotated) > 0.55
    assert abs(drawn_success(road.shuffled) - 0.5) < 0.1


def test_the_report_names_the_lowest_first(road, capsys):
    words = ["data", "curate", str(road.annotated.path), "--show", "3", "--json", str(road.folder / "report.json")]
    assert main(["--debug", *words]) == 0
    rows = json.loads((road.folder / "report.json").read_text())["episodes"]
    relative = [row["relative"] for row in rows]
    assert len(rows) == len(OPERATORS) * EPISODES and relative == sorted(relative)
    said = capsys.readouterr().out
    assert rows[0]["episode"] in said and rows[5]["episode"] not in said
    low = [row["success"] for row in rows[: EPISODES // 2]]
    assert np.mean(low) < 0.4


def test_an_annotated_store_says_so_and_hands_it_on_to_nobody(road, capsys):
    assert main(["--debug", "data", "inspect", str(road.annotated.path)]) == 0
    assert "personal      valence of the operator, from EEG" in capsys.readouterr().out
    out = road.folder / "exported"
    assert main(["data", "export", str(road.annotated.path), "--to", "lerobot-v3.0", "--out", str(out)]) == 0
    assert "annotation.operator" not in (out / "meta/info.json").read_text()


def config(road: Road, store: EpisodeStore, **data) -> Path:
    content = {
        "preset": "rdt_tiny",
        "robot": "sim_bimanual",
        "steps": 6,
        "condition": {"cameras": ["external"], "image_history": 1},
        "data": {"stores": [str(store.path)], "batch_size": 8, **data},
        "optim": {"lr": 1e-3, "warmup_steps": 2},
        "plot_every": 0,
        "checkpoint_every": 6,
        "loggers": ["jsonl"],
        "device": "cpu",
    }
    path = road.folder / f"{store.path.name}.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def trained(road) -> Path:
    """A run on the plain demonstrations, and one that starts from it and listens to the operators."""
    start, out = road.folder / "start", road.folder / "finetuned"
    assert main(["--debug", "train", str(config(road, road.plain)), "--out", str(start)]) == 0
    words = ["--out", str(out), "--start_from", str(start / "checkpoint")]
    words += ["--data.operator_valence_strength", str(STRENGTH)]
    assert main(["--debug", "train", str(config(road, road.annotated)), *words]) == 0
    return out


def test_a_fine_tuning_run_with_those_weights_runs_and_keeps_the_key(trained):
    rows = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(row["loss"]) for row in rows if "loss" in row)
    assert load_checkpoint(trained / "checkpoint").config.data.operator_valence_strength == STRENGTH


def test_what_training_draws_follows_the_weights(road, trained):
    """The stream of that very run: batches come from it by index."""
    checkpoint = load_checkpoint(trained / "checkpoint")
    part = {EpisodeSelection(road.annotated, range(len(road.annotated))): None}
    stream = sample_stream(checkpoint.config, checkpoint.model, part, "step", train=True)
    drawn = Counter(stream.mixture.locate(i).episode for i in range(4 * 4096))
    share = np.array([drawn[i] for i in range(len(road.annotated))]) / (4 * 4096)
    (weights,) = valence_weights([road.annotated], STRENGTH)
    np.testing.assert_allclose(share, weights / weights.sum(), atol=0.004)
    held_out = sample_stream(checkpoint.config, checkpoint.model, part, "step", train=False)
    assert held_out.mixture.locate(0) == sample_stream(
        load_config(road.folder / "plain.yaml"), checkpoint.model, part, "step", train=True
    ).mixture.locate(0)


def test_stores_without_eeg_stop_a_run_that_asks_for_it(road, capsys):
    words = [str(config(road, road.plain)), "--out", str(road.folder / "none"), "--data.operator_valence_strength", "1"]
    assert main(["train", *words]) == 1
    assert "annotate them with `rdt data annotate`" in capsys.readouterr().err


def test_demonstrations_of_the_simulator_are_annotated_and_weighed(journey, tmp_path):
    """The quick start's own demonstrations and checkpoint; 50 Hz, so 200 steps a window."""
    plain = EpisodeStore.open(journey.out / "store")
    windows = min(plain.episode_lengths) // steps_of(1, plain.embodiment.rate_hz)
    felt = [1, -1] * (len(plain) // 2)
    study = write_study(tmp_path / "eeg", {"anna": felt}, windows, names={"anna": list(plain.names)})
    words = [str(plain.path), "--eeg", str(study), "--out", str(tmp_path / "store")]
    assert main(["--debug", "data", "annotate", *words]) == 0
    (weights,) = valence_weights([EpisodeStore.open(tmp_path / "store")], STRENGTH)
    assert np.corrcoef(np.log(weights), felt)[0, 1] > 0.7
    words = ["--demonstrations.per_task", "0", "--data.stores", f"['{tmp_path / 'store'}']", "--steps", "4"]
    words += ["--start_from", str(journey.out / "checkpoint"), "--data.operator_valence_strength", str(STRENGTH)]
    run = ["train", str(journey.folder / "small.yaml"), "--out", str(tmp_path / "run"), *words, "--plot_every", "0"]
    assert main(["--debug", *run]) == 0
    assert (tmp_path / "run/checkpoint").is_dir()


def test_the_valence_is_a_reward_for_alignment(road, trained):
    path = road.folder / "align.yaml"
    content = {
        "method": "nca",
        "learn_from": "operator_valence",
        "start_from": str(trained / "checkpoint"),
        "stores": [str(road.annotated.path)],
        "out": str(road.folder / "aligned"),
        "policy": {"steps": 2, "batch_size": 4},
        "draws": 1,
        "device": "cpu",
    }
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    align(load_align(path))
    assert (road.folder / "aligned/checkpoint").is_dir()
    with pytest.raises(ValueError, match="for method nca and for annotated demonstrations"):
        replace(load_align(path), stores=())


def test_reward_of_an_episode_is_its_relative_valence(road):
    states = operator_states([road.annotated])[0]
    assert [state.relative for state in states] == pytest.approx(relative_valence([road.annotated])[0].tolist())
    assert {state.operator for state in states} == set(OPERATORS)
