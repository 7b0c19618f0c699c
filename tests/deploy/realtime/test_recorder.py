"""What a running robot saw, was told and decided, in one MCAP file an episode.

Run: pytest tests/deploy/realtime/test_recorder.py
"""

import errno
import json
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.recordings import MappedRecordings
from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.registry import find_config
from data_pipeline.schema.types import ActionChunk
from data_pipeline.sources.mcap import list_topics, recover_mcap
from data_pipeline.sources.raw import Fault
from data_pipeline.sources.topics import decode_image
from deploy.cli import main
from deploy.realtime import recorder as module
from deploy.realtime import records
from deploy.realtime.memory import Ring
from deploy.realtime.recorder import BoundedWriter, EpisodeTaker, Recorder, RecorderProcess, RecordTo, convert_line
from robot_drivers.types import CameraFrame
from tests.robots import bimanual

reader = pytest.importorskip("mcap.reader", reason="needs the extra mcap")
decoder = pytest.importorskip("mcap_ros2.decoder", reason="needs the extra mcap")
highlevel = pytest.importorskip("rosbags.highlevel", reason="needs the extra mcap")

MS = 1_000_000
SIM = Embodiment.from_yaml(find_config("robots", "sim_bimanual"))


class Robot:
    """The rings of a robot that runs, filled by hand at times of one's choice."""

    def __init__(self, robot: Embodiment) -> None:
        self.robot = robot
        dtypes = {
            "orders": records.ORDERS,
            "requests": records.request_dtype(16),
            "answers": records.answer_dtype(16),
            "states": records.state_dtype(robot.num_native),
            "ticks": records.tick_dtype(robot.num_native),
            **{f"frames of {role}": records.frame_dtype(48, 64) for role in robot.cameras},
        }
        self.rings = {
            name: Ring.create(dtype, 4096 if name in ("states", "ticks", "requests", "answers") else 256)
            for name, dtype in dtypes.items()
        }
        self.order("lean up")

    def specs(self):
        return {name: ring.spec for name, ring in self.rings.items()}

    def order(self, instruction: str) -> None:
        self.write("orders", instruction=instruction.encode())

    def write(self, name: str, **values) -> None:
        record = self.rings[name].empty()
        for key, value in values.items():
            record[key] = value
        self.rings[name].write(record)

    def live(self, now: int, at_s: float) -> None:
        """One tick at `now`: joints at `at_s`, commanded 20 ms on, and a picture as bright as the time."""
        row = np.full(self.robot.num_native, at_s)
        self.write("states", stamp_ns=now, positions=row)
        self.write(
            "ticks",
            stamp_ns=now,
            target_ns=now + 20 * MS,
            mode=b"run",
            why=b"run",
            commanded=1,
            sent=row + 0.02,
            wanted=row + 0.02,
            measured=row,
        )
        rows = np.tile(row, (8, 1))
        actions, mask = self.robot.to_unified(rows, "action")
        record = self.rings["answers"].empty()
        chunk = ActionChunk(now, self.robot.rate_hz, actions, mask)
        self.write("requests", stamp_ns=now)
        self.rings["answers"].write(records.put_answer(record, 0, chunk))
        for role in self.robot.cameras:
            image = np.full((48, 64, 3), round(50 * at_s), np.uint8)
            record = self.rings[f"frames of {role}"].empty()
            self.rings[f"frames of {role}"].write(records.put_frame(record, CameraFrame(role, image, now)))

    def close(self) -> None:
        for ring in self.rings.values():
            ring.close()


@pytest.fixture(scope="module")
def robot():
    robot = Robot(SIM)
    yield robot
    robot.close()


class Told:
    """A pipe whose words are known beforehand; between two words the robot goes on."""

    def __init__(self, *words) -> None:
        self.words, self.heard = list(words), []

    def poll(self, seconds):
        if self.words and callable(self.words[0]):
            self.words.pop(0)()
            return False
        return bool(self.words)

    def recv(self):
        if not self.words:
            raise EOFError
        return self.words.pop(0)

    def send(self, answer):
        self.heard.append(answer)


def drive(robot: Robot, seconds: float = 4.0):
    """Seconds of life at 50 Hz, stamped from the present on, and the wait for the last of them."""

    def go() -> None:
        start = time.monotonic_ns()
        for k in range(round(seconds * 50)):
            robot.live(start + k * 20 * MS, k * 0.02)
            time.sleep(max(0, start + k * 20 * MS - time.monotonic_ns()) * 1e-9)

    return go


@pytest.fixture(scope="module")
def recorded(robot, tmp_path_factory):
    """An episode, recorded in a process of its own: (where to, answer)."""
    to = RecordTo(SIM, tmp_path_factory.mktemp("recorder") / "demos", policies=("runs/x",))
    recorder = Recorder(to, robot.specs())
    robot.live(time.monotonic_ns(), 0.0)
    assert recorder.begin(trial=3).words == "recording"
    drive(robot)()
    recorder.pause()
    answer = recorder.end(success=True)
    recorder.close()
    return to, answer


def test_an_episode_opens_everywhere_and_becomes_a_store(recorded, tmp_path, capsys):
    to, answer = recorded
    path = Path(answer.path)
    assert path == to.folder / "episode_0000.mcap"
    with path.open("rb") as file:
        mcap = reader.make_reader(file, decoder_factories=[decoder.DecoderFactory()])
        assert mcap.get_header().profile == "ros2"
        decoded = {}
        for schema, channel, _, content in mcap.iter_decoded_messages():
            decoded.setdefault((channel.topic, schema.name), []).append(content)
    kinds = dict(decoded)
    measured = kinds["/joint_states", "sensor_msgs/msg/JointState"]
    assert list(measured[0].name) == list(SIM.native_names)
    assert len(measured[0].velocity) == len(measured[0].position) == SIM.num_native
    decisions = [json.loads(one.data) for one in kinds["/rdt/decisions", "std_msgs/msg/String"]]
    assert {"order", "tick", "request", "answer"} == {decision["event"] for decision in decisions}
    chunk = kinds["/rdt/chunks", "trajectory_msgs/msg/JointTrajectory"][-1]
    assert [point.positions[0] for point in chunk.points] == pytest.approx([measured[-1].position[0]] * 8)
    assert ("/cameras/external/compressed", "sensor_msgs/msg/CompressedImage") in kinds

    with highlevel.AnyReader([path]) as bag:
        for connection, _, raw in bag.messages():
            bag.deserialize(raw, connection.msgtype)

    words = convert_line(to).split()[1:]
    out = tmp_path / "store"
    assert main([*words[:-1], str(out)]) == 0, capsys.readouterr().out
    assert "1 episodes" in capsys.readouterr().out


def test_actions_are_the_commands_that_were_meant_for_later_and_pictures_are_of_their_step(recorded):
    to, _ = recorded
    data = MappedRecordings(to.folder / "dataset.yaml", to.folder)
    found = [one for shard in data.shards() for one in data.read(shard)]
    (read,) = [one for one in found if not isinstance(one, Fault)]
    episode = read.episode
    assert episode.rate_hz == SIM.rate_hz
    assert episode.action_offset_steps == SIM.action_offset_steps == 1
    assert episode.instructions == ("lean up",)
    states, actions = SIM.from_unified(episode.states, "state")[:, 0], SIM.from_unified(episode.actions)[:, 0]
    inner = slice(3, -3)
    assert np.allclose(np.diff(states)[inner], 0.08, atol=0.005)  # rad a step, at 1 rad/s
    assert np.allclose((actions - states)[inner], 0.08, atol=0.005)
    brightness = np.array([frame[0, 0, 0] for frame in episode.images["external"]])[inner]
    assert np.allclose(brightness / 50, states[inner], atol=0.1)


def test_metadata_say_what_was_recorded(recorded):
    _, answer = recorded
    found = metadata_of(Path(answer.path))
    assert (found["success"], found["trial"], found["checkpoint"]) == (True, 3, "runs/x")
    assert Embodiment.from_dict(found["robot_yaml"]) == SIM
    assert found["stopped_ns"] > found["started_ns"]


def test_an_episode_names_the_policy_that_acts_and_the_one_that_it_is_compared_with(robot, tmp_path):
    to = RecordTo(SIM, tmp_path, policies=("runs/old", "runs/new"))
    live, begin, end = drive(robot, 0.1), ("begin", {}), ("end", {})
    other = lambda number: lambda: robot.write("orders", policy=number, instruction=b"lean up")  # noqa: E731
    pipe = Told(other(1), begin, live, end, other(0), begin, live, end, ("close", {}))
    RecorderProcess(to, robot.specs(), pipe).run()
    named = [metadata_of(tmp_path / f"episode_000{number}.mcap") for number in (0, 1)]
    assert [found["checkpoint"] for found in named] == ["runs/new", "runs/old"]
    assert [found["compared_with"] for found in named] == ["runs/old", "runs/new"]


def metadata_of(path: Path) -> dict:
    with path.open("rb") as file:
        records = list(reader.make_reader(file).iter_metadata())
    return {key: json.loads(value) for record in records for key, value in record.metadata.items()}


def run(robot: Robot, folder: Path, *words) -> Told:
    folder.mkdir(exist_ok=True)
    pipe = Told(*words)
    RecorderProcess(RecordTo(SIM, folder), robot.specs(), pipe).run()
    return pipe


def test_a_discarded_episode_leaves_no_file_and_the_next_one_is_kept(robot, tmp_path):
    live = drive(robot, 0.1)
    begin, discard, end = ("begin", {}), ("discard", {}), ("end", {})
    pipe = run(robot, tmp_path, begin, live, discard, begin, live, end, ("close", {}))
    kept = str(tmp_path / "episode_0000.mcap")
    assert [words.split(":")[0] for _, words in pipe.heard] == ["recording", "discarded", "recording", kept]
    assert [path.name for path in tmp_path.iterdir()] == ["episode_0000.mcap"]


def test_an_episode_that_is_open_at_the_end_is_kept_up_to_its_pause(robot, tmp_path):
    live = drive(robot, 0.2)
    robot.live(time.monotonic_ns(), 0.0)
    run(robot, tmp_path, ("begin", {}), live, ("pause", {}), live, live, ("close", {}))
    assert [path.name for path in tmp_path.iterdir()] == ["episode_0000.mcap"]
    topics = {topic.name: topic.num_messages for topic in list_topics(tmp_path / "episode_0000.mcap")}
    assert topics["/joint_states"] == 11  # those of one stretch, and the one before


def test_what_a_killed_recorder_has_flushed_can_be_recovered_with_its_metadata(robot, tmp_path):
    to = RecordTo(SIM, tmp_path / "demos")
    recorder = Recorder(to, robot.specs())
    recorder.begin(trial=7)
    drive(robot, 2.5)()
    recorder._process.kill()
    assert "has ended" in recorder.end(success=True).words
    recorder.close()
    (left,) = to.folder.glob(".*.mcap")
    assert recover_mcap(left, tmp_path / "saved.mcap") is not None
    topics = {topic.name: topic.num_messages for topic in list_topics(tmp_path / "saved.mcap")}
    assert topics["/joint_states"] > 20
    with (tmp_path / "saved.mcap").open("rb") as file:
        (metadata,) = reader.make_reader(file).iter_metadata()
    assert json.loads(metadata.metadata["trial"]) == 7


def test_raw_pictures_come_back_as_they_were(robot, tmp_path):
    pipe = Told(("begin", {}), drive(robot, 0.1), ("end", {}), ("close", {}))
    RecorderProcess(RecordTo(SIM, tmp_path, pictures="raw"), robot.specs(), pipe).run()
    with (tmp_path / "episode_0000.mcap").open("rb") as file:
        found = reader.make_reader(file, decoder_factories=[decoder.DecoderFactory()])
        image = [one for *_, one in found.iter_decoded_messages(topics=["/cameras/external/image_raw"])][-1]
    assert decode_image(image).shape == (48, 64, 3)


def test_a_full_disk_ends_the_recording_with_a_message_and_the_next_episode_is_tried(
    robot, tmp_path, monkeypatch, capsys
):
    from data_pipeline.sources.mcap_writer import McapWriter

    working = McapWriter.joint_state

    def full(*_):
        raise OSError(errno.ENOSPC, "no space")

    def mend():
        monkeypatch.setattr(McapWriter, "joint_state", working)

    monkeypatch.setattr(McapWriter, "joint_state", full)
    live = drive(robot, 0.1)
    words = [("begin", {}), live, live, ("end", {}), mend, ("begin", {}), live, ("end", {}), ("close", {})]
    pipe = run(robot, tmp_path, *words)
    assert "disk is full" in pipe.heard[1][1]
    assert "the robot goes on" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["episode_0000.mcap"]


def test_pictures_are_dropped_before_joint_states():
    class Slow:
        def flush(self):
            pass

    gate, written = threading.Event(), []
    writer = BoundedWriter(Slow())
    writer.put(gate.wait)
    for number in range(200):
        writer.put_picture(lambda n=number: written.append(("picture", n)))
        writer.put(lambda n=number: written.append(("joints", n)))
    gate.set()
    writer.close()
    assert [n for kind, n in written if kind == "joints"] == list(range(200))
    assert 0 < writer.dropped == 200 - sum(kind == "picture" for kind, _ in written)


def test_records_that_were_overwritten_are_counted(robot):
    class Nowhere:
        def __getattr__(self, name):
            return lambda *_: None

    rings = {name: Ring(spec) for name, spec in robot.specs().items()}
    robot.live(time.monotonic_ns(), 0.0)
    taker = EpisodeTaker(SIM, rings, Nowhere(), "jpeg")
    for _ in range(100):
        robot.live(time.monotonic_ns(), 0.0)
    taker.take(time.monotonic_ns())
    for _ in range(300):  # the ring of frames holds 256
        robot.live(time.monotonic_ns(), 0.0)
    taker.take(time.monotonic_ns())
    taker.writer.close()
    assert taker.lost == {"frames of external": 44}
    assert taker.taken["states"] == 401  # with the one before


def test_a_folder_of_another_robot_is_refused(robot, tmp_path):
    Recorder(RecordTo(SIM, tmp_path), robot.specs()).close()
    with pytest.raises(ValueError, match="another folder"):
        Recorder(RecordTo(bimanual(15.0), tmp_path), robot.specs())


def test_an_answer_that_came_too_late_is_not_that_to_the_next_question(robot, tmp_path, monkeypatch):
    recorder = Recorder(RecordTo(SIM, tmp_path), robot.specs())
    assert recorder.discard().words == "no episode was being recorded"
    os.kill(recorder._process.pid, signal.SIGSTOP)  # a disk that hangs
    with monkeypatch.context() as impatient:
        impatient.setattr(module, "ANSWER_S", 0.1)
        assert "no answer" in recorder.begin().words
    os.kill(recorder._process.pid, signal.SIGCONT)
    assert recorder.discard().words == "discarded"
    recorder.close()
