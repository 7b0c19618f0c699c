"""`rdt data inspect`: what a store holds, what recordings look like, what a dataset YAML means slot by slot."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from data_pipeline.annotation.valence import NOTE
from data_pipeline.atomic import write_text
from data_pipeline.mapping.explain import explain
from data_pipeline.mapping.mapping import Mapping as DatasetMapping
from data_pipeline.mapping.starter import starter_yaml
from data_pipeline.schema.layout import SLOT_NAMES
from data_pipeline.schema.registry import find_config
from data_pipeline.selection import find_stores
from data_pipeline.sources.mcap import list_topics
from data_pipeline.sources.opening import open_dataset, open_recordings, recognise
from data_pipeline.sources.raw import FieldSpec, Source
from data_pipeline.storage import EpisodeStore

_MOST = 8  # lines of a list that may be long


def command(args: argparse.Namespace) -> None:
    path = Path(args.path)
    if path.is_dir() and (EpisodeStore.exists(path) or recognise(path) is None):
        print("\n\n".join(describe_store(EpisodeStore.open(store)) for store in find_stores(path)))
        return
    if path.exists() and recognise(path) == "mcap":
        files = [path] if path.is_file() else sorted(path.rglob("*.mcap"))
        print(describe_topics(files[0], len(files)))
        return
    if path.exists() and recognise(path) is not None:
        source = open_recordings(path)
        print(describe_source(path, source))
        if args.starter:
            write_text(args.starter, starter(path, Path(args.starter).stem, source))
            print(f"a first guess of what they mean is in {args.starter}: check it line by line")
        return
    yaml = find_config("datasets", args.path)
    mapping = DatasetMapping.from_yaml(yaml)
    print(explain(mapping), end="")
    if args.root is not None:
        for opened in open_dataset(mapping, yaml, args.root):
            shards = opened.source.shards()
            print(f"fits the files there: {len(shards)} shards" + "".join(f", the first {s.path}" for s in shards[:1]))


def describe_topics(file: Path, num_files: int) -> str:
    """The topics of one recording: what a dataset YAML with `format: mcap` can name."""
    topics = list_topics(file)
    wide, kind = (max(len(text) for text in texts) for texts in zip(*((t.name, t.kind) for t in topics), strict=True))
    lines = [f"{file}" + (f", the first of {num_files} recordings" if num_files > 1 else "")]
    lines += [
        f"  {t.name:<{wide}}  {t.kind:<{kind}}  {t.num_messages:>8} messages  {t.rate_hz:8.1f} Hz" for t in topics
    ]
    return "\n".join(
        [*lines, "", "next: a dataset YAML says which of these are state, cameras and clock (docs/data.md)"]
    )


def starter(path: Path, name: str, source: Source) -> str:
    """The text of a first dataset YAML for recordings at `path`."""
    fields = source.fields()
    if fields is None:
        raise ValueError(f"{path}: the fields are known when a record is read, so there is nothing to guess from")
    kind = recognise(path)
    assert kind is not None
    where = path.resolve()
    glob = str(where / "**" / f"*{source.shards()[0].path.suffix}") if kind == "hdf5" and path.is_dir() else str(where)
    return starter_yaml(name, kind, glob, fields, getattr(source, "fps", None))


def describe_store(store: EpisodeStore) -> str:
    entries = store.entries
    steps = sum(store.episode_lengths)
    rates = Counter(entry.rate_hz for entry in entries)
    seconds = sum(entry.num_steps / entry.rate_hz for entry in entries)
    time = f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds:.0f} s"
    size = sum(file.stat().st_size for file in store.path.rglob("*") if file.is_file())
    robot = store.robot_type or "unknown"
    lines = [
        f"{store.path}: {len(entries)} episodes, {steps} steps, {time}, {size / 1e6:.1f} MB",
        f"robot         {robot}" + ("" if store.is_described else " (without a description: unified vectors alone)"),
    ]
    if not entries:
        return "\n".join(lines)
    lines.append("rate          " + ", ".join(f"{rate:g} Hz" for rate in sorted(rates)))
    lengths = sorted(store.episode_lengths)
    lines.append(f"episode       {lengths[0]} to {lengths[-1]} steps, half of them below {lengths[len(lengths) // 2]}")
    for role in dict.fromkeys(role for entry in entries for role in entry.frame_sizes):
        having = [entry.frame_sizes[role] for entry in entries if role in entry.frame_sizes]
        sizes = ", ".join(f"{width} x {height}" for height, width in sorted(set(having)))
        lines.append(f"camera        {role}: {sizes}" + _share(len(having), len(entries)))
    lines += _slots("state", [entry.state_slots for entry in entries])
    lines += _slots("action", [entry.action_slots for entry in entries])
    tasks = Counter(text for entry in entries for text in entry.instructions)
    shown = tasks.most_common(_MOST)
    lines += [f"instruction   {text!r} in {count} episodes" for text, count in shown]
    if len(tasks) > len(shown):
        lines.append(f"              and {len(tasks) - len(shown)} more")
    if felt := sum(NOTE in entry.source for entry in entries):
        lines.append("personal      valence of the operator, from EEG" + _share(felt, len(entries)))
    if store.native_paths():
        lines.append(f"source's own  {', '.join(store.native_paths())}")
    return "\n".join(lines)


def describe_source(path: Path, source: Source) -> str:
    shards, fields = source.shards(), source.fields()
    first = "".join(f", the first {shard.name}" for shard in shards[:1])
    lines = [f"{path}: {type(source).__name__.removesuffix('Source')}, {len(shards)} shards{first}"]
    if fields is None:
        return lines[0] + "\nits fields are known when a record is read"
    return "\n".join(
        [
            *lines,
            *_fields(fields),
            "",
            "next: a dataset YAML says what these mean (docs/data.md); --starter FILE writes a first one",
        ]
    )


def _fields(fields: Mapping[str, FieldSpec]) -> list[str]:
    wide = max(map(len, fields))
    rows = []
    for path, spec in sorted(fields.items(), key=lambda item: (item[1].kind, item[0])):
        shape = " x ".join("?" if n is None else str(n) for n in spec.shape) or "1"
        rows.append(f"  {spec.kind:<6} {path:<{wide}}  {shape if spec.kind != 'text' else ''}  {spec.dtype}".rstrip())
    return rows


def _slots(kind: str, filled: Sequence[tuple[int, ...]]) -> list[str]:
    """Runs of slots, and in how many episodes they are filled where that is not all."""
    counts = Counter(slot for slots in filled for slot in slots)
    lines: list[str] = []
    run: list[int] = []
    for slot in [*sorted(counts), None]:
        if run and (slot is None or slot != run[-1] + 1 or counts[slot] != counts[run[0]]):
            names = SLOT_NAMES[run[0]] + (f" .. {SLOT_NAMES[run[-1]]}" if len(run) > 1 else "")
            numbers = f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}"
            lines.append(f"{kind:<13} {numbers:<7} {names}" + _share(counts[run[0]], len(filled)))
            run = []
        if slot is not None:
            run.append(slot)
    return lines


def _share(having: int, total: int) -> str:
    return "" if having == total else f" (in {having} of {total} episodes)"
