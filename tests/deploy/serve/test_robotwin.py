"""The evaluator of spec interop.md section 9.1, as far as the plug-in sees it, drives a tiny policy.

Run: pytest tests/deploy/serve/test_robotwin.py
"""

import asyncio
import json
import socket
import subprocess
import sys
import threading

import numpy as np
import pytest

from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.types import ActionChunk
from deploy.serve.contract import Contract
from deploy.serve.robotwin import RoboTwinModel, encode_obs, eval, get_model, reset_model
from deploy.serve.robotwin_tcp import RoboTwinService, pack_json, unpack_json
from deploy.serve.server import Listening
from deploy.serve.wire import WireError
from tests.deploy.serve.policies import robot


class TaskEnvironment:
    """Arms that are where they were sent at once; success after so many actions."""

    def __init__(self, step_lim=12, succeeds_after=10**9):
        self.step_lim, self.succeeds_after = step_lim, succeeds_after
        self.take_action_cnt, self.eval_success = 0, False
        self.taken, self.num_observed, self.position = [], 0, np.zeros(14)

    def get_instruction(self):
        return "lift"

    def get_obs(self):
        self.num_observed += 1
        picture = np.full((24, 32, 3), self.take_action_cnt, np.uint8)
        cameras = {name: {"rgb": picture} for name in ("head_camera", "left_camera", "right_camera")}
        p = self.position
        arms = {"left_arm": p[:6], "left_gripper": p[6], "right_arm": p[7:13], "right_gripper": p[13], "vector": p}
        return {"observation": cameras, "joint_action": arms, "endpose": {}}

    def take_action(self, action, action_type="qpos"):
        assert action_type == "qpos"
        if self.eval_success or self.take_action_cnt >= self.step_lim:
            return
        self.taken.append(np.asarray(action))
        self.position = np.asarray(action)
        self.take_action_cnt += 1
        self.eval_success = self.take_action_cnt >= self.succeeds_after


def evaluate(environment, model):
    """The evaluator's loop."""
    reset_model(model)
    while environment.take_action_cnt < environment.step_lim:
        eval(environment, model, environment.get_obs())
        if environment.eval_success:
            return True
    return False


class Recorded:
    """A policy that remembers what it saw and says each arm's entries by number."""

    def __init__(self, contract):
        self.contract, self.seen = contract, []

    def predict(self, seen):
        self.seen.append(seen)
        native = np.tile(np.arange(self.contract.robot.num_native), (self.contract.horizon, 1))
        return ActionChunk.answering(seen, self.contract.robot.to_unified(native, "action")[0], 0)


def contract(of=None, history=2):
    of = of or robot()
    return Contract(of, 5, tuple(of.cameras), history, 64)


def test_a_checkpoint_runs_to_the_step_limit_and_to_success(checkpoint):
    arguments = {"policy_name": "RDT", "ckpt_setting": str(checkpoint), "left_arm_dim": 6, "right_arm_dim": 6}
    model = get_model({**arguments, "rdt_step": 4, "device": "cpu"})
    environment = TaskEnvironment(step_lim=10)
    assert not evaluate(environment, model)
    assert environment.take_action_cnt == 10
    assert all(action.shape == (14,) for action in environment.taken)
    environment = TaskEnvironment(step_lim=100, succeeds_after=6)
    assert evaluate(environment, model)
    assert environment.take_action_cnt == 6


def test_the_network_sees_the_frame_one_step_before():
    policy = Recorded(contract())
    environment = TaskEnvironment(step_lim=15)
    evaluate(environment, RoboTwinModel(policy, contract()))
    frames = [seen.images["external"][:, 0, 0, 0].tolist() for seen in policy.seen]
    masks = [seen.image_masks["external"].tolist() for seen in policy.seen]
    assert frames == [[0, 0], [4, 5], [9, 10]]
    assert masks == [[False, True], [True, True], [True, True]]
    assert environment.num_observed == 3 + 3  # one more of each chunk


def test_a_new_episode_has_no_frame_before():
    policy = Recorded(contract())
    model = RoboTwinModel(policy, contract())
    for _ in range(2):
        evaluate(TaskEnvironment(step_lim=5), model)
    assert policy.seen[-1].image_masks["external"].tolist() == [False, True]


def test_a_network_of_one_frame_costs_no_more_observations():
    environment = TaskEnvironment(step_lim=15)
    evaluate(environment, RoboTwinModel(Recorded(contract(history=1)), contract(history=1)))
    assert environment.num_observed == 3


def test_actions_are_left_first_whatever_the_robots_order():
    raw = robot().to_dict()
    raw["arms"] = {"right": raw["arms"]["right"], "left": raw["arms"]["left"]}
    turned = contract(Embodiment.from_dict(raw))
    policy = Recorded(turned)
    environment = TaskEnvironment(step_lim=5)
    environment.position = np.arange(14) / 20
    evaluate(environment, RoboTwinModel(policy, turned))
    assert np.allclose(environment.taken[0], [*range(7, 14), *range(7)])
    state = turned.robot.from_unified(policy.seen[0].state, "state")
    assert np.allclose(state, np.array([*range(7, 14), *range(7)]) / 20, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "lacks `ckpt_setting`"),
        ({"left_arm_dim": 7}, "left arm has 7 joints, .* 'aloha_viperx' 6"),
        ({"rdt_step": 64}, "rdt_step must be 1 to 5"),
    ],
)
def test_a_wrong_setting_is_told(checkpoint, arguments, message):
    settings = {"ckpt_setting": str(checkpoint), "device": "cpu", **arguments} if arguments else {}
    with pytest.raises(ValueError, match=message):
        get_model(settings)


def test_a_robot_of_one_arm_is_refused():
    raw = robot().to_dict()
    del raw["arms"]["left"]
    with pytest.raises(ValueError, match=r"two arms with grippers, .* has \['right'\]"):
        RoboTwinModel(None, contract(Embodiment.from_dict(raw)))


def test_only_listed_methods_can_be_called():
    model = RoboTwinModel(None, contract())
    for name in ("__init__", "call", "_policy", None, ["get_action"]):
        with pytest.raises(ValueError, match="unknown method"):
            model.call(name)
    with pytest.raises(ValueError, match="call update_obs first"):
        model.call("get_action")


@pytest.fixture
def port():
    loop, stop, opened = asyncio.new_event_loop(), asyncio.Event(), threading.Event()
    addresses = []

    def tell(address):
        addresses.append(address)
        opened.set()

    service = RoboTwinService(Recorded(contract()), contract())
    where = Listening(port=0, max_bytes=200_000)
    thread = threading.Thread(target=lambda: loop.run_until_complete(service.listen(where, stop, tell)), daemon=True)
    thread.start()
    assert opened.wait(30)
    yield int(addresses[0].rpartition(":")[2])
    loop.call_soon_threadsafe(stop.set)
    thread.join(30)
    assert not thread.is_alive()
    loop.close()


class ModelClient:
    """The evaluator's end of the two-environment mode."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self.stream = self.socket.makefile("rwb")

    def send(self, data):
        self.stream.write(len(data).to_bytes(4, "big") + data)
        self.stream.flush()
        length = int.from_bytes(self.stream.read(4), "big")
        return unpack_json(self.stream.read(length))

    def call(self, func_name=None, obs=None):
        answer = self.send(pack_json({"cmd": func_name, "obs": obs}))
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["res"]


def test_the_two_environment_mode_does_the_same(port):
    environment = TaskEnvironment(step_lim=12)
    assert not evaluate(environment, ModelClient(port))
    assert environment.take_action_cnt == 12
    assert np.allclose(environment.taken[0], np.arange(14))


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[1]", "map with text keys"),
        (json.dumps({"cmd": "__class__"}).encode(), "unknown method"),
        (json.dumps({"cmd": "update_obs", "obs": {"joint_action": {}}}).encode(), "joint_action.left_arm must be"),
        (json.dumps({"cmd": "update_obs", "obs": {"__numpy_array__": True, "data": "!"}}).encode(), "base64"),
        (
            json.dumps({"cmd": "update_obs", "obs": {"__numpy_array__": True, "dtype": "O", "shape": [1]}}).encode(),
            "refused",
        ),
    ],
)
def test_an_error_is_an_answer_and_the_connection_stays(port, data, error):
    client = ModelClient(port)
    answer = client.send(data)
    assert error in answer["error"]
    assert "Traceback" in answer["traceback"]
    assert client.call("reset_model") is None


def test_a_frame_beyond_the_bound_ends_the_connection(port):
    client = ModelClient(port)
    client.stream.write((2**31).to_bytes(4, "big"))
    client.stream.flush()
    length = int.from_bytes(client.stream.read(4), "big")
    assert "2147483648 bytes, and 200000 is the largest" in unpack_json(client.stream.read(length))["error"]
    assert client.stream.read(1) == b""


def test_its_protocol_carries_no_key():
    service = RoboTwinService(Recorded(contract()), contract())
    with pytest.raises(ValueError, match="carries no key"):
        asyncio.run(service.listen(Listening(port=0, api_key="k"), asyncio.Event(), print))


@pytest.mark.parametrize("value", [np.arange(6.0).reshape(2, 3), np.zeros((0, 2), np.uint8), 3, "x", [1, None]])
def test_json_arrays_come_back(value):
    back = unpack_json(pack_json(value))
    assert np.array_equal(back, value)
    assert getattr(back, "dtype", None) == getattr(value, "dtype", None)


@pytest.mark.parametrize("value", [object(), np.array([object()]), {1: object()}])
def test_objects_do_not_travel(value):
    with pytest.raises(WireError, match="cannot"):
        pack_json(value)


def test_observations_come_with_or_without_their_group():
    nested = TaskEnvironment().get_obs()
    flat = {**nested["observation"], "joint_action": nested["joint_action"]}
    assert encode_obs(nested, "x")["pictures"].keys() == encode_obs(flat, "x")["pictures"].keys() != set()


def test_the_simulators_side_imports_no_torch():
    code = "import sys, deploy.serve.robotwin; print([m for m in ('torch', 'rdt') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
