"""A client written from spec interop.md sections 9.2 and 9.3 alone, against a real server of a tiny policy.

Run: pytest tests/deploy/serve/test_xpolicylab.py
"""

import threading
import uuid

import msgpack
import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from data_pipeline.frames import decode_jpeg, encode_jpeg
from data_pipeline.schema.embodiment import Embodiment
from deploy.serve.arms import join, split
from deploy.serve.command import contract_of
from deploy.serve.contract import Contract
from deploy.serve.wire import MAX_BYTES, WireError
from deploy.serve.xpolicylab import (
    MAX_IN_FLIGHT,
    XPolicyLabService,
    action_maps,
    pack_message,
    read_observation,
    unpack_message,
)
from tests.deploy.serve.policies import engine, robot, served_checkpoint


@pytest.fixture
def address(checkpoint):
    with served_checkpoint(checkpoint, XPolicyLabService) as address:
        yield address


class Client:
    def __init__(self, address):
        opened = connect(address, compression=None, max_size=None, proxy=None)
        self.socket = opened.__enter__()

    def send(self, message_type, payload=None, **envelope):
        envelope = {"message_id": str(uuid.uuid4()), **envelope}
        message = {"message_type": message_type, "sent_at": "2026-01-01T00:00:00", "payload": payload, **envelope}
        self.socket.send(pack_message(message))
        return envelope["message_id"]

    def receive(self):
        return unpack_message(self.socket.recv())

    def ask(self, message_type, payload=None, **envelope):
        sent = self.send(message_type, payload, **envelope)
        answer = self.receive()
        assert answer["message_id"] == sent
        return answer["message_type"], answer["payload"]


def seen(value=0.1, **more):
    camera = {"color": np.full((12, 16, 3), 40, np.uint8), "depth": np.zeros((12, 16), np.float32)}
    sides = {
        f"{side}_{name}": np.full(size, value, np.float32)
        for side in ("left", "right")
        for name, size in (("arm_joint_state", 6), ("ee_joint_state", 1), ("ee_pose", 7))
    }
    vision = dict.fromkeys(("cam_head", "cam_left_wrist", "cam_right_wrist", "cam_third_view"), camera)
    return {"data_format_version": "v1.0", "instruction": "lift", "vision": vision, "state": sides, **more}


def test_every_request_has_its_answer(address):
    client = Client(address)
    case = {"action_case_id": "c", "task_name": "t", "seed": 1, "instruction": "lift", "action_type": "joint"}
    assert client.ask("hello", {"evaluation_plan": {}}) == ("hello_ack", {"ok": True, "server": "rdt serve"})
    assert client.ask("prepare_case", case) == ("prepare_case_ack", {"ok": True})
    assert client.ask("reset", {"trial_id": "1", **case}) == ("reset_result", {"ok": True})
    kind, payload = client.ask("infer", {"observation": seen()})
    assert kind == "infer_result"
    assert payload["latency_ms"] > 0
    assert len(payload["actions"]) == 5
    assert {name: value.shape for name, value in payload["actions"][0].items()} == {
        "left_arm_joint_state": (6,),
        "left_ee_joint_state": (1,),
        "right_arm_joint_state": (6,),
        "right_ee_joint_state": (1,),
    }
    assert client.ask("trial_end", {"trial_id": "1", "success": True}) == ("trial_end_ack", {"ok": True})
    assert client.ask("heartbeat") == ("heartbeat_ack", {"ok": True})
    client.send("close", {"reason": "done"})
    with pytest.raises(ConnectionClosed) as closed:
        client.receive()
    assert closed.value.rcvd.code == 1000


def test_the_answer_is_the_engines_with_earlier_frames_masked(address, checkpoint):
    here = engine(checkpoint)
    contract = contract_of(here, checkpoint)
    client = Client(address)
    for value in (0.1, 0.2):
        observation = read_observation(contract, seen(value), None, 0.0)
        assert observation.image_masks["external"].tolist() == [False, True]
        expected = action_maps(contract, contract.robot.from_unified(here.predict(observation).actions))
        _, payload = client.ask("infer", {"observation": seen(value)})
        for there, wanted in zip(payload["actions"], expected, strict=True):
            assert all(np.array_equal(there[name], wanted[name]) for name in wanted)


def test_two_requests_in_flight_are_told_apart_by_their_ids(address):
    client = Client(address)
    envelope = {"evaluation_id": "e", "action_case_id": "c", "trial_id": "t", "repeat_index": 2, "step": 7}
    sent = [client.send("infer", {"observation": seen(value)}, **envelope) for value in (0.1, 0.9)]
    sent.append(client.send("heartbeat", **envelope))
    answers = [client.receive() for _ in sent]
    assert {answer["message_id"] for answer in answers} == set(sent)
    assert all({key: answer[key] for key in envelope} == envelope for answer in answers)
    actions = {a["message_id"]: a["payload"]["actions"] for a in answers if a["message_type"] == "infer_result"}
    first, second = (actions[each][0]["left_arm_joint_state"] for each in sent[:2])
    assert not np.array_equal(first, second)


class Blocked:
    """A policy that thinks until it is released."""

    def __init__(self, policy):
        self._policy, self.released = policy, threading.Event()

    def predict(self, observation):
        assert self.released.wait(30)
        return self._policy.predict(observation)


def test_a_client_with_more_requests_than_are_worked_on_waits(checkpoint):
    assert MAX_IN_FLIGHT * MAX_BYTES <= 2**28  # what one connection may hold
    policies = []

    def service(policy, contract):
        policies.append(Blocked(policy))
        return XPolicyLabService(policies[0], contract)

    with served_checkpoint(checkpoint, service) as address:
        client = Client(address)
        sent = [client.send("infer", {"observation": seen()}) for _ in range(MAX_IN_FLIGHT)]
        sent.append(client.send("heartbeat"))  # answered at once where it is read
        with pytest.raises(TimeoutError):
            client.socket.recv(timeout=0.3)
        policies[0].released.set()
        answers = [client.receive() for _ in sent]
    assert answers[0]["message_type"] == "infer_result"
    assert {answer["message_id"] for answer in answers} == set(sent)


@pytest.mark.parametrize(
    ("message_type", "payload", "code", "text"),
    [
        ("infer", {"observation": {}}, "infer_failed", "map with text keys"),
        ("infer", None, "infer_failed", "map with text keys"),
        ("infer", {"observation": seen(instruction="")}, "infer_failed", "no instruction"),
        (
            "infer",
            {"observation": seen(state={"left_arm_joint_state": np.zeros(5, np.float32)})},
            "infer_failed",
            "state.left_arm_joint_state must be numbers of shape (6,), got <f4 (5,)",
        ),
        ("infer", {"observation": seen(vision={})}, "infer_failed", "camera cam_high (external) is required"),
        (
            "infer",
            {"observation": seen(vision={"cam_head": {"color": b"\xff\xd8 no picture \xff\xd9"}})},
            "infer_failed",
            "vision.cam_head.color",
        ),
        ("reset", {"action_type": "ee"}, "reset_failed", "action_type 'joint'"),
        ("prepare_case", {"action_type": "ee"}, "reset_failed", "action_type 'joint'"),
        ("dance", {}, "unknown_message_type", "there are hello, prepare_case"),
        (7, {}, "invalid_frame", "must be text"),
        ("infer", [1], "invalid_frame", "map with text keys"),
    ],
)
def test_an_error_is_an_answer_and_the_connection_stays(address, message_type, payload, code, text):
    client = Client(address)
    kind, answer = client.ask(message_type, payload)
    assert (kind, answer["code"]) == ("error", code)
    assert text in answer["message"]
    assert client.ask("heartbeat")[0] == "heartbeat_ack"


@pytest.mark.parametrize("frame", [b"", b"\xc1", msgpack.packb({b"nd": True, b"type": "O", b"data": b""}), "text"])
def test_what_cannot_be_decoded_is_not_answered(address, frame):
    client = Client(address)
    client.socket.send(frame)
    assert client.ask("heartbeat")[0] == "heartbeat_ack"


def test_a_message_that_is_no_map_is_an_invalid_frame(address):
    client = Client(address)
    client.socket.send(pack_message([1, 2]))
    assert client.receive()["payload"]["code"] == "invalid_frame"


def test_the_case_brings_the_instruction_that_an_observation_lacks(address):
    client = Client(address)
    observation = seen()
    del observation["instruction"]
    assert client.ask("infer", {"observation": observation})[0] == "error"
    client.ask("reset", {"instruction": "lift"})
    assert client.ask("infer", {"observation": observation})[0] == "infer_result"


def test_jpeg_colours_are_as_the_recorder_wrote_them():
    contract = Contract(robot(), 5, ("external",), 1, 64)
    red = np.zeros((16, 16, 3), np.uint8)
    red[..., 0] = 200
    encoded = encode_jpeg(np.ascontiguousarray(red[..., ::-1])) + bytes(9)  # RGB given to a BGR encoder, padded
    observation = read_observation(contract, seen(vision={"cam_head": {"color": encoded}}), None, 0.0)
    assert np.array_equal(observation.images["external"][0], decode_jpeg(encoded, "bgr"))
    assert observation.images["external"][0, 8, 8, 0] > 190


@pytest.mark.parametrize("name", ["arm_joint_state", "joint_state"])
def test_a_single_arm_has_no_side_in_its_keys(name):
    rows = [{"name": f"j{i}", "slot": f"right_arm_joint_{i}_pos"} for i in range(6)]
    arm = {"driver": "x", "joints": rows, "gripper": {"slot": "right_gripper_open"}}
    of = Embodiment.from_dict({"name": "single", "rate_hz": 15, "arms": {"right": arm}})
    contract = Contract(of, 5, (), 1, 64)
    state = {name: np.arange(6.0), "ee_joint_state": np.array([6.0])}
    observation = read_observation(contract, seen(state=state), None, 0.0)
    assert np.array_equal(of.from_unified(observation.state, "state"), np.arange(7))
    assert list(action_maps(contract, np.zeros((2, 7)))[0]) == ["arm_joint_state", "ee_joint_state"]


def test_arms_are_split_and_joined():
    of, native = robot(), np.arange(14.0)
    parts = split(of, native)
    assert parts["right"].joints.tolist() == [7, 8, 9, 10, 11, 12]
    assert parts["left"].gripper.tolist() == [6]
    assert np.array_equal(join(of, lambda side, count: parts[side].joints, lambda side: parts[side].gripper), native)


@pytest.mark.parametrize(
    "value", [np.zeros((2, 0), ">i4"), np.float32(3), np.bool_(True), np.asfortranarray(np.eye(3))]
)
def test_arrays_and_scalars_come_back(value):
    back = unpack_message(pack_message({"a": value}))["a"]
    assert np.array_equal(back, value)
    assert (back.dtype, back.shape) == (value.dtype, value.shape)


def test_objects_do_not_travel():
    with pytest.raises(WireError, match="cannot travel"):
        pack_message(np.array([object()]))


def test_a_robot_controlled_by_its_hands_is_not_served(checkpoint):
    raw = robot().to_dict()
    raw["control"] = "eef"
    with pytest.raises(ValueError, match="--protocol openpi"):
        XPolicyLabService(engine(checkpoint), Contract(Embodiment.from_dict(raw), 5, (), 1, 64))
