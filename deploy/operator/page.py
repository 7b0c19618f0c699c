"""A page for the person beside the robot: what it sees, does and plans, and the buttons that stop it.

    GET  /                    the page, whole: nothing is fetched from elsewhere
    GET  /state               the numbers of `watch.py`, JSON
    GET  /camera/<role>       the newest picture, JPEG
    POST /estop /start /stop /reset, /instruction with `text`

It listens on loopback alone; from another machine come in through `ssh -L`. Other web pages cannot reach it: requests
under a foreign host name or with a foreign Origin are refused, and orders carry a token of the page. The emergency stop
needs none, so that a page left open from an earlier session still stops the robot, and it needs no JavaScript.

Every connection has a thread of its own, and orders go through the supervisor, which waits for nobody.
"""

from __future__ import annotations

import hmac
import html
import json
import secrets
import socket
import socketserver
import sys
import threading
from collections.abc import Callable
from functools import cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from string import Template
from typing import Any, Protocol
from urllib.parse import parse_qs, urlsplit

from deploy.operator.watch import Watch
from deploy.realtime.records import INSTRUCTION_BYTES
from deploy.serve.server import is_loopback

HOST = "127.0.0.1"
TEMPLATES = Path(__file__).parents[1] / "templates"
MAX_BODY_BYTES = 16_384
MAX_BODIES_DROPPED = 256
PATIENCE_S = 10.0
"""A browser that neither sends nor takes anything for so long is let go."""


class Orders(Protocol):
    """Where the buttons lead: `Supervisor` is one. A `ValueError` is what the robot will not do, and why."""

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def estop(self) -> None: ...

    def reset(self) -> None: ...

    def instruct(self, instruction: str, /) -> None: ...


class OperatorPage:
    """The server of one session. Use it as a context manager."""

    def __init__(self, port: int = 0) -> None:
        """Take a port, 0 for any free one. Raises `ValueError` where it is taken: better before the robot wakes."""
        try:
            self._server = _Server((HOST, port), _Handler)
        except OSError as error:
            raise ValueError(
                f"the operator page cannot have port {port} ({error.strerror}): "
                "choose another with --page PORT, any free one with --page 0, or --no-page"
            ) from None
        self.address = f"http://{HOST}:{self._server.server_address[1]}/"
        self._watch: Watch | None = None
        self._thread: threading.Thread | None = None

    def open(self, watch: Watch, orders: Orders) -> None:
        """Answer browsers from now on; `watch` is closed with the page."""
        self._watch = watch
        self._server.watch, self._server.orders = watch, orders
        self._thread = threading.Thread(target=self._server.serve_forever, name="operator page", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Answer nobody any more, on connections that are open neither. May be called twice."""
        self._server.closed = True
        if self._thread is not None:
            self._server.shutdown()
            self._thread.join()
            self._thread = None
        self._server.server_close()
        if self._watch is not None:
            self._watch.close()
            self._watch = None

    def __enter__(self) -> OperatorPage:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Server(ThreadingHTTPServer):
    watch: Watch
    orders: Orders
    closed = False
    daemon_threads = True
    block_on_close = False  # a browser that hangs does not keep the robot's process
    request_queue_size = 32

    def __init__(self, *arguments: Any) -> None:
        self.token, self.session = secrets.token_urlsafe(16), secrets.token_hex(4)
        super().__init__(*arguments)

    def server_bind(self) -> None:
        """As the base class, but without asking a name server who we are."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = HOST, int(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):  # a browser that went away
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = PATIENCE_S

    def do_GET(self) -> None:
        if not self._is_ours():
            return
        path = urlsplit(self.path).path
        if path == "/":
            self._send_page()
        elif path == "/state":
            self._send_state()
        elif path.startswith("/camera/"):
            self._send_picture(path.removeprefix("/camera/"))
        else:
            self._send(HTTPStatus.NOT_FOUND, "there is / and /state and /camera/ROLE")

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "0")  # no body, no length: `curl -X POST .../estop`
        length = "" if "Transfer-Encoding" in self.headers else length  # a body whose end nobody here looks for
        if not length.isdecimal() or int(length) > MAX_BODY_BYTES:
            self._refuse_body()
            return
        body = self.rfile.read(int(length)).decode("utf-8", errors="replace")
        if not self._is_ours():
            return
        said = {name: values[0] for name, values in parse_qs(body).items()}
        path = urlsplit(self.path).path
        order = self._order(path, said.get("text", "").strip())
        if order is None:
            self._send(HTTPStatus.NOT_FOUND, "the orders are /estop, /start, /stop, /reset and /instruction")
            return
        known = hmac.compare_digest(said.get("token", "").encode(), self.server.token.encode())
        if not known and path != "/estop":
            self._send(HTTPStatus.FORBIDDEN, "the page is of an earlier session: reload it")
            return
        try:
            order()
        except ValueError as error:
            self._send(HTTPStatus.CONFLICT, str(error))
            return
        if "application/json" in self.headers.get("Accept", ""):
            self._send(HTTPStatus.OK, "{}", "application/json")
        else:  # a form without JavaScript: back to the page
            self._send(HTTPStatus.SEE_OTHER, "", Location="/")

    def _refuse_body(self) -> None:
        """Answer, then drop what is still on its way: closing upon unread bytes would take the answer back."""
        self.close_connection = True
        self._send(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a body of at most {MAX_BODY_BYTES} bytes, with its length")
        self.connection.shutdown(socket.SHUT_WR)
        for _ in range(MAX_BODIES_DROPPED):
            if not self.rfile.read1(MAX_BODY_BYTES):
                return

    def _order(self, path: str, words: str) -> Callable[[], None] | None:
        orders = self.server.orders

        def instruct() -> None:
            if not 0 < len(words.encode()) <= INSTRUCTION_BYTES:
                raise ValueError(f"an instruction has 1 to {INSTRUCTION_BYTES} bytes, this one {len(words.encode())}")
            orders.instruct(words)

        known = {
            "/estop": orders.estop,
            "/start": orders.start,
            "/stop": orders.stop,
            "/reset": orders.reset,
            "/instruction": instruct,
        }
        return known.get(path)

    def _is_ours(self) -> bool:
        """Refuse a page of elsewhere: a name that was bent to this machine, or an Origin that is not this page.

        A session that is over refuses everybody, and lets the connection go: the next one may have the same port.
        """
        if self.server.closed:
            self.close_connection = True
            self._send(HTTPStatus.SERVICE_UNAVAILABLE, "the robot's session has ended", Connection="close")
            return False
        host, origin = self.headers.get("Host", ""), self.headers.get("Origin")
        if _names_this_machine(host) and origin in (None, f"http://{host}"):
            return True
        self._send(HTTPStatus.FORBIDDEN, "only the robot's own page, under a name of this machine, may ask")
        return False

    def _send_page(self) -> None:
        try:
            state = self.server.watch.state()
        except Exception as error:  # the emergency stop has to be there whatever is ill
            state = {"mode": "unknown", "why": f"{type(error).__name__}: {error}", "instruction": ""}
        robot = self.server.watch.robot
        cameras = "".join(
            f'<figure data-role="{html.escape(role)}"><img src="/camera/{html.escape(role)}" alt="{html.escape(role)}">'
            f"<figcaption>{html.escape(role.replace('_', ' '))} <span></span></figcaption></figure>"
            for role in robot.cameras
        )
        values = {name: html.escape(str(state[name])) for name in ("mode", "why", "instruction")}
        nonce = secrets.token_urlsafe(16)
        page = _template("operator.html").substitute(
            values,
            css=_template("page.css").template,
            script=_template("operator.js").template,
            robot=html.escape(robot.name),
            token=self.server.token,
            nonce=nonce,
            cameras=cameras,
        )
        policy = (
            f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src 'self' data:; "
            "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
        )
        headers = {"Content-Security-Policy": policy, "X-Frame-Options": "DENY"}
        self._send(HTTPStatus.OK, page, "text/html; charset=utf-8", **headers)

    def _send_state(self) -> None:
        try:
            state = self.server.watch.state() | {"session": self.server.session}
        except RuntimeError as error:
            self._send(HTTPStatus.SERVICE_UNAVAILABLE, str(error))
            return
        self._send(HTTPStatus.OK, json.dumps(state, allow_nan=False), "application/json")

    def _send_picture(self, role: str) -> None:
        if role not in self.server.watch.robot.cameras:
            self._send(HTTPStatus.NOT_FOUND, f"no camera {role!r}: {', '.join(self.server.watch.robot.cameras)}")
            return
        jpeg = self.server.watch.jpeg(role)
        if jpeg is None:
            self._send(HTTPStatus.SERVICE_UNAVAILABLE, f"camera {role!r} has sent nothing yet")
            return
        self._send(HTTPStatus.OK, jpeg, "image/jpeg")

    def _send(
        self, status: HTTPStatus, body: str | bytes, kind: str = "text/plain; charset=utf-8", **more: str
    ) -> None:
        content = body.encode() if isinstance(body, str) else body
        self.send_response(status)
        fixed = {
            "Content-Type": kind,
            "Content-Length": str(len(content)),
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Referrer-Policy": "same-origin",
        }
        for name, value in {**fixed, **more}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def version_string(self) -> str:
        return "rdt"

    def log_message(self, *_: object) -> None:
        """Five requests a second of every browser are not news."""


@cache
def _template(name: str) -> Template:
    return Template((TEMPLATES / name).read_text(encoding="utf-8"))


def _names_this_machine(host: str) -> bool:
    """Whether a Host header names this machine, at whatever port: a tunnel may end at another one."""
    try:
        return is_loopback(urlsplit(f"//{host}").hostname or "")
    except ValueError:
        return False
