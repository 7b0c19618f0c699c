"""Charts and pictures as PNG.

Run: pytest tests/deploy/test_plots.py
"""

import io
import math
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from deploy import plots
from deploy.plots import Bar, Chunk, Curve, Line

pytest.importorskip("matplotlib", reason="needs the extra `sim`")

NAMES = ("waist", "forearm_roll", "gripper")
DEMONSTRATION = np.linspace(0, 1, 30)[:, None] * np.array([1.0, 0.0, 1.0])


def pixels(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


def count(png: bytes, colour: str) -> int:
    """Pixels that look like a colour."""
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return int((np.abs(pixels(png) - wanted).max(axis=2) < 12).sum())


def bars(rate: float, interval: tuple[float, float] | None = None) -> bytes:
    return plots.rate_bars({"trained phrasings": [Bar("strict", rate, interval, "strict")]})


@pytest.mark.parametrize(
    ("rate", "text"), [(0, "0 %"), (0.5, "50 %"), (0.925, "92.5 %"), (2 / 3, "66.7 %"), (0.9996, "100 %"), (1, "100 %")]
)
def test_a_share_as_text(rate, text):
    assert plots.percent(rate).replace("\u00a0", " ") == text


def test_a_bar_is_as_long_as_its_share():
    png = plots.rate_bars({"": [Bar("whole", 1.0, kind="strict"), Bar("half", 0.5, kind="benchmark")]})
    assert count(png, plots.BLUE) / count(png, plots.SKY) == pytest.approx(2, rel=0.05)
    assert count(bars(0.0), plots.BLUE) == 0


def test_an_interval_is_drawn_where_there_is_one():
    assert count(bars(0.5, (0.3, 0.7)), plots.INK) > count(bars(0.5), plots.INK)


def test_more_bars_make_a_taller_chart_of_the_same_width():
    one = pixels(bars(0.5)).shape
    two = pixels(plots.rate_bars({"a": [Bar("x", 0.1)], "b": [Bar("y", 0.2)]})).shape
    assert two[0] > one[0]
    assert two[1] == one[1] == round(100 * plots.PIXEL_RATIO * plots.NARROW_IN)


def test_a_curve_is_drawn_for_each_way_with_its_intervals():
    curves = [
        Curve("one", [1, 5, 50], [0.1, 0.4, 0.9], [(0.05, 0.2), (0.3, 0.5), (0.8, 0.95)]),
        Curve("other", [1, 5, 50], [0.2, 0.6, 0.9], [(0.1, 0.3), (0.5, 0.7), (0.8, 0.95)]),
    ]
    both, first = plots.rate_curves(curves, "demonstrations"), plots.rate_curves(curves[:1], "demonstrations")
    assert count(both, plots.VERMILION) > 0
    assert count(both, plots.BLUE) > count(first, plots.BLUE) == 0


def test_dollars_are_letters_and_not_formulas():
    plots.rate_bars({r"$\nonsense{$": [Bar(r"$x_{$", 0.5)]})
    plots.stage_bars({r"$\nonsense{$": 1.0})


def test_equal_data_give_equal_bytes():
    assert bars(0.5) == bars(0.5)


@pytest.mark.parametrize("seconds", [None, [1.0, 2.0, 3.0]])
def test_a_learning_curve_passes_over_values_that_a_log_scale_has_not(seconds):
    png = plots.learning_curve([10, 20, 30], [0.1, 0.0, math.nan], seconds, "training loss")
    assert pixels(png).shape[1] == round(100 * plots.PIXEL_RATIO * plots.WIDTH_IN)


def test_a_smoothed_curve_shows_values_and_mean():
    steps = range(1, 101)
    values = [1 / step * (1.5 if step % 2 else 0.5) for step in steps]
    rough = plots.learning_curve(steps, values, None, "training loss")
    smooth = plots.learning_curve(steps, values, None, "training loss", smooth=10)
    assert count(rough, plots.SKY) == 0
    assert count(smooth, plots.SKY) > 0


def test_actions_have_a_panel_for_each_entry():
    chunks = [Chunk(start, DEMONSTRATION[start : start + 8] + 0.05) for start in (0, 8, 16)]
    whole = plots.action_panels(NAMES, DEMONSTRATION, chunks, rate_hz=12.5)
    one = plots.action_panels(NAMES[:1], DEMONSTRATION[:, :1], [], rate_hz=12.5)
    assert pixels(whole).shape[0] > 2 * pixels(one).shape[0]
    for colour in plots.CHUNK_COLOURS:
        assert count(whole, colour) > 0
        assert count(one, colour) == 0


def test_a_chunk_may_reach_past_the_demonstration():
    plots.action_panels(NAMES, DEMONSTRATION, [Chunk(29, np.zeros((16, 3)))], rate_hz=12.5)


def test_the_longest_stage_has_the_longest_bar():
    png = plots.stage_bars({"record": 10.0, "train": 20.0})
    blue = np.abs(pixels(png) - np.array([0, 0x72, 0xB2])).max(axis=2) < 12
    lengths = sorted(set(blue.sum(axis=1)[blue.any(axis=1)]))
    assert lengths[-1] / lengths[0] == pytest.approx(2, rel=0.05)


def test_stages_that_took_no_time():
    plots.stage_bars({"record": 0.0})


def test_a_frame_keeps_its_shape_and_colours():
    frame = np.zeros((30, 40, 3), np.uint8)
    frame[:, 20:] = (200, 30, 30)
    picture = pixels(plots.frame_png(frame, 80))
    assert picture.shape == (60, 80, 3)
    assert np.abs(picture[30, 10] - [0, 0, 0]).max() < 8
    assert np.abs(picture[30, 70] - [200, 30, 30]).max() < 8


def test_nothing_global_is_touched():
    """No pyplot, no changed defaults: drawing is a pure function."""
    code = """
import sys, matplotlib
before = matplotlib.rcParams.copy()
from deploy import plots
plots.stage_bars({"train": 1.0})
assert "matplotlib.pyplot" not in sys.modules
assert matplotlib.rcParams.copy() == before
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_lines_mark_points_that_have_notes_and_a_lone_point():
    curve = Line("CFG", [1.0, 2.0, 3.0], [0.3, 0.5, 0.6])
    noted = Line("CFG", [1.0, 2.0, 3.0], [0.3, 0.5, 0.6], ["1", "1.5", "2"])
    assert count(plots.lines([noted], "x", "y"), plots.BLUE) > count(plots.lines([curve], "x", "y"), plots.BLUE)
    alone = Line("truth", [2.0], [0.9])
    with_truth = plots.lines([curve, alone], "x", "y")
    assert count(with_truth, plots.INK) > count(plots.lines([curve], "x", "y"), plots.INK)
