"""Run: pytest tests/deploy/test_train.py"""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml

from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.registry import find_config
from data_pipeline.schema.types import Episode
from data_pipeline.storage import EpisodeStore
from deploy.cli import main
from rdt.encoders.siglip import SiglipVision
from rdt.model.presets import PRESETS
from rdt.train.best import Best, read_best
from rdt.train.checkpoint import load_checkpoint, load_trainer_state
from tests.published import SENTENCES, make_siglip, make_t5

pytest.importorskip("mujoco", reason="needs the extra `sim`")


@pytest.fixture
def store(tmp_path) -> EpisodeStore:
    robot = Embodiment.from_yaml(find_config("robots", "sim_bimanual"))
    rng = np.random.default_rng(0)
    with EpisodeStore.create(tmp_path / "store", robot) as store:
        for number, sentence in enumerate(("pick up the cup", "from right to left")):
            native = rng.uniform(0, 1, (12, robot.num_native))
            states, mask = robot.to_unified(native)
            actions, _ = robot.to_unified(native, kind="action")
            store.add(
                Episode(
                    name=f"episode_{number}",
                    states=states,
                    state_mask=mask,
                    actions=actions,
                    action_mask=mask,
                    images={"external": rng.integers(0, 256, (12, 30, 40, 3), dtype=np.uint8)},
                    instructions=(sentence,),
                    rate_hz=robot.rate_hz,
                    action_offset_steps=1,
                )
            )
    return store


@pytest.fixture
def published(store, tmp_path) -> dict:
    """A config with tiny encoders of the published kinds, which do not train."""
    sizes = PRESETS["rdt_tiny"]
    return {
        "preset": "rdt_tiny",
        "out": str(tmp_path / "run"),
        "steps": 2,
        "condition": {
            "vision": "siglip",
            "vision_path": str(make_siglip(tmp_path / "siglip", width=sizes.img_token_dim)),
            "text": "t5",
            "text_path": str(make_t5(tmp_path / "t5", width=sizes.lang_token_dim)),
            "text_cache": str(tmp_path / "cache"),
            "cameras": ["external"],
        },
        "data": {"stores": [str(store.path)], "batch_size": 4},
        "optim": {"ema_decay": 0.9},
        "device": "cpu",
    }


def test_training_with_published_encoders_embeds_once_and_goes_on_without_t5(published, tmp_path):
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(published))
    assert main(["train", str(tmp_path / "run.yaml")]) == 0
    shutil.rmtree(tmp_path / "t5")
    again = ["train", str(tmp_path / "run.yaml"), "--resume", "auto"]
    assert main(again) == 0  # the cache has all sentences of the store, and the empty one
    model = load_checkpoint(tmp_path / "run" / "checkpoint").model
    assert set(model.condition.text.embeddings) == {"", "pick up the cup", "from right to left"} <= {"", *SENTENCES}
    state = load_trainer_state(tmp_path / "run" / "checkpoint")
    assert not [name for name in state["model"] if "tower" in name or "vision_model" in name]
    assert torch.isfinite(model.condition.vision_signature).all()


def test_cached_features_train_like_pictures_that_are_encoded_in_the_step(published, tmp_path, capsys, monkeypatch):
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({**published, "steps": 9}))
    train = ["train", str(tmp_path / "run.yaml"), "--plot_every", "0", "--out"]
    looked, forward = {"plain": 0, "cached": 0}, SiglipVision.forward

    def counted(self, pixels):
        looked[running] += len(pixels)
        return forward(self, pixels)

    monkeypatch.setattr(SiglipVision, "forward", counted)
    running = "plain"
    assert main([*train, str(tmp_path / "plain")]) == 0
    running = "cached"
    assert main([*train, str(tmp_path / "cached"), "--data.cache_features", "true"]) == 0
    assert "features of up to 24 pictures" in capsys.readouterr().out
    plain, cached = (
        json.loads((tmp_path / name / "metrics.jsonl").read_text().splitlines()[-1]) for name in ("plain", "cached")
    )
    assert cached["loss"] == pytest.approx(plain["loss"], rel=1e-5)
    assert looked["cached"] < looked["plain"]  # 24 pictures and the background, whatever the steps
    assert (
        main([*train, str(tmp_path / "jittered"), "--data.cache_features", "true", "--data.random_shift_px", "2"]) != 0
    )
    assert "data.random_shift_px (now 2) to 0" in capsys.readouterr().err


def test_features_of_an_encoder_that_trains_are_not_cached(store, tmp_path, capsys):
    assert pretrain(tmp_path, cache_features=True) != 0
    assert "the vision encoder 'spatial_softmax' trains along" in capsys.readouterr().err


@pytest.fixture
def make_dataset(tmp_path):
    """Stores of datasets whose robots nobody described, side by side in one folder."""

    def make(name: str, lengths: tuple[int, ...]) -> None:
        rng = np.random.default_rng(len(name))
        mask = np.arange(128) < 9
        with EpisodeStore.create(tmp_path / "datasets" / name, None, robot_type=name) as store:
            for number, length in enumerate(lengths):
                states = np.where(mask, rng.normal(size=(length, 128)), 0).astype(np.float32)
                store.add(
                    Episode(
                        name=f"{name}_{number}",
                        states=states,
                        state_mask=mask,
                        actions=states,
                        action_mask=mask,
                        images={"external": rng.integers(0, 256, (length, 30, 40, 3), dtype=np.uint8)},
                        instructions=("pick up the cup",),
                        rate_hz=5.0,
                    ),
                    max_steps=8,
                )

    return make


def pretrain(tmp_path, *words, **data) -> int:
    config = {
        "preset": "rdt_tiny",
        "out": str(tmp_path / "run"),
        "steps": 2,
        "condition": {"cameras": ["external"]},
        "data": {"stores": [str(tmp_path / "datasets")], "batch_size": 8, "state_noise_snr_db": 40.0, **data},
        "device": "cpu",
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    return main(["train", str(tmp_path / "run.yaml"), *words])


def test_a_mixture_of_stores_without_a_robot_trains_and_deploys_the_configs(make_dataset, tmp_path, capsys):
    make_dataset("droid", (30, 12))
    make_dataset("bc_z", (5,))
    make_dataset("viola", (5,))
    mixture = {"name": "two", "datasets": {"bc_z": 1, "droid": 2, "toto": 1}}
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(mixture))
    assert pretrain(tmp_path, mixture=str(tmp_path / "two.yaml")) != 0
    assert "unknown store 'toto' in mixture 'two'" in capsys.readouterr().err
    assert pretrain(tmp_path, mixture=str(tmp_path / "two.yaml"), mixture_missing="skip", workers=1) == 0
    said = capsys.readouterr().out
    assert "goes without datasets without a store: toto" in said
    assert "goes without stores that it does not name: viola" in said
    assert "the checkpoint is for robot 'sim_bimanual'; of another one, or of one unknown, are: bc_z, droid" in said
    assert load_checkpoint(tmp_path / "run" / "checkpoint").robot.name == "sim_bimanual"
    # to go on, another number of workers is no other run; another mixture is
    again = {"mixture": str(tmp_path / "two.yaml"), "mixture_missing": "skip"}
    assert pretrain(tmp_path, "--resume", "auto", workers=0, **again) == 0
    assert pretrain(tmp_path, "--resume", "auto", weights={"droid": 1}) != 0
    assert "data.weights" in capsys.readouterr().err


def test_held_out_episodes_are_measured_by_dataset_and_by_joint(store, make_dataset, tmp_path):
    make_dataset("droid", (12, 12))
    stores = [str(store.path), str(tmp_path / "datasets")]
    assert pretrain(tmp_path, stores=stores, held_out_every=2) == 0
    row = json.loads((tmp_path / "run/metrics.jsonl").read_text().splitlines()[-1])
    assert row["step"] == 2
    assert {"overall_avg_sample_mse", "store_sample_mse", "droid_sample_l2err", "valid_sample_mse"} <= set(row)
    assert len([name for name in row if name.startswith("joint_error/")]) == store.embodiment.num_native
    assert [path.name for path in (tmp_path / "run/plots").iterdir()] == ["episode_1_0000002.png"]
    assert (tmp_path / "run/tensorboard").is_dir()


def test_the_best_of_a_run_killed_after_it_is_that_of_an_uninterrupted_one(store, tmp_path, capsys, monkeypatch):
    errors = {2: 3.0, 4: 1.0, 6: 2.0, 8: 1.0}

    def run(out: str, measured: list[int | None], *words: str) -> int:
        """Measuring at these steps; None is a kill."""
        steps = iter(measured)

        def sampling_figures(*_) -> dict[str, float]:
            if (step := next(steps)) is None:
                raise OSError("killed")
            return {"overall_avg_sample_mse": 1.0, "valid_sample_mse": errors[step]}

        monkeypatch.setattr("deploy.train.sampling_figures", sampling_figures)
        every = ("--steps", "8", "--validate_every", "2", "--checkpoint_every", "3", "--plot_every", "0")
        words = (*every, "--out", str(tmp_path / out), *words)
        return pretrain(tmp_path, *words, stores=[str(store.path)], held_out_every=2)

    assert run("whole", [2, 4, 6, 8]) == 0
    best = tmp_path / "whole" / "best"
    assert read_best(best) == Best(4, "valid_sample_mse", 1.0)
    assert f"the best checkpoint is that of step 4, valid_sample_mse 1: {best}" in capsys.readouterr().out
    assert main(["checkpoint", "inspect", str(best)]) == 0
    assert "best      step 4, valid_sample_mse 1" in capsys.readouterr().out

    assert run("part", [2, 4, None]) != 0
    assert load_trainer_state(tmp_path / "part" / "checkpoint")["step"] == 3
    assert run("part", [4, 6, 8], "--resume", "auto") == 0
    assert read_best(tmp_path / "part" / "best") == read_best(best)
    for name, value in load_checkpoint(best).model.state_dict().items():
        assert torch.equal(value, load_checkpoint(tmp_path / "part" / "best").model.state_dict()[name]), name

    shutil.rmtree(tmp_path / "part" / "checkpoint")
    assert run("part", []) != 0  # the best weights are there: another run does not take their place unasked
    assert "go on with --resume auto" in capsys.readouterr().err
    assert run("part", [2, 4, 6, 8], "--resume", "auto") == 0
    assert read_best(tmp_path / "part" / "best") == read_best(best)
    assert run("part", [], "--resume", "auto", "--seed", "7") != 0
    assert "was trained with other settings (seed: 0 -> 7)" in capsys.readouterr().err


def test_a_run_does_not_go_on_with_other_data(store, tmp_path, capsys):
    (tmp_path / "store").rename(tmp_path / "datasets")
    assert pretrain(tmp_path) == 0
    episode = EpisodeStore.open(tmp_path / "datasets")[0]
    with EpisodeStore.open(tmp_path / "datasets") as grown:
        grown.add(replace(episode, name="one_more"))
    assert pretrain(tmp_path, "--resume", "auto") != 0
    assert "the data are not those that" in capsys.readouterr().err


def test_a_start_that_will_not_fit_is_told_before_its_run(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "finetune_sim", "--condition.scaling", "none"]) != 0
    assert "runs/pretrain_sim was trained with condition.scaling 'min_max'" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_preset_is_chosen_by_the_number_of_demonstrations(tmp_path, capsys):
    assert main(["train", "finetune_sim", "--demos", "5"]) != 0
    assert "has no presets by number of demonstrations" in capsys.readouterr().err


def test_a_wrong_logger_is_named_before_anything_is_read(tmp_path, capsys):
    assert pretrain(tmp_path, "--loggers", "[jsonl, tensorbord]") != 0
    assert "unknown logger 'tensorbord': did you mean 'tensorboard'" in capsys.readouterr().err


def test_trials_for_another_robot_than_the_simulators_are_refused(store, tmp_path, capsys):
    assert pretrain(tmp_path, "--robot", "aloha_viperx", "--evaluate_every", "2") != 0
    assert "does not have robot 'aloha_viperx'" in capsys.readouterr().err


def test_another_robots_store_is_refused_unless_mixed_on_purpose(store, tmp_path, capsys):
    (tmp_path / "store").rename(tmp_path / "datasets")
    robot = {"robot": "aloha_viperx"}
    config = tmp_path / "run.yaml"
    pretrain(tmp_path, "--robot", robot["robot"])
    assert "was recorded by robot 'sim_bimanual', the config says 'aloha_viperx'" in capsys.readouterr().err
    assert main(["train", str(config), "--robot", robot["robot"], "--data.other_robots", "true"]) == 0
    assert load_checkpoint(tmp_path / "run" / "checkpoint").robot.name == "aloha_viperx"


def test_a_run_starts_from_a_checkpoint_once_and_goes_on_without_it(store, tmp_path, capsys):
    (tmp_path / "store").rename(tmp_path / "datasets")
    assert pretrain(tmp_path) == 0
    (tmp_path / "run" / "checkpoint").rename(tmp_path / "pretrained")
    options = ("--start_from", str(tmp_path / "pretrained"), "--out", str(tmp_path / "tuned"))
    first = ("--optim.lr", "0", *options)  # nothing moves
    assert pretrain(tmp_path, *first) == 0
    before, after = (load_checkpoint(tmp_path / name) for name in ("pretrained", "tuned/checkpoint"))
    assert after.config.start_from == str(tmp_path / "pretrained")
    for name, value in before.model.state_dict().items():
        assert torch.equal(value, after.model.state_dict()[name]), name
    shutil.rmtree(tmp_path / "pretrained")
    assert pretrain(tmp_path, *first, "--resume", "auto") == 0
    capsys.readouterr()
    assert pretrain(tmp_path, *options, "--out", str(tmp_path / "other")) != 0
    assert "does not exist" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_a_start_may_be_a_shipped_config_that_is_trained_first(store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "store").rename(tmp_path / "datasets")
    (tmp_path / "configs").mkdir()
    before = {
        "preset": "rdt_tiny",
        "out": "runs/before",
        "steps": 2,
        "condition": {"cameras": ["external"]},
        "data": {"stores": [str(tmp_path / "datasets")], "batch_size": 8},
    }
    (tmp_path / "configs" / "before.yaml").write_text(yaml.safe_dump(before))
    shipped = {"before": tmp_path / "configs" / "before.yaml"}
    monkeypatch.setattr("deploy.train.shipped_configs", lambda kind: shipped)
    assert pretrain(tmp_path, "--start_from", "before", "--out", "runs/after") == 0
    first = tmp_path / "runs/before/checkpoint"
    assert load_trainer_state(first)["step"] == 2
    assert load_checkpoint("runs/after/checkpoint").config.start_from == "runs/before/checkpoint"
    written = (first / "run.yaml").stat().st_mtime_ns
    assert pretrain(tmp_path, "--start_from", "before", "--out", "runs/again") == 0  # it is finished
    assert (first / "run.yaml").stat().st_mtime_ns == written
    shutil.rmtree(first)
    assert pretrain(tmp_path, "--start_from", "before", "--out", "runs/after", "--resume", "auto") == 0
    assert not first.exists()  # a run that goes on needs no start


def test_adapters_end_in_a_plain_checkpoint(store, tmp_path, capsys):
    pytest.importorskip("peft", reason="needs the extra `lora`")
    (tmp_path / "store").rename(tmp_path / "datasets")
    words = ("--lora.rank", "2", "--freeze", "[condition.vision.*]")
    assert pretrain(tmp_path, *words) == 0
    assert "parameters train (" in capsys.readouterr().out
    checkpoint = tmp_path / "run" / "checkpoint"
    assert not any("lora" in name for name in load_checkpoint(checkpoint).model.state_dict())
    assert any("lora_A" in name for name in load_trainer_state(checkpoint)["model"])
    assert pretrain(tmp_path, *words, "--resume", "auto") == 0
    assert pretrain(tmp_path, "--lora.rank", "4", "--resume", "auto") != 0
    assert "lora.rank: 2 -> 4" in capsys.readouterr().err
