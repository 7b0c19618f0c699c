"""From a dataset YAML to its files: which folder the glob starts from, and the reader of its format.

`source.glob` of a mapping names files or dataset folders. It starts from the folder given as root; without one from
the current folder, else from the folder of the YAML. An absolute glob is taken as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from data_pipeline.lerobot_format import INFO
from data_pipeline.mapping.config import SourceSpec
from data_pipeline.mapping.mapping import Mapping
from data_pipeline.mapping.sync import Sync
from data_pipeline.schema.registry import load_attribute
from data_pipeline.sources.raw import Source
from data_pipeline.sources.topics import TopicPlan

_SOURCES = {
    "rlds": "data_pipeline.sources.rlds:RldsSource",
    "tfds": "data_pipeline.sources.rlds_tfds:TfdsSource",
    "lerobot": "data_pipeline.sources.lerobot:LeRobotSource",
    "hdf5": "data_pipeline.sources.hdf5:Hdf5Source",
    "rh20t": "data_pipeline.sources.rh20t:Rh20tSource",
    "droid": "data_pipeline.sources.droid:DroidRawSource",
    "mcap": "data_pipeline.sources.mcap:McapSource",
    "rosbag": "data_pipeline.sources.mcap:RosbagSource",
}
"""Format -> the reader. Each class is imported, with what it needs, when a dataset of its format is opened."""

_DATASET_FOLDERS = ("rlds", "tfds", "lerobot")  # formats whose glob names folders, each a source of its own
_TOPICS = ("mcap", "rosbag")
_ENDINGS = {".hdf5": "hdf5", ".h5": "hdf5", ".mcap": "mcap"}
_PICTURE_AGE_S = 0.1  # of a camera without a clock of a known rate
_TEXT_AGE_S = 1e6  # an instruction holds until the next one


@dataclass(frozen=True)
class Opened:
    """One dataset folder, or all files of a glob: a reader and what distinguishes its shards from other readers'."""

    source: Source
    prefix: str  # put before the names of its shards; empty where there is only one


def open_dataset(mapping: Mapping, yaml_path: str | Path, root: str | Path | None = None) -> list[Opened]:
    """The sources that a mapping names, in name order, each checked against the mapping before a record is read.

    Raises `FileNotFoundError` that says where was looked, `ValueError` for a field that the source does not have.
    """
    spec = mapping.source
    base, pattern = locate(spec, yaml_path, root)
    maker = load_attribute("source format", spec.format, _SOURCES)
    if spec.format not in _DATASET_FOLDERS:
        plan = (topic_plan(mapping),) if spec.format in _TOPICS else ()
        opened = [Opened(maker(base, *plan, pattern), "")]
    else:
        folders = [path for path in sorted(base.glob(pattern)) if path.is_dir()]
        arguments = (spec.split,) if spec.format != "lerobot" else ()
        several = len(folders) > 1
        names = [path.relative_to(base).as_posix() + "/" if several else "" for path in folders]
        opened = [Opened(maker(path, *arguments), name) for path, name in zip(folders, names, strict=True)]
    for one in opened:
        fields = one.source.fields()
        if fields is not None:
            mapping.check_fields(fields)
    return opened


def recognise(path: str | Path) -> str | None:
    """The format of recordings at a path by what lies there: lerobot, rlds, hdf5, mcap; None for anything else."""
    path = Path(path)
    if path.is_file():
        return _ENDINGS.get(path.suffix)
    if (path / INFO).is_file():
        return "lerobot"
    if (path / "dataset_info.json").is_file() or next(path.glob("*/dataset_info.json"), None) is not None:
        return "rlds"
    found = (_ENDINGS[ending] for ending in _ENDINGS if next(path.rglob(f"*{ending}"), None) is not None)
    return next(found, None)


def open_recordings(path: str | Path) -> Source:
    """The reader of recordings that no mapping describes. Raises `ValueError` for a path that is not recognised."""
    path = Path(path)
    found = recognise(path)
    if found == "hdf5":
        maker = load_attribute("source format", found, _SOURCES)
        if path.is_file():
            return maker(path.parent, path.name)
        endings = [ending for ending, name in _ENDINGS.items() if name == found]
        return maker(path, next(f"**/*{ending}" for ending in endings if next(path.rglob(f"*{ending}"), None)))
    if found in ("lerobot", "rlds"):
        return load_attribute("source format", found, _SOURCES)(path)
    if found == "mcap":
        raise ValueError(
            f"{path} holds topics with clocks of their own: name the dataset YAML that says how to read it"
        )
    raise ValueError(
        f"{path} is not recognised: a native store has store.json, LeRobot meta/info.json, RLDS dataset_info.json, "
        f"HDF5 files end in .hdf5 or .h5; for other formats name the dataset YAML"
    )


def locate(spec: SourceSpec, yaml_path: str | Path, root: str | Path | None = None) -> tuple[Path, str]:
    """The folder that the glob starts from, and the glob below it."""
    pattern = Path(spec.glob)
    if pattern.is_absolute():
        plain = next((i for i, part in enumerate(pattern.parts) if set(part) & set("*?[")), len(pattern.parts) - 1)
        places, pattern = [Path(*pattern.parts[:plain])], Path(*pattern.parts[plain:])
    elif root is not None:
        places = [Path(root)]
    else:
        places = [Path(), Path(yaml_path).parent]
    for place in places:
        if next(place.glob(str(pattern)), None) is not None:
            return place, str(pattern)
    looked = " and ".join(str(place.resolve()) for place in places)
    raise FileNotFoundError(
        f"nothing matches source.glob {spec.glob!r} in {looked}: name the folder that it starts from with --root, "
        f"or correct the glob in {yaml_path}"
    )


def topic_plan(mapping: Mapping) -> TopicPlan:
    """How a mapping's fields, cameras and texts are read from topics. Raises `ValueError` without a clock."""
    rate = mapping.rate
    if rate.clock is None:
        raise ValueError(
            "recordings of topics need a clock: fps: {from: timestamps, field: TOPIC, resample: Hz}, for instance the "
            "topic of a camera"
        )
    period_s = 1.5 / rate.hz if rate.hz else _PICTURE_AGE_S
    texts = [field.path for field in mapping.language.fields] + ([mapping.actor] if mapping.actor else [])
    fields = dict.fromkeys(texts, Sync("previous", _TEXT_AGE_S))
    fields |= dict.fromkeys((*mapping.cameras.paths(), *mapping.paths()), Sync("nearest", period_s))
    return TopicPlan(rate.clock, fields | mapping.syncs(), rate.hz if rate.resampled else None)
