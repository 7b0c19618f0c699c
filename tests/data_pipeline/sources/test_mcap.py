"""Unsynchronised topics become steps of one clock, from MCAP files and from bags, without ROS.

Run: pytest tests/data_pipeline/sources/test_mcap.py
"""

from pathlib import Path

import numpy as np
import pytest

from data_pipeline.frames import JpegFrames, encode_jpeg
from data_pipeline.sources.mcap import McapSource, RosbagSource, list_topics, recover_mcap
from data_pipeline.sources.raw import RawEpisode
from data_pipeline.sources.topics import Sync, TopicPlan
from tests.data_pipeline.conftest import make_pictures

writer = pytest.importorskip("mcap_ros2.writer", reason="needs the extra mcap")
rosbag2 = pytest.importorskip("rosbags.rosbag2", reason="needs the extra mcap")
typesys = pytest.importorskip("rosbags.typesys", reason="needs the extra mcap")

HEADER = "\n" + "=" * 80 + "\nMSG: std_msgs/Header\nbuiltin_interfaces/Time stamp\nstring frame_id\n"
HEADER += "=" * 80 + "\nMSG: builtin_interfaces/Time\nint32 sec\nuint32 nanosec\n"
POSE = "=" * 80 + "\nMSG: geometry_msgs/Pose\ngeometry_msgs/Point position\ngeometry_msgs/Quaternion orientation\n"
POSE += "=" * 80 + "\nMSG: geometry_msgs/Point\nfloat64 x\nfloat64 y\nfloat64 z\n"
POSE += "=" * 80 + "\nMSG: geometry_msgs/Quaternion\nfloat64 x\nfloat64 y\nfloat64 z\nfloat64 w\n"
DEFINITIONS = {
    "sensor_msgs/msg/JointState": "std_msgs/Header header\nstring[] name\nfloat64[] position\nfloat64[] velocity\n"
    "float64[] effort\n" + HEADER,
    "sensor_msgs/msg/CompressedImage": "std_msgs/Header header\nstring format\nuint8[] data\n" + HEADER,
    "sensor_msgs/msg/Image": "std_msgs/Header header\nuint32 height\nuint32 width\nstring encoding\n"
    "uint8 is_bigendian\nuint32 step\nuint8[] data\n" + HEADER,
    "geometry_msgs/msg/PoseStamped": "std_msgs/Header header\ngeometry_msgs/Pose pose\n" + HEADER + POSE,
    "std_msgs/msg/Float32": "float32 data\n",
    "std_msgs/msg/String": "string data\n",
}
START_NS = 1_700_000_000_000_000_000
LAG_NS = 7_000_000  # from measurement to log
JOINTS, POSES, GRIP, TEXT = "/joint_states", "/tool_pose", "/gripper/width", "/task"
HIGH, WRIST = "/cam_high/compressed", "/cam_wrist/image_raw"
PLAN = TopicPlan(
    clock=HIGH,
    fields={
        f"{JOINTS}/position": Sync("linear", 0.05),
        f"{JOINTS}/velocity/elbow": Sync("previous", 0.05),
        f"{POSES}/pose/position": Sync("linear", 0.1),
        f"{POSES}/pose/orientation": Sync("slerp", 0.1),
        f"{GRIP}/data": Sync("previous", 0.5),
        f"{TEXT}/data": Sync("previous", 10.0),
        HIGH: Sync("nearest", 0.01),
        WRIST: Sync("nearest", 0.06),
    },
)


def header(stamp_ns: int) -> dict:
    return {"stamp": {"sec": stamp_ns // 10**9, "nanosec": stamp_ns % 10**9}, "frame_id": ""}


def joint_state(stamp_ns: int, width: int = 3) -> dict:
    """Positions are seconds since the start: linear interpolation must return the time of the step."""
    seconds = (stamp_ns - START_NS) / 1e9
    names = ["shoulder", "elbow", "wrist"][:width]
    position = [seconds * (joint + 1) for joint in range(width)]
    velocity = [10.0 * joint for joint in range(width)]
    return {"header": header(stamp_ns), "name": names, "position": position, "velocity": velocity, "effort": []}


def pose(stamp_ns: int) -> dict:
    angle = (stamp_ns - START_NS) / 1e9 * 0.5  # rad, about z
    orientation = {"x": 0.0, "y": 0.0, "z": np.sin(angle / 2), "w": np.cos(angle / 2)}
    position = {"x": angle, "y": 0.0, "z": 1.0}
    return {"header": header(stamp_ns), "pose": {"position": position, "orientation": orientation}}


def compressed(stamp_ns: int, frame: np.ndarray) -> dict:
    return {"header": header(stamp_ns), "format": "jpeg", "data": encode_jpeg(frame)}


def raw_image(stamp_ns: int, frame: np.ndarray, encoding: str = "bgr8", padding: int = 4) -> dict:
    height, width = frame.shape[:2]
    pixels = {"bgr8": frame[..., ::-1], "rgb8": frame, "mono8": frame[..., :1]}[encoding].reshape(height, -1)
    rows = np.pad(pixels, ((0, 0), (0, padding)))
    size = {"height": height, "width": width, "step": rows.shape[1]}
    return {"header": header(stamp_ns), "encoding": encoding, "is_bigendian": 0, "data": rows.tobytes(), **size}


def make_messages(num_frames: int = 20, pause_after: int | None = None, pause_ns: int = 10**9) -> list:
    """(log time, topic, type, content): camera at 20 Hz, joints at 100 Hz, poses at 50 Hz, the gripper at 3 Hz."""
    kinds = list(DEFINITIONS)
    joint, picture, image, pose_kind, number, string = kinds
    frames = make_pictures(num_frames)
    camera = START_NS + 50_000_000 * np.arange(num_frames)
    if pause_after is not None:
        camera[pause_after:] += pause_ns
    end = int(camera[-1]) + 60_000_000
    messages = [(START_NS - 10**8, TEXT, string, {"data": "sort the parts"})]
    messages += [(int(t), HIGH, picture, compressed(int(t), f)) for t, f in zip(camera, frames, strict=True)]
    messages += [(int(t), WRIST, image, raw_image(int(t) + 3, f)) for t, f in zip(camera, frames, strict=True)]
    messages += [(t, JOINTS, joint, joint_state(t)) for t in range(START_NS - 20_000_000, end, 10_000_000)]
    messages += [(t, POSES, pose_kind, pose(t)) for t in range(START_NS - 20_000_000, end, 20_000_000)]
    messages += [(t, GRIP, number, {"data": 42.5}) for t in range(START_NS - 20_000_000, end, 333_000_000)]
    return sorted(((t + LAG_NS if "header" in m else t, *rest, m) for t, *rest, m in messages), key=lambda m: m[0])


def write_mcap(path: Path, messages: list) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        out = writer.Writer(file)
        schemas = {kind: out.register_msgdef(kind, text) for kind, text in DEFINITIONS.items()}
        for log_ns, topic, kind, content in messages:
            out.write_message(topic, schemas[kind], content, log_time=log_ns, publish_time=log_ns)
        out.finish()
    return path


def as_object(types, kind: str, content: dict):
    """A nested dictionary as the message object that rosbags writes."""
    values = {}
    for name, (node, detail) in types.fielddefs[kind][1]:
        value = content[name]
        if node == typesys.base.Nodetype.NAME:
            value = as_object(types, detail, value)
        elif node != typesys.base.Nodetype.BASE:
            element = detail[0][1][0] if detail[0][0] == typesys.base.Nodetype.BASE else ""
            if isinstance(value, bytes):
                value = np.frombuffer(value, np.uint8)
            elif element.startswith("float"):
                value = np.array(value, dtype=element)
        values[name] = value
    return types.types[kind](**values)


def write_bag(path: Path, messages: list) -> Path:
    types = typesys.get_typestore(typesys.Stores.ROS2_HUMBLE)
    with rosbag2.Writer(path, version=9) as bag:
        connections = {}
        for log_ns, topic, kind, content in messages:
            if topic not in connections:
                connections[topic] = bag.add_connection(topic, kind, typestore=types)
            raw = types.serialize_cdr(as_object(types, kind, content), kind)
            bag.write(connections[topic], log_ns, raw)
    return path


def read_all(source) -> tuple[list, list]:
    items = [item for shard in source.shards() for item in source.read(shard)]
    return [i for i in items if isinstance(i, RawEpisode)], [i for i in items if not isinstance(i, RawEpisode)]


@pytest.fixture(params=["mcap", "rosbag"])
def recorded(request, tmp_path):
    """Write messages as one recording and open it, in each of the two formats."""

    def make(messages: list, plan: TopicPlan = PLAN):
        if request.param == "mcap":
            write_mcap(tmp_path / "take.mcap", messages)
            return McapSource(tmp_path, plan)
        write_bag(tmp_path / "take", messages)
        return RosbagSource(tmp_path, plan)

    return make


def test_steps_are_the_clocks_messages_at_header_time(recorded):
    (episode,), faults = read_all(recorded(make_messages()))
    assert faults == []
    assert episode.num_steps == 20
    np.testing.assert_array_equal(episode.stamps_ns, START_NS + 50_000_000 * np.arange(20))


def test_fields_are_taken_at_the_steps_time(recorded):
    (episode,), _ = read_all(recorded(make_messages()))
    seconds = np.arange(20) * 0.05
    np.testing.assert_allclose(episode.fields[f"{JOINTS}/position"], seconds[:, None] * [1, 2, 3], atol=1e-9)
    np.testing.assert_array_equal(episode.fields[f"{JOINTS}/velocity/elbow"], np.full(20, 10.0))
    np.testing.assert_allclose(episode.fields[f"{POSES}/pose/position"][:, 0], seconds * 0.5, atol=1e-9)
    rotation = episode.fields[f"{POSES}/pose/orientation"]  # xyzw
    np.testing.assert_allclose(2 * np.arctan2(rotation[:, 2], rotation[:, 3]), seconds * 0.5, atol=1e-9)
    np.testing.assert_array_equal(episode.fields[f"{GRIP}/data"], np.full(20, 42.5))
    assert set(episode.fields[f"{TEXT}/data"]) == {"sort the parts"}


def test_pictures_are_rgb_and_decoded_when_indexed(recorded):
    (episode,), _ = read_all(recorded(make_messages()))
    frames = make_pictures(20)
    assert isinstance(episode.images[HIGH], JpegFrames)
    assert np.abs(episode.images[HIGH][5].astype(int) - frames[5]).mean() < 3
    np.testing.assert_array_equal(episode.images[WRIST][5], frames[5])  # padded bgr8 rows


def test_resampling_walks_the_clock_at_its_own_rate(recorded):
    plan = TopicPlan(HIGH, {f"{JOINTS}/position/0": Sync("linear", 0.05)}, resample_hz=40.0)
    (episode,), _ = read_all(recorded(make_messages(), plan))
    np.testing.assert_array_equal(np.diff(episode.stamps_ns), np.full(38, 25_000_000))
    np.testing.assert_allclose(episode.fields[f"{JOINTS}/position/0"], np.arange(39) * 0.025, atol=1e-9)


def test_a_gap_splits_the_recording(recorded):
    episodes, faults = read_all(recorded(make_messages(20, pause_after=12)))
    assert [episode.num_steps for episode in episodes] == [12, 8]
    assert len({episode.name for episode in episodes}) == 2
    (gap,) = [fault for fault in faults if fault.kind == "gap"]
    assert "1.050 s: split into two episodes" in gap.message


def test_a_topic_that_falls_silent_is_masked(recorded):
    messages = [m for m in make_messages() if m[1] != JOINTS or m[0] < START_NS + 400_000_000]
    (episode,), faults = read_all(recorded(messages))
    position = episode.fields[f"{JOINTS}/position"]
    assert np.isfinite(position[:8]).all()
    assert np.isnan(position[10:]).all()
    assert np.isfinite(episode.fields[f"{POSES}/pose/position"]).all()
    assert {fault.kind for fault in faults} == {"stale"}
    assert any("have no message within 0.05 s" in fault.message for fault in faults)


def test_a_camera_that_falls_silent_has_frames_that_cannot_be_decoded(recorded):
    plan = TopicPlan(f"{JOINTS}", {HIGH: Sync("previous", 0.06), WRIST: Sync("previous", 0.06)})
    messages = [m for m in make_messages() if m[1] not in (HIGH, WRIST) or m[0] < START_NS + 400_000_000]
    (episode,), faults = read_all(recorded(messages, plan))
    for camera in (HIGH, WRIST):
        assert episode.images[camera][20].shape == (16, 24, 3)
        with pytest.raises(ValueError, match=f"{camera}, frame 90"):
            episode.images[camera][90]
    assert [fault.kind for fault in faults] == ["stale", "stale"]


def test_a_missing_topic_or_field_is_told_and_left_out(recorded):
    fields = {"/joint_state/position": Sync(), f"{JOINTS}/positon": Sync(), f"{JOINTS}/position/hip": Sync()}
    (episode,), faults = read_all(recorded(make_messages(), TopicPlan(HIGH, {**fields, f"{GRIP}/data": Sync()})))
    assert list(episode.fields) == [f"{GRIP}/data"]
    told = {fault.kind + " " + fault.where.split(", ")[1]: fault.message for fault in faults}
    assert "did you mean '/joint_states'" in told["missing_topic /joint_state/position"]
    assert "did you mean 'position'" in told[f"missing_field {JOINTS}/positon"]
    assert "unknown joint 'hip'" in told[f"missing_field {JOINTS}/position/hip"]


def test_a_missing_clock_leaves_the_recording_out(recorded):
    episodes, (fault,) = read_all(recorded(make_messages(), TopicPlan("/cam_hi", {f"{GRIP}/data": Sync()})))
    assert episodes == []
    assert fault.kind == "missing_topic"


def test_a_width_that_changes_leaves_the_recording_out(recorded):
    messages = make_messages()
    place = next(i for i, m in enumerate(messages) if m[1] == JOINTS)
    log_ns, topic, kind, _ = messages[place]
    messages[place] = (log_ns, topic, kind, joint_state(log_ns - LAG_NS, width=2))
    episodes, faults = read_all(recorded(messages))
    assert episodes == []
    assert [fault.kind for fault in faults] == ["wrong_width"]
    assert "[(2,), (3,)]" in faults[0].message


@pytest.mark.parametrize(("repeats", "kept"), [(1, True), (5, False)])
def test_repeated_stamps_are_dropped_when_few(recorded, repeats, kept):
    messages = make_messages(150)
    pictures = [i for i, m in enumerate(messages) if m[1] == HIGH]
    for i in pictures[10 : 10 + repeats]:
        messages.append((messages[i][0] + 1, *messages[i][1:]))
    messages.sort(key=lambda m: m[0])
    episodes, faults = read_all(recorded(messages))
    assert [episode.num_steps for episode in episodes] == ([150] if kept else [])
    assert [fault.kind for fault in faults] == ["timestamps"]


def test_messages_without_a_header_stamp_use_the_log(recorded):
    (episode,), faults = read_all(recorded(make_messages(), TopicPlan(GRIP, {f"{GRIP}/data": Sync("nearest", 0)})))
    assert faults == []
    assert episode.stamps_ns[0] == START_NS - 20_000_000


def test_an_mcap_cut_short_or_flipped_is_left_out_and_its_neighbour_read(tmp_path):
    good = write_mcap(tmp_path / "b.mcap", make_messages())
    content = good.read_bytes()
    (tmp_path / "a.mcap").write_bytes(content[: len(content) // 2])
    flipped = bytearray(content)
    flipped[len(content) // 3] ^= 0xFF
    (tmp_path / "c.mcap").write_bytes(flipped)
    (tmp_path / "d.mcap").write_bytes(b"")
    (tmp_path / "e.mcap").symlink_to(tmp_path / "never fetched")
    source = McapSource(tmp_path, PLAN)
    (episode,), faults = read_all(source)
    assert episode.name == "b.mcap:0"
    assert [fault.where for fault in faults] == ["a.mcap", "c.mcap", "d.mcap", "e.mcap"]
    assert {fault.kind for fault in faults} <= {"truncated", "bad_crc"}


def test_topics_are_listed_with_their_rates(tmp_path):
    file = write_mcap(tmp_path / "take.mcap", make_messages())
    topics = {topic.name: topic for topic in list_topics(file)}
    assert list(topics) == sorted((JOINTS, POSES, GRIP, TEXT, HIGH, WRIST))
    assert (topics[HIGH].kind, topics[HIGH].num_messages) == ("sensor_msgs/msg/CompressedImage", 20)
    assert topics[JOINTS].rate_hz == pytest.approx(100, rel=0.2)
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(ValueError, match="rdt data repair"):
        list_topics(file)


def test_the_messages_before_the_damage_are_recovered(tmp_path):
    good = write_mcap(tmp_path / "good.mcap", make_messages())
    assert recover_mcap(good, tmp_path / "whole/take.mcap") is None
    before, _ = read_all(McapSource(tmp_path, PLAN))
    (after,), faults = read_all(McapSource(tmp_path / "whole", PLAN))
    assert faults == [] and after.num_steps == before[0].num_steps
    np.testing.assert_array_equal(after.fields[f"{JOINTS}/position"], before[0].fields[f"{JOINTS}/position"])
    content = good.read_bytes()
    (tmp_path / "cut.mcap").write_bytes(content[: len(content) - 400])  # without its summary
    fault = recover_mcap(tmp_path / "cut.mcap", tmp_path / "saved/take.mcap")
    assert fault.kind == "truncated" and not fault.left_out and "200 messages before it can be read" in fault.message
    (saved,), faults = read_all(McapSource(tmp_path / "saved", PLAN))
    assert faults == [] and saved.num_steps == after.num_steps


def test_a_recording_is_not_recovered_over_itself(tmp_path):
    good = write_mcap(tmp_path / "good.mcap", make_messages())
    content = good.read_bytes()
    with pytest.raises(FileExistsError, match="exists already"):
        recover_mcap(good, tmp_path / "good.mcap")
    assert good.read_bytes() == content


def test_of_a_file_without_messages_nothing_is_written(tmp_path):
    (tmp_path / "junk.mcap").write_bytes(b"junk" * 100)
    fault = recover_mcap(tmp_path / "junk.mcap", tmp_path / "saved/junk.mcap")
    assert fault.left_out and not list((tmp_path / "saved").iterdir())


def test_a_damaged_bag_is_left_out_and_its_neighbour_read(tmp_path):
    write_bag(tmp_path / "a", make_messages())
    write_bag(tmp_path / "b", make_messages())
    (database,) = (tmp_path / "a").glob("*.db3")
    database.write_bytes(database.read_bytes()[:5000])
    (episode,), (fault,) = read_all(RosbagSource(tmp_path, PLAN))
    assert episode.name == "b:0"
    assert (fault.kind, fault.where) == ("truncated", "a")


def test_ros_1_bags_are_read(tmp_path):
    rosbag1 = pytest.importorskip("rosbags.rosbag1")
    types = typesys.get_typestore(typesys.Stores.ROS1_NOETIC)
    with rosbag1.Writer(tmp_path / "take.bag") as bag:
        connection = bag.add_connection("/width", "std_msgs/msg/Float32", typestore=types)
        for step in range(5):
            number = types.types["std_msgs/msg/Float32"](data=float(step))
            raw = types.serialize_ros1(number, "std_msgs/msg/Float32")
            bag.write(connection, START_NS + step * 10**8, raw)
    (episode,), faults = read_all(RosbagSource(tmp_path, TopicPlan("/width", {"/width/data": Sync("nearest", 0)})))
    assert faults == []
    assert episode.fields["/width/data"].tolist() == [0, 1, 2, 3, 4]


def test_a_cut_or_unknown_raw_picture_is_refused_when_indexed(recorded):
    messages = make_messages()
    pictures = [i for i, m in enumerate(messages) if m[1] == WRIST]
    messages[pictures[3]][3]["data"] = messages[pictures[3]][3]["data"][:-10]
    messages[pictures[4]][3]["encoding"] = "bayer_rggb16"
    (episode,), _ = read_all(recorded(messages))
    frames = episode.images[WRIST]
    assert frames[2].shape == frames[5].shape == (16, 24, 3)
    with pytest.raises(ValueError, match=r"frame 3: an image of 16 x 24 bgr8 .* cut short"):
        frames[3]
    with pytest.raises(ValueError, match="frame 4: unknown image encoding 'bayer_rggb16'"):
        frames[4]


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "mono8"])
def test_image_encodings(recorded, encoding):
    frame = make_pictures(1)[0]
    content = raw_image(START_NS, frame, encoding)
    messages = [(START_NS, WRIST, "sensor_msgs/msg/Image", content)]
    (episode,), _ = read_all(recorded(messages, TopicPlan(WRIST, {WRIST: Sync()})))
    expected = np.repeat(frame[..., :1], 3, axis=2) if encoding == "mono8" else frame
    np.testing.assert_array_equal(episode.images[WRIST][0], expected)


def test_wrong_plans_and_empty_folders_are_refused(tmp_path):
    with pytest.raises(ValueError, match="unknown how 'linaer': did you mean 'linear'"):
        Sync("linaer")
    with pytest.raises(ValueError, match="resample_hz must be positive"):
        TopicPlan(HIGH, resample_hz=0)
    with pytest.raises(FileNotFoundError, match="holds no recordings"):
        McapSource(tmp_path, PLAN)
