"""The HTML report, from synthetic run folders.

Run: pytest tests/deploy/test_report.py
"""

import html
import json
import re
import shlex
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from deploy import report as module
from deploy.cli import build_parser
from deploy.intervals import wilson_interval
from deploy.report import write_report
from deploy.video import write_video

for library in ("matplotlib", "jinja2", "imageio", "imageio_ffmpeg"):
    pytest.importorskip(library, reason="needs the extra `sim`")

SIDES = ("right_to_left", "left_to_right")
NAMES = [f"{side}_{joint}" for side in ("left", "right") for joint in ("waist", "elbow", "gripper")]

MINIMAL = {
    "success_rate": None,
    "success_interval_95": None,
    "benchmark_success_rate": None,
    "tasks": {},
    "control": None,
    "episodes": 0,
}


def cell(rate: float, episodes: int, **others) -> dict:
    return {
        "success_rate": rate,
        "success_interval_95": list(wilson_interval(round(rate * episodes), episodes)),
        "benchmark_success_rate": min(1.0, rate + 0.05),
        "wrong_task_rate": 0.025,
        "episodes": episodes,
        **others,
    }


FULL = {
    "success_rate": 0.8625,
    "success_interval_95": [0.77, 0.921],
    "benchmark_success_rate": 0.9125,
    "tasks": {
        f"transfer_{side}": cell(
            0.85 + 0.025 * i,
            40,
            first_touch_rate=0.975,
            instructions=[f"hand the cube over {side}", "now & then <b>bold</b>"],
            held_out_phrasings=cell(0.775, 20, instructions=["in other words"]),
        )
        for i, side in enumerate(SIDES)
    },
    "control": {"instruction": "pass the cube", "episodes": 40, "did": {f"transfer_{side}": 0.45 for side in SIDES}},
    "episodes": 40,
    "seed": 7,
    "wall_seconds": 287.4,
    "train_seconds": 182.3,
    "stage_seconds": {"record": 41.2, "convert": 2.1, "train": 188.0, "evaluate": 49.3, "report": None},
    "action_latency_ms": {"p50": 18.371, "p99": 27.912},
    "checkpoint": "runs/my run/checkpoint",
    "versions": {"python": "3.11.7", "torch": "2.15.0+cpu"},
    "renderer": "egl",
    "demonstrations": {f"transfer_{side}": {"accepted": 50, "attempts": 66 + i} for i, side in enumerate(SIDES)},
    "parameters": 1_093_268,
    "environment": "sim_handover",
    "preset": "rdt_tiny",
}


def write_run(run: Path, report: dict) -> Path:
    run.mkdir(parents=True, exist_ok=True)
    (run / "report.json").write_text(json.dumps(report), encoding="utf-8")
    return run


def film(path: Path) -> None:
    """A bright square that crosses a dark picture."""
    frames = np.zeros((10, 48, 64, 3), np.uint8)
    for i, frame in enumerate(frames):
        frame[16:32, 4 * i : 4 * i + 16] = 255
    write_video(path, list(frames), fps=10.0)


def metrics_row(step: int, **others) -> str:
    return json.dumps({"step": step, "seconds": 0.1 * step, "lr": 1e-3, "loss": 1 / step, "grad_norm": 1.0, **others})


def text_of(page: str) -> str:
    """What a reader sees, white space collapsed."""
    body = re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]*>", " ", body)))


def shown(rate: float) -> str:
    return f"{round(100 * rate, 1):g} %"


class Tags(HTMLParser):
    """All start tags with their attributes, and a check that every element is closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in ("img", "meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def values(self, attribute: str) -> list[str]:
        return [attributes[attribute] for _, attributes in self.found if attribute in attributes]


@pytest.fixture(scope="module")
def full_run(tmp_path_factory) -> Path:
    """A run with everything in it, reported once."""
    run = write_run(tmp_path_factory.mktemp("run"), FULL)
    rows = [
        metrics_row(step, **({"overall_avg_sample_mse": 0.5 / step} if step % 20 == 0 else {}))
        for step in range(5, 101, 5)
    ]
    (run / "metrics.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    demonstration = np.linspace(0, 1, 20)[:, None].repeat(len(NAMES), axis=1)
    chunk = {"start": 4, "actions": (demonstration[4:12] + 0.25).tolist()}
    record = {"names": NAMES, "rate_hz": 12.5, "demonstration": demonstration.tolist(), "chunks": [chunk]}
    (run / "open_loop.json").write_text(json.dumps({"transfer_right_to_left": record}), encoding="utf-8")
    film(run / "rollouts/transfer_right_to_left_1000000001_success.mp4")
    film(run / "rollouts/transfer_right_to_left_1000000000_failure.mp4")
    film(run / "rollouts/an odd #name.mp4")
    (run / "rollouts/transfer_left_to_right_3_success.mp4").write_bytes(b"no video")
    assert write_report(run) == run / "report.html"
    return run


@pytest.fixture(scope="module")
def page(full_run) -> str:
    return (full_run / "report.html").read_text(encoding="utf-8")


def test_numbers_of_the_page_are_those_of_the_report(page):
    text = text_of(page)
    for name, task in FULL["tasks"].items():
        for phrasings, numbers in (("trained", task), ("held-out", task["held_out_phrasings"])):
            start = text.index(f"{name.replace('_', ' ')}, {phrasings} phrasings")
            low, high = (shown(end) for end in numbers["success_interval_95"])
            row = [
                *(f"“{words}”" for words in numbers["instructions"]),
                shown(numbers["success_rate"]),
                f"{low[:-2]}\u2013{high}",
                shown(numbers["benchmark_success_rate"]),
                shown(numbers["wrong_task_rate"]),
                shown(task["first_touch_rate"]) if phrasings == "trained" else "\u2013",
                str(numbers["episodes"]),
            ]
            for part in row:  # in this order
                start = text.index(part, start) + len(part)
    for number in ("18.4 ms", "27.9 ms", "3 min 2 s", "4 min 47 s", "1,093,268", "2.15.0+cpu", "egl", "rdt_tiny"):
        assert number in text
    for task, counts in FULL["demonstrations"].items():
        assert f"{task.replace('_', ' ')} {counts['accepted']} {counts['attempts']}" in text
    for task, rate in FULL["control"]["did"].items():
        assert f"{task.replace('_', ' ')} {shown(rate)}" in text


def test_the_headline_comes_first_with_its_interval_and_all_episodes(page):
    words = "did it in 86.2 % of 80 episodes (95 % interval 77 % to 92.1 %)"
    assert words in text_of(page)[:400]


def test_the_summary_has_three_sentences():
    sentences = module._summary(FULL)
    assert len(sentences) == 3
    assert "77.5\u00a0% in the weakest task" in sentences[1]
    assert "91.2\u00a0%" in sentences[1]
    assert "at most 2.5\u00a0%" in sentences[1]
    assert "100 scripted demonstrations" in sentences[2]


def test_sections_come_in_order(page):
    headings = re.findall(r"<h2>(.*?)</h2>", page)
    assert headings == [
        "Did it do what it was told?",
        "What it looks like",
        "How it learned",
        "Predicted actions against a demonstration it never saw",
        "How long it took",
        "How it was made",
        "Notes",
    ]


def test_the_page_stands_alone(page, full_run):
    """No network, no script: pictures are inside, videos beside it."""
    tags = Tags(page)
    assert {tag for tag, _ in tags.found}.isdisjoint({"script", "link", "iframe"})
    assert "http" not in page
    assert "url(" not in page
    for source in tags.values("src") + tags.values("href") + tags.values("poster"):
        assert source.startswith(("data:image/png;base64,", "rollouts/"))
    assert len(page.encode()) < 3e6


def test_pictures_say_what_they_show(page):
    images = [attributes for tag, attributes in Tags(page).found if tag == "img"]
    assert images
    assert all(image["alt"] and int(image["width"]) > 0 and int(image["height"]) > 0 for image in images)
    assert any("strict 85\u00a0%" in image["alt"] for image in images)


def test_text_is_escaped(page):
    assert "<b>bold" not in page
    assert "now &amp; then &lt;b&gt;bold&lt;/b&gt;" in page


def test_videos_have_players_with_posters(page, full_run):
    from urllib.parse import unquote

    players = [attributes for tag, attributes in Tags(page).found if tag == "video"]
    assert [unquote(player["src"]) for player in players] == [
        "rollouts/transfer_right_to_left_1000000001_success.mp4",
        "rollouts/transfer_right_to_left_1000000000_failure.mp4",
        "rollouts/an odd #name.mp4",
    ]
    for player in players:
        assert (full_run / unquote(player["src"])).is_file()
        assert player["poster"].startswith("data:image/png;base64,")
        assert {"controls", "loop", "muted"} <= set(player)


def test_the_strip_shows_a_success_from_start_to_end(page):
    after_heading = page[page.index("What it looks like") :]
    strip = text_of(after_heading[: after_heading.index("Rollouts")])
    assert "scene 1000000001 success 0.0 s 0.2 s 0.4 s 0.5 s 0.7 s 0.9 s" in strip


def test_a_video_that_cannot_be_read_is_named(page):
    assert "rollouts/transfer_left_to_right_3_success.mp4 cannot be read" in text_of(page)


def test_the_distance_of_predictions_is_told(page):
    assert "joints 0.250 rad, gripper 0.250 of its opening" in text_of(page)


def test_commands_are_those_of_the_rdt_command(page):
    commands = [html.unescape(code) for code in re.findall(r"<code>(.*?)</code>", page)]
    assert commands[0] == "rdt quickstart --out runs/again --demos 50 --steps 100 --episodes 40 --seed 7"
    assert len(commands) == 4
    parsed = [build_parser().parse_args(shlex.split(command)[1:]) for command in commands]
    assert parsed[1].checkpoint == "runs/my run/checkpoint"


def test_the_least_report(tmp_path):
    page = write_report(write_run(tmp_path, MINIMAL)).read_text(encoding="utf-8")
    Tags(page)
    assert re.findall(r"<h2>(.*?)</h2>", page) == ["How it was made"]


def test_a_report_whose_values_are_null(tmp_path):
    """One task alone: no other task can be done instead, nothing was kept out, nothing controls."""
    nothing = dict.fromkeys(FULL)
    one = {**cell(0.5, 2, first_touch_rate=None, held_out_phrasings=None), "wrong_task_rate": None}
    required = {"success_rate": 0.5, "success_interval_95": [0.1, 0.9], "benchmark_success_rate": 0.5, "episodes": 2}
    text = text_of(write_report(write_run(tmp_path, {**nothing, **required, "tasks": {"t": one}})).read_text("utf-8"))
    assert "50 % of 2 episodes" in text
    assert "None" not in text
    assert "nan" not in text
    table = text[text.index("instruction strict success") : text.index("How it was made")]
    assert "wrong task" not in table
    assert "arm first" not in table


def test_a_resumed_run_shows_its_last_pass_and_torn_lines_are_named(tmp_path):
    run = write_run(tmp_path, MINIMAL)
    lines = [
        metrics_row(10),
        metrics_row(20),
        '{"step": 30, "lo',
        metrics_row(20, loss=0.125),
        metrics_row(30, loss=0.0625),
    ]
    (run / "metrics.jsonl").write_text("\n".join(lines), encoding="utf-8")
    page = write_report(run).read_text(encoding="utf-8")
    assert "training loss from 0.1 at step 10 to 0.0625 at step 30" in page
    assert "metrics.jsonl: left out what is not a row with a step, line 3" in page
    rows, _ = module._read_metrics(run / "metrics.jsonl")
    assert [row["loss"] for row in rows] == [0.1, 0.125, 0.0625]


def test_faults_are_not_hidden(tmp_path):
    page = write_report(write_run(tmp_path, {**MINIMAL, "faults": 3})).read_text(encoding="utf-8")
    assert "In 3 episodes the guard gave up" in page


def test_a_failed_report_leaves_the_last_one(tmp_path):
    run = write_run(tmp_path, MINIMAL)
    (run / "report.html").write_text("the last one", encoding="utf-8")
    record = {"names": NAMES, "rate_hz": 12.5, "demonstration": [[0.0, 0.0]], "chunks": []}
    (run / "open_loop.json").write_text(json.dumps({"transfer": record}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"open_loop\.json: transfer has 6 names, but actions of shape \(1, 2\)"):
        write_report(run)
    assert (run / "report.html").read_text(encoding="utf-8") == "the last one"
    assert sorted(path.name for path in run.iterdir()) == ["open_loop.json", "report.html", "report.json"]


def test_a_folder_without_a_report(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"report\.json: give the folder that `rdt quickstart --out` wrote"):
        write_report(tmp_path)


def test_a_report_that_lacks_what_it_must_hold(tmp_path):
    run = write_run(tmp_path, {"success_rate": 1.0, "tasks": {}})
    with pytest.raises(ValueError, match="lacks success_interval_95, benchmark_success_rate, control, episodes"):
        write_report(run)
    (run / "report.json").write_text('{"success_rate": ', encoding="utf-8")
    with pytest.raises(ValueError, match=r"report\.json is not valid JSON"):
        write_report(run)


def test_a_missing_extra_is_one_message(tmp_path, monkeypatch):
    for name in ("jinja2", "matplotlib"):
        monkeypatch.setitem(sys.modules, name, None)  # to import it raises ModuleNotFoundError
    with pytest.raises(ModuleNotFoundError, match=r"needs jinja2, matplotlib: pip install 'rdt-stack\[sim\]'"):
        write_report(write_run(tmp_path, MINIMAL))


def test_players_are_few_and_show_failures():
    videos = [module._video(Path(f"rollouts/t_{i}_success.mp4")) for i in range(20)]
    videos += [module._video(Path(f"rollouts/t_{i}_failure.mp4")) for i in range(20, 30)]
    assert [video.seed for video in module._choose(videos, 4)] == [0, 1, 20, 21]
    assert [video.seed for video in module._choose(videos[:20], 4)] == [0, 1, 2, 3]
    assert [video.seed for video in module._choose(videos[19:], 4)] == [19, 20, 21, 22]
