"""Trials of a policy on a robot: a scene, a run, a stand, a judgement, and what they say in numbers.

Nothing here knows how a robot is reached: `Orders` are what a person can tell one that runs, `Episodes` what is
recorded of it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

from deploy.intervals import wilson_interval
from deploy.realtime.recorder import Recorded
from deploy.takeover import Takeover

STAND_S = 0.5
"""After the order to stop, the way to a stand belongs to the episode."""

POLL_S = 0.05


class Orders(Protocol):
    """What a person can tell a running robot."""

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def choose(self, number: int) -> None:
        """Which policy acts from the next start on: 0, or 1 for the one that it is compared with."""
        ...

    def lead(self, leads: bool) -> None:
        """A person takes over from the policy, or gives back."""
        ...

    def next_scene(self) -> None:
        """Another scene, where the robot is simulated; else the person has made one."""
        ...

    def same_scene(self) -> None:
        """The scene of before as it was, where the robot is simulated; else the person has put things back."""
        ...

    def outcome(self) -> dict[str, Any] | None:
        """What the simulator saw; None where a person has to say."""
        ...

    def check(self) -> None:
        """Raise `RuntimeError` when the robot runs no more."""
        ...


class Episodes(Protocol):
    """What is recorded; `deploy.realtime.recorder.Recorder` is one. What goes wrong stands in the answer's words."""

    def begin(self, *, trial: int = 1) -> Recorded: ...

    def pause(self) -> None: ...

    def end(self, *, success: bool) -> Recorded: ...


@dataclass(frozen=True)
class Trial:
    """How one episode ended."""

    number: int  # from 1 on
    success: bool
    details: dict[str, Any]  # of the simulator; `takeovers`, where a person may take over, counts how often

    def to_dict(self) -> dict[str, Any]:
        return {"number": self.number, "success": self.success, **self.details}


@dataclass(frozen=True)
class Rate:
    """How many of some trials succeeded, with Wilson's 95 % interval."""

    successes: int
    trials: int
    low: float
    high: float

    @classmethod
    def of(cls, trials: Sequence[Trial]) -> Rate:
        successes = sum(trial.success for trial in trials)
        return cls(successes, len(trials), *wilson_interval(successes, len(trials)))

    def __str__(self) -> str:
        share = self.successes / self.trials
        return f"{self.successes} of {self.trials} trials succeeded: {share:.1%} [{self.low:.1%}, {self.high:.1%}]"

    def to_dict(self) -> dict[str, Any]:
        return {"success_rate": self.successes / self.trials, "interval_95": [self.low, self.high]}


class TrialRunner:
    """Runs trial after trial; they are judged by the simulator for its own robot, else by the person who watches."""

    def __init__(
        self,
        orders: Orders,
        count: int,
        seconds: float,
        *,
        ask: Callable[[str], bool] | None = None,
        sleep: Callable[[float], object] = time.sleep,
        episodes: Episodes | None = None,
        takeover: Takeover | None = None,
    ) -> None:
        """`count` trials are announced, of so many seconds each; the judgement is stored with the episode.

        `takeover` watches for the person who takes over while the policy runs.
        """
        self._orders, self._count, self._seconds = orders, count, seconds
        self._ask, self._sleep, self._episodes = ask or ask_at_terminal, sleep, episodes
        self._takeover = takeover

    def run(self, number: int, then: str = "") -> Trial:
        """A run in the scene that is there, a stand, a judgement; `then` is what the person shall do before it."""
        orders, episodes = self._orders, self._episodes
        if episodes:
            _tell(episodes.begin(trial=number))
        orders.start()
        until = time.monotonic() + self._seconds
        with self._takeover.waiting() if self._takeover else nullcontext(self._sleep) as wait:
            while time.monotonic() < until:
                orders.check()
                wait(POLL_S)
        outcome = orders.outcome()
        orders.stop()
        if episodes:
            self._sleep(STAND_S)
            episodes.pause()
        place = f"trial {number}/{self._count}"
        success = self._ask(f"{place}: did it succeed? {then}[y/n] ") if outcome is None else bool(outcome["success"])
        print(f"{place}: {'success' if success else 'failure'}")
        if episodes:
            print(episodes.end(success=success).words)
        taken = {"takeovers": self._takeover.count} if self._takeover else {}
        return Trial(number, success, {**(outcome or {}), **taken})


def run_trials(orders: Orders, count: int, seconds: float, **options: Any) -> list[Trial]:
    """Trials of one policy, each in another scene; `options` are those of `TrialRunner`."""
    runner, trials = TrialRunner(orders, count, seconds, **options), []
    for number in range(1, count + 1):
        orders.next_scene()
        trials.append(runner.run(number))
    return trials


def summary(trials: Sequence[Trial]) -> str:
    """The rate of trials, and how many of them are not the policy's alone."""
    taken = sum(trial.details.get("takeovers", 0) > 0 for trial in trials)
    return str(Rate.of(trials)) + (f"; in {taken} of them a person took over" if taken else "")


def report(trials: Sequence[Trial]) -> dict[str, Any]:
    """Plain types, for a file."""
    return {**Rate.of(trials).to_dict(), "trials": [trial.to_dict() for trial in trials]}


def ask_at_terminal(question: str) -> bool:
    """Until the answer is a yes or a no."""
    while (answer := input(question).strip().lower()[:1]) not in ("y", "n"):
        pass
    return answer == "y"


def _tell(recorded: Recorded) -> None:
    """What went wrong, if it did."""
    if not recorded.path:
        print(f"rdt: {recorded.words}", file=sys.stderr)
