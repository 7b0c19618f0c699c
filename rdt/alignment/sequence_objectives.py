"""Likelihood, CCA and preferences of a `SequenceModel`, and the loop that trains it.

Log-ratios of sequences are exact, so each objective is its pure loss around `log_ratio.sequence`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm import tqdm

from rdt.alignment.log_ratio import sequence
from rdt.alignment.losses import CcaKind, cca, contrastive, dpo_pair, nca, soft_labels
from rdt.alignment.sequence_model import SequenceModel, SequencePolicy, response_logp

Metrics = dict[str, Tensor]


class Said(NamedTuple):
    """Responses of the data."""

    prompts: Int[Tensor, "row prompt"]
    responses: Int[Tensor, "row token"]


class Contrasted(NamedTuple):
    """Responses under their own condition and under another row's; `same` as in `cca.Contrast`, None: none is."""

    positive: Int[Tensor, "row prompt"]
    negative: Int[Tensor, "row prompt"]
    responses: Int[Tensor, "row token"]
    same: Bool[Tensor, " row"] | None = None


class Rated(NamedTuple):
    """K responses a prompt and their rewards."""

    prompts: Int[Tensor, "row prompt"]
    responses: Int[Tensor, "row k token"]
    rewards: Float[Tensor, "row k"]

    def rows(self, which: Int[Tensor, " some"]) -> Rated:
        return Rated(self.prompts[which], self.responses[which], self.rewards[which])


def likelihood(model: SequenceModel, batch: Said, generator: torch.Generator) -> tuple[Tensor, Metrics]:
    """- log p(response | prompt) for each token."""
    return -response_logp(model, *batch).mean() / batch.responses.shape[1], {}


@dataclass(frozen=True)
class SequenceCCA:
    """CCA or what it is compared with (`losses.cca`)."""

    reference: SequencePolicy
    beta: float = 0.02
    lambda_: float = 1.0
    kind: CcaKind = "CCA"

    def __call__(self, model: SequenceModel, batch: Contrasted, generator: torch.Generator) -> tuple[Tensor, Metrics]:
        prompts = torch.cat([batch.positive, batch.negative])
        g = log_ratios(model, self.reference, prompts, torch.cat([batch.responses, batch.responses]))
        positive, negative = g.chunk(2)
        loss = cca(positive, negative, self.beta, self.lambda_, batch.same, self.kind)
        return loss, {"median_beta_g": (self.beta * g.detach()).abs().median()}


PreferenceKind = Literal["InfoNCA", "NCA", "DPO"]
_LISTWISE = {"InfoNCA": contrastive, "NCA": nca}


@dataclass(frozen=True)
class SequencePreference:
    """InfoNCA and NCA of all K responses; DPO of the best and the worst."""

    reference: SequencePolicy
    beta: float = 0.01
    temperature: float = 1.0
    kind: PreferenceKind = "NCA"

    def __call__(self, model: SequenceModel, batch: Rated, generator: torch.Generator) -> tuple[Tensor, Metrics]:
        if self.kind == "DPO":
            best, worst = batch.rewards.argmax(1, keepdim=True), batch.rewards.argmin(1, keepdim=True)
            pair = torch.cat([best, worst], dim=1)[..., None].expand(-1, -1, batch.responses.shape[2])
            batch = batch._replace(responses=batch.responses.gather(1, pair))
            g = candidate_log_ratios(model, self.reference, batch)
            return dpo_pair(self.beta * g[:, 0], self.beta * g[:, 1]).mean(), {}
        g = candidate_log_ratios(model, self.reference, batch)
        loss = _LISTWISE[self.kind](self.beta * g, soft_labels(batch.rewards, 1 / self.temperature))
        return loss, {"median_beta_g": (self.beta * g.detach()).abs().median()}


def log_ratios(
    model: SequencePolicy,
    reference: SequencePolicy,
    prompts: Int[Tensor, "row prompt"],
    responses: Int[Tensor, "row token"],
) -> Float[Tensor, " row"]:
    """log p(response | prompt) - log p_ref(response | prompt)."""
    with torch.no_grad():
        of_reference = reference.logits(prompts, responses)
    return sequence(model.logits(prompts, responses), of_reference, responses, shift=0)


def candidate_log_ratios(model: SequencePolicy, reference: SequencePolicy, batch: Rated) -> Float[Tensor, "row k"]:
    """The same of each candidate."""
    rows, k = batch.responses.shape[:2]
    prompts = batch.prompts.repeat_interleave(k, dim=0)
    return log_ratios(model, reference, prompts, batch.responses.flatten(0, 1)).unflatten(0, (rows, k))


def fit(
    model: SequenceModel,
    objective: Callable[[SequenceModel, Any, torch.Generator], tuple[Tensor, Metrics]],
    batches: Callable[[torch.Generator], Any],
    steps: int,
    learning_rate: float,
    generator: torch.Generator,
    *,
    name: str = "train",
    watch: Callable[[SequenceModel, int], None] | None = None,
) -> SequenceModel:
    """AdamW, gradients clipped to a norm of 1, the rate falling to 0 along a cosine; changes and returns the model.

    `watch` is called before every step and after the last, with the model and the number of steps done.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in tqdm(range(steps), desc=name, unit="step", dynamic_ncols=True, leave=False):
        if watch is not None:
            watch(model, step)
        loss, _ = objective(model, batches(generator), generator)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    if watch is not None:
        watch(model, steps)
    return model
