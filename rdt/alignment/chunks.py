"""RDT as the alignment methods see it: a behaviour model of action chunks, and the stages that train with it.

    RDTBehavior        eps of a noisy chunk, for one batch of encoded observations
    OutcomeCritic      log-odds of success of an observation and what was done       SfBC, CEP, EDA, SRPO
    CriticEnergy       E_t on pooled features, from K chunks of the policy           CEP
    CriticPolicy       RDT itself towards softmax(alpha Q) of its own K chunks       EDA
    OutcomePolicy      RDT itself towards what succeeded, away from what failed      NCA
    WordsPolicy        RDT itself towards its instruction, away from another one     CCA
    ImitatingStudent   a chunk in one pass: what the policy does                     SRPO, first stage
    ClimbingStudent    ... and from there up the critic, held by the policy's score  SRPO

Chunks are in the network's scaled space and count in the robot's own slots alone. Log-ratios are differences of
denoising errors in a_0, the error that RDT is trained on, a mean over live numbers in units of the reference's own, so
that `beta` means the same for six joints and for 896 numbers (spec section 8, "dimension scaling").

Encoders that were trained along with the policy may train on with it; frozen ones give policy and reference one
condition. Critics, energies and students read the reference's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from rdt.alignment.acting import drawn
from rdt.alignment.features import pooled_features
from rdt.alignment.heads import ChunkCritic, ChunkEnergy, ChunkStudent
from rdt.alignment.losses import TIME_WEIGHTS, cca, contrastive, nca, soft_labels, srpo_surrogate
from rdt.batch import Batch, Condition, TransitionBatch
from rdt.diffusion.continuous import DiscreteVP, draw_times, noised, over
from rdt.model.policy import EncodedCondition, RDTPolicy
from rdt.random import SampleGenerator
from rdt.visuomotor import VisuomotorPolicy

TIMES = (0.02, 0.98)
"""Times that chunks are noised to: at the ends a denoising error says nothing of the chunk, or nothing but rounding."""

Metrics = dict[str, Tensor]

OutcomeKind = Literal["NCA", "InfoNCA", "imitation"]
_OUTCOME_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "NCA": nca,
    "InfoNCA": contrastive,
    "imitation": lambda ratio, label: -(ratio * label).sum(dim=-1).mean(),
}


@dataclass(frozen=True, eq=False)
class RDTBehavior:
    """A `BehaviorModel` of chunks (row, *k, horizon, slot), for the observations of one batch; `cond` is not asked."""

    policy: RDTPolicy
    encoded: EncodedCondition

    @property
    def schedule(self) -> DiscreteVP:
        return DiscreteVP(self.policy.alphas_cumprod)

    def clean(
        self, a_t: Float[Tensor, "row *k horizon slot"], t: Float[Tensor, " row"]
    ) -> Float[Tensor, "row *k horizon slot"]:
        """The chunk that the network believes in; t in [0, 1]."""
        count = a_t[0, ..., 0, 0].numel()
        encoded = self.encoded if count == 1 else self.encoded.repeated(count)
        steps = self.schedule.timesteps(t).repeat_interleave(count)
        prediction = self.policy.denoise(a_t.flatten(0, -3), steps, encoded).to(a_t.dtype).view_as(a_t)
        if self.policy.config.prediction_type == "sample":
            return prediction
        alpha, sigma = over(self.schedule.alpha(t), a_t), over(self.schedule.sigma(t), a_t)
        return (a_t - sigma * prediction) / alpha

    def eps(
        self, a_t: Float[Tensor, "row *k horizon slot"], t: Float[Tensor, " row"], cond: object = None
    ) -> Float[Tensor, "row *k horizon slot"]:
        alpha, sigma = over(self.schedule.alpha(t), a_t), over(self.schedule.sigma(t), a_t)
        return (a_t - alpha * self.clean(a_t, t)) / sigma * self.mask(a_t)

    def mask(self, a_t: Tensor) -> Tensor:
        """(row, *1, 1, slot): the robot's own."""
        mask = self.encoded.action_mask
        return mask.reshape(len(mask), *([1] * (a_t.ndim - 2)), mask.shape[-1])

    def error_weight(self, t: Float[Tensor, " row"]) -> Float[Tensor, " row"]:
        """W(t) = sigma^2 / alpha^2: an error in eps becomes the error in a_0."""
        return (self.schedule.sigma(t) / self.schedule.alpha(t)).square()


@dataclass(frozen=True, eq=False)
class Seen:
    """A batch as the reference reads it, in the network's space, and as the policy does."""

    condition: Condition  # the reference's
    own: Condition  # the policy's, with its graph where its encoders train
    chunk: Float[Tensor, "batch horizon slot"]  # what was done
    mask: Float[Tensor, "batch 1 slot"]

    @property
    def features(self) -> Float[Tensor, "batch feature"]:
        return pooled_features(self.condition)


def seen(reference: VisuomotorPolicy, batch: Batch, model: VisuomotorPolicy | None = None) -> Seen:
    """Encodes once where the policy's encoders do not train, or where there is no other policy."""
    mask = batch.action_mask[:, None]
    with torch.no_grad():
        condition = reference.condition(batch.observation)
        chunk = reference.condition.scale_actions(batch.actions, mask) * mask
    trains = model is not None and any(parameter.requires_grad for parameter in model.condition.parameters())
    own = model.condition(batch.observation) if model is not None and trains else condition
    return Seen(condition, own, chunk, mask)


@torch.no_grad()
def candidates(
    model: VisuomotorPolicy, condition: Condition, count: int, generator: torch.Generator
) -> Float[Tensor, "batch k horizon slot"]:
    """`count` chunks of the policy for each observation, which is encoded once."""
    config = model.policy.config
    rows = len(condition.state_tokens)
    shape = (rows * count, config.pred_horizon, config.action_dim)
    noise = torch.randn(shape, generator=generator, device=generator.device)
    noise = model.place_noise(noise, condition.action_mask.repeat_interleave(count, dim=0))
    return drawn(model.policy, condition, noise).unflatten(0, (rows, count))


def mean_chunk(
    model: VisuomotorPolicy, condition: Condition, count: int, generator: torch.Generator
) -> Float[Tensor, "batch horizon slot"]:
    """Of `count` chunks of the policy: what has the least squared error to them all."""
    return candidates(model, condition, count, generator).mean(dim=1)


def log_success(
    critic: ChunkCritic, features: Float[Tensor, "row feature"], chunks: Float[Tensor, "row *k horizon slot"]
) -> Float[Tensor, " row *k"]:
    """log P(success) of chunks: with temperature 1 its tilt is the policy given that it succeeds."""
    count = chunks[0, ..., 0, 0].numel()
    q = critic.q(features.repeat_interleave(count, dim=0), chunks.flatten(0, -3))
    return F.logsigmoid(q).view(chunks.shape[:-2])


@dataclass(frozen=True)
class OutcomeCritic:
    """Cross-entropy of success under Q(o, a) and V(o): what the data's own policy went on to reach from there."""

    def __call__(
        self, model: ChunkCritic, batch: TransitionBatch, generator: SampleGenerator
    ) -> tuple[Tensor, Metrics]:
        q, v = model.q_logits(batch.features, batch.chunk), model.v_logits(batch.features)
        q_loss = F.binary_cross_entropy_with_logits(q, batch.label.expand_as(q))
        v_loss = F.binary_cross_entropy_with_logits(v, batch.label)
        return q_loss + v_loss, {"q_loss": q_loss.detach(), "v_loss": v_loss.detach()}


@dataclass(frozen=True, eq=False)
class CriticEnergy:
    """CEP: K chunks of the policy for each observation, noised to one time, are ranked as the critic would."""

    policy: VisuomotorPolicy
    critic: ChunkCritic
    temperature: float = 1.0
    num_candidates: int = 16

    def __call__(self, model: ChunkEnergy, batch: Batch, generator: SampleGenerator) -> tuple[Tensor, Metrics]:
        draw = generator.torch_generator(batch.sample_index, "alignment")
        now = seen(self.policy, batch)
        features = now.features
        chunks = candidates(self.policy, now.condition, self.num_candidates, draw)
        with torch.no_grad():
            label = soft_labels(log_success(self.critic, features, chunks), 1 / self.temperature)
        schedule = DiscreteVP(self.policy.policy.alphas_cumprod)
        t = draw_times((len(chunks),), draw, *TIMES, stratified=True)
        noisy = noised(schedule, chunks, t, _noise(self.policy, chunks, now.mask, draw))
        k = self.num_candidates
        f = model.energy(noisy.flatten(0, 1), t.repeat_interleave(k), features.repeat_interleave(k, dim=0))
        f = f.unflatten(0, (-1, k))
        return contrastive(f, label), _ranked(f, label)


@dataclass(frozen=True, eq=False)
class CriticPolicy:
    """EDA with the denoising-error ratio: the policy's own K chunks, weighed by the critic, become its distribution.

    The loss compares candidates of one observation and would let all errors grow together; `hold` weighs the shift
    from the reference against it.
    """

    reference: VisuomotorPolicy
    critic: ChunkCritic
    beta: float = 1.0
    temperature: float = 1.0
    num_candidates: int = 16
    draws: int = 1
    hold: float = 1.0

    def __call__(self, model: VisuomotorPolicy, batch: Batch, generator: SampleGenerator) -> tuple[Tensor, Metrics]:
        draw = generator.torch_generator(batch.sample_index, "alignment")
        now = seen(self.reference, batch, model)
        chunks = candidates(self.reference, now.condition, self.num_candidates, draw)
        with torch.no_grad():
            label = soft_labels(log_success(self.critic, now.features, chunks), 1 / self.temperature)
        ratio, shift = compared(model, self.reference, now, chunks, draw, self.draws)
        ratio = self.beta * ratio
        metrics = {"median_beta_g": ratio.detach().abs().median(), "shift": shift.detach().mean()}
        return contrastive(ratio, label) + self.hold * shift.mean(), {**_ranked(ratio, label), **metrics}


@dataclass(frozen=True, eq=False)
class OutcomePolicy:
    """NCA over a batch: chunks of successes are its good candidates, those of failures are as good as nothing.

    `batch.label` is what the ratio p(success | o, a) / p(success | o) is in the data: success over the rate among tries
    of the same scene. L = - mean label log sigmoid(R) - mean log sigmoid(-R) has its optimum where e^R is that ratio,
    so a chunk of which the data say nothing (label 1) is held where it is. InfoNCA is the same with a softmax over the
    batch; `imitation`, what both are compared with, makes what succeeded likelier and says nothing else.
    """

    reference: VisuomotorPolicy
    beta: float = 1.0
    draws: int = 2
    kind: OutcomeKind = "NCA"

    def __call__(self, model: VisuomotorPolicy, batch: Batch, generator: SampleGenerator) -> tuple[Tensor, Metrics]:
        draw = generator.torch_generator(batch.sample_index, "alignment")
        now = seen(self.reference, batch, model)
        ratio = self.beta * compared(model, self.reference, now, now.chunk, draw, self.draws).ratio
        assert batch.label is not None
        label = batch.label / len(batch.label)
        loss = _OUTCOME_LOSSES[self.kind](ratio[None], label[None])
        told, failed = ratio.detach(), (batch.label == 0).float()
        return loss, {
            "ratio_of_success": (told * (1 - failed)).sum() / (1 - failed).sum().clamp(min=1),
            "ratio_of_failure": (told * failed).sum() / failed.sum().clamp(min=1),
            "median_beta_g": told.abs().median(),
        }


@dataclass(frozen=True, eq=False)
class WordsPolicy:
    """CCA with the instruction as the condition: the same pictures, state and chunk under another task's words.

    `batch.label` is the number of the task that was done; rows of one task are no negatives of each other.
    """

    reference: VisuomotorPolicy
    beta: float = 1.0
    lambda_: float = 1.0
    draws: int = 2

    def __call__(self, model: VisuomotorPolicy, batch: Batch, generator: SampleGenerator) -> tuple[Tensor, Metrics]:
        draw = generator.torch_generator(batch.sample_index, "alignment")
        now = seen(self.reference, batch, model)
        assert batch.label is not None
        other, found = another_task(batch.label, draw)
        # one set of draws for both conditions
        state = draw.get_state()
        positive = compared(model, self.reference, now, now.chunk, draw, self.draws).ratio
        draw.set_state(state)
        under_others = replace_words(now, other)
        negative = compared(model, self.reference, under_others, now.chunk, draw, self.draws).ratio
        negative = negative[found] if found.any() else negative.new_zeros(1)  # which then moves nothing
        loss = cca(positive, negative, self.beta, self.lambda_)
        return loss, {
            "ratio_of_own_words": positive.detach().mean(),
            "ratio_of_others": negative.detach().mean(),
            "with_negative": found.float().mean(),
        }


@dataclass(frozen=True)
class ImitatingStudent:
    """Mean squared error to what the policy does on average: `batch.chunk` is a mean of its chunks."""

    def __call__(
        self, model: ChunkStudent, batch: TransitionBatch, generator: SampleGenerator
    ) -> tuple[Tensor, Metrics]:
        own = model.act(batch.features, batch.chunk.shape[-1])
        return F.mse_loss(model.flat(own), model.flat(batch.chunk)), {}


@dataclass(frozen=True, eq=False)
class ClimbingStudent:
    """SRPO: up the critic's log P(success), held by the policy's score at a_t, of which its noise is the baseline."""

    policy: VisuomotorPolicy
    critic: ChunkCritic
    beta: float = 0.1
    weight: str = "sigma^2"

    def __call__(self, model: ChunkStudent, batch: Batch, generator: SampleGenerator) -> tuple[Tensor, Metrics]:
        draw = generator.torch_generator(batch.sample_index, "alignment")
        now = seen(self.policy, batch)
        features = now.features
        chunk = model.act(features, now.chunk.shape[-1])
        at = chunk.detach().requires_grad_()
        with torch.enable_grad():
            value = log_success(self.critic, features, at)
        (grad_q,) = torch.autograd.grad(value.sum(), at)
        behaviour = RDTBehavior(self.policy.policy, self.policy.policy.encode_condition(**vars(now.condition)))
        t = draw_times((len(at),), draw, *TIMES, stratified=True)
        noise = _noise(self.policy, at, now.mask, draw)
        with torch.no_grad():
            eps = behaviour.eps(noised(behaviour.schedule, at.detach(), t, noise), t)
        weight = TIME_WEIGHTS[self.weight](behaviour.schedule.alpha(t), behaviour.schedule.sigma(t))
        loss = srpo_surrogate(chunk, eps, noise, grad_q * now.mask, weight, self.beta, event_ndim=2)
        error = ((eps - noise).square() * now.mask).sum() / now.mask.expand_as(eps).sum()
        return loss, {"success": value.detach().exp().mean(), "behaviour_error": error}


class Compared(NamedTuple):
    """Model and reference on chunks that are noised alike, in units of the reference's own denoising error."""

    ratio: Float[Tensor, " row *k"]  # log-ratio: how much smaller the model's denoising error is
    shift: Float[Tensor, " row *k"]  # squared difference of the clean chunks that both believe in


def compared(
    model: VisuomotorPolicy,
    reference: VisuomotorPolicy,
    now: Seen,
    chunks: Float[Tensor, "row *k horizon slot"],
    draw: torch.Generator,
    draws: int,
) -> Compared:
    """Means over `draws` times and noises, which candidates of one row share.

    The ratio is `log_ratio.denoising_error` with W(t) = sigma^2 / alpha^2, which makes the error one of the clean
    chunk. The shift is, but for a factor of t, the relative entropy of the two diffusions: a network that had only its
    ratios to keep apart could make all its errors grow together.
    """
    ours = RDTBehavior(model.policy, model.policy.encode_condition(**vars(now.own)))
    theirs = RDTBehavior(reference.policy, reference.policy.encode_condition(**vars(now.condition)))
    one = chunks if chunks.ndim == 3 else chunks[:, :1]
    times = [draw_times((len(chunks),), draw, *TIMES, stratified=True) for _ in range(draws)]
    noises = [_noise(reference, one, now.mask, draw) for _ in range(draws)]
    mask = ours.mask(chunks)

    def distance(a: Tensor, b: Tensor) -> Float[Tensor, " row *k"]:
        return ((a - b) * mask).square().sum(dim=(-1, -2)) / (mask.sum(dim=(-1, -2)) * chunks.shape[-2])

    ratios, shifts, unit = [], [], None
    for t, noise in zip(times, noises, strict=True):
        a_t = noised(theirs.schedule, chunks, t, noise.expand_as(chunks))
        with torch.no_grad():
            believed = theirs.clean(a_t, t)
            error = distance(believed, chunks)
            unit = error.mean().clamp(min=1e-8) if unit is None else unit
        mine = ours.clean(a_t, t)
        ratios.append((error - distance(mine, chunks)) / unit)
        shifts.append(distance(mine, believed) / unit)
    return Compared(torch.stack(ratios).mean(dim=0), torch.stack(shifts).mean(dim=0))


def another_task(task: Float[Tensor, " row"], draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """For each row a random row of another task, and whether there is one."""
    differs = task[:, None] != task[None]
    found = differs.any(dim=1)
    chance = torch.rand(differs.shape, generator=draw, device=draw.device) * differs
    return chance.argmax(dim=1), found


def replace_words(now: Seen, rows: Tensor) -> Seen:
    """The same observations under the instructions of other rows."""

    def replaced(condition: Condition) -> Condition:
        assert condition.lang_index is not None, "a batch shares its instructions"
        return replace(condition, lang_index=condition.lang_index[rows])

    return replace(now, condition=replaced(now.condition), own=replaced(now.own))


def _noise(
    model: VisuomotorPolicy, like: Tensor, mask: Float[Tensor, "row 1 slot"], draw: torch.Generator
) -> Float[Tensor, "row *k horizon slot"]:
    """Where the policy has it."""
    noise = torch.randn(like.shape, generator=draw, device=draw.device, dtype=like.dtype)
    return model.place_noise(noise, mask.reshape(len(mask), *([1] * (like.ndim - 2)), mask.shape[-1]))


def _ranked(value: Tensor, label: Tensor) -> Metrics:
    best = (value.argmax(dim=-1) == label.argmax(dim=-1)).float().mean()
    return {"best_first": best, "label_entropy": -(label * label.clamp(min=1e-9).log()).sum(dim=-1).mean()}
