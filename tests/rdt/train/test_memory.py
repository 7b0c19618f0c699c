"""Run: pytest tests/rdt/train/test_memory.py

The counts are compared with those of torch's own tracker, which follows every tensor from birth to death.
"""

import dataclasses

import pytest
import torch
from torch import nn

from rdt.model.policy import RDTPolicy
from rdt.model.presets import PRESETS
from rdt.train.config import DataConfig, TrainConfig, config_from_dict
from rdt.train.lora import LoraConfig
from rdt.train.memory import FLOAT, GB, Memory, advice, kept_bytes, run_memory, state_bytes
from rdt.train.optim import OptimConfig, make_optimizer
from rdt.train.parallel import Ranks
from tests.published import published_by_size

TOLERANCE = 0.1
CPU = torch.device("cpu")
BATCH, LANG = 3, 16
SMALL = dataclasses.replace(
    PRESETS["rdt_tiny"], hidden_size=96, pred_horizon=16, img_cond_len=600, img_pos_embed_config=None
)


def inputs(config) -> dict:
    return {
        "lang_tokens": torch.randn(BATCH, LANG, config.lang_token_dim),
        "lang_attn_mask": torch.ones(BATCH, LANG, dtype=torch.bool),
        "lang_index": torch.arange(BATCH),
        "img_tokens": torch.randn(BATCH, config.img_cond_len, config.img_token_dim),
        "state_tokens": torch.randn(BATCH, 1, config.action_dim),
        "action_mask": torch.ones(BATCH, 1, config.action_dim),
        "ctrl_freqs": torch.full((BATCH,), 25.0),
        "action_gt": torch.randn(BATCH, config.pred_horizon, config.action_dim),
    }


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("narrow", [False, True])
def test_the_peak_is_that_of_torchs_own_count(checkpointed, narrow):
    mem_tracker = pytest.importorskip("torch.distributed._tools.mem_tracker", reason="comes with PyTorch 2.5")
    policy = RDTPolicy(SMALL)
    policy.model.checkpoint_blocks = checkpointed
    optimizer = torch.optim.AdamW(policy.parameters(), foreach=False)
    tracker = mem_tracker.MemTracker()
    tracker.track_external(policy, optimizer)
    for parameter in policy.parameters():  # states are there from the second step on
        parameter.grad = torch.zeros_like(parameter)
    batch = inputs(SMALL)
    with tracker:
        optimizer.step()
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
            loss = policy.compute_loss(**batch)
        loss.backward()
    peak = tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"]
    size = sum(parameter.numel() for parameter in policy.parameters())
    kept, last = (
        kept_bytes(SMALL, BATCH, lang_tokens=LANG, checkpointed=whether, narrow=narrow)
        for whether in (checkpointed, True)
    )
    copies = 2 * size if narrow and not checkpointed else 0
    expected = Memory(FLOAT * size, FLOAT * size, 2 * FLOAT * size, 0, kept + copies, last)
    assert expected.peak == pytest.approx(peak, rel=TOLERANCE)


@pytest.mark.parametrize("name", ["adamw", "adamw8bit", "adafactor"])
def test_optimizer_states_are_counted(name):
    if name == "adamw8bit":
        pytest.importorskip("torchao", reason="needs the extra `gpu`")
    layer = nn.Linear(128, 256)
    optimizer = make_optimizer(layer, OptimConfig(name=name))
    layer(torch.randn(2, 128)).sum().backward()
    with torch.compiler.set_stance("force_eager"):
        optimizer.step()
    states = [value for state in optimizer.state.values() for value in state.values() if value.numel() > 1]
    found = sum(part.numel() * part.element_size() for state in states for part in plain(state))
    expected = sum(state_bytes(parameter, name) for parameter in layer.parameters())
    assert found == pytest.approx(expected, rel=TOLERANCE)


def plain(state) -> list[torch.Tensor]:
    """The tensors inside a state; the table that eight bits index is shared by all of them."""
    if not hasattr(state, "__tensor_flatten__"):
        return [state]
    names, _ = state.__tensor_flatten__()
    return [getattr(state, name) for name in names if name != "qmap"]


@pytest.fixture
def published(tmp_path) -> TrainConfig:
    """The 1B as it was published, with a batch of one."""
    condition = {"vision": "siglip", "text": "t5", "image_history": 2}
    return config_from_dict(
        {"preset": "rdt_1b", "condition": condition, "data": {"batch_size": 1}}, published_by_size(tmp_path)
    )


def test_the_parts_of_the_1b_add_up(published):
    memory = run_memory(published, CPU)
    assert memory.weights / GB == pytest.approx(4.91, rel=0.01)
    assert memory.gradients == memory.weights
    assert memory.optimizer == 2 * memory.weights
    assert memory.average == 0
    assert run_memory(dataclasses.replace(published, optim=OptimConfig(ema_decay=0.9)), CPU).average == memory.weights


def test_adapters_and_freezing_spare_gradients_and_states(published):
    pytest.importorskip("peft", reason="needs the extra `lora`")
    memory = run_memory(dataclasses.replace(published, lora=LoraConfig(rank=16)), CPU)
    assert memory.gradients < 0.06 * memory.weights
    assert memory.peak < 9 * GB
    frozen = run_memory(dataclasses.replace(published, freeze=("policy.model.blocks.*",)), CPU)
    assert frozen.gradients < 0.1 * frozen.weights


def test_what_does_not_fit_gets_advice_that_does(published):
    assert advice(published, int(80 * GB), CPU) == ""
    large = dataclasses.replace(published, data=DataConfig(batch_size=8), optim=OptimConfig(ema_decay=0.99))
    told = advice(large, int(24 * GB), CPU).splitlines()
    assert told[0].startswith("this will not fit into 24.0 GB")
    assert told[1].split()[:2] == ["activation_checkpointing:", "blocks"]
    assert float(told[-1].split()[-2]) <= 24
    assert float(told[-2].split()[-2]) > 24
    assert "choose a smaller preset" in advice(large, int(1 * GB), CPU)


def test_ranks_share_what_their_mode_shares(published):
    ranks = Ranks(rank=0, size=4, local_rank=0, local_size=2)
    config = dataclasses.replace(published, data=DataConfig(batch_size=8))
    alone = run_memory(config, CPU)
    sizes = {
        mode: run_memory(dataclasses.replace(config, parallel=mode), CPU, ranks) for mode in ("ddp", "hsdp", "fsdp")
    }
    assert [alone.weights // memory.weights for memory in sizes.values()] == [1, 2, 4]
    assert all(memory.activations < alone.activations / 3.9 for memory in sizes.values())
    assert advice(config, int(12 * GB), CPU, ranks).splitlines()[1].split()[:2] == ["parallel:", "fsdp"]


def test_micro_batches_keep_less_beside_their_gradients(published):
    config = dataclasses.replace(published, data=DataConfig(batch_size=8, micro_batch_size=1))
    memory, one = run_memory(config, CPU), run_memory(published, CPU)
    assert memory.activations == one.activations
    assert memory.peak == one.weights + one.optimizer + one.activations + one.gradients
