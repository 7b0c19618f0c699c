"""RLDS folders without TensorFlow: every kind of field, both roads equal, every damage with its verdict.

Run: pytest tests/data_pipeline/sources/test_rlds.py
"""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.frames import JpegFrames, encode_jpeg
from data_pipeline.sources.raw import Fault, FieldSpec, RawEpisode
from data_pipeline.sources.rlds import RldsSource
from tests.data_pipeline.conftest import make_pictures
from tests.data_pipeline.sources.rlds_files import (
    TEXT,
    example,
    framed,
    image,
    sequence,
    tensor,
    tree,
    write_folder,
)

STEPS = {
    "observation": tree(
        {
            "image": image(16, 24, 3),
            "state": tensor("float32", 7),
            "pose": tensor("float64", 2, 3),
            "gripper": tensor("bool"),
            "instruction": tensor("int32", 6),
        }
    ),
    "action": tensor("float64", 7),
    "reward": tensor("float32"),
    "is_first": tensor("bool"),
    "language_instruction": TEXT,
}
EPISODE = {"episode_metadata": tree({"file_path": TEXT, "success": tensor("bool"), "gain": tensor("float32", 2)})}


def make_features(num_steps: int, seed: int = 0, **changes) -> dict:
    """Flat values of one episode, as a record holds them."""
    rng = np.random.default_rng(seed)
    codes = np.zeros((num_steps, 6), np.int64)
    codes[:, :4] = [ord(letter) for letter in "grip"]
    return {
        "steps/observation/image": [encode_jpeg(frame) for frame in make_pictures(num_steps, seed)],
        "steps/observation/state": rng.normal(size=num_steps * 7).astype(np.float32),
        "steps/observation/pose": rng.normal(size=num_steps * 6).astype(np.float32),
        "steps/observation/gripper": rng.integers(0, 2, num_steps),
        "steps/observation/instruction": codes.ravel(),
        "steps/action": rng.normal(size=num_steps * 7).astype(np.float32),
        "steps/reward": np.zeros(num_steps, np.float32),
        "steps/is_first": (np.arange(num_steps) == 0).astype(np.int64),
        "steps/language_instruction": [b"pick up the cup"] * num_steps,
        "episode_metadata/file_path": [b"/recordings/success/1.h5"],
        "episode_metadata/success": np.array([1]),
        "episode_metadata/gain": np.array([0.5, 2.0], np.float32),
        **changes,
    }


def make_source(tmp_path: Path, files=None, **options) -> RldsSource:
    files = files or [[make_features(5, seed) for seed in range(3)]]
    payloads = [[example(features) for features in file] for file in files]
    return RldsSource(write_folder(tmp_path / "tiny" / "1.0.0", {"train": payloads}, STEPS, EPISODE), **options)


def read_all(source) -> list:
    return [item for shard in source.shards() for item in source.read(shard)]


def test_fields_are_known_before_a_record_is_read(tmp_path):
    fields = make_source(tmp_path).fields()
    assert fields["observation/state"] == FieldSpec("array", (7,), "float32")
    assert fields["observation/pose"] == FieldSpec("array", (2, 3), "float64")
    assert fields["observation/gripper"] == FieldSpec("array", (), "bool")
    assert fields["observation/image"] == FieldSpec("image", (16, 24, 3), "uint8")
    assert fields["language_instruction"] == FieldSpec("text", (), "str")


def test_values_come_back_in_their_shape_and_type(tmp_path):
    features = make_features(5)
    (episode,) = read_all(make_source(tmp_path, [[features]]))
    assert isinstance(episode, RawEpisode)
    assert episode.name == "tiny-train.tfrecord-00000-of-00001:0"
    assert episode.num_steps == 5
    np.testing.assert_array_equal(
        episode.fields["observation/state"], features["steps/observation/state"].reshape(5, 7)
    )
    assert episode.fields["observation/pose"].shape == (5, 2, 3)
    assert episode.fields["action"].dtype == np.float64  # declared, though floats are stored
    assert episode.fields["is_first"].tolist() == [True, False, False, False, False]
    assert episode.fields["reward"].shape == (5,)
    assert episode.fields["language_instruction"].tolist() == ["pick up the cup"] * 5
    assert episode.fields["observation/instruction"].shape == (5, 6)  # code points, decoded by the mapping
    assert episode.metadata["episode_metadata/file_path"] == "/recordings/success/1.h5"
    assert episode.metadata["episode_metadata/success"] is True
    assert episode.metadata["episode_metadata/gain"].tolist() == [0.5, 2.0]


def test_pictures_keep_their_bytes_and_decode_when_indexed(tmp_path):
    features = make_features(4)
    (episode,) = read_all(make_source(tmp_path, [[features]]))
    frames = episode.images["observation/image"]
    assert isinstance(frames, JpegFrames)
    assert list(frames.encoded) == features["steps/observation/image"]
    assert np.abs(frames[2].astype(int) - make_pictures(4)[2]).mean() < 3


def test_an_empty_number_field_is_absent_and_an_empty_text_is_empty(tmp_path):
    changes = {"steps/reward": None, "steps/language_instruction": None, "steps/observation/image": None}
    (episode,) = read_all(make_source(tmp_path, [[make_features(3, **changes)]]))
    assert "reward" not in episode.fields
    assert "observation/image" not in episode.images
    assert episode.fields["language_instruction"].tolist() == ["", "", ""]


def test_text_of_the_episode_and_of_the_step(tmp_path):
    steps = {"is_first": tensor("bool"), "language_instruction": TEXT}
    features = {
        "steps/is_first": np.array([1, 0, 0]),
        "steps/language_instruction": ["öffnen".encode(), b"", b"close"],
        "language": [b"tidy up"],
    }
    folder = write_folder(tmp_path / "t" / "1.0.0", {"train": [[example(features)]]}, steps, {"language": TEXT})
    (episode,) = read_all(RldsSource(folder))
    assert episode.fields["language_instruction"].tolist() == ["öffnen", "", "close"]
    assert episode.metadata == {"language": "tidy up"}


def test_ragged_rows_are_padded(tmp_path):
    steps = {"is_first": tensor("bool"), "touch": sequence(tensor("float32")), "words": sequence(TEXT, 2)}
    features = {
        "steps/is_first": np.array([1, 0, 0]),
        "steps/touch/ragged_flat_values": np.array([1.0, 2.0, 3.0], np.float32),
        "steps/touch/ragged_row_lengths_0": np.array([1, 0, 2]),
        "steps/words/ragged_flat_values": [b"a", b"b", b"c", b"d", b"e", b"f"],
        "steps/words/ragged_row_lengths_0": np.array([2, 2, 2]),
    }
    folder = write_folder(tmp_path / "t" / "1.0.0", {"train": [[example(features)]]}, steps)
    source = RldsSource(folder)
    (episode,) = read_all(source)
    assert source.fields()["touch"].shape == (None,)
    np.testing.assert_array_equal(episode.fields["touch"], [[1, np.nan], [np.nan, np.nan], [2, 3]])
    assert episode.fields["words"].tolist() == [["a", "b"], ["c", "d"], ["e", "f"]]


def test_splits_and_files_come_in_name_order(tmp_path):
    payloads = {name: [[example(make_features(2))]] * count for name, count in (("val", 1), ("train", 2))}
    folder = write_folder(tmp_path / "tiny" / "1.0.0", payloads, STEPS, EPISODE)
    assert [shard.name for shard in RldsSource(folder).shards()] == [
        "tiny-train.tfrecord-00000-of-00002",
        "tiny-train.tfrecord-00001-of-00002",
        "tiny-val.tfrecord-00000-of-00001",
    ]
    assert len(RldsSource(folder, split="val").shards()) == 1
    with pytest.raises(ValueError, match="unknown split 'vall': did you mean 'val'"):
        RldsSource(folder, split="vall")


def test_the_template_of_the_file_names_is_followed(tmp_path):
    source = make_source(tmp_path)
    path = source.path / "dataset_info.json"
    info = json.loads(path.read_text())
    info["splits"][0]["filepathTemplate"] = "{SPLIT}_{SHARD_INDEX}_{NUM_SHARDS}.{FILEFORMAT}"
    path.write_text(json.dumps(info))
    source.shards()[0].path.rename(source.path / "train_00000_00001.tfrecord")
    assert len(read_all(RldsSource(source.path))) == 3


def test_the_folder_above_one_version_will_do(tmp_path):
    source = make_source(tmp_path)
    assert RldsSource(source.path.parent).path == source.path
    write_folder(tmp_path / "tiny" / "2.0.0", {"train": [[]]}, STEPS)
    with pytest.raises(ValueError, match=r"versions \['1.0.0', '2.0.0'\]"):
        RldsSource(source.path.parent)
    with pytest.raises(FileNotFoundError, match="no TFDS folder"):
        RldsSource(tmp_path / "elsewhere")


def test_other_layouts_and_file_formats_are_refused(tmp_path):
    folder = write_folder(tmp_path / "riegeli" / "1.0.0", {"train": [[]]}, STEPS, file_format="riegeli")
    with pytest.raises(ValueError, match=r"'riegeli' are not read.*convert_format"):
        RldsSource(folder)
    folder = write_folder(tmp_path / "flat" / "1.0.0", {"train": [[]]}, STEPS)
    (folder / "features.json").write_text(json.dumps(tree({"image": image(2, 2, 3)})))
    with pytest.raises(ValueError, match=r"no sequence 'steps' \(it has \['image'\]\)"):
        RldsSource(folder)
    (folder / "features.json").write_text("{")
    with pytest.raises(ValueError, match="missing or damaged"):
        RldsSource(folder)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("dataset_info.json", "[]"),
        ("dataset_info.json", '{"splits": [{}]}'),
        ("dataset_info.json", '{"splits": [{"name": "train", "shardLengths": ["x"]}]}'),
        ("features.json", "[]"),
        ("features.json", '{"featuresDict": {"features": {"steps": {"sequence": {}}}}}'),
    ],
)
def test_json_of_another_form_is_told_with_its_file(tmp_path, name, content):
    root = write_folder(tmp_path / "tiny/1.0.0", {"train": [[]]}, STEPS)
    (root / name).write_text(content)
    with pytest.raises(ValueError, match=rf"{name} is .*damaged .*it belongs to every TFDS folder"):
        RldsSource(root)


def test_exotic_features_are_listed_and_left_out(tmp_path):
    steps = {"is_first": tensor("bool"), "sound": {"pythonClassName": "a.b.Audio", "audio": {}}}
    features = {"steps/is_first": np.array([1, 0])}
    folder = write_folder(tmp_path / "t" / "1.0.0", {"train": [[example(features)]]}, steps)
    source = RldsSource(folder)
    assert source.tree.unsupported == {"sound": "Audio"}
    assert list(source.fields()) == ["is_first"]


DAMAGES = {
    "zero_length": (dict.fromkeys(make_features(1)), "no steps"),
    "wrong_width": (
        make_features(5, **{"steps/observation/state": np.zeros(5 * 6, np.float32)}),
        r"each step must have 7 values \(7,\), got 6",
    ),
    "different_lengths": (make_features(5, **{"steps/action": np.zeros(4 * 7, np.float32)}), "5 steps, this field 4"),
    "unreadable": (make_features(5, **{"steps/action": [b"text"] * 5}), "declares float64"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_episode_is_told_and_its_siblings_stay(tmp_path, kind):
    damaged, message = DAMAGES[kind]
    first, fault, last = read_all(make_source(tmp_path, [[make_features(5), damaged, make_features(5, 1)]]))
    assert isinstance(first, RawEpisode)
    assert isinstance(last, RawEpisode)
    assert fault.kind == kind
    assert "00000-of-00001:1" in fault.where
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(fault.message)


def test_a_record_that_is_no_example_is_told(tmp_path):
    source = make_source(tmp_path)
    source.shards()[0].path.write_bytes(framed(b"\x0anoise") + framed(example(make_features(2))) * 2)
    fault, *rest = read_all(source)
    assert fault.kind == "unreadable"
    assert [episode.num_steps for episode in rest] == [2, 2]


def test_bad_crc_and_short_tail_leave_the_other_episodes(tmp_path):
    source = make_source(tmp_path, [[make_features(5, seed) for seed in range(3)]] * 2)
    first, second = (shard.path for shard in source.shards())
    content = bytearray(first.read_bytes())
    content[len(content) // 2] ^= 0xFF
    first.write_bytes(content)
    second.write_bytes(second.read_bytes()[:-7])
    found = ["episode" if isinstance(item, RawEpisode) else item.kind for item in read_all(source)]
    assert found == ["episode", "bad_crc", "episode", "episode", "episode", "truncated"]


def test_a_file_that_lost_records_or_is_gone_is_told(tmp_path):
    source = make_source(tmp_path, [[make_features(2)] * 2, [make_features(2)]])
    first, second = (shard.path for shard in source.shards())
    first.write_bytes(framed(example(make_features(2))))
    second.unlink()
    _, short, gone = read_all(source)
    assert (short.kind, short.message) == ("truncated", "dataset_info.json states 2 records, 1 were met")
    assert gone.kind == "missing_file"


def test_a_cut_picture_is_refused_when_indexed_and_its_neighbours_are_not(tmp_path):
    features = make_features(3)
    pictures = features["steps/observation/image"]
    pictures[1] = pictures[1][: len(pictures[1]) // 2]
    (episode,) = read_all(make_source(tmp_path, [[features]]))
    frames = episode.images["observation/image"]
    assert frames[0].shape == frames[2].shape == (16, 24, 3)
    with pytest.raises(ValueError, match=r"00000-of-00001:0, observation/image, frame 1: .*cut short"):
        frames[1]


def test_tensorflow_is_never_imported(tmp_path):
    source = make_source(tmp_path)
    code = (
        "import sys\n"
        "from data_pipeline.sources.rlds import RldsSource\n"
        f"source = RldsSource({str(source.path)!r})\n"
        "print(sum(1 for shard in source.shards() for _ in source.read(shard)))\n"
        "print([name for name in sys.modules if name.startswith('tensorflow')])\n"
    )
    root = Path(__file__).resolve().parents[3]
    run = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert run.stdout.split("\n")[:2] == ["3", "[]"]


def assert_equal(one, other) -> None:
    assert not isinstance(one, Fault)
    assert (one.name, one.num_steps) == (other.name, other.num_steps)
    assert set(one.fields) == set(other.fields)
    for path, value in one.fields.items():
        assert value.dtype == other.fields[path].dtype, path
        np.testing.assert_array_equal(value, other.fields[path], err_msg=path)
    assert set(one.images) == set(other.images)
    for path, frames in one.images.items():
        assert list(frames.encoded) == list(other.images[path].encoded)
        np.testing.assert_array_equal(frames[0], other.images[path][0])
    assert set(one.metadata) == set(other.metadata)
    for path, value in one.metadata.items():
        assert type(value) is type(other.metadata[path]), path
        np.testing.assert_array_equal(value, other.metadata[path], err_msg=path)


def test_our_own_writer_speaks_the_format_of_tensorflow_datasets(tmp_path):
    pytest.importorskip("tensorflow_datasets", reason="needs the extra rlds")
    from data_pipeline.sources.rlds_tfds import TfdsSource

    source = make_source(tmp_path)
    path = source.path / "features.json"
    path.write_text(json.dumps(with_class_names(json.loads(path.read_text()))))
    for one, other in zip(read_all(RldsSource(source.path)), read_all(TfdsSource(source.path)), strict=True):
        assert_equal(one, other)


def with_class_names(node: dict) -> dict:
    """The names of classes that the library wants to see in features.json and ours does not read."""
    base = "tensorflow_datasets.core.features."
    names = {
        "featuresDict": "features_dict.FeaturesDict",
        "sequence": "dataset_feature.Dataset",
        "tensor": "tensor_feature.Tensor",
        "image": "image_feature.Image",
        "text": "text_feature.Text",
    }
    (kind,) = node
    if kind == "featuresDict":
        children = node[kind]["features"]
        node[kind]["features"] = {name: with_class_names(child) for name, child in children.items()}
    elif kind == "sequence":
        node[kind]["feature"] = with_class_names(node[kind]["feature"])
    return {**node, "pythonClassName": base + names[kind]}


def test_both_roads_give_equal_episodes_of_files_that_the_library_wrote(tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets", reason="needs the extra rlds")
    from data_pipeline.sources.rlds_tfds import TfdsSource

    write_with_tfds(tfds, tmp_path, "tfrecord")
    plain, heavy = RldsSource(tmp_path / "tiny"), TfdsSource(tmp_path / "tiny")
    assert plain.fields() == heavy.fields()
    assert [shard.name for shard in plain.shards()] == [shard.name for shard in heavy.shards()]
    episodes = read_all(plain)
    assert len(episodes) == 7
    for one, other in zip(episodes, read_all(heavy), strict=True):
        assert_equal(one, other)


def test_array_records_hold_the_same_episodes(tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets", reason="needs the extra rlds")
    pytest.importorskip("array_record", reason="needs the extra array_record")
    from data_pipeline.sources.rlds_tfds import TfdsSource

    write_with_tfds(tfds, tmp_path / "a", "tfrecord")
    write_with_tfds(tfds, tmp_path / "b", "array_record")
    source = RldsSource(tmp_path / "b" / "tiny")
    one, other = read_all(RldsSource(tmp_path / "a" / "tiny")), read_all(source)
    number = "episode_id"
    for first, second in zip(*(sorted(e, key=lambda e: e.metadata[number]) for e in (one, other)), strict=True):
        assert_equal(replace(first, name=second.name), second)
    with pytest.raises(ValueError, match="use the source 'rlds'"):
        TfdsSource(source.path)


def write_with_tfds(tfds, folder: Path, file_format: str) -> None:
    f = tfds.features
    observation = {
        "image": f.Image(shape=(16, 24, 3), encoding_format="jpeg"),
        "wrist": f.Image(shape=(16, 24, 3), encoding_format="png"),
        "depth": f.Image(shape=(16, 24, 1), dtype=np.uint16, encoding_format="png"),
        "state": f.Tensor(shape=(7,), dtype=np.float32),
        "pose": f.Tensor(shape=(2, 3), dtype=np.float64),
        "codes": f.Tensor(shape=(5,), dtype=np.int32),
        "bytes": f.Tensor(shape=(4,), dtype=np.uint8),
        "packed": f.Tensor(shape=(3,), dtype=np.float32, encoding="zlib"),
        "ragged": f.Sequence(f.Tensor(shape=(), dtype=np.float32)),
        # no sequences of fixed length: the library writes them as ragged and then cannot read them
    }
    steps = {
        "observation": f.FeaturesDict(observation),
        "action": f.Tensor(shape=(7,), dtype=np.float64),
        "reward": f.Scalar(dtype=np.float32),
        "is_first": np.bool_,
        "language_instruction": f.Text(),
        "label": f.ClassLabel(num_classes=3),
        "half": f.Tensor(shape=(2,), dtype=np.float16),
        "count": f.Tensor(shape=(), dtype=np.int64),
    }
    metadata = {"file_path": f.Text(), "success": np.bool_, "gain": f.Tensor(shape=(3,), dtype=np.float64)}
    metadata["tags"] = f.Sequence(f.Text())
    features = {"steps": f.Dataset(steps), "episode_metadata": f.FeaturesDict(metadata), "episode_id": np.int64}

    class Builder(tfds.dataset_builders.AdhocBuilder, skip_registration=True):
        code_path = None  # the library would look for this class among its own files

    builder = Builder(
        name="tiny",
        version="1.0.0",
        features=f.FeaturesDict(features),
        split_datasets={
            "train": [(seed, make_tfds_episode(np.random.default_rng(seed), seed)) for seed in range(5)],
            "val": [(seed, make_tfds_episode(np.random.default_rng(seed), seed)) for seed in (7, 8)],
        },
        data_dir=str(folder),
        file_format=file_format,
    )
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(num_shards=2))


def make_tfds_episode(rng: np.random.Generator, index: int) -> dict:
    num_steps = 4 + index
    steps = [
        {
            "observation": {
                "image": rng.integers(0, 255, (16, 24, 3), dtype=np.uint8),
                "wrist": rng.integers(0, 255, (16, 24, 3), dtype=np.uint8),
                "depth": rng.integers(0, 60000, (16, 24, 1)).astype(np.uint16),
                "state": rng.normal(size=7).astype(np.float32),
                "pose": rng.normal(size=(2, 3)),
                "codes": rng.integers(0, 2**31 - 1, 5).astype(np.int32),
                "bytes": rng.integers(0, 255, 4, dtype=np.uint8),
                "packed": rng.normal(size=3).astype(np.float32),
                "ragged": rng.normal(size=step % 3).astype(np.float32),
            },
            "action": rng.normal(size=7),
            "reward": float(step),
            "is_first": step == 0,
            "language_instruction": f"pick {index}" if index != 1 else "",
            "label": step % 3,
            "half": rng.normal(size=2).astype(np.float16),
            "count": -step * 10**12,
        }
        for step in range(num_steps)
    ]
    metadata = {"file_path": f"/x/{index}", "success": index % 2 == 0, "gain": rng.normal(size=3)}
    return {
        "steps": steps,
        "episode_metadata": {**metadata, "tags": ["tag"] * index},
        "episode_id": index * 7,
    }
