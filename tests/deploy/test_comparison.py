"""Two policies in blind pairs of trials.

Run: pytest tests/deploy/test_comparison.py
"""

import json

import numpy as np
import pytest

from deploy.comparison import Comparison, compare, drawn_orders
from deploy.intervals import paired_difference_interval
from deploy.trials import Trial
from tests.deploy.test_trials import Episodes, Robot

POLICIES = ("runs/old", "runs/new")


class Chosen(Robot):
    """The second policy succeeds, the first one does not; the person sees no more than what is asked."""

    def __init__(self):
        super().__init__()
        self.asked, self._number = [], None

    def choose(self, number):
        super().choose(number)
        self._number = number

    def ask(self, question):
        self.asked.append(question)
        return self._number == 1


def test_both_policies_act_once_in_each_scene_in_the_order_that_was_drawn():
    robot = Chosen()
    compare(robot, POLICIES, 8, 0.0, order_seed=3, ask=robot.ask)
    expected = []
    for first, second in drawn_orders(8, 3):
        expected += ["scene", f"choose {first}", "start", "stop", "same", f"choose {second}", "start", "stop"]
    assert robot.heard == expected


def test_orders_are_drawn_pair_by_pair_with_even_chances():
    assert drawn_orders(20, 1) == drawn_orders(20, 1) != drawn_orders(20, 2)
    assert {pair for seed in range(50) for pair in drawn_orders(4, seed)} == {(0, 1), (1, 0)}
    assert np.mean([first for first, _ in drawn_orders(2000, 0)]) == pytest.approx(0.5, abs=0.05)


def test_nothing_tells_which_policy_acts_until_all_trials_are_judged(capsys):
    robot = Chosen()
    found = compare(robot, POLICIES, 2, 0.0, 0, ask=robot.ask, sleep=lambda _: None, episodes=Episodes([]))
    told = capsys.readouterr().out + "".join(robot.asked)
    assert "trial 4/4: did it succeed?" in told
    assert not any(policy in told for policy in (*POLICIES, "policy"))
    assert robot.asked[0].count("Put the scene back") == 1
    assert "Put the scene back" not in robot.asked[1]
    assert all(policy in found.summary() for policy in POLICIES)


def test_the_end_says_rates_their_paired_difference_and_who_acted_when():
    robot = Chosen()
    found = compare(robot, POLICIES, 6, 0.0, order_seed=7, ask=robot.ask)
    report = json.loads(json.dumps(found.report()))
    assert [policy["success_rate"] for policy in report["policies"]] == [0.0, 1.0]
    assert report["difference"] == 1.0
    assert report["difference_interval_95"] == list(paired_difference_interval([False] * 6, [True] * 6))
    assert [row["number"] for row in report["trials"]] == list(range(1, 13))
    assert [row["pair"] for row in report["trials"]] == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6]
    acted = [POLICIES.index(row["policy"]) for row in report["trials"]]
    assert list(zip(acted[::2], acted[1::2], strict=True)) == drawn_orders(6, report["order_seed"])


def test_the_summary_names_the_policies_last():
    first = [Trial(1, True, {}), Trial(4, False, {})]
    second = [Trial(2, True, {}), Trial(3, True, {})]
    lines = Comparison(POLICIES, 0, (first, second)).summary().splitlines()
    assert lines[0].startswith("policy A: 1 of 2 trials succeeded: 50.0%")
    assert lines[1].startswith("policy B: 2 of 2")
    assert lines[2].startswith("B - A: +50.0 points [")
    assert lines[3:] == ["A was runs/old, in trials 1, 4", "B was runs/new, in trials 2, 3"]
