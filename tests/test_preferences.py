from __future__ import annotations

import hashlib
import subprocess
import sys

import pytest

from exptilt.preferences import Comparison, Verdict


def test_a_comparison_is_known_by_its_content_whatever_the_order():
    one = Comparison("Why?", ("b", "a"))
    assert one.id == Comparison("Why?", ("a", "b")).id
    assert one.id == hashlib.sha256(b'["Why?", ["a", "b"]]').hexdigest()
    turns = ({"role": "user", "content": "Why?"},)
    assert Comparison(turns, ("a", "b")).id != one.id
    assert Comparison(turns, ("a", "b")).id == Comparison(({"content": "Why?", "role": "user"},), ("b", "a")).id


@pytest.mark.parametrize(
    ("outcome", "order", "winner"),
    [
        ("first", (0, 1), 0),
        ("first", (1, 0), 1),
        ("second", (1, 0), 0),
        ("tie", (0, 1), None),
        ("unscored", (0, 1), None),
    ],
)
def test_the_winner_is_a_position_in_the_comparison_not_on_the_screen(outcome, order, winner):
    assert Verdict(comparison="c", order=order, outcome=outcome).winner == winner


def test_what_is_no_comparison_and_no_verdict_is_refused():
    with pytest.raises(ValueError, match="at least two answers, got 1"):
        Comparison("x", ("only",))
    with pytest.raises(ValueError, match="each answer once"):
        Verdict(comparison="c", order=(0, 0), outcome="tie")
    with pytest.raises(ValueError, match=r"probability must be in \[0, 1\], got 2"):
        Verdict(comparison="c", order=(0, 1), outcome="first", probability=2.0)


def test_the_protocols_need_no_torch():
    code = "import sys, exptilt.preferences; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
