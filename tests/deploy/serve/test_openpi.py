"""A stock client, written from spec interop.md section 8 alone, against a real server of a tiny policy.

Run: pytest tests/deploy/serve/test_openpi.py
"""

import http.client
import socket
import threading
import time
from urllib.parse import urlsplit

import msgpack
import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from data_pipeline.schema.types import CAMERA_KEYS
from deploy.engine import InferenceEngine
from deploy.serve.command import contract_of
from deploy.serve.openpi import OpenpiService
from deploy.serve.wire import pack, unpack
from rdt.train.checkpoint import load_checkpoint
from tests.deploy.serve.policies import engine, observation, robot, served

PERIOD_S = 0.02


class Slow:
    """The policy, `delay_s` later."""

    def __init__(self, policy, delay_s):
        self._policy, self._delay_s = policy, delay_s

    def predict(self, seen):
        time.sleep(self._delay_s)
        return self._policy.predict(seen)


def service(checkpoint, prompt=None, delay_s=0.0):
    policy = engine(checkpoint)
    return OpenpiService(Slow(policy, delay_s) if delay_s else policy, contract_of(policy, checkpoint), prompt)


class Stock:
    """What a client of the protocol does, and nothing more."""

    def __init__(self, address, headers=None, **options):
        opened = connect(address, compression=None, max_size=None, additional_headers=headers, proxy=None, **options)
        self.socket = opened.__enter__()
        self.metadata = unpack(self.socket.recv())

    def infer(self, message):
        self.socket.send(message if isinstance(message, (bytes, str)) else pack(message))
        answer = self.socket.recv()
        if isinstance(answer, str):
            raise RuntimeError(answer)
        return unpack(answer)


def aloha(seen, place=-1, **more):
    """The newest frames of an observation as a stock runtime sends them."""
    images = {CAMERA_KEYS[role]: frames[place].transpose(2, 0, 1) for role, frames in seen.images.items()}
    state = robot().from_unified(seen.state, "state")
    return {"state": state, "images": images, "prompt": seen.instruction, **more}


def test_the_server_speaks_first_and_answers_what_the_engine_does(checkpoint):
    here, seen = engine(checkpoint), observation(robot())
    with served(service(checkpoint).converse) as address:
        client = Stock(address)
        assert client.metadata["action_horizon"] == 5
        assert client.metadata["robot"]["name"] == "aloha_viperx"
        history = [{"images": aloha(seen, 0)["images"]}]
        first = client.infer(aloha(seen, t_obs=1.0, history=history))
        second = client.infer(aloha(seen, t_obs=1.02))
    expected = [robot().from_unified(here.predict(seen).actions) for _ in range(2)]
    assert np.array_equal(first["actions"], expected[0])
    assert first["t_obs"] == 1.0
    assert all(len(value) == 5 for value in first.values() if isinstance(value, np.ndarray))  # a broker slices them
    assert first["policy_timing"]["infer_ms"] > 0
    assert "prev_total_ms" not in first["server_timing"]
    assert second["server_timing"]["prev_total_ms"] > 0
    assert not np.allclose(second["actions"], expected[1], atol=1e-5)  # its t-1 was the first one's newest frame


def test_the_previous_observation_of_the_connection_is_the_frame_before(checkpoint):
    here, seen = engine(checkpoint), observation(robot())
    with served(service(checkpoint).converse) as address:
        client = Stock(address)
        client.infer(aloha(seen, 0, t_obs=1.0))
        answer = client.infer(aloha(seen, 1, t_obs=1.0 + PERIOD_S))
    here.predict(seen)
    assert np.allclose(answer["actions"], robot().from_unified(here.predict(seen).actions), atol=1e-5)


BAD = [
    b"",
    b"\xc1",
    b"\xff" * 100,
    msgpack.packb([1, 2]),
    msgpack.packb({"state": {b"__ndarray__": True, b"dtype": "O", b"shape": [1], b"data": bytes(8)}}),
    pack({"state": np.zeros(3), "images": {}, "prompt": "x"}),
    pack({}),
    msgpack.packb({1: 2}),
    "hello",
]


def test_an_error_is_a_text_frame_and_1011_and_others_go_on(checkpoint, capsys):
    with served(service(checkpoint).converse) as address:
        bystander = Stock(address)
        for frame in BAD:
            client = Stock(address)
            with pytest.raises(RuntimeError, match="Traceback"):
                client.infer(frame)
            with pytest.raises(ConnectionClosed) as closed:
                client.socket.recv()
            assert closed.value.rcvd.code == 1011
        assert bystander.infer(aloha(observation(robot())))["actions"].shape == (5, 14)
    assert "rdt serve: 127.0.0.1:" in capsys.readouterr().err


def test_a_message_beyond_the_bound_closes_with_1009(checkpoint):
    with served(service(checkpoint).converse, max_bytes=10_000) as address:
        client = Stock(address)
        client.socket.send(bytes(10_001))
        with pytest.raises(ConnectionClosed) as closed:
            client.socket.recv()
        assert closed.value.rcvd.code == 1009


def test_the_prompt_of_the_server_stands_in(checkpoint):
    here, seen = engine(checkpoint), observation(robot())
    message = aloha(seen, history=[{"images": aloha(seen, 0)["images"]}])
    del message["prompt"]
    with served(service(checkpoint, prompt=seen.instruction).converse) as address:
        answer = Stock(address).infer(message)
    assert np.array_equal(answer["actions"], robot().from_unified(here.predict(seen).actions))


def get(address, path, headers=None):
    parts = urlsplit(address)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=10)
    connection.request("GET", path, headers=headers or {})
    answer = connection.getresponse()
    return answer.status, answer.read()


def test_health_is_plain_http(checkpoint):
    with served(service(checkpoint).converse, api_key="secret") as address:
        assert get(address, "/healthz") == (200, b"OK\n")
        assert get(address, "/")[0] == 401


def test_only_the_right_key_is_let_in(checkpoint):
    with served(service(checkpoint).converse, api_key="secret") as address:
        for headers in (None, {"Authorization": "Api-Key wrong"}, {"Authorization": "secret"}):
            with pytest.raises(InvalidStatus) as refused:
                Stock(address, headers)
            assert refused.value.response.status_code == 401
        assert Stock(address, {"Authorization": "Api-Key secret"}).metadata


def test_a_key_that_is_no_text_is_a_wrong_one(checkpoint):
    with served(service(checkpoint).converse, api_key="secret") as address:
        assert get(address, "/", {"Authorization": b"Api-Key \xff\xfe"})[0] == 401


def test_a_web_page_is_refused(checkpoint):
    with served(service(checkpoint).converse) as address:
        with pytest.raises(InvalidStatus) as refused:
            Stock(address, {"Origin": "http://example.com"})
        assert refused.value.response.status_code == 403


@pytest.mark.parametrize("data", [b"\x00" * 100, b"GET / HTTP/1.1\r\n\r\n", b"POST /healthz HTTP/1.1\r\n\r\n", b""])
def test_what_is_no_websocket_hurts_nobody(checkpoint, data):
    with served(service(checkpoint).converse) as address:
        parts = urlsplit(address)
        with socket.create_connection((parts.hostname, parts.port), timeout=10) as stranger:
            stranger.sendall(data)
            stranger.shutdown(socket.SHUT_WR)
            while stranger.recv(4096):
                pass
        assert Stock(address).metadata


def test_a_slow_inference_keeps_its_connection_and_others(checkpoint):
    """2.5 ping intervals of both ends: with inference on the event loop the client's pings would go unanswered."""
    slow = service(checkpoint, delay_s=2.5)
    with served(slow.converse, ping_interval_s=1.0) as address:
        client = Stock(address, ping_interval=1.0, ping_timeout=1.0)
        answers = []
        asking = threading.Thread(target=lambda: answers.append(client.infer(aloha(observation(robot())))))
        asking.start()
        assert Stock(address).metadata  # meanwhile
        assert get(address, "/healthz")[0] == 200
        asking.join(30)
    assert answers[0]["actions"].shape == (5, 14)


def test_a_client_that_leaves_in_the_middle_is_forgotten(checkpoint, capsys):
    with served(service(checkpoint, delay_s=0.3).converse) as address:
        leaving = Stock(address)
        leaving.socket.send(pack(aloha(observation(robot()))))
        leaving.socket.close()
        assert Stock(address).infer(aloha(observation(robot())))["actions"].shape == (5, 14)
    assert capsys.readouterr().err == ""


@pytest.mark.gpu
def test_graphs_captured_here_are_replayed_by_the_servers_thread(checkpoint):
    here, there = (InferenceEngine(load_checkpoint(checkpoint), "cuda") for _ in range(2))
    seen = observation(robot())
    message = aloha(seen, history=[{"images": aloha(seen, 0)["images"]}])
    with served(OpenpiService(there, contract_of(there, checkpoint)).converse) as address:
        client = Stock(address)
        answers = [client.infer(message)["actions"] for _ in range(3)]
    expected = [robot().from_unified(here.predict(seen).actions) for _ in range(3)]
    assert np.allclose(answers, expected, atol=1e-5)
