"""How much memory a run will take, worked out from its config before the first step.

    weights      float32
    gradients    of what trains
    optimizer    its states of what trains
    average      a copy of all weights
    activations  what autograd keeps of a micro-batch for the backward pass, and what that pass works with; under
                 autocast also the narrow copies of the weights

Sharded ranks hold their share of all but the activations. Counted is the network itself. Left out are frozen encoders,
the activations of small encoders that train along, and what an allocator loses between blocks. A tensor's numbers are
counted once for all operations that keep it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from rdt.model.presets import RDTConfig
from rdt.model.transformer import NUM_PREFIX_TOKENS
from rdt.train.adapt import adapt
from rdt.train.config import TrainConfig
from rdt.train.optim import OptimConfig, OptimizerName
from rdt.train.parallel import ALONE, Ranks
from rdt.train.start import network_config
from rdt.train.trainer import choose_precision
from rdt.visuomotor import VisuomotorPolicy

LANG_TOKENS = 32  # of an ordinary instruction
FLOAT, NARROW = 4, 2  # bytes
GB = 1e9
EIGHT_BIT_BLOCK = 256  # numbers that share a scale
EIGHT_BIT_SMALLEST = 4096  # numbers of a tensor from which on torchao keeps eight bits of each
ADAPTER_RANK = 16  # of the adapters that are advised


PARTS = ("weights", "gradients", "optimizer", "average", "activations")


@dataclass(frozen=True)
class Memory:
    """Bytes, by what they are for."""

    weights: int
    gradients: int
    optimizer: int
    average: int
    activations: int
    last: int  # of the activations, what is left when the backward pass reaches the first block
    accumulates: bool = False  # gradients over several micro-batches

    @property
    def peak(self) -> int:
        """Most at one time: activations go while gradients come, unless those of the micro-batch before are there."""
        alive = (
            self.activations + self.gradients if self.accumulates else max(self.activations, self.last + self.gradients)
        )
        return self.weights + self.optimizer + self.average + alive

    def __str__(self) -> str:
        parts = [(name, getattr(self, name)) for name in PARTS]
        told = ", ".join(f"{name} {size / GB:.3g}" for name, size in parts if size)
        return f"{self.peak / GB:.3g} GB at the peak ({told})"


def run_memory(config: TrainConfig, device: torch.device, ranks: Ranks = ALONE) -> Memory:
    """What a run of this config takes on each rank's device."""
    with torch.device("meta"):
        model = VisuomotorPolicy(network_config(config), config.condition, config.noise_slots)
        adapt(model, config, report=lambda _: None)
    parameters = list(model.parameters())
    total = sum(parameter.numel() for parameter in parameters)
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    share = -(-config.data.batch_size // ranks.size)
    batch = min(config.data.micro_batch_size or share, share)
    narrow = choose_precision(config.precision, device).itemsize < FLOAT
    checkpointed = config.activation_checkpointing == "blocks"
    kept, last = (
        kept_bytes(model.policy.config, batch, checkpointed=whether, narrow=narrow) for whether in (checkpointed, True)
    )
    if narrow and not checkpointed:
        kept += NARROW * total
    sharing = {"fsdp": ranks.size, "hsdp": ranks.local_size}.get(config.parallel, 1)
    return Memory(
        weights=FLOAT * total // sharing,
        gradients=FLOAT * sum(parameter.numel() for parameter in trained) // sharing,
        optimizer=sum(state_bytes(parameter, config.optim.name) for parameter in trained) // sharing,
        average=FLOAT * total // sharing if config.optim.ema_decay else 0,
        activations=kept,
        last=last,
        accumulates=batch < share,
    )


def kept_bytes(
    config: RDTConfig, batch: int, *, lang_tokens: int = LANG_TOKENS, checkpointed: bool, narrow: bool
) -> int:
    """Bytes alive at the top of a backward pass, T tokens of width H, S of a condition, each with its norms.

    | where                     | kept for the backward pass                                            |
    |---------------------------|-----------------------------------------------------------------------|
    | block, itself             | 17 T H: its input and two sums, three norms, q k v of attention and   |
    |                           | q of cross-attention before and after their norms, both outputs, MLP  |
    | block, of pictures        | 3 S H: keys before and after their norm, values                       |
    | block, of language        | 4 S H: the same by instruction, then dealt out to the samples         |
    | adaptors                  | their inputs, and H a token twice a hidden layer; placed tokens once  |
    | checkpointed block        | T H: its input; of one block at a time all the above                  |
    | backward pass of a block  | 3 S H: gradients of keys and values, and of the placed tokens         |
    """
    h, tokens, images = config.hidden_size, NUM_PREFIX_TOKENS + config.pred_horizon, config.img_cond_len
    norms = 2 * config.num_heads  # mean and deviation of each head
    itself = tokens * (17 * h + 3 * norms + 6)
    of_images, of_language = images * (3 * h + norms), lang_tokens * (4 * h + norms)
    language_blocks, image_blocks = (config.depth + 1) // 2, config.depth // 2
    adaptors = images * (config.img_token_dim + _hidden(config.img_adaptor) * h + h)
    adaptors += lang_tokens * (config.lang_token_dim + _hidden(config.lang_adaptor) * h + h)
    adaptors += (config.pred_horizon + 1) * (2 * config.state_token_dim + _hidden(config.state_adaptor) * h)
    final = config.pred_horizon * 4 * h
    if checkpointed:
        blocks = config.depth * tokens * h + language_blocks * of_language + itself + of_images
    else:
        blocks = config.depth * itself + language_blocks * of_language + image_blocks * of_images
    return (NARROW if narrow else FLOAT) * batch * (adaptors + blocks + final + 3 * max(images, lang_tokens) * h)


def state_bytes(parameter: Tensor, optimizer: OptimizerName) -> int:
    """Of an optimizer's states for one parameter."""
    size = parameter.numel()
    if optimizer == "adafactor":
        if parameter.ndim < 2:
            return FLOAT * size
        return FLOAT * (size // parameter.shape[-1] + size // parameter.shape[-2])
    if optimizer == "adamw8bit" and size >= EIGHT_BIT_SMALLEST and size % EIGHT_BIT_BLOCK == 0:
        return 2 * (size + FLOAT * size // EIGHT_BIT_BLOCK)
    return 2 * FLOAT * size


def advice(config: TrainConfig, capacity: int, device: torch.device, ranks: Ranks = ALONE) -> str:
    """What makes a run fit that does not, cheapest first, each on top of those before; empty where it fits."""
    if run_memory(config, device, ranks).peak <= capacity:
        return ""
    lines = [f"this will not fit into {capacity / GB:.1f} GB; each of these on top of those before it:"]
    for words, smaller in _smaller(config, ranks):
        peak = run_memory(smaller, device, ranks).peak
        lines.append(f"  {words:36s} {peak / GB:.3g} GB")
        if peak <= capacity:
            return "\n".join(lines)
    return "\n".join([*lines, "  none of this is enough: choose a smaller preset or a larger device"])


def _smaller(config: TrainConfig, ranks: Ranks) -> Iterator[tuple[str, TrainConfig]]:
    """Configs that take less and less, with the words that ask for them; what is learnt changes last."""
    if ranks.size > 1 and config.parallel in ("auto", "ddp"):
        config = dataclasses.replace(config, parallel="fsdp")
        yield "parallel: fsdp", config
    if config.activation_checkpointing == "none":
        config = dataclasses.replace(config, activation_checkpointing="blocks")
        yield "activation_checkpointing: blocks", config
    batch = config.data.micro_batch_size or -(-config.data.batch_size // ranks.size)
    while batch > 1:
        batch //= 2
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, micro_batch_size=batch))
        yield f"data.micro_batch_size: {batch}", config
    if config.optim.ema_decay:
        config = _with_optim(config, ema_decay=0.0)
        yield "optim.ema_decay: 0", config
    if config.optim.name == "adamw":
        config = _with_optim(config, name="adamw8bit")
        yield "optim.name: adamw8bit", config
    if config.lora.rank == 0:
        config = dataclasses.replace(config, lora=dataclasses.replace(config.lora, rank=ADAPTER_RANK))
        yield f"lora.rank: {ADAPTER_RANK}", config


def _with_optim(config: TrainConfig, **changes: object) -> TrainConfig:
    optim: OptimConfig = dataclasses.replace(config.optim, **changes)  # type: ignore[arg-type]
    return dataclasses.replace(config, optim=optim)


def _hidden(adaptor: str) -> int:
    """Tensors of the hidden size that an adaptor keeps a token: before and after each of its activations."""
    return 0 if adaptor == "linear" else 2 * (int(adaptor.removeprefix("mlp").partition("x")[0]) - 1)
