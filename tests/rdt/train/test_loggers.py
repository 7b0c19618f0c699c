"""Run: pytest tests/rdt/train/test_loggers.py"""

import json
import sys
import types

import pytest

from data_pipeline.sources.tfrecord import read_records
from rdt.train import loggers
from rdt.train.loggers import check_loggers, open_loggers

ROWS = [{"step": step, "loss": 1 / step, "joint_error/left_waist": 0.5 * step} for step in (10, 20, 300, 70_000)]


def write(out, names, rows, after: int = 0) -> None:
    for logger in open_loggers(names, out, after, {}):
        for row in rows:
            logger.log(row)


def jsonl(out) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def tensorboard(out) -> dict[str, list[tuple[int, float]]]:
    """Scalars as TensorBoard's own reader sees them."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(out / "tensorboard"), purge_orphaned_data=False)
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_the_jsonl_rows_are_what_was_logged(tmp_path):
    write(tmp_path, ["jsonl"], ROWS)
    assert jsonl(tmp_path) == ROWS


def test_tensorboard_reads_what_was_logged(tmp_path):
    write(tmp_path, ["tensorboard"], ROWS)
    assert tensorboard(tmp_path) == {
        name: [(row["step"], pytest.approx(row[name])) for row in ROWS] for name in ("loss", "joint_error/left_waist")
    }


@pytest.mark.parametrize("after", [0, 20, 25, 300, 70_000])
def test_a_resumed_run_goes_on_where_it_was_saved(tmp_path, after):
    """The run logged on after its last checkpoint, and was killed while it wrote."""
    both = ["jsonl", "tensorboard"]
    write(tmp_path / "whole", both, ROWS)
    write(tmp_path / "part", both, ROWS)
    for name in ("metrics.jsonl", "tensorboard/events.out.tfevents.rdt"):
        path = tmp_path / "part" / name
        path.write_bytes(path.read_bytes() + path.read_bytes()[-30:-7])
    write(tmp_path / "part", both, [row for row in ROWS if row["step"] > after], after)
    assert jsonl(tmp_path / "part") == ROWS
    assert tensorboard(tmp_path / "part") == tensorboard(tmp_path / "whole")
    assert len(list((tmp_path / "part/tensorboard").iterdir())) == 1


def test_an_event_file_has_whole_records_after_each_row(tmp_path):
    (logger,) = open_loggers(["tensorboard"], tmp_path, 0, {})
    for number, row in enumerate(ROWS, start=1):
        logger.log(row)
        records = list(read_records(tmp_path / "tensorboard/events.out.tfevents.rdt"))
        assert len(records) == 1 + number and all(isinstance(record, bytes) for record in records)


def test_an_unknown_logger_names_the_nearest():
    with pytest.raises(ValueError, match="unknown logger 'tensorbord': did you mean 'tensorboard'"):
        check_loggers(["tensorbord"])


def test_wandb_is_told_where_to_get_it(monkeypatch):
    monkeypatch.setattr(loggers, "find_spec", lambda name: None)
    check_loggers(["jsonl", "tensorboard"])
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'rdt-stack\[wandb\]'"):
        check_loggers(["wandb"])


def test_wandb_stays_offline_and_goes_on_in_the_same_run(tmp_path, monkeypatch):
    """With a stand-in for the package, which is no part of what tests install."""
    calls, logged = [], []
    run = types.SimpleNamespace(log=lambda values, step: logged.append((step, values)))
    package = types.SimpleNamespace(init=lambda **options: calls.append(options) or run)
    monkeypatch.setitem(sys.modules, "wandb", package)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    write(tmp_path, ["wandb"], ROWS[:1])
    write(tmp_path, ["wandb"], ROWS[1:2], after=10)
    assert logged == [(row["step"], {k: v for k, v in row.items() if k != "step"}) for row in ROWS[:2]]
    assert len({call["id"] for call in calls}) == 1 and {call["mode"] for call in calls} == {"offline"}


def test_wandb_itself_takes_the_rows(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb", reason="needs the extra `wandb`")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    for rows, after in ((ROWS[:1], 0), (ROWS[1:2], 10)):
        write(tmp_path, ["wandb"], rows, after)
        wandb.finish()
    name = (tmp_path / "wandb_id").read_text()
    assert all(name in path.name for path in (tmp_path / "wandb").glob("offline-run-*"))
