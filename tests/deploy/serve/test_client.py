"""Run: pytest tests/deploy/serve/test_client.py"""

import dataclasses
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.types import ActionChunk, Observation
from deploy.loop import ControlLoop, LoopSettings, Mode
from deploy.serve.client import LinkLostError, RemotePolicy, ServerError
from deploy.serve.command import contract_of
from deploy.serve.contract import Contract, ContractMismatchError
from deploy.serve.openpi import OpenpiService
from deploy.serve.wire import WireError, pack
from robot_drivers.types import CameraFrame
from tests.deploy.serve.policies import engine, observation, robot, served, served_checkpoint


@pytest.fixture
def address(checkpoint):
    with served_checkpoint(checkpoint, OpenpiService) as address:
        yield address


def masked(seen: Observation, role: str, place: int) -> Observation:
    masks = {**seen.image_masks, role: np.arange(len(seen.images[role])) != place}
    return dataclasses.replace(seen, image_masks=masks)


def test_it_answers_as_the_engine_here_would(checkpoint, address):
    here = engine(checkpoint)
    seen = [
        observation(robot(), stamp_ns=123_456_789_012_345_678),
        masked(observation(robot()), "left_wrist", 0),
        masked(observation(robot()), "right_wrist", 1),
    ]
    with RemotePolicy(address, robot(), answer_timeout_s=30) as policy:
        assert (policy.horizon, policy.image_history) == (here.horizon, here.image_history)
        assert policy.cameras == here.cameras
        for each in seen:
            there, expected = policy.predict(each), here.predict(each)
            assert np.allclose(there.actions, expected.actions, atol=1e-6)
            assert np.array_equal(there.mask, expected.mask)
            assert (there.start_ns, there.rate_hz) == (expected.start_ns, expected.rate_hz)


def test_another_robot_is_refused_before_anything_moves(address):
    raw = robot().to_dict()
    raw["arms"]["left"]["joints"][0]["sign"] = -1
    with pytest.raises(ContractMismatchError, match=r"entry 0: the robot has left_waist .* sign -1\), the policy"):
        RemotePolicy(address, Embodiment.from_dict(raw))


@pytest.mark.parametrize("change", [{"control_hz": 25.0}, {"state_mask": np.zeros(128, bool)}])
def test_an_observation_of_another_robot_does_not_go_out(address, change):
    seen = dataclasses.replace(observation(robot()), **change, state=np.zeros(128, np.float32))
    with RemotePolicy(address, robot()) as policy, pytest.raises(ValueError, match="whole states of robot"):
        policy.predict(seen)


def test_a_refused_observation_is_told_and_the_next_one_connects_anew(address):
    with RemotePolicy(address, robot(), answer_timeout_s=30) as policy:
        with pytest.raises(ServerError, match="an instruction must be text of at most"):
            policy.predict(dataclasses.replace(observation(robot()), instruction="x" * 3000))
        assert policy.predict(observation(robot())).horizon == 5


def test_no_server_is_a_lost_link():
    with pytest.raises(LinkLostError, match="start `rdt serve` there"):
        RemotePolicy("ws://127.0.0.1:9", robot())


def test_an_address_is_a_websocket():
    with pytest.raises(ValueError, match="ws://HOST:PORT"):
        RemotePolicy("http://127.0.0.1:8000", robot())


def test_a_key_opens_the_door(checkpoint):
    policy = engine(checkpoint)
    service = OpenpiService(policy, contract_of(policy, checkpoint))
    with served(service.converse, api_key="secret") as address:
        with pytest.raises(LinkLostError, match="401 this server wants the header"):
            RemotePolicy(address, robot(), api_key="wrong")
        RemotePolicy(address, robot(), api_key="secret").close()


def test_a_lost_server_is_found_again(checkpoint):
    policy = engine(checkpoint)
    service = OpenpiService(policy, contract_of(policy, checkpoint))
    with served(service.converse) as address:
        remote = RemotePolicy(address, robot(), answer_timeout_s=30)
    with pytest.raises(LinkLostError):
        remote.predict(observation(robot()))
    with pytest.raises(LinkLostError, match="no policy server"):
        remote.predict(observation(robot()))
    with served(service.converse, port=int(address.rpartition(":")[2])):
        assert remote.predict(observation(robot())).horizon == 5
        remote.close()


def speaking(checkpoint, *answers):
    """A server that says the contract and then, whatever it is asked, these."""
    policy = engine(checkpoint)
    metadata = pack(contract_of(policy, checkpoint).metadata())

    async def converse(connection):
        await connection.send(metadata)
        async for _ in connection:
            for answer in answers:
                await connection.send(answer)

    return converse


GOOD = {"actions": np.zeros((5, 14)), "t_obs": 1.0}


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({**GOOD, "actions": np.zeros((4, 14))}, r"must answer finite `actions` of shape \(5, 14\), got <f8 \(4, 14\)"),
        ({**GOOD, "actions": np.full((5, 14), np.inf)}, "must answer finite"),
        ({**GOOD, "actions": [1]}, "got list"),
        ({"actions": np.zeros((5, 14))}, "answered another observation"),
        ({**GOOD, "t_obs": 0.5}, "answered another observation"),
        ([1], "map with text keys"),
    ],
)
def test_an_unsound_answer_is_no_chunk(checkpoint, answer, message):
    with (
        served(speaking(checkpoint, pack(answer))) as address,
        RemotePolicy(address, robot(), answer_timeout_s=30) as policy,
        pytest.raises(WireError, match=message),
    ):
        policy.predict(observation(robot()))


def test_a_late_answer_is_never_taken_for_the_next_one(checkpoint):
    """The server answers twice, or after the time-out: both leave a frame that is nobody's."""
    seen = observation(robot())
    with served(speaking(checkpoint)) as address, RemotePolicy(address, robot(), answer_timeout_s=0.05) as policy:
        with pytest.raises(LinkLostError, match=r"has not answered for 0\.05 s"):
            policy.predict(seen)
        assert policy._connection is None
    with (
        served(speaking(checkpoint, pack(GOOD), pack(GOOD))) as address,
        RemotePolicy(address, robot(), answer_timeout_s=30) as policy,
    ):
        policy.predict(seen)
        with pytest.raises(WireError, match="another observation"):
            policy.predict(dataclasses.replace(seen, stamp_ns=2_000_000_000))


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="Linux bounds the time of sending")
def test_a_link_that_takes_nothing_is_lost(checkpoint):
    """The server stops reading: the pictures fill every buffer on the way and the sending stalls."""
    policy, done = engine(checkpoint), threading.Event()
    metadata = pack(contract_of(policy, checkpoint).metadata())

    async def converse(connection):
        await connection.send(metadata)
        done.wait(30)  # on the event loop, on purpose

    large = {role: np.zeros((2, 1600, 1900, 3), np.uint8) for role in robot().cameras}
    with served(converse) as address, RemotePolicy(address, robot(), answer_timeout_s=0.3) as remote:
        with pytest.raises(LinkLostError):
            remote.predict(dataclasses.replace(observation(robot()), images=large))
        done.set()


class Still:
    """A policy that says to stay where the robot is, `delay_s` after it was asked."""

    def __init__(self, delay_s, horizon):
        self._delay_s, self._horizon = delay_s, horizon

    def predict(self, seen):
        time.sleep(self._delay_s)
        return ActionChunk.answering(seen, np.tile(seen.state, (self._horizon, 1)), 0)


def test_the_delay_enters_the_splice_and_a_lost_link_ends_in_the_hold():
    """The tick runs on a simulated clock; an answer is delivered as late as it really came."""
    of = robot()
    contract = Contract(of, horizon=40, cameras=tuple(of.cameras), history=1, image_size=64)
    service = OpenpiService(Still(0.1, contract.horizon), contract)
    loop = ControlLoop(of, "lift", LoopSettings(max_rejected=3))
    loop.start()
    now_ns, native = 0, np.zeros(of.num_native)
    splices = []

    def ask() -> int:
        """One round trip; how long it took."""
        for role in of.cameras:
            loop.push_frame(CameraFrame(role, np.zeros((8, 8, 3), np.uint8), now_ns), now_ns)
        loop.push_state(native, now_ns, now_ns)
        seen = loop.observation(now_ns)
        assert isinstance(seen, Observation)
        started_ns = time.monotonic_ns()
        try:
            chunk = policy.predict(seen)
        except (LinkLostError, ServerError, WireError):
            chunk = None
        took_ns = time.monotonic_ns() - started_ns if chunk else 0
        splice = loop.deliver(chunk, now_ns + took_ns)
        assert splice.outcome == ("accepted" if chunk else "failed")
        splices.append(splice)
        return took_ns

    with served(service.converse) as address:
        policy = RemotePolicy(address, of, connect_timeout_s=0.5, answer_timeout_s=30)
        for _ in range(2):
            took_ns = ask()
            assert took_ns >= 100_000_000
            now_ns += took_ns
            for _ in range(5):
                loop.push_state(native, now_ns, now_ns)
                loop.tick(now_ns)
                now_ns += 20_000_000
    first, second = splices
    assert first.dropped == 0  # the robot stood while it waited
    assert second.dropped >= 5  # 0.1 s at 50 Hz: the actions that were for then are gone
    loop.push_state(native, now_ns, now_ns)
    assert loop.tick(now_ns).why == "run"

    for _ in range(3):  # the server is gone
        now_ns += 20_000_000
        ask()
    assert loop.counters.failed == 3
    assert loop.mode is Mode.STOPPING
    for _ in range(100):
        now_ns += 20_000_000
        loop.push_state(native, now_ns, now_ns)
        tick = loop.tick(now_ns)
    assert loop.mode is Mode.HOLD
    assert tick.positions is None
    assert "inference failed" in tick.why


def test_the_robots_side_imports_no_torch():
    code = "import sys, deploy.serve.client; print([m for m in ('torch', 'rdt', 'h5py') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
