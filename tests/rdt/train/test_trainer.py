"""Run: pytest tests/rdt/train/test_trainer.py"""

import copy
import dataclasses
import json
import os
import signal

import pytest
import torch

from rdt.objective import DiffusionImitation
from rdt.train.trainer import Measure, Trainer


@pytest.fixture
def make_trainer(make_model, batches, train_config, tmp_path):
    def make(seed: int = 0, out: str = "run", steps: int = 12, **options) -> Trainer:
        model = make_model(seed)
        config = dataclasses.replace(train_config, steps=steps)
        return Trainer(model, DiffusionImitation(), batches(model), config, tmp_path / out, **options)

    return make


def rows(trainer: Trainer) -> list[dict]:
    return [json.loads(line) for line in (trainer.out / "metrics.jsonl").read_text().splitlines()]


def test_the_loss_falls(make_trainer):
    trainer = make_trainer(steps=60)
    trainer.run(log_every=1)
    losses = [row["loss"] for row in rows(trainer)]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


def test_an_interrupted_run_equals_the_uninterrupted_one_bit_for_bit(make_trainer):
    whole = make_trainer(out="whole")
    whole.run()
    saved = {}

    def stop(trainer: Trainer) -> None:
        saved.update(torch_copy(trainer.state_dict()))
        raise KeyboardInterrupt

    first = make_trainer(out="part", save=stop)
    with pytest.raises(KeyboardInterrupt):
        first.run()
    second = make_trainer(seed=5, out="part")  # another start: all that matters is in the state
    second.load_state_dict(saved)
    assert second.step == 6
    second.run()
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name
    for name, value in whole.deployed.state_dict().items():
        assert torch.equal(value, second.deployed.state_dict()[name]), name


def torch_copy(state):
    if isinstance(state, torch.Tensor):
        return state.clone()
    if isinstance(state, dict):
        return {key: torch_copy(value) for key, value in state.items()}
    return [torch_copy(value) for value in state] if isinstance(state, list) else state


def test_validation_sees_the_average_and_lands_in_the_log(make_trainer):
    seen = []

    def validate(model, step) -> dict[str, float]:
        seen.append((model, step))
        return {"error": 0.5 / step}

    trainer = make_trainer(measures=[Measure(6, validate), Measure(4, lambda model, step: {"other": step})])
    trainer.run()
    assert [step for _, step in seen] == [6, 12]
    assert all(model is trainer.average.module for model, _ in seen)
    assert [row["step"] for row in rows(trainer) if "error" in row] == [6, 12]
    assert [row["other"] for row in rows(trainer) if "other" in row] == [4, 8, 12]


def test_an_interrupted_measurement_costs_no_row(make_trainer):
    def stop(model, step) -> dict[str, float]:
        raise KeyboardInterrupt

    trainer = make_trainer(measures=[Measure(6, stop)])
    with pytest.raises(KeyboardInterrupt):
        trainer.run(log_every=3)
    assert [row["step"] for row in rows(trainer)] == [3, 6]


def test_an_interrupted_measurement_is_taken_by_the_resumed_run(make_trainer):
    looked, saved = [], {}

    def measure(model, step) -> dict[str, float]:
        if step == 6 and not saved:
            raise KeyboardInterrupt
        return {"error": 1 / step}

    def save(trainer: Trainer) -> None:
        saved.update(torch_copy(trainer.state_dict()))

    def keep(trainer: Trainer, figures: dict[str, float]) -> None:
        looked.append((trainer.step, figures))

    options = {"measures": [Measure(6, measure)], "save": save, "keep_best": keep}
    with pytest.raises(KeyboardInterrupt):
        make_trainer(out="part", **options).run(log_every=3)
    second = make_trainer(seed=5, out="part", **options)
    second.load_state_dict(saved)
    second.run(log_every=3)
    assert looked == [(6, {"error": 1 / 6}), (12, {"error": 1 / 12})]
    assert [(row["step"], row.get("error")) for row in rows(second)] == [(3, None), (6, 1 / 6), (9, None), (12, 1 / 12)]
    assert all(row["loss"] > 0 for row in rows(second))
    assert saved["step"] == 12 and saved["row"] is None


def test_an_interrupt_before_the_first_step_saves_nothing(make_trainer):
    def interrupt(step):
        raise KeyboardInterrupt

    saved = []
    trainer = make_trainer(save=saved.append)
    trainer.batches = interrupt
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    assert saved == []


def test_a_run_that_was_killed_goes_on_in_its_logs_without_repeated_steps(make_trainer):
    whole = make_trainer(out="whole", steps=12)
    whole.run(log_every=1)
    saved = {}

    def die(trainer: Trainer) -> None:
        if saved:
            raise OSError("killed")
        saved.update(torch_copy(trainer.state_dict()))

    first = make_trainer(out="part", save=die)  # saved at step 6, dies at 12
    with pytest.raises(OSError, match="killed"):
        first.run(log_every=1)
    second = make_trainer(seed=5, out="part")
    second.load_state_dict(saved)
    second.run(log_every=1)
    for name in ("step", "loss", "lr", "grad_norm"):
        assert [row[name] for row in rows(second)] == [row[name] for row in rows(whole)]


def test_the_log_says_how_fast_it_goes(make_trainer):
    trainer = make_trainer()
    trainer.run(log_every=4)
    for row in rows(trainer):
        assert row["samples_per_s"] > 0 and 0 <= row["waiting_share"] <= 1 and row["peak_memory_gb"] > 0
        assert "mfu" not in row  # no data sheet says the peak of a CPU
    assert rows(trainer)[-1]["remaining_s"] == 0


def test_advice_is_printed_beside_the_progress_line(make_trainer, capsys):
    trainer = make_trainer(gates=lambda row: ["look at the data"] if row["step"] == 6 else [])
    trainer.run(log_every=6)
    assert capsys.readouterr().out.count("advice: look at the data") == 1


def test_substituted_samples_are_counted_by_line(make_trainer):
    trainer = make_trainer(steps=8)
    batches, counts = trainer.batches, [0, 1, 0, 2, 0, 0, 3, 0]
    trainer.batches = lambda step: dataclasses.replace(batches(step), num_substituted=counts[step])
    trainer.run(log_every=2)
    assert [row.get("substituted") for row in rows(trainer)] == [1, 2, None, 3]


def test_a_loss_that_is_not_a_number_stops_the_run(make_trainer):
    trainer = make_trainer(describe=lambda index: f"sample {index}")
    with torch.no_grad():
        trainer.model.policy.model.x_pos_embed.fill_(float("nan"))
    before = copy.deepcopy(trainer.model.state_dict())
    with pytest.raises(FloatingPointError, match=r"lower optim\.lr"):
        trainer.run(log_every=1)
    report = json.loads((trainer.out / "not_finite.json").read_text())
    assert (report["step"], report["samples"]) == (0, {str(i): f"sample {i}" for i in range(8)})
    for name, value in trainer.model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0, equal_nan=True)


def test_an_interrupt_inside_a_step_saves_the_whole_step(make_trainer):
    saved = []
    trainer = make_trainer(save=lambda t: saved.append((t.step, t.optimizer.state_dict()["state"][0]["step"].item())))
    update = trainer.average.update_parameters

    def interrupt(model) -> None:
        if trainer.step == 3:
            os.kill(os.getpid(), signal.SIGINT)
        update(model)

    trainer.average.update_parameters = interrupt
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    assert saved == [(4, 4.0)]
    assert signal.getsignal(signal.SIGINT) is before
