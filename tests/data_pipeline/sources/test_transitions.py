"""pytest tests/data_pipeline/sources/test_transitions.py: D4RL files and Minari folders as transitions."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest

from data_pipeline.sources.transitions import read_d4rl, read_minari, read_transitions

LENGTHS = (4, 1, 5, 3)
ENDS = ("terminal", "terminal", "timeout", "timeout")


def make_episodes(lengths=LENGTHS, ends=ENDS, seed=0):
    """What happened: per episode the T + 1 observations, actions, rewards, and how it ended ("" for not at all)."""
    rng = np.random.default_rng(seed)
    return [
        {
            "observations": rng.normal(size=(length + 1, 3)),
            "actions": rng.normal(size=(length, 2)),
            "rewards": rng.normal(size=length),
            "terminals": np.arange(length) == (length - 1 if end == "terminal" else -1),
            "timeouts": np.arange(length) == (length - 1 if end == "timeout" else -1),
        }
        for length, end in zip(lengths, ends, strict=True)
    ]


def write_d4rl(path, episodes, *, successors=True, timeouts=True, changed=()):
    keys = ("actions", "rewards", "terminals", *(["timeouts"] if timeouts else []))
    arrays = {key: np.concatenate([episode[key] for episode in episodes]) for key in keys}
    arrays["observations"] = np.concatenate([episode["observations"][:-1] for episode in episodes])
    if successors:
        arrays["next_observations"] = np.concatenate([episode["observations"][1:] for episode in episodes])
    arrays["infos/action_log_probs"] = np.arange(len(arrays["rewards"]), dtype=np.float64)
    arrays |= dict(changed)
    with h5py.File(path, "w") as file:
        for key, values in arrays.items():
            if values is not None:
                file[key] = values
        file["metadata/algorithm"] = "SAC"
        file["metadata/iterations"] = 5
    return path


def write_minari(root, episodes, *, groups=False, metadata=None):
    (root / "data").mkdir(parents=True)
    with h5py.File(root / "data" / "main_data.hdf5", "w") as file:
        for number, episode in enumerate(episodes):
            group = file.create_group(f"episode_{number}")
            if groups:
                group["observations/goal"] = episode["observations"][:, :1]
                group["observations/arm"] = episode["observations"][:, 1:]
            else:
                group["observations"] = episode["observations"]
            group["actions"], group["rewards"] = episode["actions"], episode["rewards"]
            group["terminations"], group["truncations"] = episode["terminals"], episode["timeouts"]
            group["infos/step"] = np.arange(len(episode["observations"]))
    stated = {"data_format": "hdf5", "dataset_id": "pen/human-v2", **(metadata or {})}
    (root / "data" / "metadata.json").write_text(json.dumps(stated))
    return root


def check_all_rows(transition, episodes):
    """Every step of every episode, in order, with the observation that truly followed."""
    for name, part in (("observations", slice(None, -1)), ("next_observations", slice(1, None))):
        expected = np.concatenate([episode["observations"][part] for episode in episodes])
        np.testing.assert_array_equal(getattr(transition, name), expected.astype(np.float32))
    for name in ("actions", "rewards"):
        expected = np.concatenate([episode[name] for episode in episodes]).astype(np.float32)
        np.testing.assert_array_equal(getattr(transition, name), expected)
    for name in ("terminals", "timeouts"):
        np.testing.assert_array_equal(getattr(transition, name), np.concatenate([e[name] for e in episodes]))
    returns = [episode["rewards"].sum() for episode in episodes]
    np.testing.assert_allclose(transition.episode_returns(), returns, rtol=1e-6)


def test_both_formats_tell_the_same_story(tmp_path):
    episodes = make_episodes()
    d4rl = read_transitions(write_d4rl(tmp_path / "hopper.hdf5", episodes))
    minari = read_transitions(write_minari(tmp_path / "human-v2", episodes))
    for found in (d4rl, minari):
        check_all_rows(found.transition, episodes)
        assert found.faults == () and found.transition.complete_episodes().all()
    assert (d4rl.transition.name, minari.transition.name) == ("hopper", "pen/human-v2")


def test_what_else_is_known_of_a_row(tmp_path):
    episodes = make_episodes()
    d4rl = read_d4rl(write_d4rl(tmp_path / "a.hdf5", episodes)).transition
    np.testing.assert_array_equal(d4rl.infos["action_log_probs"], np.arange(sum(LENGTHS)))
    minari = read_minari(write_minari(tmp_path / "a", episodes)).transition
    assert minari.infos["step"].tolist() == [step + 1 for length in LENGTHS for step in range(length)]


def test_next_observations_are_made_of_the_rows_behind(tmp_path):
    episodes = make_episodes()
    found = read_d4rl(write_d4rl(tmp_path / "a.hdf5", episodes, successors=False))
    (fault,), transition = found.faults, found.transition
    kept = [(e, t) for e, end in enumerate(ENDS) for t in range(LENGTHS[e] - (end == "timeout"))]
    assert transition.num_rows == len(kept) == sum(LENGTHS) - 2
    assert fault.kind == "no_successor" and fault.message.startswith("2 of 13 rows have no next observation")
    for row, (e, t) in enumerate(kept):
        seen = episodes[e]["observations"].astype(np.float32)
        terminal = episodes[e]["terminals"][t]
        np.testing.assert_array_equal(transition.observations[row], seen[t])
        np.testing.assert_array_equal(transition.next_observations[row], seen[t] if terminal else seen[t + 1])
        assert transition.rewards[row] == np.float32(episodes[e]["rewards"][t])
    np.testing.assert_array_equal(transition.episode_bounds(), [[0, 4], [4, 5], [5, 9], [9, 11]])
    assert transition.terminals.tolist() == [e < 2 and t == LENGTHS[e] - 1 for e, t in kept]
    assert transition.complete_episodes().all()
    np.testing.assert_array_equal(transition.infos["action_log_probs"], [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11])


def test_an_episode_of_the_rows_that_were_left_out_is_gone(tmp_path):
    episodes = make_episodes((2, 1, 1, 3), ("terminal", "timeout", "timeout", ""))
    found = read_d4rl(write_d4rl(tmp_path / "a.hdf5", episodes, successors=False))
    np.testing.assert_array_equal(found.transition.episode_bounds(), [[0, 2], [2, 4]])
    assert found.transition.complete_episodes().tolist() == [True, False]
    assert not found.transition.timeouts.any()
    only = make_episodes((1,), ("timeout",))
    with pytest.raises(ValueError, match=r"b.hdf5: .*no row has one behind it"):
        read_d4rl(write_d4rl(tmp_path / "b.hdf5", only, successors=False))


def test_a_time_limit_stands_in_for_timeouts(tmp_path):
    """Three episodes cut at 4 steps, one that ended at its third, one that ended with the limit itself."""
    episodes = make_episodes((4, 3, 4, 4, 2), ("timeout", "terminal", "timeout", "terminal", ""))
    path = write_d4rl(tmp_path / "a.hdf5", episodes, timeouts=False)
    check_all_rows(read_d4rl(path, max_episode_steps=4).transition, episodes)
    with pytest.raises(ValueError, match=r"a.hdf5: it has no 'timeouts': pass max_episode_steps"):
        read_d4rl(path)
    with pytest.raises(ValueError, match="max_episode_steps must be at least 1, got 0"):
        read_d4rl(path, max_episode_steps=0)


def test_columns_of_one_number_and_other_types(tmp_path):
    episodes = make_episodes()
    rewards = np.concatenate([episode["rewards"] for episode in episodes])[:, None]
    terminals = np.concatenate([episode["terminals"] for episode in episodes])[:, None].astype(np.uint8)
    actions = np.arange(len(rewards))
    changed = {"rewards": rewards, "terminals": terminals, "actions": actions}
    transition = read_d4rl(write_d4rl(tmp_path / "a.hdf5", episodes, changed=changed)).transition
    assert transition.rewards.shape == (13,) and transition.terminals.dtype == bool
    np.testing.assert_array_equal(transition.actions, actions[:, None])  # discrete: a column of numbers


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"actions": None}, "it has no 'actions': it has .*'observations'"),
        ({"terminals": None, "rewards": None}, "it has no 'rewards', 'terminals'"),
        ({"actions": np.zeros((12, 2))}, r"as many rows, got .*'actions': 12"),
        ({"infos/action_log_probs": np.zeros(3)}, r"as many rows, got .*'infos/action_log_probs': 3"),
        ({"rewards": np.full(13, np.nan)}, "not finite at 13 rows, first at row 0: 4 of 4 episodes"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path, changed, words):
    with pytest.raises(ValueError, match=rf"a.hdf5: .*{words}"):
        read_d4rl(write_d4rl(tmp_path / "a.hdf5", make_episodes(), changed=changed))


def test_a_damaged_file_is_named(tmp_path):
    path = write_d4rl(tmp_path / "a.hdf5", make_episodes())
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ValueError, match=r"a.hdf5: cannot be read, it is cut short"):
        read_transitions(path)
    root = write_minari(tmp_path / "a", make_episodes())
    (root / "data" / "main_data.hdf5").write_bytes(b"")
    with pytest.raises(ValueError, match=r"main_data.hdf5: cannot be read"):
        read_transitions(root)
    with pytest.raises(FileNotFoundError, match="no file"):
        read_transitions(tmp_path / "absent.hdf5")


@pytest.mark.parametrize("successors", [True, False])
def test_a_number_that_is_none_costs_its_episode_and_no_other(tmp_path, successors):
    episodes = make_episodes()
    whole = read_d4rl(write_d4rl(tmp_path / "a.hdf5", [episodes[i] for i in (0, 1, 3)], successors=successors))
    episodes[2]["rewards"][1] = np.nan
    found = read_d4rl(write_d4rl(tmp_path / "b.hdf5", episodes, successors=successors))
    np.testing.assert_array_equal(found.transition.observations, whole.transition.observations)
    np.testing.assert_array_equal(found.transition.next_observations, whole.transition.next_observations)
    assert found.faults[0].kind == "nan" and "first at row 6: 1 of 4 episodes" in found.faults[0].message


def test_groups_become_one_vector_in_the_order_of_their_keys(tmp_path):
    episodes = make_episodes()
    found = read_minari(write_minari(tmp_path / "a", episodes, groups=True))
    (fault,) = found.faults
    assert fault.kind == "flattened" and "observations/arm, observations/goal" in fault.message
    assert found.parts["observations/goal"] == slice(2, 3) and found.parts["observations/arm"] == slice(0, 2)
    moved = [{**episode, "observations": np.roll(episode["observations"], -1, axis=1)} for episode in episodes]
    check_all_rows(found.transition, moved)


def test_episodes_come_in_the_order_of_their_numbers(tmp_path):
    episodes = make_episodes((2,) * 12, ("terminal",) * 12)
    check_all_rows(read_minari(write_minari(tmp_path / "a", episodes)).transition, episodes)


def test_an_episode_without_an_end_was_cut(tmp_path):
    episodes = make_episodes((3, 2), ("", "terminal"))
    found = read_minari(write_minari(tmp_path / "a", episodes))
    assert found.transition.timeouts.tolist() == [False, False, True, False, False]
    (fault,) = found.faults
    assert fault.kind == "no_end" and fault.message.startswith("1 of 2 episodes")


def change(root, **arrays):
    """Other arrays in the second episode."""
    with h5py.File(root / "data" / "main_data.hdf5", "a") as file:
        for key, values in arrays.items():
            del file[f"episode_1/{key}"]
            if values is not None:
                file[f"episode_1/{key}"] = values


@pytest.mark.parametrize(
    ("arrays", "kind", "words"),
    [
        ({"observations": np.zeros((3, 3))}, "lengths", "'observations': 2"),
        ({"observations": np.zeros((4, 2))}, "wrong_width", "slice(0, 2, None)"),
        ({"observations": np.full((4, 3), np.inf)}, "nan", "observations is not finite"),
        ({"rewards": None}, "missing_field", "no 'rewards'"),
        ({"actions": None}, "missing_field", "no 'actions'"),
        ({"observations": [b"a", b"b", b"c", b"d"]}, "wrong_kind", "texts or pictures in observations"),
        ({"rewards": np.zeros(0)}, "zero_length", "no steps"),
    ],
)
def test_an_episode_that_cannot_be_used_is_a_fault_and_the_others_are_read(tmp_path, arrays, kind, words):
    episodes = make_episodes((2, 3, 4), ("terminal",) * 3)
    root = write_minari(tmp_path / "a", episodes)
    change(root, **arrays)
    found = read_minari(root)
    (fault,) = found.faults
    assert fault.kind == kind and fault.where == "pen/human-v2, episode_1" and words in fault.message
    check_all_rows(found.transition, [episodes[0], episodes[2]])


def test_other_folders_are_refused(tmp_path):
    root = write_minari(tmp_path / "a", make_episodes(), metadata={"data_format": "arrow"})
    with pytest.raises(ValueError, match="stored as 'arrow'"):
        read_minari(root)
    (tmp_path / "b").mkdir()
    with pytest.raises(FileNotFoundError, match="b is no Minari data set"):
        read_transitions(tmp_path / "b")
    root = write_minari(tmp_path / "c", make_episodes((3,), ("terminal",)))
    with h5py.File(root / "data" / "main_data.hdf5", "a") as file:
        del file["episode_0/rewards"]
    with pytest.raises(ValueError, match="none of its episodes can be used; the first: it has no 'rewards'"):
        read_minari(root)
