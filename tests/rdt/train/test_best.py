"""Run: pytest tests/rdt/train/test_best.py"""

import pytest

from rdt.train.best import BEST_FILE, HELD_OUT, SUCCESS, Best, BestSoFar, read_best
from rdt.train.checkpoint import load_checkpoint, save_checkpoint


def bests(name: str, figures: list[float], kept: Best | None = None, first: int = 1) -> list[int]:
    """The steps that became the best, of figures measured step by step."""
    so_far, steps = BestSoFar(name, kept), []
    for step, figure in enumerate(figures, first):
        found = so_far.improved({name: figure, "other": 0.0}, step)
        if found is not None:
            so_far.best = found
            steps.append(found.step)
    return steps


def test_errors_fall_successes_rise_and_of_equals_the_earlier_stays():
    figures = [0.5, 0.7, 0.4, 0.4, 0.8]
    assert bests(HELD_OUT, figures) == [1, 3]
    assert bests(SUCCESS, figures) == [1, 2, 5]
    assert bests(SUCCESS, [0.0, 0.0]) == [1]


def test_what_is_no_number_or_not_measured_is_no_best():
    assert bests(HELD_OUT, [float("nan"), 0.4, float("nan"), 0.3]) == [2, 4]
    assert BestSoFar(SUCCESS).improved({HELD_OUT: 0.1}, 1) is None


def test_a_run_that_repeats_steps_ends_with_the_same_best():
    figures = [0.5, 0.3, 0.4, 0.3, 0.2, 0.9]
    whole = bests(HELD_OUT, figures)[-1]
    for killed_after in range(1, len(figures) + 1):
        for resumed_at in range(1, killed_after + 1):
            best = bests(HELD_OUT, figures[:killed_after])[-1]
            kept = Best(best, HELD_OUT, figures[best - 1])
            assert (bests(HELD_OUT, figures[resumed_at - 1 :], kept, resumed_at) or [best])[-1] == whole


def test_a_best_by_another_figure_gives_way():
    assert bests(SUCCESS, [0.1], Best(7, HELD_OUT, 0.01), first=8) == [8]


def test_the_folder_says_what_it_is_and_opens(make_model, robot, train_config, tmp_path):
    assert read_best(tmp_path / "none") is None
    best = Best(400, HELD_OUT, 0.0123)
    save_checkpoint(tmp_path / "best", make_model(), robot, train_config, {}, best=best)
    assert read_best(tmp_path / "best") == best
    load_checkpoint(tmp_path / "best")
    file = tmp_path / "best" / BEST_FILE
    file.write_text(file.read_text().replace("400", "500"))
    with pytest.raises(ValueError, match=r"best\.json is damaged"):
        read_best(tmp_path / "best")
