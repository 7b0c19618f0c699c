"""RoboTwin's two-environment mode: a model behind a TCP port (spec interop.md section 9.1).

    frame    4 bytes length, big-endian, and that many bytes of UTF-8 JSON
    request  {"cmd": METHOD, "obs": any}      answer  {"res": any} or {"error": text, "traceback": text}
    array    {"__numpy_array__": true, "data": base64, "dtype": str, "shape": [int]}

Only the methods that `robotwin.METHODS` lists can be called. Each connection is an evaluator with episodes of its own.
The protocol carries no key: it belongs on loopback.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import sys
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np

from deploy.serve.contract import Contract
from deploy.serve.openpi import Policy
from deploy.serve.robotwin import RoboTwinModel
from deploy.serve.server import Inference, Listening
from deploy.serve.wire import WireError, array_of, as_map


class RoboTwinService:
    """Gives each connection a model around one policy."""

    def __init__(self, policy: Policy, contract: Contract, prompt: str | None = None) -> None:
        """`prompt` is the instruction where an observation brings none."""
        self._model = lambda: RoboTwinModel(policy, contract, prompt=prompt)
        self._model()  # a robot that the simulator does not have is refused before the port opens
        self._inference = Inference()

    async def listen(self, where: Listening, stop: asyncio.Event, ready: Callable[[str], None]) -> None:
        """Serve until `stop` is set; `ready` is told the address `tcp://host:port`."""
        if where.api_key is not None:
            raise ValueError(
                "robotwin's protocol carries no key: leave out --api-key-file, unset RDT_API_KEY, and stay on 127.0.0.1"
            )
        connections: set[asyncio.Task] = set()

        async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            connections.add(task)
            try:
                await self._converse(reader, writer, where.max_bytes)
            except ConnectionError:
                pass
            finally:
                connections.discard(task)
                writer.close()

        server = await asyncio.start_server(accepted, where.host, where.port)
        ready(f"tcp://{where.host}:{server.sockets[0].getsockname()[1]}")
        await stop.wait()
        server.close()
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, max_bytes: int) -> None:
        model = self._model()
        while True:
            try:
                length = int.from_bytes(await reader.readexactly(4), "big")
                if length > max_bytes:
                    error = f"a frame has {length} bytes, and {max_bytes} is the largest"
                    writer.write(_framed({"error": error, "traceback": ""}))
                    await writer.drain()
                    return
                frame = await reader.readexactly(length)
            except asyncio.IncompleteReadError:
                return
            writer.write(await self._inference.run(_answer, model, frame))
            await writer.drain()


def pack_json(value: Any) -> bytes:
    """UTF-8 JSON with arrays as this protocol writes them. Raises `WireError` for what cannot travel."""
    try:
        return json.dumps(value, default=_encode).encode()
    except WireError:
        raise
    except (TypeError, ValueError) as error:
        raise WireError(f"a message cannot be written as JSON: {error}") from None


def unpack_json(data: bytes) -> Any:
    """The inverse. Raises `WireError` for what is no message."""
    try:
        return json.loads(data, object_hook=_decode)
    except WireError:
        raise
    except (ValueError, RecursionError) as error:
        raise WireError(f"a message of {len(data)} bytes is not JSON: {error}") from None


def _answer(model: RoboTwinModel, frame: bytes) -> bytes:
    """What one request is answered with; any failure is an answer."""
    try:
        request = as_map(unpack_json(frame))
        return _framed({"res": model.call(request.get("cmd"), request.get("obs"))})
    except Exception as error:
        print(f"rdt serve: {error!r}", file=sys.stderr)
        return _framed({"error": str(error) or repr(error), "traceback": traceback.format_exc()})


def _framed(message: dict[str, Any]) -> bytes:
    data = pack_json(message)
    return len(data).to_bytes(4, "big") + data


def _encode(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if not isinstance(value, np.ndarray) or value.dtype.hasobject:
        raise WireError(f"a {type(value).__name__} cannot travel: use plain types and numpy arrays of numbers")
    return {
        "__numpy_array__": True,
        "data": base64.b64encode(value.tobytes()).decode(),
        "dtype": value.dtype.str,
        "shape": value.shape,
    }


def _decode(value: dict[str, Any]) -> Any:
    if "__numpy_array__" not in value:
        return value
    try:
        data = base64.b64decode(value.get("data", ""), validate=True)
    except (TypeError, ValueError, binascii.Error):
        raise WireError("an array's data must be base64") from None
    return array_of(value.get("dtype"), value.get("shape"), data)
