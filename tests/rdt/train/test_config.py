"""Run: pytest tests/rdt/train/test_config.py"""

import pytest
import torch
import yaml

from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.registry import configs_dir, find_config
from data_pipeline.transforms.augment import AugmentConfig
from rdt.model.presets import PRESETS
from rdt.train.adapt import adapt
from rdt.train.config import TrainConfig, config_from_dict, dump_config, load_config
from rdt.train.start import network_config
from rdt.visuomotor import VisuomotorPolicy
from tests.published import published_by_size


def write(tmp_path, text: str):
    path = tmp_path / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_yaml_names_only_what_differs(tmp_path):
    config = load_config(write(tmp_path, "steps: 7\noptim: {lr: 0.5, betas: [0.9, 0.95]}\n"))
    assert (config.steps, config.optim.lr, config.optim.betas) == (7, 0.5, (0.9, 0.95))
    assert config.data == TrainConfig().data


def test_options_override_the_file(tmp_path):
    path = write(tmp_path, "steps: 7\noptim: {lr: 0.5}\n")
    config = load_config(path, ["--steps", "9", "--data.dropout.state=0.3", "--condition.cameras", "[external]"])
    assert (config.steps, config.optim.lr, config.data.dropout.state) == (9, 0.5, 0.3)
    assert config.condition.cameras == ("external",)


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ("stepps: 7", [], "did you mean 'steps'"),
        ("optim: {learning: 7}", [], "unknown key 'learning'"),
        ("steps: 7", ["--optim.lrr", "1"], "did you mean 'lr'"),
        ("steps: 7", ["--steps.deep", "1"], "below a plain value"),
        ("steps: many", [], "steps"),
        ("optim: {schedule: step}", [], "schedule"),
        ("data: {dropout: {state: 1.5}}", [], "must be in"),
        ("data: {mixture: rdt_pretrain, weights: {a: 1}}", [], "say the same thing"),
        ("data: {workers: -1}", [], "workers must be 0 or more"),
        ("data: {weight_unit: steps}", [], "weight_unit"),
        ("evaluate_episodes: 0", [], "evaluate_episodes at least 1"),
        ("- a list", [], "must hold a mapping"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, text, overrides, message):
    with pytest.raises(ValueError, match=message):
        load_config(write(tmp_path, text), overrides)


def test_the_resolved_config_reads_back_equal(tmp_path):
    config = load_config(write(tmp_path, "steps: 7\ndata: {stores: [a, b]}\ndemonstrations: {per_task: 3}\n"))
    assert config_from_dict(yaml.safe_load(dump_config(config))) == config


PRESETS_YAML = "steps: 9\nlora: {rank: 2, alpha: 8}\nby_demonstrations: {5: {steps: 1}, 50: {lora: {rank: 4}}}\n"


@pytest.mark.parametrize(("count", "steps", "rank"), [(None, 9, 2), (5, 1, 2), (49, 1, 2), (50, 9, 4), (600, 9, 4)])
def test_a_preset_holds_from_its_number_of_demonstrations_on(tmp_path, count, steps, rank):
    config = load_config(write(tmp_path, PRESETS_YAML), demonstrations=count)
    assert (config.steps, config.lora.rank, config.lora.alpha) == (steps, rank, 8)
    assert load_config(write(tmp_path, PRESETS_YAML), ["--steps", "3"], count).steps == 3


@pytest.mark.parametrize(
    ("text", "words"), [(PRESETS_YAML, "no preset for 4 demonstrations"), ("steps: 9\n", "no presets by number")]
)
def test_a_number_without_a_preset_is_refused(tmp_path, text, words):
    with pytest.raises(ValueError, match=words):
        load_config(write(tmp_path, text), demonstrations=4)


@pytest.mark.parametrize(
    ("preset", "words"), [("5: {stepps: 1}", "did you mean 'steps'"), ("1-5: {steps: 1}", "maps numbers to settings")]
)
def test_a_wrong_preset_is_named_whether_it_is_asked_for_or_not(tmp_path, preset, words):
    with pytest.raises(ValueError, match=words):
        load_config(write(tmp_path, f"by_demonstrations: {{{preset}}}\n"))


@pytest.mark.parametrize("text", ["keep_last: -2", "data: {micro_batch_size: -1}"])
def test_counts_below_zero_are_refused(tmp_path, text):
    with pytest.raises(ValueError, match="must be"):
        load_config(write(tmp_path, text))


@pytest.mark.parametrize("name", ["finetune_1b", "finetune_170m", "finetune_lora_1b"])
@pytest.mark.parametrize("count", [1, 50, 500])
def test_the_published_sizes_have_presets_for_few_and_for_many(name, count, tmp_path):
    config = load_config(find_config("train", name), published_by_size(tmp_path), count)
    assert config.steps == {1: 5000, 50: 30_000, 500: 150_000}[count]
    if config.lora.rank:
        pytest.importorskip("peft", reason="needs the extra `lora`")
    with torch.device("meta"):  # patterns of what does not train name something
        adapt(VisuomotorPolicy(network_config(config), config.condition), config, report=lambda _: None)


SHIPPED = sorted((configs_dir() / "train").glob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_shipped_configs_build(path, tmp_path):
    """On the meta device, published encoders by their sizes."""
    config = load_config(path)
    if config.lora.rank:
        pytest.importorskip("peft", reason="needs the extra `lora`")
    if config.condition.vision == "siglip":
        config = load_config(path, published_by_size(tmp_path))
    Embodiment.from_yaml(find_config("robots", config.robot))
    with torch.device("meta"):
        model = VisuomotorPolicy(network_config(config), config.condition, config.noise_slots)
        adapt(model, config, report=lambda _: None)
    assert model.condition.num_images * model.condition.vision.tokens_per_image == model.policy.config.img_cond_len
    assert config.preset in PRESETS


def test_augmentation_is_off_until_it_has_a_probability(tmp_path):
    assert load_config(write(tmp_path, "steps: 7\n")).data.augment == AugmentConfig(probability=0)
    path = write(tmp_path, "data: {augment: {hue: 0.1}}\n")
    config = load_config(path, ["--data.augment.probability", "0.5"])
    assert config.data.augment == AugmentConfig(hue=0.1)  # the published one otherwise
    assert config_from_dict(yaml.safe_load(dump_config(config))) == config
    with pytest.raises(ValueError, match="did you mean 'hue'"):
        load_config(write(tmp_path, "data: {augment: {hu: 0.1}}\n"))


def test_weights_are_named_in_the_config(tmp_path):
    config = load_config(write(tmp_path, "data: {weights: {droid: 2, bc_z: 1.5}, weight_unit: episode}\n"))
    assert config.data.weights == {"droid": 2, "bc_z": 1.5}
    assert config_from_dict(yaml.safe_load(dump_config(config))) == config
