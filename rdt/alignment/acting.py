"""How an aligned RDT acts: the sampler alone, the best of several chunks, a guided sampler, or a student in its place.

    HEAD/head.yaml           who acts how: kind, the settings, sizes of the head's network
    HEAD/head.safetensors    its weights

A folder HEAD stands in a checkpoint as `head/`, and the engine asks `Acting.sample` in the sampler's place; a
checkpoint without one samples as ever. Everything is in the network's scaled space.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import torch
import yaml
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from data_pipeline.schema.registry import read_yaml, unknown_name
from rdt.alignment.features import pooled_features
from rdt.alignment.heads import HEADS, ChunkCritic, ChunkEnergy, ChunkStudent, Head, HeadConfig
from rdt.alignment.models import energy_gradient
from rdt.batch import Condition
from rdt.diffusion.schedule import alpha_sigma
from rdt.model.manifest import verify
from rdt.model.policy import EncodedCondition, RDTPolicy

Kind = Literal["best_of", "guided", "student"]
_HEAD_OF: dict[Kind, str] = {"best_of": "critic", "guided": "energy", "student": "student"}

FOLDER, FILES = "head", ("head.yaml", "head.safetensors")
Draw = Callable[[Condition, Tensor], Tensor]

MAX_PULL = 0.5
"""No entry of the clean action is moved by guidance farther than this in one step: half of the range of `min_max`."""


@dataclass(frozen=True)
class ActingConfig:
    """How a head is used."""

    kind: Kind
    candidates: int = 16  # of best_of: chunks drawn for one observation
    scale: float = 1.0  # of guided: what the energy's gradient is multiplied by; anything but 1 is another target

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(unknown_name("kind of acting", self.kind, get_args(Kind)))
        if self.candidates < 1:
            raise ValueError(f"best_of draws at least one chunk, got candidates {self.candidates}")


class Acting:
    """A head with its use; `sample` gives one chunk for each observation."""

    def __init__(self, config: ActingConfig, head: Head) -> None:
        self.config = config
        self.head = head.eval().requires_grad_(False)

    @property
    def num_candidates(self) -> int:
        """Chunks of noise that `sample` takes for each observation."""
        return self.config.candidates if self.config.kind == "best_of" else 1

    def sample(
        self,
        policy: RDTPolicy,
        condition: Condition,
        noise: Float[Tensor, "batch*candidate horizon slot"],
        draw: Draw | None = None,
    ) -> Float[Tensor, "batch horizon slot"]:
        """Chunks; `noise` has the candidates of one observation one after the other.

        `draw` is the plain sampler, for a caller that has a faster one: chunks of the policy from noise.
        """
        features = pooled_features(condition)
        if isinstance(self.head, ChunkStudent):
            return self.head.act(features, policy.config.action_dim)
        if isinstance(self.head, ChunkEnergy):
            encoded = policy.encode_condition(**vars(condition))
            return guided_sample(policy, encoded, features, noise, self.head, self.config.scale)
        assert isinstance(self.head, ChunkCritic)
        return best_of((draw or partial(drawn, policy))(condition, noise), features, self.head)


def drawn(
    policy: RDTPolicy, condition: Condition, noise: Float[Tensor, "batch*candidate horizon slot"]
) -> Float[Tensor, "batch*candidate horizon slot"]:
    """Several chunks of each observation, which is encoded once."""
    encoded = policy.encode_condition(**vars(condition))
    count = len(noise) // len(condition.state_tokens)
    return policy.sample(encoded if count == 1 else encoded.repeated(count), noise)


def best_of(
    chunks: Float[Tensor, "batch*candidate horizon slot"],
    features: Float[Tensor, "batch feature"],
    critic: ChunkCritic,
) -> Float[Tensor, "batch horizon slot"]:
    """SfBC: of the chunks that the policy would do anyway, the one that the critic likes best."""
    count = len(chunks) // len(features)
    q = critic.q(features.repeat_interleave(count, dim=0), chunks).unflatten(0, (-1, count))
    chosen = q.argmax(dim=1) + count * torch.arange(len(features), device=q.device)
    return chunks[chosen]


def guided_sample(
    policy: RDTPolicy,
    condition: EncodedCondition,
    features: Float[Tensor, "batch feature"],
    noise: Float[Tensor, "batch horizon slot"],
    energy: ChunkEnergy,
    scale: float = 1.0,
) -> Float[Tensor, "batch horizon slot"]:
    """CEP: each step's score gets `scale grad f`, which moves its clean action by `scale sigma^2 / alpha grad f`."""
    if policy.config.prediction_type != "sample":
        raise ValueError(
            f"guidance is for networks that predict the clean action, not {policy.config.prediction_type!r}"
        )
    last = policy.config.num_train_timesteps - 1

    def denoise(noisy_action: Tensor, timesteps: Tensor) -> Tensor:
        alpha, sigma = alpha_sigma(policy.alphas_cumprod.to(noisy_action.device), timesteps)
        t = (timesteps / last).float().expand(len(noisy_action))
        gradient = energy_gradient(energy.energy, noisy_action.float(), t, features)
        pull = (scale * sigma**2 / alpha)[:, None, None] * gradient
        return policy.denoise(noisy_action, timesteps, condition) + pull.clamp(-MAX_PULL, MAX_PULL)

    return policy.sampler(denoise, noise) * condition.action_mask


def save_acting(folder: str | Path, config: ActingConfig, head: Head) -> None:
    """Write `head.yaml` and `head.safetensors` into a folder that is there."""
    folder = Path(folder)
    note = {"acting": asdict(config), "head": {**asdict(head.config), "slots": list(head.config.slots)}}
    (folder / "head.yaml").write_text(yaml.safe_dump(note, sort_keys=False), encoding="utf-8")
    save_file(
        {name: t.detach().cpu().contiguous() for name, t in head.state_dict().items()}, folder / "head.safetensors"
    )


def load_acting(folder: str | Path) -> Acting:
    """The inverse, compared with the checksums of the checkpoint around it. Raises `ValueError` for a damaged one."""
    folder = Path(folder)
    verify(folder.parent, [f"{folder.name}/{name}" for name in FILES])
    note = read_yaml(folder / "head.yaml")
    try:
        acting, raw = note["acting"], note["head"]
        config = ActingConfig(**acting)
        head = HEADS[_HEAD_OF[config.kind]](HeadConfig(**{**raw, "slots": tuple(raw["slots"])}))
        head.load_state_dict(load_file(folder / "head.safetensors"))
    except (KeyError, TypeError, RuntimeError, SafetensorError, OSError) as error:
        raise ValueError(f"{folder} holds no head that can be read ({error}): align anew") from None
    return Acting(config, head)
