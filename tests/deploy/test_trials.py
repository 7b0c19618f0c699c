"""Run: pytest tests/deploy/test_trials.py"""

from contextlib import contextmanager

import pytest

from deploy.realtime.recorder import Recorded
from deploy.takeover import Takeover
from deploy.trials import Trial, report, run_trials, summary


class Robot:
    """Told what to do, it writes it down; the person or the simulator judges."""

    def __init__(self, judgements=None):
        self.heard, self._judgements = [], judgements

    def start(self):
        self.heard.append("start")

    def stop(self):
        self.heard.append("stop")

    def choose(self, number):
        self.heard.append(f"choose {number}")

    def lead(self, leads):
        self.heard.append("take over" if leads else "give back")

    def next_scene(self):
        self.heard.append("scene")

    def same_scene(self):
        self.heard.append("same")

    def outcome(self):
        return None if self._judgements is None else {"success": self._judgements.pop(0), "scene": len(self.heard)}

    def check(self):
        pass


def test_each_trial_has_a_scene_a_run_and_a_stand():
    robot = Robot([True, False])
    trials = run_trials(robot, 2, 0.0)
    assert robot.heard == ["scene", "start", "stop"] * 2
    assert [trial.success for trial in trials] == [True, False]


class Episodes:
    """Writes down what it is asked to record."""

    def __init__(self, heard, path="x.mcap"):
        self._heard, self._path = heard, path

    def begin(self, *, trial=1):
        self._heard.append(f"begin {trial}")
        return Recorded(self._path, "recording" if self._path else "not recorded: the disk is full")

    def pause(self):
        self._heard.append("pause")

    def end(self, *, success):
        self._heard.append(f"end {success}")
        return Recorded(self._path, "x.mcap: 10 s" if self._path else "not recorded: the disk is full")


def test_a_trial_is_an_episode_from_before_the_start_to_the_stand_with_its_judgement():
    robot = Robot()
    run_trials(robot, 1, 0.0, ask=lambda _: False, sleep=lambda _: None, episodes=Episodes(robot.heard))
    assert robot.heard == ["scene", "begin 1", "start", "stop", "pause", "end False"]


def test_a_recording_that_fails_is_told_and_the_trials_go_on(capsys):
    robot = Robot([True, True])
    trials = run_trials(robot, 2, 0.0, sleep=lambda _: None, episodes=Episodes([], path=""))
    assert [trial.success for trial in trials] == [True, True]
    assert "disk is full" in capsys.readouterr().err


def test_a_person_judges_where_nobody_else_can():
    asked = []
    trials = run_trials(Robot(), 2, 0.0, ask=lambda question: asked.append(question) or len(asked) == 2)
    assert [trial.success for trial in trials] == [False, True]
    assert "trial 2/2: did it succeed?" in asked[1]


def test_a_robot_that_ends_ends_the_trials():
    robot = Robot([True])
    robot.check = lambda: (_ for _ in ()).throw(RuntimeError("rdt_policy has ended"))
    with pytest.raises(RuntimeError, match="has ended"):
        run_trials(robot, 1, 10.0)


class Impatient(Takeover):
    """Takes over in the first moment of each run."""

    @contextmanager
    def waiting(self):
        self._leads, self.count = False, 0
        yield lambda _: self.count or self.press()


def test_a_person_who_takes_over_is_counted_with_the_trial():
    robot = Robot()
    takeover = Impatient(robot.lead)
    (trial,) = run_trials(robot, 1, 0.01, ask=lambda _: True, sleep=lambda _: None, takeover=takeover)
    assert robot.heard == ["scene", "start", "take over", "stop"]
    assert trial.to_dict() == {"number": 1, "success": True, "takeovers": 1}


def test_trials_say_their_rate_its_interval_and_whose_it_is():
    trials = [Trial(number, number <= 7, {}) for number in range(1, 11)]
    assert summary(trials) == "7 of 10 trials succeeded: 70.0% [39.7%, 89.2%]"
    found = report(trials)
    assert (found["success_rate"], found["trials"][9]) == (0.7, {"number": 10, "success": False})
    corrected = [*trials[:9], Trial(10, True, {"takeovers": 2})]
    assert summary(corrected).endswith("; in 1 of them a person took over")
