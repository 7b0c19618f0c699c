"""Many processes as one trainer: who they are, how they share a model, and its state as if there were one.

torchrun starts the processes and says who is who; DDP and FSDP2 are torch's own. Whatever the mode and the number of
ranks, a state here is whole and named by parameter, so that a run may go on with another one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from rdt.model.layers import Block
from rdt.trainable import Trainable
from rdt.visuomotor import VisuomotorPolicy

T = TypeVar("T")
ParallelMode = Literal["auto", "ddp", "fsdp", "hsdp"]
_PATIENCE = timedelta(hours=12)  # one rank converts data while the others wait
_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


class RankError(RuntimeError):
    """Another rank has failed, or ended; the message says which and why as far as it is known."""


@dataclass(frozen=True)
class Ranks:
    """The processes that train together; one of them alone by default."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this one writes what all have in common."""
        return self.rank == 0

    def tell(self, text: str) -> None:
        """Print what all ranks would say, once."""
        if self.is_first:
            print(text)

    def mean(self, value: Tensor) -> Tensor:
        """The mean over all ranks, known to all."""
        if self.size == 1:
            return value
        value = value.detach().clone()
        dist.all_reduce(value)
        return value / self.size

    def any(self, flag: bool) -> bool:
        """Whether it is so on one of the ranks, known to all."""
        if self.size == 1:
            return flag
        told = torch.tensor(float(flag))
        dist.all_reduce(told)  # a CPU tensor: gloo, beside what the device is doing
        return bool(told > 0)

    def wait(self) -> None:
        """Until all ranks have come here."""
        if self.size > 1:
            dist.barrier()

    def gathered(self, value: T) -> list[T]:
        """What each rank has, in their order, known to all."""
        if self.size == 1:
            return [value]
        values: list[T] = [value] * self.size
        dist.all_gather_object(values, value)
        return values

    @contextmanager
    def together(self) -> Iterator[None]:
        """Ends when it has ended on all ranks; what one fails at fails on all, so nobody waits for who has left.

        Another's failure is a `RankError` that says which rank's. Within, a rank asks others only by what fails alike.
        """
        failure: Exception | None = None
        try:
            yield
        except Exception as error:
            failure = error
        first_hand = None if isinstance(failure, RankError) else failure
        told = self.gathered(None if first_hand is None else str(first_hand) or type(first_hand).__name__)
        if first_hand is not None:
            raise first_hand
        for rank, message in enumerate(told):
            if message is not None:
                raise RankError(f"rank {rank}: {message}")
        if failure is not None:
            raise failure


ALONE = Ranks()


LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Socket closed")
"""What gloo says when another process has ended."""


@contextmanager
def joined_ranks(device: torch.device) -> Iterator[Ranks]:
    """The ranks that torchrun has started, this one alone without it. Raises `RankError` when another has ended."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ALONE
        return
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if device.type == "cuda":
        torch.cuda.set_device(local)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=_PATIENCE)
    try:
        yield Ranks(dist.get_rank(), size, local, int(os.environ.get("LOCAL_WORLD_SIZE", size)))
        dist.barrier()  # nobody takes the connections down while another still uses them
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and not any(words in str(error) for words in LOST):
            raise
        raise RankError(
            f"rank {dist.get_rank()} of {size} has lost another one, which has failed or was killed: what it said "
            "stands above, if anything. The last checkpoint is as it was: go on with --resume auto"
        ) from error
    finally:
        dist.destroy_process_group()


def parallelize(model: Trainable, mode: ParallelMode, ranks: Ranks) -> nn.Module:
    """What to call in the model's place for a loss whose gradients are those of all ranks' samples.

    ddp: every rank holds the whole model. fsdp: each holds a share of every block. hsdp: a share within its machine,
    the machines copies of one another. auto: ddp. One rank needs none of it. A small network beside a policy is never
    shared: ddp.
    """
    if ranks.size == 1:
        return model
    if mode in ("auto", "ddp") or not isinstance(model, VisuomotorPolicy):
        device = [model.device.index] if model.device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=device, broadcast_buffers=False, gradient_as_bucket_view=True)
    shard(model, _mesh(mode, model.device.type, ranks))
    return model


def shard(model: VisuomotorPolicy, mesh: DeviceMesh) -> None:
    """Blocks one by one, so that a rank holds one of them whole at a time; then what is left, together."""
    for parameter in model.parameters():
        parameter.data = parameter.data.contiguous()  # FSDP2 shares no other memory formats
    blocks = cast("list[Block]", list(model.policy.model.blocks))
    for block in blocks[::2]:  # instructions are projected before their block is asked, a row for each distinct one
        fully_shard(block.cross_attn, mesh=mesh)
        register_fsdp_forward_method(block.cross_attn, "key_value")
    for block in blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    register_fsdp_forward_method(model, "sample_actions")


def _mesh(mode: ParallelMode, device_type: str, ranks: Ranks) -> DeviceMesh:
    if mode == "fsdp":
        return init_device_mesh(device_type, (ranks.size,))
    if ranks.size % ranks.local_size:
        raise ValueError(
            f"parallel: hsdp needs equal machines, got {ranks.size} ranks, {ranks.local_size} of them here"
        )
    return init_device_mesh(
        device_type, (ranks.size // ranks.local_size, ranks.local_size), mesh_dim_names=("replicate", "shard")
    )


@contextmanager
def gradients_kept(module: nn.Module, *, shared: bool) -> Iterator[None]:
    """Forward and backward of one micro-batch; the ranks' gradients meet where `shared`, after the last one."""
    if isinstance(module, DistributedDataParallel) and not shared:
        with module.no_sync():
            yield
        return
    if isinstance(module, FSDPModule):
        module.set_requires_gradient_sync(shared)
    yield


@contextmanager
def unshared(model: nn.Module) -> Iterator[None]:
    """Every rank holds the whole model within: what samples from it calls its parts in another order than training."""
    units = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for unit in units:
        unit.unshard()
        unit.set_reshard_after_forward(False)
    try:
        yield
    finally:
        for unit in units:
            unit.set_reshard_after_forward(True)
            unit.reshard()


def local(tensor: Tensor) -> Tensor:
    """This rank's share of a tensor; of a whole one, the tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """The whole of a tensor that ranks share; all have to ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def is_shared(model: nn.Module) -> bool:
    """Whether ranks hold shares of it, not copies."""
    return any(isinstance(p, DTensor) for p in model.parameters())


def model_state(model: nn.Module, *, whole: bool) -> dict[str, Any]:
    """Parameters and buffers by name, the model's own tensors; of shared ones this rank's part as `DTensor`.

    `whole`, shared ones are gathered on the CPU of the first rank, and others have {}; all have to ask.
    """
    if not is_shared(model):
        return model.state_dict()
    return get_model_state_dict(model, options=_WHOLE if whole else None)


def load_model_state(model: nn.Module, state: Mapping[str, Any], *, whole: bool) -> None:
    """The inverse of `model_state`; every rank gives the whole, or its own part."""
    if is_shared(model):
        set_model_state_dict(model, dict(state), options=_WHOLE if whole else None)
    else:
        model.load_state_dict(state)


def optimizer_state(model: nn.Module, optimizer: Optimizer, *, whole: bool) -> dict[str, Any]:
    """State of the optimizer by the names of the parameters, of all ranks together as in `model_state`.

    One that has not made a step yet is given the state of one that has, so that there is something to load into.
    """
    return dict(get_optimizer_state_dict(model, optimizer, options=_WHOLE if whole else None))


def load_optimizer_state(model: nn.Module, optimizer: Optimizer, state: Mapping[str, Any], *, whole: bool) -> None:
    """The inverse of `optimizer_state`; every rank gives the whole, or its own part."""
    set_optimizer_state_dict(model, optimizer, dict(state), options=_WHOLE if whole else None)
