"""SRPO's part of `rdt bench guidance`: how near free actions come to the optimum of its own objective.

81 wishes of the critic, 8 starts each, the exact score of 8gaussians, beta 0.1, Adam 3e-2 with a cosine (spec
alignment.md section 9.1). SRPO yields no distribution, so it stands apart from the table.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from deploy.guidance_methods import Effort
from rdt.alignment.losses import TIME_WEIGHTS, TimeWeight, blended
from rdt.alignment.srpo import SRPO
from rdt.alignment.toy import Mixture, eight_gaussians
from rdt.alignment.toy_optimum import PointPolicy, Report, ScoreRegularised, judge, targets

BETA = 0.1
STARTS = 8
BLEND_SHARE = 0.6  # of the steps, after which the wanted weight alone holds


@dataclass(frozen=True)
class Variant:
    """How the noise levels are weighted."""

    label: str
    weight: str  # the objective's, key of TIME_WEIGHTS
    subtract_noise: bool = True
    first: str | None = None  # the weight at the start, where it changes
    draws: int = 1


VARIANTS = (
    Variant("sigma^2, as released", "sigma^2", subtract_noise=False),
    Variant("sigma^2", "sigma^2"),
    Variant("1", "1"),
    Variant("alpha/sigma", "alpha/sigma"),
    Variant("alpha", "alpha"),
    Variant("sigma^2 to alpha, 4 draws", "alpha", first="sigma^2", draws=4),
)


def bench_srpo(effort: Effort, seed: int) -> dict[str, dict[str, Any]]:
    """Print the table; returns its rows by name."""
    behaviour, wanted, rows = eight_gaussians(), targets(effort.srpo_side), {}
    print(f"\nSRPO on its own objective, beta {BETA:g}: {len(wanted)} wishes x {STARTS} starts, {effort.srpo} steps")
    print(f"{'weight w(t)':28s} within 0.15   median   objective   off support   the optimum's")
    for variant in VARIANTS:
        report = run(variant, behaviour, wanted, effort, seed)
        rows[variant.label] = asdict(report)
        shares = [100 * share for share in (report.within, report.off_support, report.off_support_of_optimum)]
        print(
            f"{variant.label:28s} {shares[0]:9.1f} % {report.median_distance:8.3f} {-report.objective_gap:11.4f} "
            f"{shares[1]:11.1f} % {shares[2]:13.1f} %"
        )
    return rows


def run(variant: Variant, behaviour: Mixture, wanted: Tensor, effort: Effort, seed: int) -> Report:
    steps, generator = effort.srpo, torch.Generator().manual_seed(seed)
    conditions = wanted.repeat_interleave(STARTS, dim=0)
    policy = PointPolicy(2 * torch.randn(len(conditions), 2, generator=generator))
    optimizer = torch.optim.Adam(policy.parameters(), 3e-2, eps=1e-12)
    last = TIME_WEIGHTS[variant.weight]
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 3e-2 * 0.5 * (1 + math.cos(math.pi * step / steps))
        weight: TimeWeight = last
        if variant.first is not None:
            weight = blended(TIME_WEIGHTS[variant.first], last, min(1.0, step / (BLEND_SHARE * steps)))
        objective = SRPO(
            behaviour,
            wish,
            BETA,
            weight=weight,
            subtract_noise=variant.subtract_noise,
            stratified=True,
            draws=variant.draws,
        )
        optimizer.zero_grad()
        objective(policy, conditions, generator)[0].backward()
        optimizer.step()
    found = policy.action.detach().reshape(len(wanted), STARTS, 2)
    return judge(found, wanted, ScoreRegularised(behaviour, last, BETA, accuracy=effort.srpo_accuracy))


def wish(a: Tensor, cond: Tensor) -> Tensor:
    """Q(a) = -|a - target|^2."""
    return -(a - cond).square().sum(dim=-1)
