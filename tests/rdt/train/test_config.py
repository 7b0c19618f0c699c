"""Run: pytest tests/rdt/train/test_config.py"""

import pytest
import yaml

from data_pipeline.schema.registry import configs_dir
from rdt.model.presets import PRESETS
from rdt.train.config import TrainConfig, config_from_dict, dump_config, load_config


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
        ("optim: {schedule: linear}", [], "constant or cosine"),
        ("data: {dropout: {state: 1.5}}", [], "must be in"),
        ("- a list", [], "must hold a mapping"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, text, overrides, message):
    with pytest.raises(ValueError, match=message):
        load_config(write(tmp_path, text), overrides)


def test_the_resolved_config_reads_back_equal(tmp_path):
    config = load_config(write(tmp_path, "steps: 7\ndata: {stores: [a, b]}\ndemonstrations: {per_task: 3}\n"))
    assert config_from_dict(yaml.safe_load(dump_config(config))) == config


@pytest.mark.parametrize("path", sorted((configs_dir() / "train").glob("*.yaml")), ids=lambda p: p.stem)
def test_shipped_configs_load_and_name_a_preset(path):
    assert PRESETS[load_config(path).preset]
