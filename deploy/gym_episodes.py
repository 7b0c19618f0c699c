"""What collectors saw in `SimEnv` as episodes of the project, and back.

An episode's action is what the arms were told by the end of a step, after all limits, as in every recording; what the
policy asked for is kept beside it as `source.policy_action`, and the environment's reward as `source.reward`. How the
episode ended stands where alignment looks for it (`data_pipeline/annotation/outcome.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from data_pipeline.annotation.outcome import SCENE, SUCCESS
from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.types import Episode
from data_pipeline.storage import EpisodeStore
from deploy.gym_env import STATE
from rdt.alignment.tianshou_bridge import Batch, ReplayBuffer

REWARD, POLICY_ACTION = "reward", "policy_action"


def episode_of(rows: Batch, robot: Embodiment, name: str, instruction: str) -> Episode:
    """Rows of one episode of `SimEnv` (`chunk_policy.finished_episodes`): T states, T actions, the newest frames."""
    states, state_mask = robot.to_unified(np.asarray(rows.obs[STATE], dtype=np.float64), "state")
    actions, action_mask = robot.to_unified(np.asarray(rows.info.sent, dtype=np.float64), "action")
    return Episode(
        name=name,
        states=states,
        state_mask=state_mask,
        actions=actions,
        action_mask=action_mask,
        images={role: np.asarray(rows.obs[role])[:, -1] for role in rows.obs.get_keys() if role != STATE},
        instructions=(instruction,),
        rate_hz=robot.rate_hz,
        action_offset_steps=robot.action_offset_steps,
    )


def keep_episodes(store: EpisodeStore, episodes: Iterable[Batch], task: str, instruction: str) -> list[str]:
    """Append episodes with how they ended; returns their names, TASK/scene_SCENE_TRY. The caller flushes."""
    names = []
    for rows in episodes:
        scene, success = int(rows.info.scene[-1]), bool(rows.info.success[-1])
        attempt = 0
        while store.has(name := f"{task}/scene_{scene}_{attempt}"):
            attempt += 1
        store.add(
            episode_of(rows, store.embodiment, name, instruction),
            source={SCENE: scene, "attempt": attempt, SUCCESS: success},
            native={
                REWARD: np.asarray(rows.rew, dtype=np.float32),
                POLICY_ACTION: np.asarray(rows.act, dtype=np.float32),
            },
        )
        names.append(name)
    return names


def buffer_of_store(store: EpisodeStore, indices: Sequence[int] | None = None, history: int = 1) -> ReplayBuffer:
    """Stored episodes as a buffer of `SimEnv`'s observations, actions as the arms were told them.

    Rewards are the stored ones, or 1 at the end of a success where none are. An episode that succeeded ends
    terminated, and its last next observation, which no critic reads, is its own; of the others the last step has none
    and is left out, and the step before it is the time limit's.
    """
    chosen = range(len(store)) if indices is None else indices
    buffer = ReplayBuffer(size=max(sum(store.episode_lengths[index] for index in chosen), 1))
    for index in chosen:
        _add_episode(buffer, store, index, history)
    return buffer


def _add_episode(buffer: ReplayBuffer, store: EpisodeStore, index: int, history: int) -> None:
    episode, success = store[index], bool(store.entry(index).source.get(SUCCESS))
    robot, steps = store.embodiment, episode.num_steps
    states = robot.from_unified(episode.states, "state").astype(np.float32)
    actions = robot.from_unified(episode.actions, "action").astype(np.float32)
    pictures = {role: np.stack([frames[t] for t in range(steps)]) for role, frames in episode.images.items()}
    rewards = store.native(index).get(REWARD)
    if rewards is None:
        rewards = np.zeros(steps, np.float32)
        rewards[-1] = success

    def seen(t: int) -> dict[str, np.ndarray]:
        return {STATE: states[t]} | {role: _newest(frames, t, history) for role, frames in pictures.items()}

    last = steps - 1 if success else steps - 2
    for t in range(last + 1):
        ends = t == last
        buffer.add(
            Batch(
                obs=seen(t),
                act=actions[t],
                rew=float(rewards[t]),
                terminated=ends and success,
                truncated=ends and not success,
                done=ends,
                obs_next=seen(min(t + 1, steps - 1)),
                info={},
            )
        )


def _newest(frames: np.ndarray, t: int, history: int) -> np.ndarray:
    """(history, height, width, 3) up to step t, black before the first."""
    there = frames[max(t + 1 - history, 0) : t + 1]
    black = np.zeros((history - len(there), *frames.shape[1:]), frames.dtype)
    return np.concatenate([black, there])
