"""The page of `rdt data view`: cameras side by side as a player, slots over time, what is known of the episode.

Everything is inside the file. Pictures are reduced, and thinned where they would make the page too large; the page
says so. Its player is in `templates/view.js`.
"""

from __future__ import annotations

import base64
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from PIL import Image

from data_pipeline.frames import encode_jpeg
from data_pipeline.schema.layout import SLOT_BLOCKS, SLOT_NAMES, SLOT_UNITS
from data_pipeline.schema.types import ACTORS, Episode, Frames
from data_pipeline.storage import EpisodeStore
from deploy.doctor import require
from deploy.pages import render

PAGE_BYTES = 20e6  # of all pictures, after base64
LONG_SIDE = 320  # pixels of a picture in the page
QUALITY = 80
MOST_POINTS = 4000  # of a curve; longer ones are thinned

GROUPS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Left arm, joints", ("left_arm_joint_pos",)),
    ("Right arm, joints", ("right_arm_joint_pos",)),
    ("Grippers", ("left_gripper_pos", "right_gripper_pos")),
    ("Left end effector, position", ("left_eef_pos",)),
    ("Right end effector, position", ("right_eef_pos",)),
    ("Left end effector, rotation", ("left_eef_rot6d",)),
    ("Right end effector, rotation", ("right_eef_rot6d",)),
    ("Left arm, joint velocities", ("left_arm_joint_vel",)),
    ("Right arm, joint velocities", ("right_arm_joint_vel",)),
    ("Gripper velocities", ("left_gripper_vel", "right_gripper_vel")),
    ("End effector velocities", ("left_eef_vel", "right_eef_vel")),
    ("End effector turning rates", ("left_eef_angvel", "right_eef_angvel")),
    ("Base", ("base_vel",)),
    ("Base, turning rate", ("base_angvel",)),
)
"""Title -> blocks of slots that share a plot."""

_UNITS = {"opening in [0, 1]": "opening", "6-D rotation": ""}


def check_installed() -> None:
    """Raise `ModuleNotFoundError` that names what the page lacks."""
    require("`rdt data view`", {"jinja2": "jinja2"})


def build(store: EpisodeStore, index: int, path: str) -> str:
    """The page of one episode; `path` is what the user called the store."""
    episode, entry = store[index], store.entries[index]
    cameras, told = _cameras(episode)
    stride = -(-episode.num_steps // MOST_POINTS)
    if stride > 1:
        told.append(f"Curves show one step in {stride}.")
    data = {
        "steps": episode.num_steps,
        "rate_hz": episode.rate_hz,
        "stride": stride,
        "groups": list(_groups(episode, stride)),
        "cameras": cameras,
        "instructions": list(episode.instructions),
        "instruction_of_step": None if episode.instruction_of_step is None else episode.instruction_of_step.tolist(),
        "invalid": _runs(None if episode.action_valid is None else ~episode.action_valid),
    }
    neighbours = [(word, i) for word, i in (("previous", index - 1), ("next", index + 1)) if 0 <= i < len(store)]
    commands = [
        (word, store.names[i], shlex.join(["rdt", "data", "view", path, "--episode", str(i)])) for word, i in neighbours
    ]
    return render(
        "view.html.j2",
        name=episode.name,
        subtitle=f"episode {index} of {len(store)} in {path}",
        facts=_facts(episode, store.robot_type, entry.source),
        instructions=_phrasings(episode),
        neighbours=commands,
        notes=told,
        data=data,
    )


def _facts(episode: Episode, robot: str | None, source: Mapping[str, Any]) -> list[tuple[str, str]]:
    seconds = episode.num_steps / episode.rate_hz
    facts = [
        ("length", f"{episode.num_steps} steps at {episode.rate_hz:g} Hz, {seconds:.1f} s"),
        ("robot", robot or "unknown"),
        ("action", f"of step t is meant for step t + {episode.action_offset_steps}"),
        ("slots", _masks(episode)),
    ]
    if episode.action_valid is not None and not episode.action_valid.all():
        facts.append(("actions of their own", f"{int(episode.action_valid.sum())} of {episode.num_steps} steps"))
    if episode.actor_of_step is not None:
        steps = np.bincount(episode.actor_of_step, minlength=len(ACTORS))
        facts.append(
            ("who acted", ", ".join(f"{name} {count}" for name, count in zip(ACTORS, steps, strict=True)) + " steps")
        )
    for role, mask in episode.image_masks.items():
        if not mask.all():
            facts.append((f"camera {role}", f"missing at {int((~mask).sum())} of {len(mask)} steps"))
    facts += [(f"source, {key}", str(value)) for key, value in source.items()]
    return facts


def _masks(episode: Episode) -> str:
    state, action = episode.state_mask, episode.action_mask
    told = f"{int(state.sum())} in the state, {int(action.sum())} in the action"
    for word, slots in (("state", state & ~action), ("action", action & ~state)):
        if slots.any():
            names = [SLOT_NAMES[slot] for slot in np.flatnonzero(slots)]
            told += f"; only in the {word}: {', '.join(names[:6])}" + (" ..." if len(names) > 6 else "")
    return told


def _phrasings(episode: Episode) -> list[tuple[str, str]]:
    """(text, chance)."""
    weights = episode.instruction_weights
    return [
        (text, f"{weights[i]:.0%}" if weights and len(weights) > 1 else "")
        for i, text in enumerate(episode.instructions)
    ]


def _groups(episode: Episode, stride: int) -> Iterator[dict[str, Any]]:
    """Plots that have something to show: their curves of state and action."""
    for title, blocks in GROUPS:
        slots = [slot for block in blocks for slot in SLOT_BLOCKS[block]]
        curves = []
        for slot in slots:
            state = _numbers(episode.states[:, slot], stride) if episode.state_mask[slot] else None
            action = _numbers(episode.actions[:, slot], stride) if episode.action_mask[slot] else None
            if state or action:
                curves.append({"name": _short(SLOT_NAMES[slot], len(blocks) > 1), "state": state, "action": action})
        if curves:
            unit = SLOT_UNITS[slots[0]]
            yield {"title": title, "unit": _UNITS.get(unit, unit), "curves": curves}


def _short(name: str, with_side: bool) -> str:
    """right_arm_joint_0_pos -> joint 0."""
    side, _, rest = name.partition("_") if name.startswith(("left_", "right_")) else ("", "", name)
    words = {"gripper_joint_0_pos": "gripper", "gripper_joint_0_vel": "gripper", "eef_angle": "entry"}
    for long, short in words.items():
        rest = rest.replace(long, short)
    for word in ("arm_", "_pos", "_vel", "eef_"):
        rest = rest.replace(word, "_" if word.startswith("_") else "")
    rest = rest.strip("_").replace("__", "_").replace("_", " ")
    return f"{side} {rest}" if with_side and side else rest


def _numbers(values: np.ndarray, stride: int) -> list[float]:
    return [float(f"{value:.5g}") for value in values[::stride].tolist()]


def _cameras(episode: Episode) -> tuple[list[dict[str, Any]], list[str]]:
    """Each camera as small JPEGs, and what was done to them in words."""
    roles = [role for role in ("left_wrist", "external", "right_wrist") if role in episode.images]
    every = _thinning(episode, roles)
    cameras, told, reduced = [], [], False
    for role in roles:
        frames = episode.images[role]
        height, width = (0, 0)
        encoded: list[str] = []
        for step in range(0, episode.num_steps, every):
            small = _small(frames, step)
            if small is not None:
                content, (full_width, full_height) = small
                reduced |= max(full_width, full_height) > LONG_SIDE
                height, width = full_height, full_width
                encoded.append(base64.b64encode(content).decode("ascii"))
            else:
                encoded.append("")
                told += [f"Camera {role} has pictures that do not decode, first at step {step}."] if height else []
        missing = _runs(~episode.image_masks[role] if role in episode.image_masks else None)
        cameras.append(
            {"role": role, "width": width, "height": height, "every": every, "frames": encoded, "missing": missing}
        )
    if reduced:
        told.append(f"Pictures are reduced to {LONG_SIDE} pixels; the store has them larger.")
    if every > 1:
        told.append(f"To keep this page small, one picture in {every} is shown; numbers are shown at every step.")
    return cameras, list(dict.fromkeys(told))


def _thinning(episode: Episode, roles: list[str]) -> int:
    """Every how many steps a picture fits into the page, by the size of some."""
    total = 0.0
    for role in roles:
        steps = np.linspace(0, episode.num_steps - 1, 5).astype(int).tolist()
        sizes = [len(small[0]) for step in steps if (small := _small(episode.images[role], step))]
        total += float(np.mean(sizes)) * episode.num_steps * 4 / 3 if sizes else 0.0
    return max(1, -(-int(total) // int(PAGE_BYTES)))


def _small(frames: Frames, step: int) -> tuple[bytes, tuple[int, int]] | None:
    """A reduced JPEG and the size before; None for a picture that does not decode."""
    try:
        picture = Image.fromarray(np.asarray(frames[step]))
    except (ValueError, OSError):
        return None
    size = picture.size
    picture.thumbnail((LONG_SIDE, LONG_SIDE))
    return encode_jpeg(np.asarray(picture), QUALITY), size


def _runs(flags: np.ndarray | None) -> list[tuple[int, int]]:
    """Runs [first, last] of true ones."""
    if flags is None or not flags.any():
        return []
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return [(int(first), int(after) - 1) for first, after in edges.reshape(-1, 2)]
