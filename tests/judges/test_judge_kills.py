"""The small twin of benchmarks/judge_kills.py."""

import importlib.util
from pathlib import Path

import pytest


@pytest.mark.slow
def test_a_killed_judge_loses_no_verdict_and_pays_for_nothing_twice_but_what_was_in_flight():
    spec = importlib.util.spec_from_file_location(
        "judge_kills", Path(__file__).parents[2] / "benchmarks" / "judge_kills.py"
    )
    kills = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(kills)
    counted = kills.run(calls=60, kills=2, concurrency=4)
    assert counted["kills"] == 2
    assert counted["requests"] == counted["votes"] == 60
    assert counted["duplicate votes"] == counted["calls of a second run"] == 0
    assert counted["asked twice"] <= 2 * 4
