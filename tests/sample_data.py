"""Small datasets of three formats from a seed, each with its YAML and the states that must come out of it.

rlds      a Franka at 10 Hz: quaternions, a closedness, two cameras; two TFRecord files of two episodes
aloha     an AgileX pair at 25 Hz: JPEGs with reversed channels, phrasings beside the files
lerobot   LeRobotDataset v2.1 of a single arm at 20 Hz, one camera as video
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from data_pipeline.schema import rotation
from data_pipeline.sources.video import write_video
from tests.data_pipeline.sources import rlds_files

SIZE = (48, 64)


@dataclass(frozen=True)
class SampleDataset:
    yaml: Path
    name: str
    files: tuple[Path, ...]  # one for each shard, in order
    states: tuple[np.ndarray, ...]  # of each episode, by `slots`
    slots: tuple[int, ...]
    instructions: tuple[str, ...]


def make_all(folder: Path, seed: int = 0) -> dict[str, SampleDataset]:
    return {"rlds": make_rlds(folder, seed), "aloha": make_aloha(folder, seed), "lerobot": make_lerobot(folder, seed)}


def motion(num_steps: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Smooth joint angles within a radian or so, moving from the first step on. float32 (steps, width)"""
    t = np.linspace(0, 1, num_steps)[:, None]
    speed, phase, size = rng.uniform(2, 6, width), rng.uniform(0, 6, width), rng.uniform(0.3, 1.2, width)
    return (size * np.sin(speed * t + phase)).astype(np.float32)


def opening(num_steps: int, rng: np.random.Generator) -> np.ndarray:
    """A gripper that opens and closes. float32 (steps,)"""
    return (0.5 + 0.45 * np.sin(np.linspace(0, 7, num_steps) + rng.uniform(0, 6))).astype(np.float32)


def film(num_steps: int, rng: np.random.Generator) -> np.ndarray:
    """A warm room in which a red square moves and the light changes a little. uint8 (steps, height, width, 3)"""
    height, width = SIZE
    room = np.linspace(90, 160, width)[None, None, :, None] * np.array([1.0, 0.85, 0.7])
    frames = np.broadcast_to(room, (num_steps, height, width, 3)) + rng.normal(0, 2, (num_steps, height, width, 3))
    for step in range(num_steps):
        left = int((width - 12) * (0.5 + 0.5 * np.sin(step / 8)))
        frames[step, 20:32, left : left + 12] = (200, 40, 30)
    return np.clip(frames, 0, 255).astype(np.uint8)


def jpeg(frame: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def make_rlds(folder: Path, seed: int = 0) -> SampleDataset:
    rng = np.random.default_rng([seed, 1])
    payloads, states = [], []
    for number in range(4):
        steps = 36 + 4 * number
        joints, grip, position = motion(steps, 7, rng), opening(steps, rng), 0.4 * motion(steps, 3, rng)
        angles = motion(steps, 3, rng).astype(np.float64)
        matrix = rotation.matrix_from_euler(angles)
        quaternion = _quaternion(matrix)
        cameras = {key: [jpeg(frame) for frame in film(steps, rng)] for key in ("image", "wrist_image")}
        state = np.hstack([joints, (1 - grip)[:, None], position, quaternion]).astype(np.float32)
        text = [b"pick up the red block"] * steps
        features = {
            "steps/observation/state": state.ravel(),
            **{f"steps/observation/{key}": frames for key, frames in cameras.items()},
            "steps/action": motion(steps, 7, rng).ravel(),
            "steps/language_instruction": text,
            "steps/is_first": (np.arange(steps) == 0).astype(np.int64),
        }
        payloads.append(rlds_files.example(features))
        states.append(np.hstack([joints, grip[:, None], position, rotation.rot6d_from_matrix(matrix)]))
    tree = {
        "observation": rlds_files.tree(
            {
                "state": rlds_files.tensor("float32", 15),
                "image": rlds_files.image(*SIZE, 3),
                "wrist_image": rlds_files.image(*SIZE, 3),
            }
        ),
        "action": rlds_files.tensor("float32", 7),
        "language_instruction": rlds_files.TEXT,
        "is_first": rlds_files.tensor("bool"),
    }
    root = rlds_files.write_folder(
        folder / "tiny_rlds" / "0.1.0", {"train": [payloads[:2], payloads[2:]]}, tree, name="tiny_rlds"
    )
    yaml = """
schema: 1
name: tiny_rlds
source: {format: rlds, glob: tiny_rlds/0.1.0}
robot: franka
fps: 10
state:
  - {to: "right_arm_joint_pos[0:7]", from: "observation/state[0:7]"}
  - {to: "right_gripper_pos[0]", from: "observation/state[7]", ops: [invert01]}
  - {to: right_eef_pos, from: "observation/state[8:11]"}
  - {to: right_eef_rot6d, from: "observation/state[11:15]", ops: [{rot: {in: quat, order: xyzw}}]}
action: {mode: next_state}
cameras: {external: observation/image, right_wrist: observation/wrist_image}
language: {fields: [language_instruction]}
"""
    files = tuple(sorted(root.glob("*.tfrecord-*")))
    slots = (*range(7), 10, *range(30, 39))
    return _dataset(folder, "tiny_rlds", yaml, files, states, slots, ("Pick up the red block.",))


def make_aloha(folder: Path, seed: int = 0) -> SampleDataset:
    rng = np.random.default_rng([seed, 2])
    task = folder / "tiny_aloha" / "stack"
    task.mkdir(parents=True)
    phrases = {"instruction": "Stack the cups.", "simplified_instruction": ["Stack cups."]}
    (task / "expanded_instruction_gpt-4-turbo.json").write_text(json.dumps(phrases), encoding="utf-8")
    files, states = [], []
    for number in range(3):
        steps = 130 + number
        arms = [
            motion(steps, 6, rng) * 0.9 + np.float32([0, 1.5, -1.5, 0, 0, 0]) for _ in range(2)
        ]  # within its limits
        grips = [opening(steps, rng) for _ in range(2)]
        qpos = np.hstack([arms[0], 4.7908 * grips[0][:, None], arms[1], 4.7888 * grips[1][:, None]])
        later = np.append(np.arange(1, steps), steps - 1)
        action = qpos[later] / [*[1] * 6, 4.7908, *[1] * 6, 4.7888] * [*[1] * 6, 11.8997, *[1] * 6, 13.9231]
        path = task / f"episode_{number}.hdf5"
        with h5py.File(path, "w") as file:
            file["observations/qpos"] = qpos.astype(np.float32)
            file["observations/qvel"] = np.gradient(qpos, 1 / 25, axis=0).astype(np.float32)
            file["action"] = action.astype(np.float32)
            for key in ("cam_high", "cam_left_wrist", "cam_right_wrist"):
                encoded = [jpeg(frame[..., ::-1]) for frame in film(steps, rng)]
                longest = max(map(len, encoded))
                padded = np.stack([np.frombuffer(one.ljust(longest, b"\0"), np.uint8) for one in encoded])
                file[f"observations/images/{key}"] = padded
        files.append(path)
        states.append(np.hstack([arms[0], grips[0][:, None], arms[1], grips[1][:, None]]))
    yaml = """
schema: 1
name: tiny_aloha
source: {format: hdf5, glob: "tiny_aloha/**/*.hdf5", colour: bgr}
robot: agilex_cobot_magic
fps: 25
state:
  - {to: "left_arm_joint_pos[0:6]", from: "observations/qpos[0:6]"}
  - {to: "left_gripper_pos[0]", from: "observations/qpos[6:7]", ops: [{range: [0, 4.7908]}]}
  - {to: "right_arm_joint_pos[0:6]", from: "observations/qpos[7:13]"}
  - {to: "right_gripper_pos[0]", from: "observations/qpos[13:14]", ops: [{range: [0, 4.7888]}]}
action:
  mode: recorded
  rules:
    - {to: "left_arm_joint_pos[0:6]", from: "action[0:6]"}
    - {to: "left_gripper_pos[0]", from: "action[6:7]", ops: [{range: [0, 11.8997]}]}
    - {to: "right_arm_joint_pos[0:6]", from: "action[7:13]"}
    - {to: "right_gripper_pos[0]", from: "action[13:14]", ops: [{range: [0, 13.9231]}]}
cameras:
  external: observations/images/cam_high
  right_wrist: observations/images/cam_right_wrist
  left_wrist: observations/images/cam_left_wrist
language: {fields: ["sidecar:instruction", "sidecar:simplified_instruction"], choose: random}
limits: {min_length: 128}
"""
    slots = (*range(50, 56), 60, *range(6), 10)
    texts = ("Stack the cups.", "Stack cups.")
    return _dataset(folder, "tiny_aloha", yaml, tuple(files), states, slots, texts)


def make_lerobot(folder: Path, seed: int = 0) -> SampleDataset:
    """By the letter of spec interop.md section 1, with pyarrow and json alone."""
    rng = np.random.default_rng([seed, 3])
    root, fps = folder / "tiny_lerobot", 20
    (root / "meta").mkdir(parents=True)
    files, states, index = [], [], 0
    for number in range(3):
        steps = 40 + 5 * number
        joints, grip = motion(steps, 6, rng), opening(steps, rng)
        vector = np.hstack([joints, grip[:, None]])
        table = pa.table(
            {
                "observation.state": pa.array(vector.tolist(), pa.list_(pa.float32(), 7)),
                "action": pa.array(np.vstack([vector[1:], vector[-1:]]).tolist(), pa.list_(pa.float32(), 7)),
                "timestamp": pa.array(np.arange(steps, dtype=np.float32) / np.float32(fps)),
                "frame_index": pa.array(range(steps), pa.int64()),
                "episode_index": pa.array([number] * steps, pa.int64()),
                "index": pa.array(range(index, index + steps), pa.int64()),
                "task_index": pa.array([0] * steps, pa.int64()),
            }
        )
        index += steps
        path = root / f"data/chunk-000/episode_{number:06d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path)
        video = root / f"videos/chunk-000/observation.images.top/episode_{number:06d}.mp4"
        write_video(video, film(steps, rng), fps, "libx264", 18, 2)
        files.append(path)
        states.append(vector)
    number = {"dtype": "int64", "shape": [1], "names": None}
    vector_feature = {"dtype": "float32", "shape": [7], "names": {"motors": [*"abcdef", "gripper"]}}
    info = {
        "codebase_version": "v2.1",
        "robot_type": "so100",
        "fps": fps,
        "total_episodes": 3,
        "total_frames": index,
        "total_tasks": 1,
        "total_videos": 3,
        "total_chunks": 1,
        "chunks_size": 1000,
        "splits": {"train": "0:3"},
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
        "features": {
            "observation.state": vector_feature,
            "action": vector_feature,
            "observation.images.top": {
                "dtype": "video",
                "shape": [*SIZE, 3],
                "names": ["height", "width", "channels"],
            },
            "timestamp": {"dtype": "float32", "shape": [1], "names": None},
            **dict.fromkeys(("frame_index", "episode_index", "index", "task_index"), number),
        },
    }
    (root / "meta/info.json").write_text(json.dumps(info))
    (root / "meta/tasks.jsonl").write_text(json.dumps({"task_index": 0, "task": "put the pen into the cup"}) + "\n")
    rows = [{"episode_index": i, "tasks": ["put the pen into the cup"], "length": len(s)} for i, s in enumerate(states)]
    (root / "meta/episodes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    yaml = """
schema: 1
name: tiny_lerobot
source: {format: lerobot, glob: tiny_lerobot}
robot: so100
fps: 20
state:
  - {to: "right_arm_joint_pos[0:6]", from: "observation.state[0:6]"}
  - {to: "right_gripper_pos[0]", from: "observation.state[6]"}
action:
  mode: recorded
  rules:
    - {to: "right_arm_joint_pos[0:6]", from: "action[0:6]"}
    - {to: "right_gripper_pos[0]", from: "action[6]"}
cameras: {external: observation.images.top}
language: {fields: [task]}
"""
    return _dataset(folder, "tiny_lerobot", yaml, tuple(files), states, (*range(6), 10), ("Put the pen into the cup.",))


def _dataset(folder: Path, name: str, yaml: str, files, states, slots, instructions) -> SampleDataset:
    path = folder / f"{name}.yaml"
    path.write_text(yaml.lstrip(), encoding="utf-8")
    return SampleDataset(path, name, files, tuple(states), slots, instructions)


def _quaternion(matrix: np.ndarray) -> np.ndarray:
    """xyzw (steps, 4) of rotations by less than half a turn about every axis."""
    w = np.sqrt(np.maximum(1 + np.trace(matrix, axis1=1, axis2=2), 1e-12)) / 2
    x, y, z = (matrix[:, i, j] - matrix[:, j, i] for i, j in ((2, 1), (0, 2), (1, 0)))
    return np.stack([x / (4 * w), y / (4 * w), z / (4 * w), w], axis=1)
