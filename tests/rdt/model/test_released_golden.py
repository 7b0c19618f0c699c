"""The published implementation's numbers, tensor by tensor (spec rdt.md section 14.1).

pytest tests/rdt/model/test_released_golden.py
RDT_GOLDEN_DIR=/other/cases pytest tests/rdt/model/test_released_golden.py
"""

from __future__ import annotations

import dataclasses
import functools
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from rdt.diffusion.process import q_sample
from rdt.diffusion.solver import sample
from rdt.model.policy import RDTPolicy
from rdt.model.released import load_released, save_released

GOLDEN_DIR = Path(os.environ.get("RDT_GOLDEN_DIR", Path(__file__).parents[2] / "golden" / "rdt"))
CASES = sorted(file.parent for file in GOLDEN_DIR.glob("*/config.json"))
CONDITION = ("lang_tokens", "lang_attn_mask", "img_tokens", "state_tokens", "action_mask", "ctrl_freqs")

FORWARD_TOLERANCE = 1e-5
SAMPLING_TOLERANCE = 1e-4
MEAN_SQUARE = "__rms"  # ends the keys that recognise a mean-square norm; they are not targets


def expected_names(case: Path) -> list[str]:
    with safe_open(case / "expected.safetensors", "pt") as file:
        return sorted(name for name in file.keys() if not name.endswith(MEAN_SQUARE))  # noqa: SIM118


@functools.cache
def inputs(case: Path) -> dict[str, Tensor]:
    return load_file(case / "inputs.safetensors")


@functools.cache
def expected(case: Path) -> dict[str, Tensor]:
    return load_file(case / "expected.safetensors")


def compute_loss(policy: RDTPolicy, given: dict[str, Tensor]) -> Tensor:
    return policy.compute_loss(
        **{name: given[name] for name in CONDITION},
        action_gt=given["action_gt"],
        noise=given["loss_noise"],
        timesteps=given["loss_timesteps"],
    )


def predict_action(policy: RDTPolicy, given: dict[str, Tensor]) -> Tensor:
    return policy.predict_action(**{name: given[name] for name in CONDITION}, noise=given["sample_noise"])


@functools.cache
def computed(case: Path) -> dict[str, Tensor]:
    """Everything that `expected.safetensors` may name, from this implementation."""
    policy, given = load_released(case, dtype=torch.float32), inputs(case)
    model, table = policy.model, policy.solver_table
    out = {"alphas_cumprod": policy.alphas_cumprod}

    # one training step, watched from outside
    watched = {
        "lang_cond": policy.lang_adaptor,
        "img_cond": policy.img_adaptor,
        "state_action": policy.state_adaptor,
        "t_emb": model.t_embedder,
        "freq_emb": model.freq_embedder,
        **{f"block_{i:02d}": block for i, block in enumerate(model.blocks)},
        "forward": model,
    }
    seen: dict[str, list[Tensor]] = {name: [] for name in watched}
    hooks = [
        module.register_forward_hook(lambda _, __, result, name=name: seen[name].append(result.detach()))
        for name, module in watched.items()
    ]
    loss = compute_loss(policy, given)
    for hook in hooks:
        hook.remove()
    out |= {name: torch.cat(results, dim=1) for name, results in seen.items()}
    loss.backward()
    out["loss"] = loss.detach().reshape(1)
    out |= {f"gradnorm.{name}": parameter.grad.norm() for name, parameter in policy.named_parameters()}
    out["noisy_action"] = q_sample(
        given["action_gt"], given["loss_noise"], given["loss_timesteps"], policy.alphas_cumprod
    )

    # sampling, with every x and every prediction written down
    condition = policy.encode_condition(**{name: given[name] for name in CONDITION})
    states, predictions = [], []

    def denoiser(x: Tensor, timesteps: Tensor) -> Tensor:
        states.append(x)
        predictions.append(policy.denoise(x, timesteps, condition))
        return predictions[-1]

    with torch.no_grad():
        states.append(sample(denoiser, given["sample_noise"], table))
    out["sample_timesteps"] = torch.tensor([step.timestep for step in table])
    out["sample_sigmas"] = torch.tensor([step.sigma for step in table] + [0.0])
    out["sample_model_outputs"] = torch.stack(predictions)
    out["sample_steps"] = torch.stack(states[1:])
    out["predict_action"] = predict_action(policy, given)

    fresh = RDTPolicy(policy.config)
    out |= {f"init.{name}": value for name, value in fresh.state_dict().items() if name.endswith("_pos_embed")}
    return {name: tensor.detach() for name, tensor in out.items()}


def test_there_are_cases():
    assert CASES, f"{GOLDEN_DIR} holds no case: a case is a subfolder with config.json"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_tensor_of_the_spec_is_there(case):
    assert sorted(computed(case)) == expected_names(case)


@pytest.mark.parametrize(
    ("case", "name"),
    [(case, name) for case in CASES for name in expected_names(case)],
    ids=lambda part: part.name if isinstance(part, Path) else part,
)
def test_tensor(case, name):
    actual, target = computed(case)[name], expected(case)[name]
    if not target.is_floating_point():
        assert torch.equal(actual.reshape(target.shape), target)
        return
    actual = actual.reshape(target.shape)
    if name.startswith("gradnorm.") or name == "sample_sigmas":
        torch.testing.assert_close(actual, target, rtol=1e-4, atol=1e-6)
        return
    sampled = name in ("predict_action", "sample_steps", "sample_model_outputs")
    tolerance = SAMPLING_TOLERANCE if sampled else FORWARD_TOLERANCE
    if sampled and load_released(case).config.prediction_type == "epsilon":
        # the first step divides by alpha(999) = 4.9e-5: only the error relative to its size has a meaning
        scale = target.abs().amax(dim=(-3, -2, -1), keepdim=True)
        actual, target = actual / scale, target / scale
    if name.startswith("block_"):  # the residual stream grows with depth; the spec bounds forward and loss
        tolerance *= max(1.0, target.abs().max().item())
    torch.testing.assert_close(actual, target, rtol=0, atol=tolerance)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_mean_square_norm_is_another_network(case, tmp_path):
    published = load_released(case, dtype=torch.float32)
    policy = RDTPolicy(dataclasses.replace(published.config, norm="mean_square"))
    policy.load_state_dict(published.state_dict())
    save_released(policy, tmp_path)
    policy, given, targets = load_released(tmp_path), inputs(case), expected(case)
    assert policy.config.norm == "mean_square"
    results = {
        "loss": compute_loss(policy, given).detach().reshape(1),
        "predict_action": predict_action(policy, given),
    }
    for name, result in results.items():
        assert (result - targets[name]).abs().max() > 10 * SAMPLING_TOLERANCE
        if name + MEAN_SQUARE in targets and policy.config.prediction_type == "sample":
            torch.testing.assert_close(result, targets[name + MEAN_SQUARE], rtol=0, atol=SAMPLING_TOLERANCE)
