"""`rdt bench cca`: CCA on its home ground, small. Digits whose truth is known, drawn token by token for a class.

One network is trained by likelihood, a tenth of the classes dropped. From there:

    none              the network itself
    CFG               classifier-free guidance over scales, two passes a token
    trained on        further steps of likelihood on as much data as CCA sees: what of CCA is only training
    trained on, CFG   the same, guided: the baseline that the last column compares with
    CCA               over lambda and over beta, one pass a token
    DPO, unlearning   CCA's rivals (spec alignment.md 6)

All are measured against the truth p and their own exact likelihood q of whole pictures: no classifier is trained and no
features are chosen. "CFG's TV there" is the distance of the guided baseline at the same share of right classes, between
the two scales around it.
"""

from __future__ import annotations

import argparse
import copy
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from deploy.bench_sequences import Column, CpuTime, Row, Table, draw
from deploy.plots import Line
from rdt.alignment.cca import contrast
from rdt.alignment.losses import CcaKind
from rdt.alignment.sequence_model import FreeGuidance, SequenceConfig, SequenceModel, SequencePolicy, response_logp
from rdt.alignment.sequence_objectives import Contrasted, Said, SequenceCCA, fit, likelihood
from rdt.alignment.toy_glyphs import NUM_CLASSES, NUM_TOKENS, VOCABULARY, Glyphs

NULL = NUM_CLASSES  # stands for no class
LEVEL = 0.01  # distances that differ by less count as equal
DROPPED = 0.1  # share of the rows that lose their class
SCALES = (1.25, 1.5, 2.0, 3.0)
SETTINGS: tuple[tuple[CcaKind, float, float], ...] = (
    *(("CCA", 1.0, lambda_) for lambda_ in (1.0, 3.0, 10.0, 30.0)),
    *(("CCA", beta, 1.0) for beta in (2.0, 0.5, 0.2)),
    ("DPO", 1.0, 1.0),
    ("unlearning", 1.0, 0.3),
)
"""Kind, beta, lambda. Published beta is 0.02, for images of hundreds of tokens; ratios of these are a few nats."""

COLUMNS: tuple[Column, ...] = (
    ("right class", ".3f"),  # mean p(class | x) of its samples: fidelity
    ("entropy", ".2f"),  # - mean log q, in nats: diversity
    ("places", ".1f"),  # of 24: exp of the entropy of where the digits stand
    ("KL(q|p)", ".2f"),  # what it draws that is not true
    ("KL(p|q)", ".2f"),  # what is true that it does not draw
    ("TV", ".3f"),  # total variation, 0 ... 1
    ("CFG's TV there", ".3f"),
    ("passes", "d"),
    ("sampling [cpu-s]", ".2f"),
    ("training [cpu-s]", ".1f"),
)


@dataclass(frozen=True)
class Size:
    """Of one run."""

    pretrain_steps: int = 1000
    tune_steps: int = 200
    rows: int = 128
    pictures: int = 3000  # that are sampled and measured


QUICK = Size(pretrain_steps=10, tune_steps=2, rows=16, pictures=100)


@dataclass(frozen=True)
class Data:
    """Fresh batches of the truth."""

    truth: Glyphs
    rows: int

    def said(self, generator: torch.Generator) -> Said:
        classes, dropped, tokens = self._draw(generator)
        return Said(class_prompts(classes.masked_fill(dropped, NULL)), tokens)

    def contrasted(self, generator: torch.Generator, *, drop: bool = True) -> Contrasted:
        classes, dropped, tokens = self._draw(generator)
        positive, negative, same = contrast(classes, dropped if drop else None, NULL)
        return Contrasted(class_prompts(positive), class_prompts(negative), tokens, same if drop else None)

    def _draw(self, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        classes = torch.randint(NUM_CLASSES, (self.rows,), generator=generator)
        dropped = torch.rand(self.rows, generator=generator) < DROPPED
        return classes, dropped, self.truth.sample(classes, generator)


def bench(args: argparse.Namespace) -> dict[str, Any]:
    """Print the table as it grows; returns its rows by name."""
    size = QUICK if args.quick else Size()
    truth = Glyphs()
    data = Data(truth, size.rows)
    torch.manual_seed(args.seed)
    generator = torch.Generator().manual_seed(args.seed)
    same_data = partial(torch.Generator().manual_seed, args.seed + 3)  # for all that starts from one network
    ruler = Ruler(truth, size.pictures, args.seed)
    config = SequenceConfig(num_outputs=VOCABULARY, num_prompts=NUM_CLASSES + 1, max_tokens=1 + NUM_TOKENS)
    null = class_prompts(torch.tensor([NULL]))[0]

    table = Table(COLUMNS, name_width=24)
    table.add("truth", ruler.truth_row())
    model = SequenceModel(config)
    with CpuTime() as training:
        fit(model, likelihood, data.said, size.pretrain_steps, 2e-3, generator, name="pretrain")
    table.add("none", ruler.row(model) | {"training [cpu-s]": training.seconds})
    for scale in SCALES:
        table.add(f"CFG {scale:g}", ruler.row(FreeGuidance(model, null, scale)) | {"scale": scale})

    further = copy.deepcopy(model)
    with CpuTime() as training:
        fit(further, likelihood, data.said, size.tune_steps, 4e-4, same_data(), name="train on")
    guided = [table.add("trained on", ruler.row(further) | {"training [cpu-s]": training.seconds})]
    guided += [
        table.add(f"trained on, CFG {scale:g}", ruler.row(FreeGuidance(further, null, scale)) | {"scale": scale})
        for scale in SCALES
    ]
    for kind, beta, lambda_ in SETTINGS:
        name = f"DPO beta {beta:g}" if kind == "DPO" else f"{kind} lambda {lambda_:g}"
        name += f", beta {beta:g}" if kind == "CCA" else ""
        tuned, objective = copy.deepcopy(model), SequenceCCA(model, beta, lambda_, kind)
        batches = partial(data.contrasted, drop=kind != "DPO")
        with CpuTime() as training:
            fit(tuned, objective, batches, size.tune_steps, 4e-4, same_data(), name=name)
        row = ruler.row(tuned) | {"training [cpu-s]": training.seconds, "kind": kind, "beta": beta, "lambda": lambda_}
        table.add(name, row | {"CFG's TV there": _between(guided, row["right class"])})
    _print_verdict(table.rows)
    draw(args, {"cca.png": (_trade_off(table.rows), "diversity: entropy of the pictures [nats]", "right class")})
    return {"seed": args.seed, "threads": torch.get_num_threads(), "rows": table.rows}


def class_prompts(classes: Int[Tensor, " n"]) -> Int[Tensor, "n 1"]:
    return (VOCABULARY + classes)[:, None]


class Ruler:
    """Measures a policy against the truth on the same classes, the same true pictures and the same random numbers."""

    def __init__(self, truth: Glyphs, pictures: int, seed: int) -> None:
        self.truth, self.seed = truth, seed
        self.classes = torch.arange(pictures) % NUM_CLASSES
        self.prompts = class_prompts(self.classes)
        self.real = truth.sample(self.classes, torch.Generator().manual_seed(seed + 1))

    @torch.no_grad()
    def row(self, policy: SequencePolicy) -> Row:
        with CpuTime() as sampling:
            drawn = policy.sample(self.prompts, NUM_TOKENS, torch.Generator().manual_seed(self.seed + 2))
        of_drawn, of_real = (response_logp(policy, self.prompts, x) for x in (drawn, self.real))
        apart = self._logp(self.real) - of_real  # log p / q of true pictures
        return self._looks(drawn) | {
            "entropy": -float(of_drawn.mean()),
            "KL(q|p)": float((of_drawn - self._logp(drawn)).mean()),
            "KL(p|q)": float(apart.mean()),
            "TV": float((1 - (-apart).exp()).clamp(min=0).mean()),
            "passes": policy.passes,
            "sampling [cpu-s]": sampling.seconds,
        }

    def truth_row(self) -> Row:
        return self._looks(self.real) | {
            "entropy": -float(self._logp(self.real).mean()),
            "KL(q|p)": 0.0,
            "KL(p|q)": 0.0,
            "TV": 0.0,
        }

    def _looks(self, tokens: Tensor) -> Row:
        right = self.truth.posterior(tokens).gather(1, self.classes[:, None]).mean()
        place = self.truth.places(tokens, self.classes)
        share = torch.stack([place[self.classes == c].mean(dim=0) for c in range(NUM_CLASSES)])
        return {"right class": float(right), "places": float(torch.special.entr(share).sum(dim=1).exp().mean())}

    def _logp(self, tokens: Tensor) -> Tensor:
        return self.truth.logp(tokens).gather(1, self.classes[:, None])[:, 0]


def _between(curve: list[Row], right: float) -> float | None:
    """The distance on a curve of growing scales where it is right as often; None beyond its ends."""
    x, y = ([row[key] for row in curve] for key in ("right class", "TV"))
    return float(np.interp(right, x, y)) if x[0] <= right <= max(x) and x == sorted(x) else None


def _print_verdict(rows: dict[str, Row]) -> None:
    cca = [row for row in rows.values() if row.get("kind") == "CCA"]
    cfg = [row for row in rows.values() if "scale" in row]
    level = [row for row in cca if row["CFG's TV there"] is not None and row["TV"] <= row["CFG's TV there"] + LEVEL]
    print(f"\n{len(level)} of {len(cca)} CCA rows are as near to the truth as the guided baseline, to {LEVEL:g} of TV")
    if level:
        right = [row["right class"] for row in level]
        print(f"the right class in {min(right):.3f} to {max(right):.3f} of their pictures")
    one, two = (np.mean([row["sampling [cpu-s]"] for row in group]) for group in (cca, cfg))
    print(f"sampling takes {one / two:.2f} of CFG's CPU time")


def _trade_off(rows: dict[str, Row]) -> list[Line]:
    def line(label: str, chosen: list[Row], note: str) -> Line:
        notes = [f"{row.get(note, 1):g}" for row in chosen]
        return Line(label, [row["entropy"] for row in chosen], [row["right class"] for row in chosen], notes)

    guided, further = (
        [rows[start], *(rows[f"{prefix}CFG {scale:g}"] for scale in SCALES)]
        for start, prefix in (("none", ""), ("trained on", "trained on, "))
    )
    cca = [row for row in rows.values() if row.get("kind") == "CCA"]
    truth = rows["truth"]
    return [
        line("CFG, by scale: two passes", guided, "scale"),
        line("CCA, by lambda: one pass", [row for row in cca if row["beta"] == 1.0], "lambda"),
        line("CFG after as much likelihood", further, "scale"),
        Line("truth", [truth["entropy"]], [truth["right class"]]),
    ]
