"""Every row of the fault table (spec data.md section 7): one damaged episode among good ones is named, they are not.

Run: pytest tests/data_pipeline/validate/test_fault_table.py
"""

from __future__ import annotations

import struct
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml

from data_pipeline.frames import encode_jpeg
from data_pipeline.validate.validate import validate
from tests.data_pipeline.sources.rlds_files import TEXT, example, framed, image, tensor, write_folder
from tests.data_pipeline.validate.demonstrations import RATE_HZ, STEPS, path, pictures

GOOD = ("a.hdf5", "c.hdf5")
BAD = "b.hdf5"
CAMERA = "observations/images/cam_high"
MAPPING = {
    "schema": 1,
    "name": "lab",
    "source": {"format": "hdf5", "glob": "*.hdf5"},
    "fps": {"from": "timestamps", "field": "observations/time", "resample": RATE_HZ},
    "state": [
        {"to": "right_arm_joint_pos[0:2]", "from": "observations/qpos[0:2]"},
        {"to": "right_gripper_pos[0]", "from": "observations/qpos[2:3]"},
    ],
    "action": {
        "mode": "recorded",
        "rules": [
            {"to": "right_arm_joint_pos[0:2]", "from": "action[0:2]"},
            {"to": "right_gripper_pos[0]", "from": "action[2:3]"},
        ],
    },
    "cameras": {"external": CAMERA},
    "language": {"fields": ["instruction"]},
}


def content(seed: int) -> dict[str, np.ndarray]:
    rows = path(STEPS, 3, np.random.default_rng(seed))
    return {
        "observations/qpos": rows,
        "action": np.concatenate([rows[1:], rows[-1:]]),
        "observations/time": np.arange(STEPS) / RATE_HZ,
        CAMERA: [encode_jpeg(frame) for frame in pictures(STEPS, seed)],
    }


def write(file: Path, arrays: dict) -> None:
    with h5py.File(file, "w") as out:
        for key, values in arrays.items():
            if key == CAMERA:
                out[key] = np.array(values, dtype=f"S{max(map(len, values))}")
            elif values is not None:
                out[key] = values
        out["instruction"] = "open the drawer"
        out.attrs["colour"] = "rgb"


def put(key: str, change):
    def damage(arrays: dict, file: Path) -> None:
        arrays[key] = change(arrays[key])

    return damage


def stepped(values: np.ndarray, step: int, value: float) -> np.ndarray:
    values = np.array(values)
    values[step] = value
    return values


def without_camera(arrays: dict, file: Path) -> None:
    del arrays[CAMERA]


def cut_pictures(many: bool):
    def damage(arrays: dict, file: Path) -> None:
        for step in range(10, 30) if many else (10,):
            arrays[CAMERA][step] = arrays[CAMERA][step][:-40]

    return damage


def truncated(arrays: dict, file: Path) -> None:
    write(file, arrays)
    file.write_bytes(file.read_bytes()[:3000])


def shorter(arrays: dict, file: Path) -> None:
    for key in arrays:
        arrays[key] = arrays[key][:12]


def repeated(arrays: dict, file: Path) -> None:
    arrays["observations/time"][20:40] = arrays["observations/time"][20]


def pause(arrays: dict, file: Path) -> None:
    arrays["observations/time"][45:] += 5


def frozen(arrays: dict, file: Path) -> None:
    arrays["observations/qpos"] = np.repeat(arrays["observations/qpos"][:1], STEPS, axis=0)
    arrays["action"] = arrays["observations/qpos"]


DAMAGES = {  # row of the table -> (damage, kind that must be told, severity)
    "truncated HDF5": (truncated, "truncated", "error"),
    "NaN": (put("observations/qpos", lambda v: stepped(v, 30, np.nan)), "nan", "error"),
    "inf in the action": (put("action", lambda v: stepped(v, 30, np.inf)), "nan", "error"),
    "camera missing": (without_camera, "missing_camera", "warning"),
    "one picture cut": (cut_pictures(False), "bad_image", "error"),  # 1 of 90 is more than a hundredth
    "many pictures cut": (cut_pictures(True), "bad_image", "error"),
    "too short": (shorter, "too_short", "warning"),
    "wrong width": (put("observations/qpos", lambda v: v[:, :2]), "wrong_width", "error"),
    "different lengths": (put("action", lambda v: v[:-7]), "lengths", "error"),
    "stamps repeated": (repeated, "timestamps", "error"),
    "gap": (pause, "gap", "warning"),
    "wrong rate": (put("observations/time", lambda v: v * 1.5), "wrong_rate", "error"),
    "never moves": (frozen, "still", "warning"),
    "gripper outside": (put("observations/qpos", lambda v: v * [1, 1, 1.3]), "gripper_range", "warning"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_hdf5_through_a_mapping(tmp_path, name):
    damage, kind, severity = DAMAGES[name]
    for seed, file in enumerate((*GOOD, BAD)):
        arrays = content(seed)
        if file == BAD:
            damage(arrays, tmp_path / file)
            if (tmp_path / file).exists():
                continue
        write(tmp_path / file, arrays)
    (tmp_path / "lab.yaml").write_text(yaml.safe_dump(MAPPING))
    (report,) = validate(tmp_path / "lab.yaml")
    mine = [finding for finding in report.findings if finding.where.episode.startswith(BAD)]
    assert [(finding.severity, finding.kind) for finding in mine if finding.kind == kind] == [(severity, kind)]
    assert [finding for finding in report.findings if finding not in mine] == []
    assert all(finding.advice for finding in mine)


def test_good_files_are_silent_with_and_without_a_mapping(tmp_path):
    for seed, file in enumerate(GOOD):
        write(tmp_path / file, content(seed))
    (tmp_path / "lab.yaml").write_text(yaml.safe_dump(MAPPING))
    for place in (tmp_path / "lab.yaml", tmp_path):
        (report,) = validate(place)
        assert (report.num_looked, report.findings) == (2, [])


def test_a_yaml_that_does_not_fit_is_a_finding(tmp_path):
    write(tmp_path / "a.hdf5", content(0))
    rule = {"to": "right_arm_joint_pos[0:3]", "from": "observations/qpos[0:2]"}
    (tmp_path / "lab.yaml").write_text(yaml.safe_dump({**MAPPING, "state": [rule]}))
    with pytest.raises(ValueError, match="expected 3"):  # the YAML alone is wrong
        validate(tmp_path / "lab.yaml")
    rule = {"to": "right_arm_joint_pos[0:3]", "from": "observations/effort"}
    (tmp_path / "lab.yaml").write_text(yaml.safe_dump({**MAPPING, "state": [rule]}))
    (report,) = validate(tmp_path / "lab.yaml")
    (finding,) = report.findings
    assert finding.kind == "does_not_fit" and "observations/effort" in finding.found


RAW = ("truncated HDF5", "NaN", "one picture cut", "too short", "different lengths", "stamps repeated", "gap")


@pytest.mark.parametrize("name", [*RAW, "never moves", "camera missing"])
def test_hdf5_without_a_mapping(tmp_path, name):
    damage, kind, _ = DAMAGES[name]
    for seed, file in enumerate((*GOOD, BAD)):
        arrays = content(seed)
        if file == BAD:
            damage(arrays, tmp_path / file)
            if (tmp_path / file).exists():
                continue
        write(tmp_path / file, arrays)
    (report,) = validate(tmp_path)
    assert kind in {finding.kind for finding in report.findings if finding.where.episode.startswith(BAD)}
    assert all(finding.where.episode.startswith(BAD) for finding in report.findings), report.findings


STEP_TREE = {"observation": {"featuresDict": {"features": {"state": tensor("float32", 3), "image": image(24, 32, 3)}}}}
STEP_TREE |= {"action": tensor("float32", 3), "language_instruction": TEXT}
STEP_TREE |= {"reward": tensor("float32"), "discount": tensor("float32")}


def record(seed: int) -> bytes:
    arrays = content(seed)
    return example(
        {
            "steps/observation/state": arrays["observations/qpos"].astype(np.float32),
            "steps/observation/image": arrays[CAMERA],
            "steps/action": arrays["action"].astype(np.float32),
            "steps/language_instruction": [b"open the drawer"] * STEPS,
            "steps/reward": np.zeros(STEPS, dtype=np.float32),
            "steps/discount": np.ones(STEPS, dtype=np.float32),
        }
    )


def rlds(folder: Path, payloads: list[list[bytes]]) -> Path:
    return write_folder(folder, {"train": payloads}, STEP_TREE)


def test_good_rlds_is_silent(tmp_path):
    (report,) = validate(rlds(tmp_path / "1.0.0", [[record(0), record(1)], [record(2)]]))
    assert (report.kind, report.num_looked, report.findings) == ("rlds", 3, [])


def flip(file: Path, at: int) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 0x40
    file.write_bytes(bytes(data))


@pytest.mark.parametrize("damage", ["content", "length", "tail", "surplus", "missing"])
def test_tfrecords(tmp_path, damage):
    folder = rlds(tmp_path / "1.0.0", [[record(0), record(1), record(2)], [record(3)]])
    file = next(folder.glob("*00000-of-00002"))
    second = len(framed(record(0)))
    told = {"content": "bad_crc", "length": "bad_crc", "tail": "truncated", "surplus": "shard_count"}
    if damage == "content":
        flip(file, second + 12 + 50)
    elif damage == "length":
        data = bytearray(file.read_bytes())
        data[second : second + 8] = struct.pack("<Q", 2**40)
        file.write_bytes(bytes(data))
    elif damage == "tail":
        file.write_bytes(file.read_bytes()[:-100])
    elif damage == "surplus":
        file.write_bytes(file.read_bytes() + framed(record(9)))
    else:
        file.unlink()
    (report,) = validate(folder)
    severity = "warning" if damage == "surplus" else "error"  # its records are read all the same
    kinds = {finding.kind for finding in report.findings if finding.severity == severity}
    assert told.get(damage, "missing_file") in kinds
    assert all(finding.where.episode.startswith(file.name) for finding in report.findings)
    assert report.num_looked == {"content": 3, "length": 2, "tail": 3, "surplus": 5, "missing": 1}[damage]
