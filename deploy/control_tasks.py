"""Control tasks by name: Gymnasium's environments, and the returns between which scores are counted.

    score = 100 (return - random) / (expert - random)

D4RL's reference returns are those of its package (Fu et al. 2020), by the family that a task's name begins with; they
were measured in older versions of MuJoCo's tasks, in which a version 4 or 5 of the same name is nearly the same task.
Where a data set brings returns of its own (the attributes `random_return` and `expert_return` of a D4RL file), those
hold.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_pipeline.schema.registry import unknown_name
from data_pipeline.sources.transitions import read_reference_returns


@dataclass(frozen=True)
class References:
    """Returns that count as 0 and as 100."""

    random: float
    expert: float
    source: str

    def __post_init__(self) -> None:
        if not self.expert > self.random:
            raise ValueError(
                f"the expert's return must be above the random one, got {self.expert:g} and {self.random:g} of "
                f"{self.source}"
            )

    def score(self, earned: float) -> float:
        return 100 * (earned - self.random) / (self.expert - self.random)


D4RL = {
    "hopper": References(-20.272305, 3234.3, "D4RL"),
    "halfcheetah": References(-280.178953, 12135.0, "D4RL"),
    "walker2d": References(1.629008, 4592.3, "D4RL"),
    "ant": References(-325.6, 3879.7, "D4RL"),
    "antmaze": References(0.0, 1.0, "D4RL"),
    "kitchen": References(0.0, 4.0, "D4RL"),
}
"""By the first word of a task's or an environment's name."""

DATA_ENVIRONMENTS = {"hopper": "Hopper-v4", "halfcheetah": "HalfCheetah-v4", "walker2d": "Walker2d-v4"}
"""Where D4RL's locomotion data are tried: the nearest version that is still there."""


def references_of(task: str, data: str | Path | None = None) -> References:
    """Of a data set's own returns, else of D4RL's table. Raises `ValueError` where there are neither."""
    if data is not None and (own := read_reference_returns(data)) is not None:
        return References(*own, source=f"{data}")
    family = task.lower().replace("_", "-").split("-")[0]
    if family not in D4RL:
        raise ValueError(
            f"no reference returns of {task!r}: "
            + unknown_name("family", family, D4RL)
            + " Or give the data's HDF5 file the attributes random_return and expert_return."
        )
    return D4RL[family]


def make_environment(name: str) -> Callable[[], Any]:
    """Makes one environment a call. Raises `ModuleNotFoundError` without the extra `rl`, `ValueError` for a name."""
    try:
        import gymnasium
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"control tasks need gymnasium ({error}): pip install 'rdt-stack[rl]'") from None
    if name not in gymnasium.registry:
        raise ValueError(unknown_name("environment", name, gymnasium.registry))
    return lambda: gymnasium.make(name)
