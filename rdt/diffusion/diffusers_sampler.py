"""Any scheduler of the diffusers library as a sampler: the slow road, for what `solver.py` has no table of.

The library keeps its state on the host and decides anew in every step, so this loop cannot be captured in a CUDA
graph. Schedulers are taken with their own defaults, on RDT's noise schedule and without clipping of samples.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from rdt.diffusion.denoiser import Denoiser
from rdt.diffusion.guidance import Guidance
from rdt.diffusion.process import PredictionType
from rdt.diffusion.solver import nearest

NEEDED = frozenset({"num_train_timesteps", "beta_schedule", "prediction_type"})
"""What a scheduler must take to fit a network that was trained on RDT's noise schedule."""


@dataclass(frozen=True)
class DiffusersSampler:
    """A `Sampler` by the class name of a scheduler. Raises `ValueError` at birth where it cannot serve RDT."""

    scheduler: str  # for instance "EulerDiscreteScheduler"
    num_train_timesteps: int
    num_steps: int  # of the scheduler; one of second order asks the network about twice as often
    prediction_type: PredictionType

    def __post_init__(self) -> None:
        try:  # a dry run: many schedulers find out in their first step that they do not know a prediction type
            with torch.random.fork_rng(devices=[]):  # which leaves no trace in the random state
                self(lambda x, timesteps: x, torch.zeros(1, 1, 1))
        except (TypeError, AttributeError, NotImplementedError, IndexError, ImportError) as error:
            raise ValueError(
                f"{self.scheduler} cannot sample in {self.num_steps} steps of {self.num_train_timesteps} with "
                f"prediction type {self.prediction_type!r}: {error}. Choose other steps or another sampler"
            ) from error

    @torch.no_grad()
    def __call__(
        self, denoiser: Denoiser, noise: Float[Tensor, "batch horizon slot"], guidance: Guidance | None = None
    ) -> Float[Tensor, "batch horizon slot"]:
        if guidance is not None:
            raise ValueError(f"{self.scheduler} cannot be guided: sample with dpm_solver++, ddim or ddpm")
        scheduler = self._make(noise.device)
        x = noise * scheduler.init_noise_sigma
        for t in scheduler.timesteps:
            prediction = denoiser(scheduler.scale_model_input(x, t), t[None].to(noise.device)).to(noise.dtype)
            x = scheduler.step(prediction, t, x).prev_sample.to(noise.dtype)
        return x

    def _make(self, device: torch.device) -> Any:
        """A scheduler at its first step: it remembers former predictions, so each run gets one of its own."""
        wanted = {
            "num_train_timesteps": self.num_train_timesteps,
            "beta_schedule": "squaredcos_cap_v2",
            "prediction_type": self.prediction_type,
            "clip_sample": False,
        }
        cls = _scheduler_class(self.scheduler)
        settings = _settings(cls)
        scheduler = cls(**{name: value for name, value in wanted.items() if name in settings})
        scheduler.set_timesteps(self.num_steps, device=device)
        return scheduler


def _scheduler_class(name: str) -> type:
    """The class of that name, if it fits a network trained on RDT's noise schedule."""
    try:
        import diffusers
    except ImportError:
        raise ValueError(
            f"the sampler {name!r} is one of the diffusers library, which is not installed: "
            "`pip install 'rdt-stack[samplers]'`, or use dpm_solver++, ddim or ddpm, which need nothing"
        ) from None
    if name in dir(diffusers) and _settings(getattr(diffusers, name)) >= NEEDED:
        return getattr(diffusers, name)
    names = [known for known in dir(diffusers) if known.endswith("Scheduler")]
    fitting = [known for known in names if _settings(getattr(diffusers, known)) >= NEEDED]
    fault = f"{name} does not run on RDT's noise schedule" if name in names else f"diffusers has no scheduler {name!r}"
    raise ValueError(f"{fault}: did you mean {nearest(name, fitting)!r}?")


def _settings(cls: type) -> frozenset[str]:
    """The names that its constructor takes."""
    return frozenset(inspect.signature(cls.__init__).parameters)  # type: ignore[misc]
