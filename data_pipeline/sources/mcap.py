"""Recordings of ROS topics without ROS: MCAP files, rosbag2 folders and ROS 1 bags (extra `mcap`).

One file or bag folder is one shard; `topics.py` makes episodes of its messages. A recording that is cut short or fails
a checksum is left out whole: a demonstration without its end is none. All messages of the wanted topics of one
recording stand in memory, pictures encoded as they came.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data_pipeline.atomic import atomic_path
from data_pipeline.sources.mcap_writer import METADATA
from data_pipeline.sources.raw import Fault, FieldSpec, RawEpisode, Shard
from data_pipeline.sources.topics import Message, TopicPlan, build_episodes, wanted_topics

_INSTALL = "pip install 'rdt-stack[mcap]'"


class McapSource:
    """MCAP files of ROS 2 messages below a folder."""

    def __init__(self, path: str | Path, plan: TopicPlan, glob: str = "*.mcap") -> None:
        self.path, self.plan = Path(path), plan
        self._shards = _shards(self.path, sorted(p for p in self.path.glob(glob) if not p.is_dir()), glob)

    def shards(self) -> Sequence[Shard]:
        return self._shards

    def fields(self) -> Mapping[str, FieldSpec] | None:
        return None  # how many joints a message has is known when it is read

    def read(self, shard: Shard) -> Iterator[RawEpisode | Fault]:
        try:
            from mcap.exceptions import McapError
            from mcap.reader import make_reader
            from mcap_ros2.decoder import DecoderFactory
        except ImportError:
            raise ModuleNotFoundError(f"MCAP files need the packages mcap and mcap-ros2-support: {_INSTALL}") from None
        try:
            with shard.path.open("rb") as file:
                reader = make_reader(file, validate_crcs=True, decoder_factories=[DecoderFactory()])
                summary = reader.get_summary()
                if summary is None:
                    raise McapError("it has no summary")
                topics = sorted({channel.topic for channel in summary.channels.values()})
                wanted = sorted(set(wanted_topics(self.plan, topics).values()))
                messages = [
                    Message(channel.topic, schema.name if schema else "", message.log_time, content)
                    for schema, channel, message, content in reader.iter_decoded_messages(topics=wanted)
                ]
                metadata = {
                    key: json.loads(value)
                    for record in reader.iter_metadata()
                    if record.name == METADATA
                    for key, value in record.metadata.items()
                }
        except (McapError, ValueError, EOFError, IndexError, OSError) as error:
            crc = type(error).__name__ == "CRCValidationError"
            words = str(error) or type(error).__name__
            message = f"damaged or cut short ({words}): the recording is left out; `rdt data repair` may save it"
            yield Fault("bad_crc" if crc else "truncated", shard.name, message)
            return
        for found in build_episodes(shard.name, self.plan, topics, messages):
            yield found if isinstance(found, Fault) else replace(found, metadata=metadata)


@dataclass(frozen=True)
class Topic:
    """What a recording says of one topic."""

    name: str
    kind: str  # "sensor_msgs/msg/JointState"
    num_messages: int
    rate_hz: float  # over the whole recording; 0 where that has no length


def list_topics(path: str | Path) -> list[Topic]:
    """The topics of an MCAP file, from its summary. Raises `ValueError` for a file without one."""
    try:
        from mcap.exceptions import McapError
        from mcap.reader import make_reader
    except ImportError:
        raise ModuleNotFoundError(f"MCAP files need the package mcap: {_INSTALL}") from None
    try:
        with Path(path).open("rb") as file:
            summary = make_reader(file).get_summary()
    except (McapError, ValueError, EOFError, IndexError, struct.error) as error:
        raise ValueError(f"{path} is damaged or cut short ({error}): `rdt data repair` may save it") from None
    if summary is None or summary.statistics is None:
        raise ValueError(f"{path} has no summary, it was not closed: `rdt data repair` may save it")
    counts, statistics = summary.statistics.channel_message_counts, summary.statistics
    seconds = (statistics.message_end_time - statistics.message_start_time) / 1e9
    topics = []
    for number, channel in sorted(summary.channels.items(), key=lambda item: item[1].topic):
        schema, count = summary.schemas.get(channel.schema_id), counts.get(number, 0)
        topics.append(Topic(channel.topic, schema.name if schema else "", count, count / seconds if seconds else 0.0))
    return topics


def recover_mcap(path: str | Path, out: str | Path) -> Fault | None:
    """Write the messages up to where a file was cut or is damaged as a whole new file `out`; what was wrong, or None.

    No file is written where no message could be read. A recording whose end is missing is no demonstration of its
    task any more: look before you train on it.
    """
    try:
        from mcap.exceptions import McapError
        from mcap.records import Channel, Message, Metadata, Schema
        from mcap.stream_reader import StreamReader
        from mcap.writer import Writer
    except ImportError:
        raise ModuleNotFoundError(f"MCAP files need the package mcap: {_INSTALL}") from None
    path, out, num_messages, wrong = Path(path), Path(out), 0, None
    if out.exists():
        raise FileExistsError(f"{out} exists already: choose another folder or remove it")
    schemas: dict[int, int] = {0: 0}  # id in the damaged file -> id in the new one; 0: none
    channels: dict[int, int] = {}
    with path.open("rb") as damaged, atomic_path(out) as temporary, temporary.open("wb") as file:
        writer = Writer(file)
        writer.start(library="rdt-stack")
        try:
            for record in StreamReader(damaged, validate_crcs=True).records:
                if isinstance(record, Schema) and record.id not in schemas:
                    schemas[record.id] = writer.register_schema(record.name, record.encoding, record.data)
                elif isinstance(record, Channel) and record.id not in channels:
                    known = schemas[record.schema_id], record.metadata
                    channels[record.id] = writer.register_channel(record.topic, record.message_encoding, *known)
                elif isinstance(record, Message):
                    to, when = channels[record.channel_id], (record.log_time, record.publish_time)
                    writer.add_message(to, when[0], record.data, when[1], record.sequence)
                    num_messages += 1
                elif isinstance(record, Metadata):
                    writer.add_metadata(record.name, record.metadata)
        except (McapError, ValueError, EOFError, IndexError, KeyError, struct.error) as error:
            wrong = f"{str(error) or type(error).__name__}: {num_messages} messages before it can be read"
        writer.finish()
    if wrong and not num_messages:
        out.unlink()
    return None if wrong is None else Fault("truncated", path.name, wrong, left_out=not num_messages)


class RosbagSource:
    """rosbag2 folders (SQLite or MCAP, each with its metadata.yaml) and ROS 1 `.bag` files below a folder."""

    def __init__(self, path: str | Path, plan: TopicPlan, glob: str = "*") -> None:
        self.path, self.plan = Path(path), plan
        found = [p for p in self.path.glob(glob) if p.suffix == ".bag" or (p / "metadata.yaml").is_file()]
        self._shards = _shards(self.path, sorted(found), f"{glob} (folders with a metadata.yaml, and .bag files)")

    def shards(self) -> Sequence[Shard]:
        return self._shards

    def fields(self) -> Mapping[str, FieldSpec] | None:
        return None  # how many joints a message has is known when it is read

    def read(self, shard: Shard) -> Iterator[RawEpisode | Fault]:
        try:
            from rosbags.highlevel import AnyReader
            from rosbags.typesys import Stores, get_typestore
        except ImportError:
            raise ModuleNotFoundError(f"bags need the package rosbags: {_INSTALL}") from None
        ros1 = shard.path.suffix == ".bag"
        types = get_typestore(Stores.ROS1_NOETIC if ros1 else Stores.ROS2_HUMBLE)  # where a bag holds no definitions
        try:
            with AnyReader([shard.path], default_typestore=types) as reader:
                topics = sorted({connection.topic for connection in reader.connections})
                wanted = set(wanted_topics(self.plan, topics).values())
                messages = list(_bag_messages(reader, wanted))
        except Exception as error:  # rosbags lets errors of SQLite, of YAML and its own pass
            message = f"damaged or cut short ({error}): the recording is left out"
            yield Fault("truncated", shard.name, message)
            return
        yield from build_episodes(shard.name, self.plan, topics, messages)


def _bag_messages(reader: Any, wanted: set[str]) -> Iterator[Message]:
    connections = [connection for connection in reader.connections if connection.topic in wanted]
    if not connections:  # the reader takes none for all
        return
    for connection, log_ns, raw in reader.messages(connections=connections):
        yield Message(connection.topic, connection.msgtype, log_ns, reader.deserialize(raw, connection.msgtype))


def _shards(root: Path, paths: Sequence[Path], what: str) -> list[Shard]:
    if not paths:
        raise FileNotFoundError(f"{root} holds no recordings {what}")
    return [Shard(path.relative_to(root).as_posix(), path, index) for index, path in enumerate(paths)]
