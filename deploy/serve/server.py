"""The policy server: one port, one websocket protocol, one policy.

The event loop moves frames, and for XPolicyLab packs and unpacks them, too, which tells its requests apart; pictures
and the network are the work of one thread beside it, so that keep-alive pings are answered while a chunk is computed,
and several clients take turns. The policy is loaded and warmed up before the port opens, because a
stock client does not wait for it. Listens on loopback unless told otherwise, with a key if one is given.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import signal
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING

from deploy.serve.wire import MAX_BYTES

if TYPE_CHECKING:
    from websockets.asyncio.server import ServerConnection
    from websockets.http11 import Request, Response

HEALTH_PATH = "/healthz"
MAX_WAITING = 4
"""Frames of one connection that are kept before its client is made to wait."""

Converse = Callable[["ServerConnection"], Awaitable[None]]
"""A protocol: what is said on one connection until it closes."""


@dataclass(frozen=True, kw_only=True)
class Listening:
    """Where to listen and whom to let in."""

    host: str = "127.0.0.1"
    port: int = 8000  # 0: any free one
    api_key: str | None = None  # clients send it as `Authorization: Api-Key KEY`; None: everybody is let in
    ping_interval_s: float = 20.0  # a client that leaves a ping unanswered for as long again is gone
    max_bytes: int = MAX_BYTES  # a connection with a larger frame is closed with code 1009


class Inference:
    """The thread in which the network runs, one request after the other."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="inference")

    async def run(self, function: Callable, *arguments: object):
        """What `function(*arguments)` returns; other connections go on meanwhile."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)


async def listen(
    converse: Converse, where: Listening, stop: asyncio.Event, ready: Callable[[str], None] = lambda address: None
) -> None:
    """Serve until `stop` is set, then close every connection with code 1001 and return.

    `ready` is told the address `ws://host:port` once the port is open. Raises `OSError` where it cannot be opened.
    """
    from websockets.asyncio.server import serve

    def process_request(connection: ServerConnection, request: Request) -> Response | None:
        if request.path == HEALTH_PATH:
            return connection.respond(HTTPStatus.OK, "OK\n")
        if where.api_key is not None and not _knows_key(request, where.api_key):
            return connection.respond(
                HTTPStatus.UNAUTHORIZED, "this server wants the header `Authorization: Api-Key KEY` with its own key\n"
            )
        return None

    async with serve(
        converse,
        where.host,
        where.port,
        process_request=process_request,
        origins=[None],  # a web page in a browser of this machine reaches loopback, too; it always says its origin
        compression=None,
        max_size=where.max_bytes,
        max_queue=MAX_WAITING,
        ping_interval=where.ping_interval_s,
        ping_timeout=where.ping_interval_s,
    ) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        host = f"[{where.host}]" if ":" in where.host else where.host
        ready(f"ws://{host}:{port}")
        await stop.wait()


def serve_until_signal(listening: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    """Run `listening(stop)` and set `stop` at SIGINT or SIGTERM. Call it from the main thread."""

    async def run() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        await listening(stop)

    asyncio.run(run())


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server on `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def peer(connection: ServerConnection) -> str:
    """The client's address, for the log."""
    address = connection.remote_address
    return f"{address[0]}:{address[1]}" if isinstance(address, tuple) else str(address)


def _knows_key(request: Request, api_key: str) -> bool:
    given = request.headers.get_all("Authorization")
    wanted = f"Api-Key {api_key}"
    return len(given) == 1 and hmac.compare_digest(given[0].encode(errors="surrogateescape"), wanted.encode())
