"""`rdt bench nca`: noise contrastive alignment on its home ground, small. Counting on a ring, with scalar rewards.

One network is trained by likelihood on answers that slip. It answers each of a few hundred questions four times, the
answers are rated, and from there InfoNCA and NCA read all four, DPO the best and the worst. Every answer can be written
down, so rewards, divergences and likelihoods are sums over all of them, not samples; `held-out` rows are questions
asked and answered anew.

Optima in closed form, for candidates of the reference: InfoNCA's is p_ref e^(r / (beta T)) / Z, whatever K is. NCA's is
p_ref K E[w | y] at beta = 1, w the weight of y among K - 1 other answers, and sums to one by itself.
"""

from __future__ import annotations

import argparse
import copy
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from deploy.bench_sequences import Column, CpuTime, Row, Table, draw
from deploy.plots import Line
from rdt.alignment.losses import soft_labels
from rdt.alignment.nca import preference_loss
from rdt.alignment.sequence_model import SequenceConfig, SequenceModel
from rdt.alignment.sequence_objectives import (
    PreferenceKind,
    Rated,
    Said,
    SequencePreference,
    candidate_log_ratios,
    fit,
    likelihood,
)
from rdt.alignment.toy_counting import (
    NUM_PROMPTS,
    NUM_TOKENS,
    RING,
    Counting,
    answers,
    every_logp,
    questions,
    reward,
)

K = 4
TEMPERATURE = 0.1  # a right token more is worth 0.2, so the labels are e^2 apart
BETAS = (1.0, 0.1, 0.01)
KINDS: tuple[PreferenceKind, ...] = ("DPO", "InfoNCA", "NCA")
DRAWN_BETA = 1.0

COLUMNS: tuple[Column, ...] = (
    ("reward", ".3f"),  # expected, of 1
    ("p(right)", ".3f"),
    ("log p(right)", ".2f"),  # mean over questions
    ("worst question", ".2f"),  # the smallest change of log p(right) among the questions
    ("best of 4", "+.2f"),  # log-ratio to the reference of the best held-out answer
    ("worst of 4", "+.2f"),
    ("KL to reference", ".2f"),
    ("KL to optimum", ".2f"),
    ("training [cpu-s]", ".1f"),
)


@dataclass(frozen=True)
class Size:
    """Of one run."""

    pretrain_steps: int = 400
    tune_steps: int = 300
    rows: int = 512  # rated questions; 25 are different, their answers are not
    batch: int = 64
    watched: int = 500  # held-out questions
    watch_every: int = 10


QUICK = Size(pretrain_steps=10, tune_steps=3, rows=32, batch=8, watched=20, watch_every=1)


def bench(args: argparse.Namespace) -> dict[str, Any]:
    """Print the checks and the table as it grows; returns rows and curves by name."""
    size = QUICK if args.quick else Size()
    truth = Counting()
    torch.manual_seed(args.seed)
    generator = torch.Generator().manual_seed(args.seed)
    config = SequenceConfig(num_outputs=RING, num_prompts=NUM_PROMPTS, max_tokens=2 + NUM_TOKENS, width=32)
    reference = SequenceModel(config)

    def said(generator: torch.Generator) -> Said:
        asked = ask(4 * size.batch, generator)
        return Said(asked, truth.sample(asked, generator))

    with CpuTime() as training:
        fit(reference, likelihood, said, size.pretrain_steps, 3e-3, generator, name="pretrain")

    def some_rated(generator: torch.Generator) -> Rated:
        return rated.rows(torch.randint(size.rows, (size.batch,), generator=generator))

    rated, held_out = (rate(reference, rows, generator) for rows in (size.rows, size.watched))
    checks = dpo_gap(reference, rated)
    print("InfoNCA of the best and the worst at T -> 0 against DPO, largest relative difference:")
    print(", ".join(f"{name} {gap:.1e}" for name, gap in checks.items()) + "\n")

    ruler = Ruler(reference, truth)
    table = Table(COLUMNS, name_width=22)
    table.add("truth of the data", ruler.row(ruler.truth))
    table.add("reference", ruler.row(ruler.reference) | {"training [cpu-s]": training.seconds})
    curves: dict[str, dict[str, list[float]]] = {}
    for beta in BETAS:
        optima = ruler.optima(beta)
        for kind, optimum in optima.items():
            table.add(f"{kind}'s optimum, {beta:g}", ruler.row(optimum) | {"beta": beta})
        for kind in KINDS:
            name = f"{kind}, {beta:g}"
            model, watch = copy.deepcopy(reference), Watch(reference, held_out, size.watch_every)
            objective = SequencePreference(reference, beta, TEMPERATURE, kind)
            with CpuTime() as training:
                fit(model, objective, some_rated, size.tune_steps, 1e-3, generator, name=name, watch=watch)
            curves[name] = watch.curves
            row = {"kind": kind, "beta": beta, "training [cpu-s]": training.seconds}
            row |= {f"{which} of 4": watch.curves[which][-1] for which in ("best", "worst")}
            table.add(name, ruler.row(every_logp(model), optima.get(kind)) | row)
    print("\nnumbers behind a name are beta; a log-ratio above zero: likelier than under the reference")
    label = "log-ratio to the reference [nats]"
    draw(args, {"nca.png": (_drawn(curves), "step", label)})
    return {
        "seed": args.seed,
        "threads": torch.get_num_threads(),
        "temperature": TEMPERATURE,
        "DPO of K = 2": checks,
        "rows": table.rows,
        "curves": curves,
    }


def ask(rows: int, generator: torch.Generator) -> Int[Tensor, "row 2"]:
    known = questions()
    return known[torch.randint(len(known), (rows,), generator=generator)]


def rate(model: SequenceModel, rows: int, generator: torch.Generator) -> Rated:
    """Questions, answered K times by the model."""
    asked = ask(rows, generator)
    said = model.sample(asked.repeat_interleave(K, dim=0), NUM_TOKENS, generator).unflatten(0, (rows, K))
    return Rated(asked, said, reward(asked, said))


def dpo_gap(reference: SequenceModel, rated: Rated) -> dict[str, float]:
    """How far the loss and the gradient of InfoNCA of K = 2 at T -> 0 are from DPO's, relatively, in float64."""
    unequal = rated.rewards.amax(1) > rated.rewards.amin(1)  # a tie has no best; InfoNCA's labels are halves there
    rated = rated.rows(unequal.nonzero()[:, 0][:64])
    best, worst = rated.rewards.argmax(1, keepdim=True), rated.rewards.argmin(1, keepdim=True)
    which = torch.cat([best, worst], dim=1)
    pairs = Rated(
        rated.prompts,
        rated.responses.gather(1, which[..., None].expand(-1, -1, rated.responses.shape[2])),
        rated.rewards.gather(1, which),
    )
    frozen = copy.deepcopy(reference).double()
    model = copy.deepcopy(frozen)
    with torch.no_grad():  # away from the reference, where both losses are log 2
        for weight in model.parameters():
            weight.mul_(1.2)
    found = []
    for kind in ("InfoNCA", "DPO"):
        if kind == "InfoNCA":
            g = candidate_log_ratios(model, frozen, pairs)
            loss = preference_loss(g, pairs.rewards.double(), beta=0.1, temperature=1e-4, kind="InfoNCA")
        else:
            loss, _ = SequencePreference(frozen, 0.1, kind="DPO")(model, pairs, torch.Generator())
        gradient = torch.autograd.grad(loss, list(model.parameters()))
        found.append({"loss": loss.detach(), "gradient": torch.cat([part.flatten() for part in gradient])})
    ours, dpo = found
    return {name: float((ours[name] - dpo[name]).norm() / dpo[name].norm()) for name in ("loss", "gradient")}


class Watch:
    """Mean log-ratios of the best and of the worst held-out answer, every few steps."""

    def __init__(self, reference: SequenceModel, held_out: Rated, every: int) -> None:
        self.reference, self.held_out, self.every = reference, held_out, every
        rewards = held_out.rewards
        self.places = {"best": rewards.argmax(1, keepdim=True), "worst": rewards.argmin(1, keepdim=True)}
        self.curves: dict[str, list[float]] = {"step": [], "best": [], "worst": []}

    @torch.no_grad()
    def __call__(self, model: SequenceModel, step: int) -> None:
        if step % self.every:
            return
        g = candidate_log_ratios(model, self.reference, self.held_out)
        self.curves["step"].append(step)
        for name, place in self.places.items():
            self.curves[name].append(float(g.gather(1, place).mean()))


class Ruler:
    """Exact figures of a table of log p(answer | question)."""

    def __init__(self, reference: SequenceModel, truth: Counting) -> None:
        known, asked = answers(), questions()
        self.reference = every_logp(reference)
        self.reward = reward(asked, known.expand(len(asked), *known.shape))
        self.truth = torch.stack([truth.logp(question.expand(len(known), -1), known) for question in asked])

    def row(self, logp: Float[Tensor, "question answer"], optimum: Tensor | None = None) -> Row:
        right = self.reward == 1  # one answer a question
        change = logp[right] - self.reference[right]
        return {
            "reward": float((logp.exp() * self.reward).sum(dim=1).mean()),
            "p(right)": float(logp[right].exp().mean()),
            "log p(right)": float(logp[right].mean()),
            "worst question": float(change.min()),
            "KL to reference": _divergence(logp, self.reference),
            "KL to optimum": None if optimum is None else _divergence(logp, optimum),
        }

    def optima(self, beta: float) -> dict[str, Float[Tensor, "question answer"]]:
        """By method, where there is a closed form."""
        tilted = (self.reference + self.reward / (beta * TEMPERATURE)).log_softmax(dim=1)
        return {"InfoNCA": tilted} | ({"NCA": nca_optimum(self.reference, self.reward)} if beta == 1 else {})


def nca_optimum(
    reference: Float[Tensor, "question answer"], rewards: Float[Tensor, "question answer"]
) -> Float[Tensor, "question answer"]:
    """log of p_ref K E[w | y] at beta = 1; the expectation is over the rewards of the K - 1 others, six values each."""
    values = torch.arange(NUM_TOKENS + 1) / NUM_TOKENS
    is_value = (rewards[..., None] * NUM_TOKENS).round() == torch.arange(NUM_TOKENS + 1)  # (question, answer, value)
    share = torch.einsum("qa,qav->qv", reference.exp(), is_value.float())
    others = torch.cartesian_prod(*[torch.arange(len(values))] * (K - 1))  # (case, K - 1)
    chance = share[:, others].prod(dim=2)  # (question, case)
    cases = torch.cat([values[:, None, None].expand(-1, len(others), 1), values[others].expand(6, -1, -1)], dim=2)
    weight = soft_labels(cases, 1 / TEMPERATURE)[..., 0]  # (value, case)
    ratio = K * chance @ weight.T  # (question, value)
    return reference + torch.einsum("qv,qav->qa", ratio, is_value.float()).log()


def _divergence(logp: Tensor, other: Tensor) -> float:
    return float((logp.exp() * (logp - other)).sum(dim=1).mean())


def _drawn(curves: dict[str, dict[str, list[float]]]) -> list[Line]:
    chosen = {kind: curves[f"{kind}, {DRAWN_BETA:g}"] for kind in KINDS}
    return [
        Line(f"{kind}, {which} of 4", curve["step"], curve[which])
        for which in ("best", "worst")
        for kind, curve in chosen.items()
    ]
