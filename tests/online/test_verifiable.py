"""The small twin of benchmarks/verifiable.py: a verifier's right and wrong make a model from scratch better at sums."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from exptilt.testbed.arithmetic_world import ArithmeticWorld

ROOT = Path(__file__).parents[2]


def benchmark() -> Any:
    spec = importlib.util.spec_from_file_location("verifiable_benchmark", ROOT / "benchmarks" / "verifiable.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_right_answers_become_more_frequent_online_and_by_pairs_of_the_same_verifier(tmp_path):
    """The reference imitates demonstrations of which half are wrong; nothing but the verifier says which."""
    bench = benchmark().Bench(tmp_path, ArithmeticWorld(largest=4), steps=40, hidden=48, demonstrations=7_000)
    start, online, offline = (
        bench.success(where, bench.train, 16) for where in (bench.reference, bench.online("rloo"), bench.dpo())
    )
    assert 0.25 < start.share < 0.6
    assert start.kl < 1e-6
    for better in (online, offline):
        assert better.share - better.half_width > start.share + start.half_width + 0.1
        assert 0.02 < better.kl < 3
