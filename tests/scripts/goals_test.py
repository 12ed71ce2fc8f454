#!/usr/bin/env python3
# SPDX-FileCopyrightText: The Oriel authors
# SPDX-License-Identifier: Apache-2.0
"""bench/sim/goals.py: the least hours that keep a limit, and figures over seeds."""

import math
import random
import sys
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bench" / "sim"))
import goals  # noqa: E402

SEED = 20261129
STEP = 1.03


class Curve:
    """TTFT p90 that falls as hours grow, steeply near an edge as that of a queue, and counts who asks."""

    def __init__(self, dice):
        self.floor_ms = dice.uniform(100, 9000)
        self.edge_hours = math.exp(dice.uniform(math.log(0.2), math.log(6)))
        self.power = dice.uniform(0.5, 4)
        self.calls = []

    def __call__(self, hours):
        self.calls.append(hours)
        return self.floor_ms + 10_000 * (self.edge_hours / hours) ** self.power


class LeastHoursTest(unittest.TestCase):
    def test_random_curves(self):
        dice = random.Random(SEED)
        for i in range(300):
            curve = Curve(dice)
            found = goals.least_hours(curve, 10_000, 2.0, STEP)
            with self.subTest(seed=SEED, curve=i):
                self.assertIsNotNone(found)
                self.assertIn(found, curve.calls)
                count = len(curve.calls)
                self.assertLessEqual(curve(found), 10_000)
                self.assertGreater(curve(found / STEP * 0.998), 10_000)
                self.assertLessEqual(count, 16)

    def test_fewer_runs_than_halving(self):
        dice, asked, halved = random.Random(SEED), 0, 0
        for _ in range(300):
            curve = Curve(dice)
            found = goals.least_hours(curve, 10_000, 2.0, STEP)
            asked += len(curve.calls)
            doublings = max(1, abs(math.ceil(math.log2(found / 2.0))))
            halved += 1 + doublings + math.ceil(math.log2(math.log(2) / math.log(STEP)))
        self.assertLess(asked, 0.9 * halved)

    def test_start_already_at_the_limit(self):
        found = goals.least_hours(lambda hours: 20_000 / hours, 10_000, 2.0, STEP)
        self.assertLessEqual(2.0, found)
        self.assertLess(found, 2.0 * STEP)

    def test_no_load_is_slow_enough(self):
        self.assertIsNone(goals.least_hours(lambda hours: 10_001.0, 10_000, 2.0, STEP))

    def test_every_load_is_met(self):
        found = goals.least_hours(lambda hours: 1.0, 10_000, 2.0, STEP)
        self.assertLess(found, 2.0 / 2 ** 14)


class FigureTest(unittest.TestCase):
    def setUp(self):
        goals.STUDENT_T[3] = 4.303

    def test_a_mean_and_its_interval(self):
        figure = goals.Figure([1.0, 2.0, 3.0])
        self.assertAlmostEqual(figure.mean, 2.0)
        self.assertAlmostEqual(figure.high - figure.mean, 4.303 / math.sqrt(3))

    def test_ratios_are_seed_by_seed(self):
        figure = goals.Figure([1.0, 20.0, 300.0], [2.0, 40.0, 600.0])
        self.assertAlmostEqual(figure.mean, 0.5)
        self.assertAlmostEqual(figure.low, 0.5)
        self.assertAlmostEqual(figure.high, 0.5)

    def test_nothing_over_nothing(self):
        self.assertEqual(goals.Figure([0.0, 0.0, 0.0], [0.0, 1.0, 1.0]).mean, 0.0)
        self.assertEqual(goals.Figure([1.0, 1.0, 1.0], [0.0, 0.0, 0.0]).mean, math.inf)


if __name__ == "__main__":
    unittest.main()
