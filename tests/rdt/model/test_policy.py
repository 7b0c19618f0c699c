"""pytest tests/rdt/model/test_policy.py"""

import dataclasses
from functools import partial

import pytest
import torch

from rdt.diffusion.guidance import Guidance
from rdt.diffusion.process import q_sample
from rdt.diffusion.solver import dpm_solver_table, sample
from rdt.model.layers import KeyValue
from rdt.model.policy import RDTPolicy

TIMESTEPS = torch.tensor([0, 500, 999])


def test_cached_keys_and_values_change_no_number(config, make_policy, make_inputs, make_noise):
    policy, inputs, noise = make_policy(config), make_inputs(config), make_noise(config)
    cached = policy.encode_condition(**inputs)
    assert all(isinstance(entry, KeyValue) for entry in cached.per_block)
    for t in (999, 400):
        afresh = policy(noise, torch.tensor([t]), **inputs)
        assert torch.equal(policy.denoise(noise, torch.tensor([t]), cached), afresh)


def test_predict_action_is_the_loop_over_whole_passes(config, make_policy, make_inputs, make_noise):
    policy, inputs, noise = make_policy(config), make_inputs(config), make_noise(config)
    with torch.no_grad():
        slow = sample(lambda x, t: policy(x, t, **inputs), noise, policy.solver_table) * inputs["action_mask"]
        split = policy.sample(policy.encode_condition(**inputs), noise)
    fast = policy.predict_action(**inputs, noise=noise)
    assert torch.equal(fast, slow) and torch.equal(fast, split)
    assert fast.shape == noise.shape and not fast.requires_grad


def test_masked_slots_are_zero(config, make_policy, make_inputs):
    inputs = make_inputs(config)
    actions = make_policy(config).predict_action(**inputs)
    outside = inputs["action_mask"].expand_as(actions) == 0
    assert (actions[outside] == 0).all() and (actions[~outside] != 0).all()


def test_noise_is_drawn_from_the_default_generator(config, make_policy, make_inputs):
    policy, inputs = make_policy(config), make_inputs(config)
    draws = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        draws.append(policy.predict_action(**inputs))
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


def test_padding_tokens_do_not_matter(config, make_policy, make_inputs, make_noise):
    policy, inputs, noise = make_policy(config), make_inputs(config), make_noise(config)
    actions = policy.predict_action(**inputs, noise=noise)
    scrambled = inputs["lang_tokens"].clone()
    scrambled[:, 5:] = 100.0
    assert torch.equal(policy.predict_action(**{**inputs, "lang_tokens": scrambled}, noise=noise), actions)
    shorter = {"lang_tokens": inputs["lang_tokens"][:, :5], "lang_attn_mask": inputs["lang_attn_mask"][:, :5]}
    torch.testing.assert_close(policy.predict_action(**{**inputs, **shorter}, noise=noise), actions)
    unmasked = {**shorter, "lang_attn_mask": None}
    torch.testing.assert_close(policy.predict_action(**{**inputs, **unmasked}, noise=noise), actions)


def test_an_instruction_without_tokens_is_heard_by_nobody(config, make_policy, make_inputs, make_noise):
    """Whatever stands in the hidden tokens, even a NaN; the other samples hear theirs."""
    policy, inputs, noise = make_policy(config), make_inputs(config), make_noise(config)
    mask = inputs["lang_attn_mask"].clone()
    mask[1] = False
    actions = policy.predict_action(**{**inputs, "lang_attn_mask": mask}, noise=noise)
    hidden = inputs["lang_tokens"].clone()
    hidden[1] = torch.nan
    other = {**inputs, "lang_attn_mask": mask, "lang_tokens": hidden}
    assert actions.isfinite().all()
    assert torch.equal(policy.predict_action(**other, noise=noise), actions)
    torch.testing.assert_close(actions[[0, 2]], policy.predict_action(**inputs, noise=noise)[[0, 2]])
    loss = policy.compute_loss(**other, action_gt=noise, noise=noise, timesteps=TIMESTEPS)
    assert loss.isfinite()


def test_samples_of_a_batch_do_not_meet(config, make_policy, make_inputs, make_noise):
    policy, inputs, noise = make_policy(config), make_inputs(config), make_noise(config)
    together = policy.predict_action(**inputs, noise=noise)
    for i in range(3):
        alone = policy.predict_action(**{k: v[i : i + 1] for k, v in inputs.items()}, noise=noise[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-4, rtol=1e-4)


def test_shared_instructions_are_dealt_out(config, make_policy, make_inputs, make_noise):
    """One row an instruction and an index a sample give the numbers and the gradients of repeated rows."""
    policy, inputs, noise = make_policy(config), make_inputs(config), make_noise(config)
    index, mask = torch.tensor([1, 0, 1]), torch.arange(7) < torch.tensor([[5], [3]])
    shared = {**inputs, "lang_tokens": inputs["lang_tokens"][:2], "lang_attn_mask": mask}
    repeated = {**inputs, "lang_tokens": inputs["lang_tokens"][index], "lang_attn_mask": mask[index]}
    torch.testing.assert_close(
        policy.predict_action(**shared, noise=noise, lang_index=index),
        policy.predict_action(**repeated, noise=noise),
    )
    gradients = []
    for given in ({**shared, "lang_index": index}, repeated):
        loss = policy.compute_loss(**given, action_gt=noise, noise=noise, timesteps=TIMESTEPS)
        gradients.append(torch.autograd.grad(loss, list(policy.parameters())))
    torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["lang_tokens", "img_tokens", "state_tokens", "ctrl_freqs"])
def test_every_condition_is_heard(config, make_policy, make_inputs, make_noise, name):
    policy, inputs, noise = make_policy(config), make_inputs(config), make_noise(config)
    actions = policy.predict_action(**inputs, noise=noise)
    other = {**inputs, name: inputs[name] + 1}
    assert not torch.allclose(policy.predict_action(**other, noise=noise), actions, atol=1e-3)


@pytest.mark.parametrize("prediction_type", ["sample", "epsilon"])
def test_loss_is_the_plain_mean_over_all_slots(config, make_policy, make_inputs, make_noise, prediction_type):
    policy = make_policy(dataclasses.replace(config, prediction_type=prediction_type))
    inputs, noise, action = make_inputs(config), make_noise(config), make_noise(config, seed=2)
    prediction = policy(q_sample(action, noise, TIMESTEPS, policy.alphas_cumprod), TIMESTEPS, **inputs)
    target = action if prediction_type == "sample" else noise
    loss = policy.compute_loss(**inputs, action_gt=action, noise=noise, timesteps=TIMESTEPS)
    assert loss.shape == ()
    torch.testing.assert_close(loss, (prediction - target).square().sum() / (3 * config.pred_horizon * 128))


def test_epsilon_policy_samples_like_diffusers(config, make_policy, make_inputs, make_noise):
    diffusers = pytest.importorskip("diffusers")
    policy = make_policy(dataclasses.replace(config, prediction_type="epsilon", num_inference_timesteps=8))
    inputs, noise = make_inputs(config), make_noise(config)
    scheduler = diffusers.DPMSolverMultistepScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="epsilon")
    scheduler.set_timesteps(8)
    x = noise
    with torch.no_grad():
        for t in scheduler.timesteps:
            x = scheduler.step(policy(x, t[None], **inputs), t, x).prev_sample
    x = x * inputs["action_mask"]
    scale = x.abs().max()
    torch.testing.assert_close(policy.predict_action(**inputs, noise=noise) / scale, x / scale, atol=1e-4, rtol=0)


def test_other_step_counts_share_the_condition(config, make_policy, make_inputs, make_noise):
    policy, inputs, noise = make_policy(config), make_inputs(config), make_noise(config)
    condition = policy.encode_condition(**inputs)
    table = dpm_solver_table(policy.alphas_cumprod, 1)
    one_step = sample(partial(policy.denoise, condition=condition), noise, table)
    assert torch.equal(one_step, policy.denoise(noise, torch.tensor([999]), condition))


@pytest.mark.parametrize("name", ["ddim", "ddpm", "UniPCMultistepScheduler"])
def test_other_samplers(config, make_policy, make_inputs, make_noise, name):
    """Chosen by name; the published one is the default and comes back by `set_sampler()`."""
    pytest.importorskip("diffusers")
    policy, inputs, noise = make_policy(config), make_inputs(config), make_noise(config)
    published = policy.predict_action(**inputs, noise=noise)
    policy.set_sampler(name, 7)
    torch.manual_seed(0)
    actions = policy.predict_action(**inputs, noise=noise)
    torch.manual_seed(0)
    with torch.no_grad():
        loop = policy.sampler(lambda x, t: policy(x, t, **inputs), noise) * inputs["action_mask"]
    assert torch.equal(actions, loop) and not torch.allclose(actions, published, atol=1e-3)
    policy.set_sampler()
    assert torch.equal(policy.predict_action(**inputs, noise=noise), published)


def test_a_scheduler_of_diffusers_has_no_table(config, make_policy):
    pytest.importorskip("diffusers")
    policy = make_policy(config)
    assert len(policy.solver_table) == 5
    policy.set_sampler("EulerDiscreteScheduler")
    with pytest.raises(ValueError, match=r"EulerDiscreteScheduler.*has no table"):
        _ = policy.solver_table


def test_gradient_reaches_every_parameter(config, make_policy, make_inputs, make_noise):
    policy = make_policy(config)
    policy.compute_loss(**make_inputs(config), action_gt=make_noise(config)).backward()
    for name, parameter in policy.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_first_prediction_is_zero(config, make_inputs, make_noise):
    policy = RDTPolicy(config)
    assert (policy(make_noise(config), TIMESTEPS, **make_inputs(config)) == 0).all()


@pytest.mark.parametrize("adaptor_init", ["torch", "he"])
def test_initial_distributions(config, adaptor_init):
    """The table in `init_weights`, entry by entry."""
    config = dataclasses.replace(config, hidden_size=128, adaptor_init=adaptor_init)
    torch.manual_seed(0)
    policy = RDTPolicy(config)
    for name, parameter in policy.named_parameters():
        if "norm" in name:
            assert (parameter == 1).all(), name
        elif "final_layer.ffn_final.fc2" in name or (name.startswith("model.") and name.endswith("bias")):
            assert (parameter == 0).all(), name
        elif "embedder" in name:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.05), name
        elif name.startswith("model.blocks") and name.endswith("weight"):
            bound = (6 / sum(parameter.shape)) ** 0.5
            assert parameter.abs().max().item() == pytest.approx(bound, rel=0.01), name
        elif "adaptor" in name and name.endswith("weight") and adaptor_init == "he":
            assert parameter.std().item() == pytest.approx((2 / parameter.shape[1]) ** 0.5, rel=0.05), name
        elif "adaptor" in name and name.endswith("weight"):
            assert parameter.abs().max().item() == pytest.approx(parameter.shape[1] ** -0.5, rel=0.01), name


def test_meta_device_then_init_equals_direct_construction(config):
    with torch.device("meta"):
        policy = RDTPolicy(config)
    policy.to_empty(device="cpu")
    torch.manual_seed(3)
    policy.init_weights()
    torch.manual_seed(3)
    other = RDTPolicy(config)
    assert torch.equal(policy.model.x_pos_embed, other.model.x_pos_embed)
    assert torch.equal(policy.alphas_cumprod, other.alphas_cumprod)
    torch.manual_seed(3)
    other.init_weights()
    for name, tensor in policy.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


def test_bfloat16_policy_takes_float32_inputs(config, make_policy, make_inputs, make_noise):
    policy, inputs, noise = make_policy(config), make_inputs(config), make_noise(config)
    exact = policy.predict_action(**inputs, noise=noise)
    rounded = policy.to(torch.bfloat16).predict_action(**inputs, noise=noise)
    assert rounded.dtype == torch.float32
    assert (rounded - exact).abs().mean() < 0.1 * exact.abs().mean()
    loss = policy.compute_loss(**inputs, action_gt=noise, noise=noise, timesteps=TIMESTEPS)
    assert loss.dtype == torch.float32


def guidance_of(noise, weight):
    return Guidance(torch.full_like(noise, 0.5), torch.full((*noise.shape[:2], 1), weight))


@pytest.mark.parametrize("prediction_type", ["sample", "epsilon"])
def test_guidance_without_weight_changes_no_bit(prediction_type, config, make_policy, make_inputs, make_noise):
    config = dataclasses.replace(config, prediction_type=prediction_type)
    policy, noise = make_policy(config), make_noise(config)
    with torch.no_grad():
        condition = policy.encode_condition(**make_inputs(config))
        plain = policy.sample(condition, noise)
        assert torch.equal(policy.sample(condition, noise, guidance_of(noise, 0.0)), plain)


def test_guidance_draws_the_robots_slots_and_knows_no_others(config, make_policy, make_inputs, make_noise):
    policy, inputs, noise = make_policy(config), make_inputs(config), make_noise(config)
    live = inputs["action_mask"].expand_as(noise) > 0
    with torch.no_grad():
        condition = policy.encode_condition(**inputs)
        plain, guidance = policy.sample(condition, noise), guidance_of(noise, 1.0)
        guided = policy.sample(condition, noise, guidance)
        elsewhere = guidance._replace(target=torch.where(live, guidance.target, 100.0))
        assert torch.equal(policy.sample(condition, noise, elsewhere), guided)
    assert (guided[~live] == 0).all()
    assert ((guided != plain)[live]).all()
    assert not guided.requires_grad and all(p.grad is None for p in policy.parameters())


def test_guidance_leaves_the_noise_of_other_slots_alone(config, make_policy, make_inputs, make_noise, monkeypatch):
    """The network reads all slots: a pull on those that the robot lacks would feed it what training never showed."""
    policy, inputs, noise = make_policy(config), make_inputs(config), make_noise(config)
    dead = inputs["action_mask"].expand_as(noise) == 0
    seen, denoise = [], policy.denoise

    def recording(x, timesteps, condition):
        prediction = denoise(x, timesteps, condition)
        seen.append((x.detach(), prediction.detach()))
        return prediction

    monkeypatch.setattr(policy, "denoise", recording)
    with torch.no_grad():
        policy.sample(policy.encode_condition(**inputs), noise, guidance_of(noise, 1.0))
    first = policy.solver_table[0]
    (x, x0), (after, _) = seen[:2]
    expected = first.cx * x + first.c0 * x0
    torch.testing.assert_close(after[dead], expected[dead])
    assert (after - expected)[~dead].abs().max() > 0.01
