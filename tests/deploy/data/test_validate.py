"""`rdt data validate`: exit status, table, JSON, page.

Run: pytest tests/deploy/data/test_validate.py
"""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import yaml

from data_pipeline.conversion import convert
from data_pipeline.recordings import RobotRecordings
from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.registry import find_config
from data_pipeline.storage import EpisodeStore
from deploy.cli import main
from deploy.record import record_demonstrations
from rdt.train.config import DemonstrationConfig
from tests.data_pipeline.validate.demonstrations import changed, demonstration
from tests.data_pipeline.validate.test_fault_table import DAMAGES, MAPPING, content, write

BAD = changed(demonstration("cups/<bad>", 7), "state", "right_arm_joint_pos[1:2]", np.degrees)
PLACEHOLDER = demonstration("cups/unnamed", 8, instructions=("TODO",))


@pytest.fixture
def stores(tmp_path):
    for name, episodes in {
        "good": [demonstration(f"cups/{i}", i) for i in range(3)],
        "bad": [demonstration("cups/0"), BAD],
        "warned": [demonstration("cups/0"), PLACEHOLDER],
    }.items():
        with EpisodeStore.create(tmp_path / name, None, robot_type="arm") as store:
            for episode in episodes:
                store.add(episode)
    return tmp_path


def test_status_and_summary(stores, capsys):
    assert main(["data", "validate", str(stores / "good")]) == 0
    out = capsys.readouterr().out
    assert "nothing to say" in out and out.endswith("3 episodes in 1 dataset: 0 errors, 0 warnings, 0 notes\n")
    assert main(["data", "validate", str(stores / "warned")]) == 0
    assert "warning  placeholder" in capsys.readouterr().out
    assert main(["data", "validate", str(stores / "good"), str(stores / "bad")]) == 1
    out = capsys.readouterr().out
    assert re.search(r"error\s+angle_units\s+1\s+cups/<bad>, state right_arm_joint_1_pos", out)
    assert "-> add `unit deg`" in out


def test_the_whole_fault_table_in_one_folder(tmp_path, capsys):
    """Each damaged file is named with its kind, in the table and in the JSON; the good ones are not."""
    files = {f"{kind}_{i}.hdf5": damage for i, (damage, kind, _) in enumerate(DAMAGES.values())}
    for seed, (name, damage) in enumerate({**files, "good_1.hdf5": None, "good_2.hdf5": None}.items()):
        arrays = content(seed)
        if damage:
            damage(arrays, tmp_path / name)
        if not (tmp_path / name).exists():
            write(tmp_path / name, arrays)
    (tmp_path / "lab.yaml").write_text(yaml.safe_dump(MAPPING))
    assert main(["data", "validate", str(tmp_path / "lab.yaml"), "--json", str(tmp_path / "out.json")]) == 1
    findings = json.loads((tmp_path / "out.json").read_text())["datasets"][0]["findings"]
    named = {(finding["kind"], finding["where"]["episode"].partition(".hdf5")[0]) for finding in findings}
    out = capsys.readouterr().out
    for name in files:
        kind = name.rpartition("_")[0]
        assert (kind, name.removesuffix(".hdf5")) in named
        assert kind in out
    assert not any(episode.startswith("good") for _, episode in named)


def test_only_so_many_episodes(stores, capsys):
    assert main(["data", "validate", str(stores / "good"), "--max-episodes", "2"]) == 0
    assert "2 episodes looked at of 3," in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        main(["data", "validate", str(stores / "good"), "--max-episodes", "0"])


def test_recordings_of_the_simulator_are_silent(tmp_path, capsys):
    pytest.importorskip("mujoco", reason="needs the extra `sim`")
    robot = Embodiment.from_yaml(find_config("robots", "sim_bimanual"))
    config = DemonstrationConfig(environment="sim_handover", per_task=1, noise_rad=0.01)
    files = [
        file for files in record_demonstrations(config, robot, tmp_path / "raw", workers=1).values() for file in files
    ]
    convert(RobotRecordings(files, robot), tmp_path / "store", robot)
    assert main(["data", "validate", str(tmp_path / "raw"), str(tmp_path / "store")]) == 0
    assert "4 episodes in 2 datasets: 0 errors, 0 warnings, 0 notes" in capsys.readouterr().out


def test_json_has_every_finding(stores):
    assert main(["data", "validate", str(stores / "bad"), "--json", str(stores / "out.json")]) == 1
    told = json.loads((stores / "out.json").read_text())
    (dataset,) = told["datasets"]
    assert told["errors"] + told["warnings"] + told["notes"] == len(dataset["findings"])
    assert (dataset["episodes"], dataset["looked_at"], dataset["steps"]) == (2, 2, 180)
    finding = dataset["findings"][0]
    assert finding["kind"] == "angle_units" and finding["where"]["episode"] == "cups/<bad>"


def test_the_page_is_self_contained_and_escaped(stores):
    for library in ("jinja2", "matplotlib"):
        pytest.importorskip(library, reason="needs the extra `sim`")
    with EpisodeStore.create(stores / "raw", None, robot_type="arm") as store:
        store.add(changed(demonstration("cups/raw", 3), "state", "right_gripper_pos[0]", lambda v: v * 2))
    page = stores / "page.html"
    main(["data", "validate", *(str(stores / name) for name in ("bad", "raw", "good")), "--html", str(page)])
    html = page.read_text()
    assert not re.search(r"(src|href)=\"(?!data:|#)", html) and "http" not in html
    assert "cups/&lt;bad&gt;" in html and "<bad>" not in html
    assert html.count('class="chart"') == 3  # the joint in degrees, its velocity, the raw gripper
    assert "<code>unit deg</code>" in html and "Nothing to say" in html
    assert html.count('id="d') == 3


def test_both_orders_of_a_flagged_camera_are_shown(tmp_path):
    for library in ("jinja2", "matplotlib"):
        pytest.importorskip(library, reason="needs the extra `sim`")
    blue = [demonstration(f"cups/{i}", i) for i in range(2)]
    with EpisodeStore.create(tmp_path / "blue", None, robot_type="arm") as store:
        for episode in blue:
            reversed_frames = np.ascontiguousarray(episode.images["external"][..., ::-1])
            store.add(demonstration(episode.name, int(episode.name[-1]), images={"external": reversed_frames}))
    assert main(["data", "validate", str(tmp_path / "blue"), "--html", str(tmp_path / "page.html")]) == 0
    html = (tmp_path / "page.html").read_text()
    assert "channels reversed" in html and "heuristic" in html
