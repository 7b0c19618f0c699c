"""A robot's observation as it travels -> `Observation`, with what the connection has seen before.

Three forms are read (spec interop.md section 8.4), told apart by their keys:

    ALOHA, and this stack's own client     state, images {cam_high, cam_right_wrist, cam_left_wrist}
    DROID        observation/{joint_position, gripper_position, exterior_image_1_left, wrist_image_left}
    LIBERO       observation/{state, image, wrist_image}

States are raw, in the robot's native order and units. Pictures are RGB uint8 of any size, (3, height, width) or
(height, width, 3). Unknown keys are ignored; a missing optional camera is masked, a missing required one refused.

The network may look at earlier frames too. A request may bring them in `history`; else the k-th observation before
this one on the same connection counts as t-k if it is k - 0.5 to k + 0.5 control periods old, and is masked if not.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.types import CAMERA_KEYS, Observation
from deploy.serve.contract import Contract
from deploy.serve.wire import WireError, describe

MAX_SIDE = 4096
"""Largest width or height of a picture, in pixels."""

MAX_PROMPT = 2000
"""Most characters of an instruction."""

MAX_NUMBER = 1e9
"""Largest size of a number in a state, whatever its unit."""


class Form(NamedTuple):
    """Where one kind of client puts its state and its pictures."""

    state: tuple[str, ...]  # keys whose vectors, one after the other, are the native vector
    images: Mapping[str, str]  # role -> key
    nested: bool = False  # the pictures stand in a map `images`


FORMS = {
    "aloha": Form(("state",), CAMERA_KEYS, nested=True),
    "droid": Form(
        ("observation/joint_position", "observation/gripper_position"),
        {"external": "observation/exterior_image_1_left", "right_wrist": "observation/wrist_image_left"},
    ),
    "libero": Form(("observation/state",), {"external": "observation/image", "right_wrist": "observation/wrist_image"}),
}

Frames = Mapping[str, np.ndarray]
"""Pictures of one moment: role -> uint8 (height, width, 3)."""


class ObservationReader:
    """Observations of one connection, one after the other."""

    def __init__(self, contract: Contract, prompt: str | None = None) -> None:
        """`prompt` is the instruction where a request brings none; without either a request is refused."""
        self._contract = contract
        self._prompt = prompt
        self._seen: deque[tuple[float, Frames]] = deque(maxlen=contract.history - 1)  # newest last, with its time

    def read(self, message: Mapping[str, Any], arrived_s: float) -> Observation:
        """One request. `arrived_s` is its time on a monotonic clock, used where it brings no `t_obs`.

        Raises `WireError` that says which key is wrong, what it should hold and what it held.
        """
        reset = message.get("reset", False)
        if not isinstance(reset, (bool, np.bool_)):
            raise WireError(f"`reset` must be a truth value, got {describe(reset)}")
        if reset:
            self._seen.clear()
        form = _form_of(message)
        robot = self._contract.robot
        taken_s = _time_of(message, arrived_s)
        newest = _frames(form, message, self._contract.cameras)
        earlier = self._earlier(form, message, taken_s)
        self._seen.append((taken_s, newest))
        prompt = message.get("prompt")
        return assemble(
            self._contract,
            _state(form, message, robot),
            [*earlier, newest],
            self._prompt if prompt is None else prompt,
            taken_s,
        )

    def _earlier(self, form: Form, message: Mapping[str, Any], taken_s: float) -> list[Frames]:
        """The frames before the newest, oldest first, {} where there are none in between."""
        wanted = self._contract.history - 1
        sent = message.get("history")
        if sent is not None:
            if not isinstance(sent, Sequence) or isinstance(sent, (str, bytes)) or len(sent) > wanted:
                raise WireError(
                    f"`history` must be a list of at most {wanted} maps of pictures, oldest first, "
                    f"got {describe(sent)}" + (f" of {len(sent)}" if isinstance(sent, list) else "")
                )
            return [_frames(form, earlier, self._contract.cameras) for earlier in sent]
        ages = [(taken_s - at) * self._contract.robot.rate_hz for at, _ in self._seen]  # in control periods
        before = [
            frames if abs(age - k) <= 0.5 + 1e-6 else {}  # 1e-6: of a period; rounding of seconds is not lateness
            for k, (age, (_, frames)) in enumerate(zip(reversed(ages), reversed(self._seen), strict=True), start=1)
        ]
        return before[::-1]


def assemble(
    contract: Contract, native: np.ndarray, moments: Sequence[Frames], prompt: Any, taken_s: float
) -> Observation:
    """An observation of checked parts: `native` (num_native,), pictures oldest first, what to do, the time in s.

    Before the first moment given there is nothing: those frames are masked, and so is an earlier picture of another
    size than the newest, as in `ObservationBuffer`. Raises `WireError` for a missing required camera or instruction.
    """
    robot = contract.robot
    state, mask = robot.to_unified(native, "state")
    images, masks = _stack(contract, [*({} for _ in range(contract.history - len(moments))), *moments])
    return Observation(
        state=state,
        state_mask=mask,
        images=images,
        image_masks=masks,
        instruction=instruction(prompt),
        control_hz=robot.rate_hz,
        stamp_ns=round(taken_s * 1e9),
    )


def instruction(prompt: Any) -> str:
    """What the robot is told to do. Raises `WireError` where nothing says it."""
    if prompt is None:
        raise WireError("no instruction: send `prompt`, or start the server with --prompt TEXT")
    if not isinstance(prompt, str) or len(prompt) > MAX_PROMPT:
        raise WireError(f"an instruction must be text of at most {MAX_PROMPT} characters, got {prompt!r:.60}")
    return str(prompt)


def picture(where: str, value: Any) -> np.ndarray:
    """RGB uint8 (height, width, 3), whichever axis the channels stood on. Raises `WireError`."""
    fits = isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.ndim == 3
    if fits and value.shape[-1] != 3 and value.shape[0] == 3:
        value = value.transpose(1, 2, 0)
    if not fits or value.shape[-1] != 3 or not all(1 <= side <= MAX_SIDE for side in value.shape[:2]):
        raise WireError(
            f"{where} must be uint8 (height, width, 3) or (3, height, width) with sides up to {MAX_SIDE}, "
            f"got {describe(value)}"
        )
    return value


def vector(where: str, value: Any, length: int | None = None) -> np.ndarray:
    """Finite numbers (length,), at most `MAX_NUMBER`, as float64; None leaves the length free. Raises `WireError`."""
    fits = isinstance(value, np.ndarray) and value.dtype.kind in "iuf" and value.ndim == 1
    if not fits or (length is not None and len(value) != length):
        wanted = "(any,)" if length is None else f"({length},)"
        raise WireError(f"{where} must be numbers of shape {wanted}, got {describe(value)}")
    numbers = value.astype(np.float64)
    wrong = ~(np.abs(numbers) <= MAX_NUMBER)
    if wrong.any():
        raise WireError(f"{where} is not finite, or beyond {MAX_NUMBER:g}, at {np.flatnonzero(wrong).tolist()}")
    return numbers


def _form_of(message: Mapping[str, Any]) -> Form:
    for form in FORMS.values():
        if form.state[0] in message:
            return form
    states = ", ".join(form.state[0] for form in FORMS.values())
    raise WireError(f"an observation has one of {states}, got {describe(message)}")


def _time_of(message: Mapping[str, Any], arrived_s: float) -> float:
    taken_s = message.get("t_obs", arrived_s)
    fits = isinstance(taken_s, (int, float, np.number)) and not isinstance(taken_s, bool)
    if not fits or not math.isfinite(taken_s) or abs(taken_s) > 1e9:  # 30 years: in ns it fits 64 bits
        raise WireError(f"`t_obs` must be seconds of the client's monotonic clock, got {taken_s!r:.50}")
    return float(taken_s)


def _state(form: Form, message: Mapping[str, Any], robot: Embodiment) -> np.ndarray:
    state = np.concatenate([vector(f"`{key}`", message.get(key)) for key in form.state])
    if len(state) != robot.num_native:
        raise WireError(
            f"{' and '.join(form.state)} must be {robot.num_native} numbers for robot {robot.name!r}, got "
            f"{len(state)}: the order is {list(robot.native_names)}"
        )
    return state


def _frames(form: Form, message: Any, roles: Sequence[str]) -> Frames:
    """Pictures by role, of the roles that the policy looks at."""
    if not isinstance(message, Mapping):
        raise WireError(f"an entry of `history` must be a map of pictures, got {describe(message)}")
    images = message.get("images", {}) if form.nested else message
    if not isinstance(images, Mapping):
        raise WireError(f"`images` must be a map of pictures, got {describe(images)}")
    keys = {role: form.images[role] for role in roles if role in form.images}
    return {role: picture(f"picture `{key}`", images[key]) for role, key in keys.items() if key in images}


def _stack(contract: Contract, moments: Sequence[Frames]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Images (frames, height, width, 3) and masks (frames,) of each role, oldest first."""
    newest = moments[-1]
    images, masks = {}, {}
    for role in contract.cameras:
        there = [frames[role] for frames in moments if role in frames]
        if role not in newest and contract.robot.cameras[role].required:
            raise WireError(
                f"camera {CAMERA_KEYS[role]} ({role}) is required by robot {contract.robot.name!r} and did not "
                f"come; pictures came of {sorted(newest) or 'none'}"
            )
        shape = there[-1].shape if there else (1, 1, 3)
        images[role] = np.zeros((len(moments), *shape), dtype=np.uint8)
        masks[role] = np.zeros(len(moments), dtype=bool)
        for place, frames in enumerate(moments):
            if role in frames and frames[role].shape == shape:
                images[role][place], masks[role][place] = frames[role], True
    return images, masks
