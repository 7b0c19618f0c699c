"""A recorded episode goes through the loop and the limits like a policy's chunks.

Run: pytest tests/deploy/realtime/test_replay.py
"""

import numpy as np
import pytest

from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.registry import find_config
from data_pipeline.schema.types import Episode, Observation
from data_pipeline.storage import EpisodeStore
from deploy.realtime.replay import HORIZON, OPENER, Replay, load_episode, timeline
from deploy.realtime.supervisor import RunSpec, Supervisor
from deploy.replay import play
from robot_drivers.limits.chain import LimitSettings

PARTS = "tests.deploy.realtime.parts"
SIM = Embodiment.from_yaml(find_config("robots", "sim_bimanual"))


def episode(num_steps: int = 20, start: float = 0.3) -> Episode:
    """All joints rise by 0.02 rad a step from `start` on."""
    native = np.tile(start + 0.02 * np.arange(num_steps)[:, None], (1, SIM.num_native))
    states, mask = SIM.to_unified(native)
    actions, _ = SIM.to_unified(native + 0.02, "action")
    return Episode("rise", states, mask, actions, mask, {}, ("rise",), SIM.rate_hz, SIM.action_offset_steps)


def seen(stamp_ns: int) -> Observation:
    state, mask = SIM.to_unified(np.zeros(SIM.num_native))
    return Observation(state, mask, {}, {}, "rise", SIM.rate_hz, stamp_ns)


@pytest.fixture
def store(tmp_path):
    made = EpisodeStore.create(tmp_path / "store", SIM)
    made.add(episode())
    made.flush()
    return tmp_path / "store"


def test_the_way_to_the_first_action_is_slow_and_ends_there():
    rows = SIM.from_unified(timeline(SIM, seen(0).state, episode()))
    assert np.allclose(rows[-20:], SIM.from_unified(episode().actions), atol=1e-6)
    steps = np.abs(np.diff(np.concatenate([np.zeros((1, SIM.num_native)), rows]), axis=0)) * SIM.rate_hz
    joints = np.array(["gripper" not in name for name in SIM.native_names])
    assert steps[: len(rows) - 20 + 1, joints].max() <= LimitSettings.approach_rad_s + 1e-5


def test_the_way_is_as_slow_as_the_first_motion_of_any_command(monkeypatch):
    monkeypatch.setattr(LimitSettings, "approach_rad_s", LimitSettings.approach_rad_s / 2)
    rows = SIM.from_unified(timeline(SIM, seen(0).state, episode()))
    steps = np.abs(np.diff(rows[:-20], axis=0)) * SIM.rate_hz
    assert steps[:, 0].max() <= LimitSettings.approach_rad_s + 1e-5


def test_a_robot_that_is_there_begins_at_once():
    state, _ = SIM.to_unified(SIM.from_unified(episode().actions[0]))
    assert len(timeline(SIM, state, episode())) == 20


def test_chunks_lie_on_one_line_in_time():
    replay = Replay(SIM, episode())
    step_ns = round(1e9 / SIM.rate_hz)
    first, later, last = (replay.predict(seen(10**9 + k * step_ns)) for k in (0, 8, 1000))
    assert first.start_ns == 10**9 + step_ns
    assert later.start_ns == 10**9 + 8 * step_ns
    assert np.array_equal(later.actions[: HORIZON - 7], first.actions[7:])
    assert np.array_equal(last.actions, np.tile(last.actions[0], (HORIZON, 1)))
    assert np.allclose(SIM.from_unified(last.actions[0]), SIM.from_unified(episode().actions[-1]))


def test_an_episode_of_a_store_reaches_the_motors(store):
    spec = RunSpec(
        robot=SIM,
        open_arm=f"{PARTS}:open_motor",
        open_backend=OPENER,
        backend_options={"path": str(store), "episode": 0},
        frame_size=(64, 64),
    )
    with Supervisor(spec) as supervisor:
        supervisor.wait_until_ready()
        rows = timeline(SIM, seen(0).state, episode())
        play(supervisor, len(rows) / SIM.rate_hz + 2.0)
        assert np.allclose(supervisor.status()["measured"], SIM.from_unified(rows[-1]), atol=0.01)


def test_what_is_no_episode_is_named(store, tmp_path):
    assert load_episode(store, SIM).name == "rise"
    with pytest.raises(IndexError, match="1 episodes"):
        load_episode(store, SIM, 3)
    with pytest.raises(FileNotFoundError, match="no recording"):
        load_episode(tmp_path / "nothing.mcap", SIM)
    (tmp_path / "x.mcap").write_bytes(b"")
    with pytest.raises(ValueError, match=r"dataset\.yaml"):
        load_episode(tmp_path / "x.mcap", SIM)
