"""A policy on another computer, used as if it were here: the robot's side needs no GPU and no torch.

    with RemotePolicy("ws://gpu:8000", robot) as policy:
        chunk = policy.predict(observation)

Observations go out and chunks come back in the robot's own order and units (spec interop.md section 8). Stamps never
leave the client's clock: a chunk is stamped from the observation that it answers, however long the answer took, so
that the delay enters the splice as that of a slow engine would.

A lost link is an exception, never an old chunk. Nothing is retried behind the caller's back: each `predict` makes at
most one attempt to connect, where there is no connection, and checks the contract again when it does. Call it from the
process or thread that would run the engine, never from the tick; there, an exception is `ControlLoop.deliver(None)`,
and the loop brakes to a hold when its plan ends or `max_rejected` answers in a row have failed.
"""

from __future__ import annotations

import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np

from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.types import CAMERA_KEYS, ActionChunk, Observation
from deploy.doctor import require
from deploy.serve.contract import Contract
from deploy.serve.wire import MAX_BYTES, WireError, as_map, describe, pack, unpack

if TYPE_CHECKING:
    from websockets.sync.client import ClientConnection

CLOSE_TIMEOUT_S = 0.2
"""How long a connection is given to say goodbye: a lost link does not answer."""


class LinkLostError(ConnectionError):
    """There is no answer: no server, a refused key, a closed connection, or a time-out."""


class ServerError(RuntimeError):
    """The server refused the observation or failed; the message holds its traceback."""


class RemotePolicy:
    """The same face as `InferenceEngine` where a robot needs it: `predict`, `robot`, `horizon`, `cameras`,
    `image_history`."""

    def __init__(
        self,
        address: str,
        robot: Embodiment,
        *,
        api_key: str | None = None,
        connect_timeout_s: float = 5.0,
        answer_timeout_s: float = 1.0,
    ) -> None:
        """Connect to `ws://HOST:PORT` and compare the robot with the policy's.

        `answer_timeout_s` bounds the wait for one answer, and on Linux the sending that stalls; `connect_timeout_s`
        the connection, and then the contract. Raises `LinkLostError` without a server, `ContractMismatchError` for
        another robot's policy.
        """
        require("a remote policy", {"websockets": "websockets", "msgpack": "msgpack"}, extra="serve")
        if not address.startswith(("ws://", "wss://")):
            raise ValueError(f"a policy server's address is ws://HOST:PORT or wss://HOST:PORT, got {address!r}")
        self.address = address
        self.robot = robot
        self._headers = {"Authorization": f"Api-Key {api_key}"} if api_key else None
        self._connect_timeout_s = connect_timeout_s
        self._answer_timeout_s = answer_timeout_s
        self._connection: ClientConnection | None = None
        self._open = ExitStack()  # ends the connection
        self.contract = self._connect()

    @property
    def horizon(self) -> int:
        """Actions in one chunk."""
        return self.contract.horizon

    @property
    def cameras(self) -> tuple[str, ...]:
        """Camera roles that the policy looks at and this robot has."""
        return tuple(role for role in self.contract.cameras if role in self.robot.cameras)

    @property
    def image_history(self) -> int:
        """Frames per camera that the policy looks at."""
        return self.contract.history

    def predict(self, observation: Observation) -> ActionChunk:
        """One observation -> one chunk, stamped on the observation's clock.

        Raises `ValueError` for an observation that is not this robot's, `LinkLostError`, `ServerError`, and `WireError`
        for an answer that is no chunk; after each of the last three the connection is closed.
        """
        request = self._request(observation)
        if self._connection is None:
            self.contract = self._connect()
        try:
            result = as_map(self._exchange(request))
            chunk = self._chunk(observation, result)
        except BaseException:
            self.close()  # the answer to this request may still come: the next one must not read it
            raise
        return chunk

    def close(self) -> None:
        """End the connection; the next `predict` opens another."""
        self._connection = None
        self._open.close()

    def __enter__(self) -> RemotePolicy:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _connect(self) -> Contract:
        from websockets.exceptions import InvalidStatus, WebSocketException
        from websockets.sync.client import connect

        try:
            self._connection = self._open.enter_context(
                connect(
                    self.address,
                    compression=None,
                    max_size=MAX_BYTES,
                    additional_headers=self._headers,
                    open_timeout=self._connect_timeout_s,
                    close_timeout=CLOSE_TIMEOUT_S,
                    proxy=None,
                )
            )
        except InvalidStatus as error:
            body = (error.response.body or b"").decode(errors="replace").strip()
            said = f"{error.response.status_code} {body[:200]}"
            raise LinkLostError(f"{self.address} let nobody in: {said}") from None
        except (OSError, WebSocketException) as error:
            reason = error or type(error).__name__
            raise LinkLostError(f"no policy server at {self.address} ({reason}): start `rdt serve` there") from None
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux: sending, too, gives up on a link that takes nothing
            limit_ms = round(self._answer_timeout_s * 1e3)
            self._connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, limit_ms)
        try:
            contract = Contract.from_metadata(unpack(self._receive(self._connect_timeout_s)))
            contract.check(self.robot)
        except BaseException:
            self.close()
            raise
        return contract

    def _exchange(self, request: dict[str, Any]) -> Any:
        from websockets.exceptions import ConnectionClosed

        assert self._connection is not None
        try:
            self._connection.send(pack(request))
        except ConnectionClosed as error:
            raise LinkLostError(f"{self.address} has closed the connection: {error}") from None
        return unpack(self._receive(self._answer_timeout_s))

    def _receive(self, timeout_s: float) -> bytes:
        from websockets.exceptions import ConnectionClosed

        assert self._connection is not None
        try:
            frame = self._connection.recv(timeout=timeout_s)
        except TimeoutError:
            raise LinkLostError(f"{self.address} has not answered for {timeout_s:g} s") from None
        except ConnectionClosed as error:
            raise LinkLostError(f"{self.address} has closed the connection: {error}") from None
        if isinstance(frame, str):
            raise ServerError(f"{self.address} failed:\n{frame.rstrip()}")
        return frame

    def _request(self, observation: Observation) -> dict[str, Any]:
        """The observation in the ALOHA form, with the earlier frames that it has (sections 8.4 and 8.6)."""
        robot = self.robot
        if not np.array_equal(observation.state_mask, robot.mask) or observation.control_hz != robot.rate_hz:
            raise ValueError(
                f"the server answers whole states of robot {robot.name!r} at {robot.rate_hz:g} Hz, got "
                f"{int(observation.state_mask.sum())} of {robot.num_native} slots at {observation.control_hz:g} Hz"
            )
        moments = [
            {
                "images": {
                    CAMERA_KEYS[role]: frames[place]
                    for role, frames in observation.images.items()
                    if observation.image_masks[role][place]
                }
            }
            for place in range(max((len(frames) for frames in observation.images.values()), default=1))
        ]
        return {
            **moments[-1],
            "state": robot.from_unified(observation.state, "state"),
            "prompt": observation.instruction,
            "history": moments[:-1],
            "t_obs": observation.stamp_ns * 1e-9,
        }

    def _chunk(self, observation: Observation, result: dict[str, Any]) -> ActionChunk:
        actions = result.get("actions")
        shape = (self.contract.horizon, self.robot.num_native)
        if not (
            isinstance(actions, np.ndarray)
            and actions.dtype.kind == "f"
            and actions.shape == shape
            and np.isfinite(actions).all()
        ):
            raise WireError(f"{self.address} must answer finite `actions` of shape {shape}, got {describe(actions)}")
        if result.get("t_obs") != observation.stamp_ns * 1e-9:
            raise WireError(f"{self.address} answered another observation: t_obs {result.get('t_obs')!r:.50}")
        unified, _ = self.robot.to_unified(actions, "action")
        return ActionChunk.answering(observation, unified, self.robot.action_offset_steps)
