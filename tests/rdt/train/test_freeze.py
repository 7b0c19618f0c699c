"""Run: pytest tests/rdt/train/test_freeze.py"""

import pytest
import torch

from rdt.objective import DiffusionImitation
from rdt.train.freeze import freeze, trained_parameters
from rdt.train.trainer import Trainer


def test_what_a_pattern_names_does_not_train(make_model):
    model = make_model()
    freeze(model, ["condition.*", "policy.model.blocks.0.ffn.*"])
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    assert frozen
    assert all(name.startswith(("condition.", "policy.model.blocks.0.ffn.")) for name in frozen)
    assert not any(parameter.requires_grad for parameter in model.condition.parameters())


@pytest.mark.parametrize(
    ("pattern", "near"),
    [
        ("condition.vison.*", r"condition\.vision\.\*"),
        ("policy.lang_adapter.*", r"policy\.lang_adaptor\.\*"),
        ("policy.model.x_pos_embd", r"policy\.model\.x_pos_embed"),
    ],
)
def test_an_unknown_pattern_names_the_nearest(make_model, pattern, near):
    with pytest.raises(ValueError, match=f"did you mean '{near}'"):
        freeze(make_model(), [pattern])


def test_freezing_everything_is_refused(make_model):
    with pytest.raises(ValueError, match="leaves nothing to train"):
        freeze(make_model(), ["*"])


def test_the_trained_parameters_are_counted(make_model):
    model = make_model()
    total = sum(parameter.numel() for parameter in model.parameters())
    assert trained_parameters(model) == f"{total:,} of {total:,} parameters train (100 %)"
    freeze(model, ["policy.*"])
    trained = sum(parameter.numel() for parameter in model.condition.parameters())
    assert trained_parameters(model).startswith(f"{trained:,} of {total:,} ")


def test_frozen_parameters_keep_every_bit(make_model, batches, train_config, tmp_path):
    model = make_model()
    freeze(model, ["policy.*_adaptor.*"])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    Trainer(model, DiffusionImitation(), batches(model), train_config, tmp_path).run()
    same = {name for name, value in model.state_dict().items() if torch.equal(value, before[name])}
    assert {name for name in before if "_adaptor" in name} <= same
    assert "policy.model.x_pos_embed" not in same
