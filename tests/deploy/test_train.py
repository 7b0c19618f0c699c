"""Run: pytest tests/deploy/test_train.py"""

import shutil

import numpy as np
import pytest
import torch
import yaml

from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.registry import find_config
from data_pipeline.schema.types import Episode
from data_pipeline.storage import EpisodeStore
from deploy.cli import main
from rdt.model.presets import PRESETS
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


def test_training_with_published_encoders_embeds_once_and_goes_on_without_t5(store, tmp_path):
    sizes = PRESETS["rdt_tiny"]
    config = {
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
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    assert main(["train", str(tmp_path / "run.yaml")]) == 0
    shutil.rmtree(tmp_path / "t5")
    again = ["train", str(tmp_path / "run.yaml"), "--resume", "auto"]
    assert main(again) == 0  # the cache has all sentences of the store, and the empty one
    model = load_checkpoint(tmp_path / "run" / "checkpoint").model
    assert set(model.condition.text.embeddings) == {"", "pick up the cup", "from right to left"} <= {"", *SENTENCES}
    state = load_trainer_state(tmp_path / "run" / "checkpoint")
    assert not [name for name in state["model"] if "tower" in name or "vision_model" in name]
    assert torch.isfinite(model.condition.vision_signature).all()
