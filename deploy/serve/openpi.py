"""The openpi policy protocol on one connection (spec interop.md section 8).

    server   metadata                               the contract, at once
    client   observation          server   result   alternating, for ever
    any error                     server   text with the traceback, then close with code 1011

A bad observation ends its connection, never the server.
"""

from __future__ import annotations

import asyncio
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from data_pipeline.schema.types import ActionChunk, Observation
from deploy.serve.contract import Contract
from deploy.serve.observations import ObservationReader
from deploy.serve.server import Inference, Listening, listen, peer
from deploy.serve.wire import WireError, as_map, pack, unpack

if TYPE_CHECKING:
    from websockets.asyncio.server import ServerConnection

INTERNAL_ERROR = 1011
MAX_REASON = 120
"""Bytes of a close reason; a websocket holds 123."""


class Policy(Protocol):
    """What answers: `InferenceEngine`, here or anywhere."""

    def predict(self, observation: Observation) -> ActionChunk: ...


class OpenpiService:
    """Answers every connection from one policy."""

    def __init__(self, policy: Policy, contract: Contract, prompt: str | None = None) -> None:
        """`prompt` is the instruction where a request brings none."""
        self._policy = policy
        self._contract = contract
        self._prompt = prompt
        self._metadata = pack(contract.metadata())
        self._inference = Inference()

    async def listen(self, where: Listening, stop: asyncio.Event, ready: Callable[[str], None]) -> None:
        """Serve until `stop` is set; `ready` is told the address."""
        await listen(self.converse, where, stop, ready)

    async def converse(self, connection: ServerConnection) -> None:
        """Speak until the client goes or something is wrong."""
        from websockets.exceptions import ConnectionClosed

        reader = ObservationReader(self._contract, self._prompt)
        timing: dict[str, float] = {}
        try:
            await connection.send(self._metadata)
            async for frame in connection:
                started_s = time.monotonic()
                result = await self._inference.run(self._answer, reader, frame, started_s, timing)
                await connection.send(result)
                timing["prev_total_ms"] = (time.monotonic() - started_s) * 1e3
        except ConnectionClosed:
            return
        except Exception as error:
            print(f"rdt serve: {peer(connection)}: {error or type(error).__name__}", file=sys.stderr)
            await _close(connection, error)

    def _answer(
        self, reader: ObservationReader, frame: bytes | str, arrived_s: float, timing: Mapping[str, float]
    ) -> bytes:
        """One result (section 8.5): `actions` (horizon, num_native) in the robot's units; runs in the worker."""
        if isinstance(frame, str):
            raise WireError(f"an observation is a binary frame of msgpack, got text of {len(frame)} characters")
        message = as_map(unpack(frame))
        observation = reader.read(message, arrived_s)
        asked_s = time.monotonic()
        chunk = self._policy.predict(observation)
        infer_ms = (time.monotonic() - asked_s) * 1e3
        result: dict[str, Any] = {
            "actions": native_actions(self._contract, chunk),
            "policy_timing": {"infer_ms": infer_ms},
            "server_timing": {"infer_ms": infer_ms, **timing},
        }
        if "t_obs" in message:
            result["t_obs"] = message["t_obs"]
        return pack(result)


def native_actions(contract: Contract, chunk: ActionChunk) -> np.ndarray:
    """float64 (horizon, num_native), in the robot's order and units."""
    return contract.robot.from_unified(chunk.actions, "action")


async def _close(connection: ServerConnection, error: Exception) -> None:
    from websockets.exceptions import ConnectionClosed

    reason = f"{type(error).__name__}: {error}".encode()[:MAX_REASON].decode(errors="ignore")
    try:
        await connection.send("".join(traceback.format_exception(error)))
        await connection.close(INTERNAL_ERROR, reason)
    except ConnectionClosed:
        pass
