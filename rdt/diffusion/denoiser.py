"""What a sampler asks of a network: a prediction for noisy actions at a timestep, and nothing else."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from jaxtyping import Float, Num
from torch import Tensor


@runtime_checkable  # so that shape checkers such as beartype accept it as a type
class Denoiser(Protocol):
    """A network with its condition already bound, for instance `partial(policy.denoise, condition=c)`.

    `timesteps` counts training steps, 0 (clean) ... num_train_timesteps - 1 (noise), between two of them too; one
    entry serves the whole batch. The result is what the network was trained for: the clean action or the noise.
    """

    def __call__(
        self, noisy_action: Float[Tensor, "batch horizon slot"], timesteps: Num[Tensor, "#batch"]
    ) -> Float[Tensor, "batch horizon slot"]: ...
