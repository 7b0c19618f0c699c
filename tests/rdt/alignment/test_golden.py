"""The published implementations' numbers, case by case (spec alignment.md; tests/golden/alignment/README.md).

pytest tests/rdt/alignment/test_golden.py
ALIGNMENT_GOLDEN_DIR=/other/cases pytest tests/rdt/alignment/test_golden.py
"""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file

from rdt.alignment import critics, losses
from rdt.alignment.cca import contrast
from rdt.alignment.log_ratio import sequence, sequence_logp
from rdt.alignment.models import chosen, density_eps, selection_probabilities
from rdt.alignment.nca import preference_loss
from rdt.alignment.sfbc import Standardised, plan
from rdt.diffusion.continuous import LinearVP, noised
from rdt.diffusion.ode import DPMSolver

GOLDEN_DIR = Path(os.environ.get("ALIGNMENT_GOLDEN_DIR", Path(__file__).parents[2] / "golden" / "alignment"))
CASES: dict[str, dict[str, Any]] = json.loads((GOLDEN_DIR / "alignment.json").read_text(encoding="utf-8"))["cases"]
VP = LinearVP(CASES["vp_schedule"]["beta_0"], CASES["vp_schedule"]["beta_1"])

FLOAT64, FLOAT32 = 1e-8, 1e-5
ROUNDED = 1e-6  # expectations that passed through float32
TOY_EMSE_BASELINE = 1.0  # the largest energy of the toy sets (spec section 2)


@functools.cache
def tensors():
    return load_file(GOLDEN_DIR / "alignment.safetensors")


def of_case(case):
    return {name.rpartition("/")[2]: x for name, x in tensors().items() if name.rpartition("/")[0] == case}


class Family(NamedTuple):
    """How the cases whose name begins alike are computed: `of(inputs, settings)` gives tensors by name."""

    inputs: set[str]
    of: Any


def vp_schedule(x, settings):
    return {"alpha": VP.alpha(x["t"]), "sigma": VP.sigma(x["t"])}


def sampler(x, settings):
    asked = []

    def eps(a_t, t):
        asked.append(t)
        alpha, sigma = VP.alpha(t), VP.sigma(t)
        return sigma * (a_t - alpha * x["mu"]) / (alpha**2 * x["tau"] ** 2 + sigma**2)

    solver = DPMSolver(
        settings["steps"],
        settings["order"],
        settings.get("method", "singlestep"),
        settings["prediction"],
        t_start=CASES["vp_schedule"]["T"],
        t_end=CASES["vp_schedule"]["sample_t0"],
    )
    result = solver(eps, x["x_T"], VP)
    assert len(asked) == settings["nfe"]
    return {"x_0": result}


def behaviour_score_loss(x, settings):
    eps = -VP.sigma(x["t"])[:, None] * x["score"]
    return {"loss": losses.behaviour_loss(eps, x["noise"])}


def bottleneck_diffusion(x, settings):
    def f(a_t, t, state):
        hidden = a_t @ x["Wx"].T + state @ x["Ws"].T + t[:, None] * x["wt"] + x["b"]
        return (torch.tanh(hidden) @ x["V"].T).sum(dim=-1)

    a_t = noised(VP, x["action"], x["t"], x["noise"])
    eps = density_eps(f, VP, a_t, x["t"], x["state"])
    return {
        "noisy_action": a_t,
        "f": f(a_t, x["t"], x["state"]),
        "eps": eps,
        "loss": losses.behaviour_loss(eps, x["noise"]),
    }


def eda(x, settings):
    log_ratio = settings["beta"] * (x["f_policy"] - x["f_behaviour"])
    return {
        "noisy_actions": noised(VP, x["actions"], x["t"], x["noise"]),
        "loss": losses.contrastive(log_ratio, losses.soft_labels(x["q"], settings["alpha"])),
    }


def cep_toy(x, settings):
    f, energy = x["f"][:, 0], x["energy"][:, 0]
    target = settings["alpha"] * energy
    if settings["case"].endswith("CEP"):  # one row: the batch is the contrast set
        return {"loss": losses.contrastive(f, losses.soft_labels(energy, settings["alpha"]))}
    if settings["case"].endswith("/mse"):
        return {"loss": losses.energy_mse(f, target)}
    shifted = settings["alpha"] * (energy - TOY_EMSE_BASELINE)
    return {"loss": losses.energy_exponential_mse(f, shifted, tuple(settings["emse_clip"]))}


def qgpo_energy(x, settings):
    f, alpha = x["f"][..., 0], settings["alpha"]
    if settings["case"].endswith("CEP"):
        return {"loss": losses.contrastive(f, losses.soft_labels(x["q_support"], alpha))}
    q = x["q_data"][:, 0]
    if settings["case"].endswith("/mse"):
        return {"loss": losses.energy_mse(f, alpha * q)}
    shifted = alpha * (q - x["q_support"].amax(dim=1))
    loss = losses.energy_exponential_mse(f, shifted, tuple(settings["emse_clip"]), clip_prediction=True)
    return {"loss": loss}


def qgpo_softmax_q(x, settings):
    target = critics.softmax_q_target(
        x["reward"][:, 0], x["done"][:, 0], x["q_next_support"], settings["q_alpha"], settings["discount"]
    )
    old, online = torch.nn.ParameterList([x["target_param_before"]]), torch.nn.ParameterList([x["online_param"]])
    critics.polyak_(old, online, settings["polyak"])
    return {
        "loss": critics.twin_q_loss(x["q1"][:, 0], x["q2"][:, 0], target),
        "target_param_after": old[0].detach(),
    }


def iql(x, settings):
    v_loss = critics.iql_value_loss(x["target_q"], x["v"], settings["expectile"])
    q_loss = critics.iql_q_loss(x["q1"], x["q2"], x["reward"], x["done"], x["v_next"], settings["discount"])
    return {"v_loss": v_loss, "q_loss": q_loss, "loss": v_loss + q_loss}


def srpo(x, settings):
    alpha, sigma = VP.alpha(x["t"]), VP.sigma(x["t"])
    grad_q = losses.unit_rms(x["grad_q"]) if settings["normalise_q_gradient"] else x["grad_q"]
    loss = losses.srpo_surrogate(
        x["action"],
        x["eps_behaviour"],
        x["noise"] if settings["subtract_noise"] else None,
        grad_q,
        losses.TIME_WEIGHTS[settings["weight"]](alpha, sigma),
        settings["beta"],
    )
    return {
        "alpha": alpha,
        "sigma": sigma,
        "noisy_action": noised(VP, x["action"].detach(), x["t"], x["noise"]),
        "loss": loss,
    }


def sfbc_select(x, settings):
    prob = selection_probabilities(x["q"][:, 0], settings["alpha"], settings["select"])
    return {"prob": prob, "selected": chosen(x["actions"][None], x["index"].long()[None])[0]}


def sfbc_planning(x, settings):
    rewards, done = x["rewards"][:, 0], x["done"][:, 0]
    before = Standardised(rewards, settings["old_mean"], settings["old_std"])
    after = plan(rewards, done, x["q_support"], before, settings["alpha"], settings["discount"])
    return {
        "raw_returns": after.returns * after.std + after.mean,
        "normalised_returns": after.returns,
        "new_mean": torch.tensor(after.mean),
        "new_std": torch.tensor(after.std),
    }


def nca_reward(x, settings):
    kind = settings["case"].rpartition("/")[2].partition("_")[0]
    loss = preference_loss(
        x["policy_logp"] - x["ref_logp"],
        x["score"],
        beta=settings["beta"],
        temperature=settings["temperature"],
        first_offset=settings["score_offset_first"],
        kind=kind,
    )
    return {"loss": loss}


def nca_pair(x, settings):
    winner = settings["beta"] * (x["policy_chosen"] - x["ref_chosen"])
    loser = settings["beta"] * (x["policy_rejected"] - x["ref_rejected"])
    found = losses.PAIR_LOSSES[settings["case"].rpartition("/")[2]](winner, loser)
    return {"losses": found, "loss": found.mean(), "chosen": x["policy_chosen"], "rejected": x["policy_rejected"]}


def sequence_logp_case(x, settings):
    found = sequence_logp(x["logits"], x["labels"].long(), settings["shift"], settings["ignore_index"])
    return {"logp": found}


def cca(x, settings):
    labels = contrast(x["label"].long(), x["masked"].bool(), settings["uncond_label"])
    tokens = torch.cat([x["tokens"], x["tokens"]]).long()
    positive, negative = sequence(x["logits"], x["ref_logits"], tokens, shift=0).chunk(2)
    same = labels.same if settings["divide_by"] == "max(lambda,1)" else None
    kind = settings["case"].rpartition("/")[2].partition("_")[0]
    return {
        "label_used": labels.positive,
        "negative_label_used": labels.negative,
        "gap_positive": positive,
        "gap_negative": negative,
        "logp_gap": torch.cat([positive, negative]),
        "loss": losses.cca(positive, negative, settings["beta"], settings["lambda_"], same, kind),
    }


FAMILIES = {
    "vp_schedule": Family({"t"}, vp_schedule),
    "sampler": Family({"x_T", "mu", "tau"}, sampler),
    "behaviour_score_loss": Family({"score", "noise", "t", "action", "u"}, behaviour_score_loss),
    "bottleneck_diffusion": Family(
        {"V", "Ws", "Wx", "wt", "b", "action", "noise", "state", "t", "u"}, bottleneck_diffusion
    ),
    "eda": Family({"q", "f_policy", "f_behaviour", "actions", "t", "noise", "state"}, eda),
    "cep_toy": Family({"f", "energy", "action", "noise", "t"}, cep_toy),
    "qgpo_energy": Family(
        {"f", "q_support", "q_data", "action", "noise", "state", "support_actions", "t"}, qgpo_energy
    ),
    "qgpo_softmax_q": Family(
        {"reward", "done", "q_next_support", "q1", "q2", "online_param", "target_param_before"}, qgpo_softmax_q
    ),
    "iql": Family({"v", "target_q", "v_next", "q1", "q2", "reward", "done"}, iql),
    "srpo": Family({"action", "eps_behaviour", "noise", "grad_q", "t"}, srpo),
    "sfbc_select": Family({"q", "actions", "index"}, sfbc_select),
    "sfbc_planning": Family({"rewards", "done", "q_support"}, sfbc_planning),
    "nca_reward": Family({"policy_logp", "ref_logp", "score"}, nca_reward),
    "nca_pair": Family({"policy_chosen", "policy_rejected", "ref_chosen", "ref_rejected"}, nca_pair),
    "sequence_logp": Family({"logits", "labels"}, sequence_logp_case),
    "cca": Family({"logits", "ref_logits", "tokens", "label", "masked"}, cca),
}


def computed(case, dtype):
    """Everything that the case expects, gradients included, from this implementation."""
    family, given = FAMILIES[case.partition("/")[0]], of_case(case)
    wanted = {name for name in given if name not in family.inputs}
    inputs = {
        name: x.to(dtype, copy=True) if x.is_floating_point() else x
        for name, x in given.items()
        if name in family.inputs
    }
    for name in inputs:
        if f"grad_{name}" in wanted or f"grad_{name.removeprefix('policy_')}" in wanted:
            inputs[name].requires_grad_()
    found = family.of(inputs, {**CASES[case], "case": case})
    for name in sorted(wanted):
        if name.startswith("grad_"):
            of = name.removeprefix("grad_")
            (found[name],) = torch.autograd.grad(
                found["loss"], inputs[of] if of in inputs else found[of], retain_graph=True
            )
    return {name: found[name].detach() for name in wanted}


def tolerance(case, name, dtype):
    if dtype == torch.float32:
        return FLOAT32
    rounded = case.startswith(("iql/", "qgpo_softmax_q")) or f"{case}/{name}" in (
        "sfbc_planning/normalised_returns",
        "sfbc_planning/new_mean",
        "sfbc_planning/new_std",
    )
    return ROUNDED if rounded else FLOAT64


def is_another_loss(case, name):
    """Where a second published trainer computes a different loss, and the expectation is filled with zeros."""
    return name.startswith("grad_gap_") and not CASES[case]["second_reference_agrees"]


def test_there_are_cases():
    assert {case.partition("/")[0] for case in CASES} <= set(FAMILIES)
    assert {name.rpartition("/")[0] for name in tensors()} == set(CASES)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("case", CASES)
def test_case(case, dtype):
    expected = of_case(case)
    for name, found in computed(case, dtype).items():
        if is_another_loss(case, name):
            continue
        target = expected[name].to(torch.float64).reshape(found.shape)
        if not expected[name].is_floating_point():
            assert torch.equal(found.to(torch.float64), target), name
            continue
        error = (found.double() - target).abs().max() / target.abs().max().clamp(min=torch.finfo(dtype).tiny)
        assert error <= tolerance(case, name, dtype), f"{name}: relative error {error:.1e}"
