"""pytest tests/data_pipeline/test_lerobot_format.py"""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_pipeline.lerobot_format import (
    Feature,
    array_feature,
    counters,
    from_arrow,
    json_lines,
    read_json_lines,
    read_tasks,
    schema,
    tasks_table,
    to_arrow,
)


@pytest.mark.parametrize(
    "names",
    [
        ["a", "b"],
        [["a", "b"]],
        {"motors": ["a", "b"]},
        {"arm": ["a"], "gripper": ["b"]},
        {"axes": {"x": "a", "y": "b"}},
    ],
)
def test_names_of_every_spelling_become_a_flat_list(names):
    feature = Feature.from_dict("action", {"dtype": "float32", "shape": [2], "names": names, "fps": 30})
    assert feature.names == ("a", "b")
    assert feature.to_dict() == {"dtype": "float32", "shape": [2], "names": ["a", "b"], "fps": 30}


@pytest.mark.parametrize("raw", [{"dtype": "float32"}, {"shape": [1]}, {"dtype": "float32", "shape": None}])
def test_features_without_form_are_told(raw):
    with pytest.raises(ValueError, match="feature 'x' must have dtype and shape"):
        Feature.from_dict("x", raw)


@pytest.mark.parametrize(
    ("shape", "names"),
    [
        ((48, 64, 3), ("height", "width", "channels")),
        ((48, 64, 3), ("height", "width", "channel")),
        ((48, 64, 3), None),
        ((3, 48, 64), ("channels", "height", "width")),
        ((3, 48, 64), None),
    ],
)
def test_cameras_know_their_axes(shape, names):
    assert Feature("video", shape, names).frame_size == (48, 64)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int64", "uint8", "bool"])
@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 3), (2, 3, 4)])
def test_columns_give_back_what_went_in(dtype, shape):
    values = np.random.default_rng(0).integers(0, 2, (5, *shape)).astype(dtype)
    feature = array_feature(values)
    column = to_arrow(feature, values)
    assert column.type == feature.arrow_type == schema({"x": feature}).field("x").type
    for form in (column, pa.chunked_array([column[:2], column[2:]])):
        read = from_arrow(form, feature)
        assert read.dtype == values.dtype
        np.testing.assert_array_equal(read, values.reshape(5) if shape == (1,) else values)


def test_vectors_in_lists_of_any_kind_are_read():
    values = np.arange(6, dtype=np.float32).reshape(3, 2)
    for kind in (pa.list_(pa.float32()), pa.large_list(pa.float32()), pa.list_(pa.float32(), 2)):
        np.testing.assert_array_equal(from_arrow(pa.array(values.tolist(), kind), Feature("float32", (2,))), values)


@pytest.mark.parametrize(
    ("rows", "message"), [([[1.0, 2.0], [3.0]], "holds 3 numbers in 2 rows"), ([[1.0, None]], "1 missing values")]
)
def test_vectors_of_another_width_are_told(rows, message):
    with pytest.raises(ValueError, match=message):
        from_arrow(pa.array(rows, pa.list_(pa.float32())), Feature("float32", (2,)))


def test_unknown_dtypes_are_told():
    with pytest.raises(ValueError, match="dtype 'quaternion' is none of"):
        schema({"x": Feature("quaternion")})


def test_counters_restart_in_each_episode():
    columns = counters(3, 30, episode=2, first_index=10, task=1)
    assert columns["timestamp"].tolist() == [0, np.float32(1 / 30), np.float32(2 / 30)]
    assert columns["index"].tolist() == [10, 11, 12] and columns["episode_index"].tolist() == [2, 2, 2]


def test_tasks_are_the_pandas_index(tmp_path):
    """Golden: without this metadata a reader takes the row number for the task's text, silently."""
    table = tasks_table(["pick", "grüße"])
    expected = (
        '{"index_columns": ["__index_level_0__"], "column_indexes": [{"name": null, "field_name": null, "pandas_type": '
        '"unicode", "numpy_type": "object", "metadata": {"encoding": "UTF-8"}}], "columns": [{"name": "task_index", '
        '"field_name": "task_index", "pandas_type": "int64", "numpy_type": "int64", "metadata": null}, {"name": null, '
        '"field_name": "__index_level_0__", "pandas_type": "unicode", "numpy_type": "object", "metadata": null}], '
        '"pandas_version": "2.0.0"}'
    )
    assert table.schema.metadata == {b"pandas": expected.encode()}
    (tmp_path / "meta").mkdir()
    pq.write_table(table, tmp_path / "meta/tasks.parquet")
    assert read_tasks(tmp_path) == {0: "pick", 1: "grüße"}
    pandas = pytest.importorskip("pandas")
    frame = pandas.read_parquet(tmp_path / "meta/tasks.parquet")
    assert frame.index.tolist() == ["pick", "grüße"] and frame["task_index"].tolist() == [0, 1]


def test_tasks_are_found_under_any_column_and_order(tmp_path):
    (tmp_path / "meta").mkdir()
    pq.write_table(pa.table({"task": ["b", "a"], "task_index": [1, 0]}), tmp_path / "meta/tasks.parquet")
    assert read_tasks(tmp_path) == {0: "a", 1: "b"}
    pq.write_table(pa.table({"task_index": [1, 0]}), tmp_path / "meta/tasks.parquet")
    with pytest.raises(ValueError, match="one column of text"):
        read_tasks(tmp_path)


def test_lines_of_json_name_the_damaged_one(tmp_path):
    rows = [{"task_index": 0, "task": "grüße"}, {"task_index": 1, "task": "b"}]
    (tmp_path / "a.jsonl").write_text(json_lines(rows) + "\n{", encoding="utf-8")
    with pytest.raises(ValueError, match=r"a\.jsonl, line 4 is damaged"):
        read_json_lines(tmp_path / "a.jsonl")
    (tmp_path / "a.jsonl").write_text(json_lines(rows), encoding="utf-8")
    assert read_json_lines(tmp_path / "a.jsonl") == rows


def test_the_hub_is_told_of_sequences_never_of_lists():
    features = {"a": Feature("float32", (3,)), "b": Feature("int64"), "c": Feature("image", (4, 4, 3))}
    note = json.loads(schema({**features, "v": Feature("video", (4, 4, 3))}).metadata[b"huggingface"])
    assert note == {
        "info": {
            "features": {
                "a": {"feature": {"dtype": "float32", "_type": "Value"}, "length": 3, "_type": "Sequence"},
                "b": {"dtype": "int64", "_type": "Value"},
                "c": {"_type": "Image"},
            }
        }
    }
