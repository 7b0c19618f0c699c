"""The XPolicyLab websocket: what RoboTwin's evaluator and RoboDojo speak (spec interop.md section 9.3).

Frames are msgpack maps with an envelope; an answer repeats the envelope's ids, so several requests may be on their
way at once. An error is a message of its own and the connection stays. The evaluator sends one observation a chunk:
the frame before it was taken many control steps ago, so earlier frames are always masked here, and nothing has to be
remembered of an environment. In the legacy plug-in (`robotwin.py`) every step is seen.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import numpy as np

from data_pipeline.frames import decode_jpeg, jpeg_size
from data_pipeline.schema.types import Observation
from deploy.serve.arms import join, split
from deploy.serve.contract import Contract
from deploy.serve.observations import MAX_SIDE, Frames, assemble, picture, vector
from deploy.serve.openpi import Policy, native_actions
from deploy.serve.server import Inference, Listening, listen, peer
from deploy.serve.wire import REFUSED_KINDS, WireError, array_of, as_map, describe, pack_with, unpack_with

if TYPE_CHECKING:
    from websockets.asyncio.server import ServerConnection

CAMERAS = {"external": "cam_head", "right_wrist": "cam_right_wrist", "left_wrist": "cam_left_wrist"}
"""Camera role -> its name in the benchmark."""

REPEATED = ("message_id", "evaluation_id", "action_case_id", "trial_id", "repeat_index", "step")
"""Fields of a request's envelope that its answer repeats."""

ACKNOWLEDGED: Mapping[str, tuple[str, dict[str, Any]]] = {
    "hello": ("hello_ack", {"server": "rdt serve"}),
    "prepare_case": ("prepare_case_ack", {}),
    "reset": ("reset_result", {}),
    "trial_end": ("trial_end_ack", {}),
    "heartbeat": ("heartbeat_ack", {}),
}
"""Requests that are answered at once: the answer's type, and what it says beside `ok`."""

MAX_IN_FLIGHT = 4
"""Requests of one connection that are worked on; a client with more is made to wait. Each may hold `MAX_BYTES`."""


class RequestError(Exception):
    """A request that is answered with an error of this code."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class XPolicyLabService:
    """Answers every connection from one policy of joint positions."""

    def __init__(self, policy: Policy, contract: Contract, prompt: str | None = None) -> None:
        """`prompt` is the instruction where neither an observation nor its case brings one."""
        if contract.robot.control != "joint":
            raise ValueError(
                f"xpolicylab is served joint positions, and robot {contract.robot.name!r} is controlled by "
                f"{contract.robot.control!r}: serve it with --protocol openpi"
            )
        self._policy = policy
        self._contract = contract
        self._prompt = prompt
        self._inference = Inference()

    async def listen(self, where: Listening, stop: asyncio.Event, ready: Callable[[str], None]) -> None:
        """Serve until `stop` is set; `ready` is told the address."""
        await listen(self.converse, where, stop, ready)

    async def converse(self, connection: ServerConnection) -> None:
        """Answer until the client says `close` or goes."""
        from websockets.exceptions import ConnectionClosed

        session = _Session(self, connection)
        running: set[asyncio.Task] = set()
        try:
            async for frame in connection:
                if isinstance(frame, str):
                    continue  # the protocol is binary; text is nobody's
                try:
                    message = unpack_message(frame)
                except WireError as error:
                    print(f"rdt serve: {peer(connection)}: {error}", file=sys.stderr)
                    continue
                if len(running) >= MAX_IN_FLIGHT:
                    _, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                running.add(asyncio.create_task(session.answer(message, time.monotonic())))
                running = {task for task in running if not task.done()}
        except ConnectionClosed:
            pass
        finally:
            await asyncio.gather(*running)

    async def infer(self, observation: Any, prompt: Any, arrived_s: float) -> tuple[list[dict[str, np.ndarray]], float]:
        """Actions, one map a step, and the milliseconds that the policy took."""
        return await self._inference.run(self._infer, observation, prompt, arrived_s)

    def _infer(self, message: Any, prompt: Any, arrived_s: float) -> tuple[list[dict[str, np.ndarray]], float]:
        observation = read_observation(self._contract, message, prompt or self._prompt, arrived_s)
        started_s = time.monotonic()
        chunk = self._policy.predict(observation)
        latency_ms = (time.monotonic() - started_s) * 1e3
        return action_maps(self._contract, native_actions(self._contract, chunk)), latency_ms


class _Session:
    """One connection and the instruction of its current case."""

    def __init__(self, service: XPolicyLabService, connection: ServerConnection) -> None:
        self._service = service
        self._connection = connection
        self._instruction: Any = None

    async def answer(self, message: Any, arrived_s: float) -> None:
        """Handle one request and send what it is answered with."""
        from websockets.exceptions import ConnectionClosed

        request = message if isinstance(message, dict) else {}
        kind = request.get("message_type")
        try:
            if kind == "close":
                await self._connection.close()
                return
            try:
                answer, payload = await self._handle(message, kind, arrived_s)
            except RequestError as error:
                answer, payload = "error", {"code": error.code, "message": str(error), "details": {}}
            except Exception as error:  # any failure is an answer: the connection stays
                print(f"rdt serve: {peer(self._connection)}: {kind}: {error!r}", file=sys.stderr)
                answer, payload = "error", {"code": "internal", "message": repr(error), "details": {}}
            envelope = {key: request[key] for key in REPEATED if key in request}
            sent_at = datetime.now(timezone.utc).isoformat()
            await self._connection.send(
                pack_message({"message_type": answer, **envelope, "sent_at": sent_at, "payload": payload})
            )
        except ConnectionClosed:
            pass

    async def _handle(self, message: Any, kind: Any, arrived_s: float) -> tuple[str, dict[str, Any]]:
        try:
            payload = as_map(as_map(message).get("payload") or {})
        except WireError as error:
            raise RequestError("invalid_frame", str(error)) from None
        if not isinstance(kind, str):
            raise RequestError("invalid_frame", f"message_type must be text, got {describe(kind)}")
        if kind == "infer":
            return await self._infer(payload, arrived_s)
        if kind not in ACKNOWLEDGED:
            known = ", ".join([*ACKNOWLEDGED, "infer", "close"])
            raise RequestError("unknown_message_type", f"unknown message_type {kind!r:.50}: there are {known}")
        if kind in ("prepare_case", "reset"):
            self._begin(payload)
        answer, more = ACKNOWLEDGED[kind]
        return answer, {"ok": True, **more}

    async def _infer(self, payload: dict[str, Any], arrived_s: float) -> tuple[str, dict[str, Any]]:
        try:
            actions, latency_ms = await self._service.infer(payload.get("observation"), self._instruction, arrived_s)
        except Exception as error:
            raise RequestError("infer_failed", str(error) or repr(error)) from error
        return "infer_result", {"actions": actions, "latency_ms": latency_ms}

    def _begin(self, payload: dict[str, Any]) -> None:
        wanted = payload.get("action_type") or "joint"
        if wanted != "joint":
            raise RequestError("reset_failed", f"this policy answers action_type 'joint', not {wanted!r:.50}")
        self._instruction = payload.get("instruction")


def read_observation(contract: Contract, message: Any, prompt: Any, arrived_s: float) -> Observation:
    """The benchmark's observation (section 9.2): `vision.CAM.color`, `state.SIDE_arm_joint_state`, `instruction`.

    A robot of one arm has no `left_` or `right_` in its keys. `prompt` is used where `instruction` is missing or
    empty. Raises `WireError` by key.
    """
    observation = as_map(message)
    state, vision = as_map(observation.get("state")), as_map(observation.get("vision"))
    robot = contract.robot

    def joints(side: str, count: int) -> np.ndarray:
        names = (_key(robot.arms, side, "arm_joint_state"), _key(robot.arms, side, "joint_state"))
        name = next((name for name in names if name in state), names[0])
        return vector(f"state.{name}", state.get(name), count)

    def gripper(side: str) -> np.ndarray:
        name = _key(robot.arms, side, "ee_joint_state")
        return vector(f"state.{name}", state.get(name), 1)

    return assemble(
        contract,
        join(robot, joints, gripper),
        [_pictures(contract, vision)],
        observation.get("instruction") or prompt,
        arrived_s,
    )


def action_maps(contract: Contract, actions: np.ndarray) -> list[dict[str, np.ndarray]]:
    """Native actions (horizon, num_native) -> one map a step: `SIDE_arm_joint_state`, `SIDE_ee_joint_state`."""
    robot = contract.robot
    columns = {}
    for side, values in split(robot, actions.astype(np.float32)).items():
        columns[_key(robot.arms, side, "arm_joint_state")] = values.joints
        if values.gripper is not None:
            columns[_key(robot.arms, side, "ee_joint_state")] = values.gripper
    return [{name: column[step] for name, column in columns.items()} for step in range(len(actions))]


def pack_message(message: Any) -> bytes:
    """msgpack with this protocol's arrays: `b"nd"`, `b"type"`, `b"kind"`, `b"shape"`, `b"data"`."""
    return pack_with(_encode, message)


def unpack_message(data: bytes) -> Any:
    """The inverse. Raises `WireError` for what is no message."""
    return unpack_with(_decode, data)


def _encode(value: Any) -> dict[bytes, Any]:
    if not isinstance(value, (np.ndarray, np.generic)) or value.dtype.kind in REFUSED_KINDS:
        raise WireError(f"a {describe(value)} cannot travel: use plain types and numpy arrays of numbers")
    if isinstance(value, np.generic):
        return {b"nd": False, b"type": value.dtype.str, b"data": value.tobytes()}
    return {
        b"nd": True,
        b"type": value.dtype.str,
        b"kind": b"",
        b"shape": value.shape,
        b"data": value.tobytes(),
    }


def _decode(value: dict[Any, Any]) -> Any:
    if b"nd" not in value:
        return value
    if value[b"nd"]:
        return array_of(value.get(b"type"), value.get(b"shape"), value.get(b"data"))
    return array_of(value.get(b"type"), (), value.get(b"data"))[()]


def _key(arms: Mapping[str, Any], side: str, name: str) -> str:
    return f"{side}_{name}" if len(arms) > 1 else name


def _pictures(contract: Contract, vision: Mapping[str, Any]) -> Frames:
    there = {role: as_map(vision[CAMERAS[role]]) for role in contract.cameras if CAMERAS[role] in vision}
    return {role: _colour(f"vision.{CAMERAS[role]}.color", camera.get("color")) for role, camera in there.items()}


def _colour(where: str, value: Any) -> np.ndarray:
    """RGB, from an array, or from a JPEG whose channels the recorder has swapped (section 7)."""
    if not isinstance(value, bytes):
        return picture(where, value)
    try:
        if max(jpeg_size(value)) > MAX_SIDE:
            raise ValueError(f"sides up to {MAX_SIDE} are taken")
        return decode_jpeg(value, "bgr")
    except ValueError as error:
        raise WireError(f"{where}: {error}") from None
