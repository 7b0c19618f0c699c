"""A policy that plans several actions at once, as a policy of Tianshou: it asks, replays, and asks again.

What is asked is any function of observations: an RDT checkpoint lives with its engine above this package and is handed
in. It is not learnt online: a diffusion policy has no tractable likelihood. Collectors serve for evaluation, for data,
and to label rewards.

The state that Tianshou carries for each environment holds what is left to replay, so that the policy itself remembers
nothing and several collectors may share it. Tianshou zeroes the rows of environments that begin anew: `live` is then
False, which no running plan is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from rdt.alignment.tianshou_bridge import Batch, Policy, ReplayBuffer

if TYPE_CHECKING:
    from gymnasium import spaces

Observations = np.ndarray | Mapping[str, Any]
"""Stacked observations of several environments: (n, ...), or a (nested) mapping of such arrays."""

PredictChunks = Callable[[Observations], np.ndarray]
"""Observations of n environments -> their next actions (n, horizon, action), in the environment's own units."""


class ChunkPolicy(Policy):
    """Asks `predict` once for all environments whose plan is used up, and replays the first `num_actions` of each.

    Actions go to the environment as they are: neither scaled nor cut, since they are in its units.
    """

    def __init__(
        self,
        predict: PredictChunks,
        num_actions: int,
        action_space: spaces.Box,
        observation_space: spaces.Space | None = None,
    ) -> None:
        if num_actions < 1:
            raise ValueError(f"num_actions must be at least 1, got {num_actions}")
        super().__init__(
            action_space=action_space,
            observation_space=observation_space,
            action_scaling=False,
            action_bound_method=None,
        )
        self.predict = predict
        self.action_shape: tuple[int, ...] = action_space.shape
        self.num_actions = num_actions

    def forward(self, batch: Any, state: Any = None, **kwargs: Any) -> Batch:
        """Actions (n, action) of n environments, and what is left of their plans."""
        count = len(batch.obs)
        if state is None:
            shape = (count, self.num_actions, *self.action_shape)
            plan, done, live = np.zeros(shape, np.float32), np.zeros(count, np.int64), np.zeros(count, bool)
        else:
            plan, done, live = state.plan.copy(), state.done.copy(), state.live.copy()
        due = np.flatnonzero(~live | (done >= self.num_actions))
        if len(due):
            plan[due], done[due], live[due] = self._ask(batch.obs, due), 0, True
        actions = plan[np.arange(count), done]
        return Batch(act=actions, state=Batch(plan=plan, done=done + 1, live=live))

    def _ask(self, observations: Any, due: np.ndarray) -> np.ndarray:
        chunks = np.asarray(self.predict(_rows(observations, due)), dtype=np.float32)
        wanted = (len(due), self.num_actions, *self.action_shape)
        if chunks.ndim != 3 or chunks[:, : self.num_actions].shape != wanted:
            raise ValueError(
                f"predict must answer {len(due)} observations with at least {self.num_actions} actions each, shape "
                f"{wanted}, got {chunks.shape}"
            )
        return chunks[:, : self.num_actions]


def finished_episodes(buffer: ReplayBuffer) -> list[Batch]:
    """The whole episodes in a buffer, each as rows in their order; what has not ended is left out.

    An episode whose beginning was written over cannot be told from a whole one: make the buffer large enough.
    """
    indices = buffer.sample_indices(0)
    done = np.asarray(buffer.done[indices], dtype=bool)
    going = set(buffer.unfinished_index().tolist())  # the last rows of sub-buffers that are in an episode
    episodes: list[Batch] = []
    begin = 0
    for position, index in enumerate(indices.tolist()):
        if done[position]:
            episodes.append(cast(Batch, buffer[indices[begin : position + 1]]))
        if done[position] or index in going:
            begin = position + 1
    return episodes


def _rows(observations: Any, rows: np.ndarray) -> Observations:
    """Those rows, as plain arrays."""
    if isinstance(observations, Batch):
        return {key: _rows(value, rows) for key, value in observations.items()}
    return np.asarray(observations)[rows]
