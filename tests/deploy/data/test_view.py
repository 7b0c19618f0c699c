"""`rdt data view`: what the page holds, and that it needs nothing else.

Run: pytest tests/deploy/data/test_view.py
"""

from __future__ import annotations

import base64
import io
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_pipeline.schema.layout import SLOT_BLOCKS, SLOT_UNITS
from data_pipeline.storage import EpisodeStore
from deploy.cli import main
from deploy.data import view, view_page
from deploy.data.view import find_episode
from tests.data_pipeline.validate.demonstrations import STEPS, demonstration, pictures

pytest.importorskip("jinja2", reason="needs the extra `sim`")


@pytest.fixture
def store(tmp_path):
    """Three episodes, the second of which has everything that a page can show."""
    mask = np.ones(STEPS, dtype=bool)
    mask[20:30] = False
    rich = demonstration(
        "cups/</script><b>",
        1,
        images={"external": pictures(STEPS), "left_wrist": np.repeat(np.repeat(pictures(STEPS, 2), 20, 1), 20, 2)},
        image_masks={"left_wrist": mask},
        action_valid=np.arange(STEPS) < STEPS - 4,
        instructions=("take the cup", "put it <down>"),
        instruction_weights=(0.75, 0.25),
        instruction_of_step=(np.arange(STEPS) > 50).astype(np.int64),
        actor_of_step=np.where(np.arange(STEPS) < 50, 1, 2),
    )
    with EpisodeStore.create(tmp_path / "store", None, robot_type="arm") as made:
        made.add(demonstration("cups/0", 0))
        made.add(rich, source={"file": "raw/7.hdf5"})
        made.add(demonstration("cups/2", 2))
    return EpisodeStore.open(tmp_path / "store")


def data_of(html: str) -> dict:
    return json.loads(re.search(r'<script id="data" type="application/json">(.*?)</script>', html, re.DOTALL)[1])


def test_the_page_holds_the_episode(store):
    html = view_page.build(store, 1, "here/store")
    data, episode = data_of(html), store[1]
    assert (data["steps"], data["rate_hz"], data["stride"]) == (STEPS, 20.0, 1)
    assert data["instructions"] == ["take the cup", "put it <down>"] and data["instruction_of_step"][51] == 1
    assert data["invalid"] == [[STEPS - 4, STEPS - 1]]
    assert f"nobody 0, policy 50, operator {STEPS - 50} steps" in html
    groups = {group["title"]: group for group in data["groups"]}
    assert list(groups) == [
        "Right arm, joints",
        "Grippers",
        "Right end effector, position",
        "Right end effector, rotation",
        "Right arm, joint velocities",
    ]
    joint = groups["Right arm, joints"]["curves"][2]
    assert joint["name"] == "joint 2"
    np.testing.assert_allclose(joint["state"], episode.states[:, 2], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(joint["action"], episode.actions[:, 2], rtol=1e-4, atol=1e-6)
    assert [curve["name"] for curve in groups["Grippers"]["curves"]] == ["right gripper"]
    wrist, external = data["cameras"]
    assert (wrist["role"], wrist["width"], wrist["height"], wrist["missing"]) == ("left_wrist", 384, 288, [[20, 29]])
    assert (external["role"], len(external["frames"]), external["every"]) == ("external", STEPS, 1)
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(external["frames"][40]))), dtype=float)
    assert np.abs(picture - episode.images["external"][40]).mean() < 12
    shown = html.partition('<script id="data"')
    assert "Pictures are reduced to 320 pixels" in shown[0] and "75%" in shown[0] and "raw/7.hdf5" in shown[0]
    assert "10 of 90 steps" in shown[0]
    assert "rdt data view here/store --episode 0" in shown[0] and "rdt data view here/store --episode 2" in shown[0]


def test_the_page_needs_nothing_and_escapes_names(store):
    html = view_page.build(store, 1, "store")
    assert "http" not in html and not re.search(r"<(link|img|iframe)|src=|@import", html)
    assert html.count("</script>") == 2 and "<b>" not in html and "<down>" not in html


def test_first_and_last_have_one_neighbour(store):
    assert "The previous episode" not in view_page.build(store, 0, "store")
    assert "The next episode" not in view_page.build(store, 2, "store")


def test_pictures_are_thinned_until_the_page_is_small(store, monkeypatch):
    whole = len(view_page.build(store, 1, "store"))
    monkeypatch.setattr(view_page, "PAGE_BYTES", whole / 4)
    monkeypatch.setattr(view_page, "MOST_POINTS", 50)
    html = view_page.build(store, 1, "store")
    data = data_of(html)
    every = data["cameras"][0]["every"]
    assert every > 1 and len(data["cameras"][0]["frames"]) == -(-STEPS // every)
    assert len(html) < 0.6 * whole and f"one picture in {every}" in html and "one step in 2" in html
    assert data["stride"] == 2 and len(data["groups"][0]["curves"][0]["state"]) == 45


def test_every_slot_that_is_not_reserved_has_a_plot():
    shown = [slot for _, blocks in view_page.GROUPS for block in blocks for slot in SLOT_BLOCKS[block]]
    assert sorted(shown) == [slot for slot, unit in enumerate(SLOT_UNITS) if unit != "reserved"]


def test_episodes_are_found_by_number_and_name(store):
    assert [find_episode(store, word) for word in ("0", "-1", "cups/2")] == [0, 2, 2]
    with pytest.raises(ValueError, match="episodes 0 to 2, not 7"):
        find_episode(store, "7")
    with pytest.raises(ValueError, match="cups/2"):
        find_episode(store, "cup/2")


def test_the_browser_opens_where_there_is_a_display(store, tmp_path, monkeypatch, capsys):
    opened = []
    monkeypatch.setattr(view.webbrowser, "open", opened.append)
    page = tmp_path / "page.html"
    words = ["data", "view", str(store.path), "--episode", "2", "--out", str(page)]
    monkeypatch.setenv("DISPLAY", ":0")
    assert main([*words, "--no-browser"]) == 0 and not opened
    assert f"cups/2 (episode 2 of 3) is in {page}" in capsys.readouterr().out
    assert main(words) == 0 and opened == [page.as_uri()]
    monkeypatch.delenv("DISPLAY")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr(view.sys, "platform", "linux")
    assert main(words) == 0 and len(opened) == 1


def test_without_out_the_page_is_temporary(store, capsys):
    assert main(["data", "view", str(store.path), "--no-browser"]) == 0
    path = re.search(r"is in (\S+\.html)", capsys.readouterr().out)[1]
    assert data_of(Path(path).read_text(encoding="utf-8"))["steps"] == STEPS


def test_rerun_writes_a_recording(store, tmp_path, capsys):
    pytest.importorskip("rerun", reason="needs the extra `viz`")
    path = tmp_path / "out" / "episode.rrd"
    assert main(["data", "view", str(store.path), "--episode", "1", "--rerun", str(path)]) == 0
    content = path.read_bytes()
    assert content.startswith(b"RRF") and len(content) > 10_000
    for entity in (b"cameras/left_wrist", b"right_arm_joint_2_pos", b"instruction"):
        assert entity in content
    assert f"`rerun {path}` shows it" in capsys.readouterr().out


def test_without_rerun_the_extra_is_named(store, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "rerun", None)
    assert main(["data", "view", str(store.path), "--rerun", str(tmp_path / "a.rrd")]) == 1
    assert "rdt-stack[viz]" in capsys.readouterr().err
