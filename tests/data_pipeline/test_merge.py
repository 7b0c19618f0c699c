"""pytest tests/data_pipeline/test_merge.py"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from data_pipeline.merge import Rename, merge
from data_pipeline.storage import EpisodeStore
from tests.lerobot_rules import check_v3


@pytest.fixture
def stores(tmp_path, robot, episode, pictures):
    """Two stores of one robot; the second one has another field, an own camera name and another phrasing."""
    made = []
    for number in range(2):
        with EpisodeStore.create(tmp_path / f"store{number}", robot) as store:
            for i in range(2):
                images = {("external", "right_wrist")[number]: pictures(9, i)}
                words = (("pick up the cup", "lift the cup"), ("grab the mug",))[number]
                native = {"effort": np.full((9, 2 + number), i, np.float32), "gap": np.arange(9)}
                one = episode(seed=2 * number + i, name=f"{'ab'[number]}{i}", images=images, instructions=words)
                store.add(one, {"file": f"{number}.hdf5"}, native=native, max_steps=5)
        made.append(store)
    return made


def renames(*texts: str) -> list[Rename]:
    return [Rename.parse(text) for text in texts]


def test_episodes_come_in_the_order_of_the_stores(tmp_path, stores, robot):
    seen = []
    merged = merge(stores, tmp_path / "out", renames("2:field:effort=torque"), progress=lambda: seen.append(1))
    assert len(seen) == 4 and merged.names == ("a0", "a1", "b0", "b1")
    merged = EpisodeStore.open(tmp_path / "out")
    assert merged.embodiment == robot
    wholes = [(store, i) for store in stores for i in range(2)]
    for index, (store, i) in enumerate(wholes):
        one, other = store[i], merged[index]
        np.testing.assert_array_equal(one.states, other.states)
        np.testing.assert_array_equal(one.actions, other.actions)
        (role,) = one.images
        assert one.images[role].encoded[3] == other.images[role].encoded[3]  # bytes, not decoded and coded anew
        assert merged.entries[index].max_steps == 5
    assert list(merged.native(0)) == ["effort", "gap"] and list(merged.native(3)) == ["gap", "torque"]
    assert merged.sources == stores[0].sources | stores[1].sources


def test_cameras_tasks_and_names_are_renamed_where_it_is_said(tmp_path, stores):
    words = ("2:camera:right_wrist=external", "task:lift the cup=raise the cup", "2:episodes:b=late/", "field:effort=")
    merged = merge(stores, tmp_path / "out", renames(*words))
    assert [list(one.images) for one in merged] == [["external"]] * 4
    assert merged.names == ("a0", "a1", "late/0", "late/1")
    assert merged.instructions == ("pick up the cup", "raise the cup", "grab the mug")
    assert list(merged.native(0)) == ["gap"]
    assert len(check_v3(tmp_path / "out")) == 4


def test_an_interrupted_merge_goes_on(tmp_path, stores):
    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merge(stores, tmp_path / "out", renames("2:field:effort=torque"), progress=stop)
    merge(stores, tmp_path / "out", renames("2:field:effort=torque"))
    whole = merge(stores, tmp_path / "whole", renames("2:field:effort=torque"))
    assert EpisodeStore.open(tmp_path / "out").entries == whole.entries


def test_stores_of_two_robots_keep_unified_vectors_alone(tmp_path, stores, robot, episode):
    other = dataclasses.replace(robot, name="other")
    with EpisodeStore.create(tmp_path / "third", other) as third:
        third.add(episode(name="c"))
    merged = merge([stores[0], third], tmp_path / "out")
    assert not merged.is_described and merged.robot_type == "tiny+other"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), r"field 'effort' is float32 \[2\] in .* and float32 \[3\] in .*--rename 2:field:effort=NEW"),
        (("2:camera:left_wrist=external",), "unknown camera 'left_wrist': did you mean 'right_wrist'"),
        (("task:lift the cap=x",), "unknown task 'lift the cap': did you mean 'lift the cup'"),
        (("3:field:effort=",), "names store 3 of 2"),
        (("2:episodes:b=a", "field:effort="), "both have an episode 'a0'.*--rename 2:episodes:=NEW/"),
        (("field:effort=gap",), "field 'gap' is"),
    ],
)
def test_what_does_not_go_together_is_told_before_anything_is_written(tmp_path, stores, words, message):
    with pytest.raises(ValueError, match=message):
        merge(stores, tmp_path / "out", renames(*words))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("out", ["store0", "store1", "store1/merged"])
def test_no_store_is_merged_into_itself(tmp_path, stores, out):
    with pytest.raises(ValueError, match=r"is, or lies in, .*which is left as it is"):
        merge(stores, tmp_path / out, renames("2:field:effort="))
    assert [EpisodeStore.open(store.path).names for store in stores] == [("a0", "a1"), ("b0", "b1")]


def test_an_interrupted_merge_goes_on_and_another_one_is_not_added_to(tmp_path, stores):
    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merge(stores, tmp_path / "out", renames("2:field:effort="), progress=stop)
    with pytest.raises(ValueError, match="holds episodes that are not the first of this merge"):
        merge(stores[::-1], tmp_path / "out", renames("1:field:effort="))
    assert EpisodeStore.open(tmp_path / "out").names == ("a0",)
    assert merge(stores, tmp_path / "out", renames("2:field:effort=")).names == ("a0", "a1", "b0", "b1")


def test_other_rates_are_refused(tmp_path, stores, robot, episode):
    with EpisodeStore.create(tmp_path / "third", robot) as third:
        third.add(episode(name="c", rate_hz=50.0))
    with pytest.raises(ValueError, match=r"several rates \('a0' 12.5 Hz, 'c' 50 Hz\)"):
        merge([stores[0], third], tmp_path / "out")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("camera:external", "KIND:OLD=NEW"),
        ("0:camera:external=left_wrist", "KIND:OLD=NEW"),
        ("kamera:a=b", "did you mean 'camera'"),
        ("camera:external=top", "unknown camera 'top'"),
        ("field:=x", "names nothing"),
        ("task:a=", "needs words"),
    ],
)
def test_wrong_renames_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        Rename.parse(text)
