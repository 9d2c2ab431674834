from __future__ import annotations

import json
import threading
import time

import numpy as np
import pytest

from exptilt.errors import ConfigError, DataError
from exptilt.preferences import Answer
from exptilt.rewards.bounded_calls import BoundedCalls
from exptilt.rewards.verifier import Verifier
from exptilt.settings.reward_settings import VerifierConfig

SLOW = "a" * 40 + "!"
"""On which the pattern (?:a+)+$ takes longer than anybody waits."""


def answers(*texts: str, right: object = "4") -> list[Answer]:
    return [Answer(prompt="2 + 2?", text=text, columns={"answer": right}) for text in texts]


def test_a_check_that_takes_too_long_is_unscored_and_the_others_are_not():
    verifier = Verifier(VerifierConfig(check="regex", pattern="^(?:a+)+$", timeout=1.0, workers=2))
    begun = time.monotonic()
    values = verifier(answers("aaa", SLOW, "b", SLOW, "aa"))
    verifier.close()
    assert np.array_equal(values, [1, np.nan, 0, np.nan, 1], equal_nan=True)
    assert verifier.num_timeouts == 2
    assert time.monotonic() - begun < 60


def test_mathematics_is_right_inside_a_thread():
    pytest.importorskip("math_verify", reason="the extra `verify` is not installed")
    verifier = Verifier(VerifierConfig(check="math", timeout=30, workers=1))
    found: list[list[float]] = []
    thread = threading.Thread(target=lambda: found.append(verifier(answers("$4$", "$5$", "10**10**10")).tolist()))
    thread.start()
    thread.join()
    verifier.close()
    assert found[0][:2] == [1.0, 0.0]


def test_a_row_without_an_answer_is_unscored_and_all_rows_without_are_an_error():
    verifier = Verifier(VerifierConfig(check="exact"))
    some = [*answers("4"), Answer(prompt="3?", text="3", columns={"answer": None})]
    assert np.array_equal(verifier(some), [1, np.nan], equal_nan=True)
    with pytest.raises(DataError, match=r"no row has the column 'answer'.*did you mean 'answers'"):
        verifier([Answer(prompt="3?", text="3", columns={"answers": "3"})])


def test_what_a_worker_prints_is_no_verdict(tmp_path, monkeypatch):
    (tmp_path / "noisy.py").write_text(
        "import sys, json\n"
        "from exptilt.rewards import check_worker, answer_checks\n"
        "def loud(text, answer, **_):\n    print('thinking'); return True\n"
        "answer_checks._CHECKS['exact'] = loud\n"
        "check_worker.main('exact', '{}')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with BoundedCalls(["noisy"], timeout=30, workers=1) as calls:
        assert calls([["a", "b"]]) == [True]


def test_a_worker_that_does_not_start_is_one_line():
    with (
        BoundedCalls(["exptilt.rewards.nowhere"], timeout=1, workers=1) as calls,
        pytest.raises(ConfigError, match=r"a worker process of a reward does not start: .*nowhere"),
    ):
        calls([1])


def test_a_schema_is_checked_before_anything_is_scored(tmp_path):
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps({"type": "nothing"}))
    with pytest.raises(ConfigError, match="is no JSON Schema"):
        Verifier(VerifierConfig(check="json", schema=str(schema)))
    schema.write_text(json.dumps({"type": "array", "minItems": 2}))
    verifier = Verifier(VerifierConfig(check="json", schema=str(schema), timeout=30))
    values = verifier([Answer(prompt="", text=text) for text in ("[1, 2]", "[1]", "[1, 2")])
    verifier.close()
    assert values.tolist() == [1.0, 0.0, 0.0]


def test_the_identity_changes_with_what_is_checked():
    one, other = (Verifier(VerifierConfig(check="exact", ignore_case=ignore)) for ignore in (False, True))
    assert one.identity != other.identity
