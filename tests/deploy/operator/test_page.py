"""The page's numbers and orders, with a real supervisor at the other end; browsers are in test_browser.py.

Run: pytest tests/deploy/operator/test_page.py
"""

import http.client
import json
import re
import socket
from urllib.parse import urlencode, urlsplit

import numpy as np
import pytest

from data_pipeline.frames import decode_jpeg
from deploy.operator.page import OperatorPage
from deploy.realtime.records import text
from tests.deploy.realtime.parts import is_in, wait_for


class Client:
    """A browser's words without a browser."""

    def __init__(self, page: OperatorPage) -> None:
        self.at = urlsplit(page.address).netloc

    def ask(self, path, method="GET", body=None, **headers):
        connection = http.client.HTTPConnection(self.at, timeout=20)
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer, content

    def state(self):
        return json.loads(self.ask("/state")[1])

    def order(self, path, token=None, **said):
        headers = {"Origin": f"http://{self.at}", "Accept": "application/json"}
        return self.ask(path, "POST", urlencode({"token": self.token() if token is None else token, **said}), **headers)

    def token(self):
        return re.search(rb'name="token" value="([^"]+)"', self.ask("/")[1]).group(1).decode()


@pytest.fixture
def client(page):
    return Client(page)


def test_orders_reach_the_arms_and_the_state_says_so(client, supervisor):
    state = client.state()
    assert state["mode"] == "hold" and state["instruction"] == "lean up"
    assert state["actor"] == "nobody"
    assert state["joints"]["chunk"] is None
    assert client.order("/start")[0].status == 200
    wait_for(lambda: client.state()["joints"]["measured"][-1][0] > 0.1)
    wait_for(lambda: client.state()["inference"]["latency_ms"] is not None)
    state = client.state()
    assert state["mode"] == "run"
    assert state["actor"] == "policy"
    names = state["joints"]["names"]
    assert names == list(supervisor.spec.robot.native_names)
    assert state["joints"]["units"][0] == "rad" and state["joints"]["units"][-1] == "opening"
    assert np.array(state["joints"]["chunk"]["rows"]).shape == (16, len(names))
    assert len(state["joints"]["chunk"]["times_s"]) == 16
    assert state["joints"]["times_s"][-1] == 0 and min(state["joints"]["times_s"]) >= -5
    assert state["inference"]["requests"] >= 1 and state["ticks"]["late_ms"][0] >= 0
    assert client.order("/stop")[0].status == 200
    wait_for(is_in(supervisor, "hold"))
    assert [event["mode"] for event in client.state()["events"]][-1] == "hold"


def test_an_emergency_stop_without_a_body(client, supervisor):
    """`curl -X POST http://127.0.0.1:PORT/estop`"""
    client.order("/start")
    wait_for(is_in(supervisor, "run"))
    with socket.create_connection(client.at.split(":"), timeout=20) as connection:
        connection.sendall(f"POST /estop HTTP/1.1\r\nHost: {client.at}\r\n\r\n".encode())
        assert b" 303 " in connection.recv(4096)
    wait_for(is_in(supervisor, "fault"))


def test_an_emergency_stop_by_a_plain_form_without_a_token(client, supervisor):
    """A page of an earlier session, without JavaScript: it stops, and leads back to the page, which says so."""
    client.order("/start")
    wait_for(is_in(supervisor, "run"))
    answer, _ = client.ask("/estop", "POST", "token=old")
    assert (answer.status, answer.headers["Location"]) == (303, "/")
    wait_for(is_in(supervisor, "fault"))
    assert b"emergency stop" in client.ask("/")[1]
    assert client.order("/start")[0].status == 200
    assert client.state()["mode"] == "fault"
    client.order("/reset")
    wait_for(is_in(supervisor, "hold"))


def test_an_instruction_arrives_whole_or_not_at_all(client, supervisor):
    orders = supervisor.ring("orders")
    assert client.order("/instruction", text=" greif den Würfel & heb ihn <b>hoch</b> ")[0].status == 200
    assert text(orders.newest().value["instruction"]) == "greif den Würfel & heb ihn <b>hoch</b>"
    assert b"<b>hoch" not in client.ask("/")[1]
    answer, words = client.order("/instruction", text="ü" * 1025)
    assert answer.status == 409 and b"2048 bytes" in words
    assert client.order("/instruction", text=" ")[0].status == 409
    assert text(orders.newest().value["instruction"]).startswith("greif")
    orders.close()


def test_pages_of_elsewhere_are_refused(client, supervisor):
    for headers in (
        {"Origin": "https://example.org"},
        {"Origin": "null"},
        {"Host": "robot.example.org"},  # a name that was bent to 127.0.0.1
        {"Host": "robot.example.org", "Origin": "http://robot.example.org"},
    ):
        for path in ("/estop", "/start"):
            assert client.ask(path, "POST", f"token={client.token()}", **headers)[0].status == 403
        assert client.ask("/", **headers)[0].status == 403
        assert client.ask("/camera/external", **headers)[0].status == 403
    assert client.order("/start", token="guessed")[0].status == 403
    assert client.ask("/start", "POST", "x" * 100_000)[0].status == 413
    assert client.ask("/start", "POST", iter([b"token=x"]))[0].status == 413  # in chunks, without a length
    assert client.state()["mode"] == "hold"
    tunnel = {"Host": "localhost:9999", "Origin": "http://localhost:9999"}
    assert client.ask("/stop", "POST", f"token={client.token()}", **tunnel)[0].status == 303


def test_pictures_are_the_cameras(client):
    wait_for(lambda: client.ask("/camera/external")[0].status == 200)
    picture = decode_jpeg(client.ask("/camera/external")[1])
    assert picture.shape == (64, 96, 3)
    assert np.median(picture[..., 0]) > 180 and np.median(picture[..., 1]) < 20
    answer, words = client.ask("/camera/nose")
    assert answer.status == 404 and b"external" in words


def test_a_browser_that_says_and_takes_nothing_is_in_nobodys_way(client, page):
    silent = [socket.create_connection(urlsplit(page.address).netloc.split(":")) for _ in range(20)]
    for connection in silent[:10]:
        connection.sendall(b"POST /start HTTP/1.1\r\nContent-Length: 100\r\n\r\n")
    assert client.order("/estop")[0].status == 200
    page.close()  # and does not wait for them
    for connection in silent:
        connection.close()


def test_a_session_that_is_over_lets_open_connections_go(client, page):
    """Or a page would go on asking it, while the next session is at the same port."""
    connection = http.client.HTTPConnection(client.at, timeout=20)
    connection.request("GET", "/state")
    assert connection.getresponse().read()
    page.close()
    connection.request("POST", "/estop", "")
    answer = connection.getresponse()
    assert answer.status == 503 and b"ended" in answer.read()
    assert answer.headers["Connection"] == "close"
    OperatorPage(urlsplit(page.address).port).close()


def test_the_emergency_stop_is_there_when_the_rest_is_ill(client, page, monkeypatch):
    monkeypatch.setattr(page._watch, "state", lambda: 1 / 0)
    answer, content = client.ask("/")
    assert answer.status == 200
    assert b'action="/estop"' in content and b"ZeroDivisionError" in content


def test_a_process_that_died_is_a_fault_with_its_name(client, supervisor):
    client.order("/start")
    wait_for(is_in(supervisor, "run"))
    supervisor._processes["inference"].kill()
    wait_for(lambda: client.state()["mode"] == "fault")
    assert "the inference process has ended" in client.state()["why"]
    wait_for(lambda: any("inference process is silent" in event["why"] for event in client.state()["events"]))
    assert sum("has ended" in event["why"] for event in client.state()["events"]) == 1


def test_a_port_that_is_taken_is_one_message(page):
    port = urlsplit(page.address).port
    with pytest.raises(ValueError, match=rf"port {port} .*in use.* --page PORT"):
        OperatorPage(port)
