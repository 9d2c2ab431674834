from __future__ import annotations

import pytest

from exptilt.reports.numbers import estimate, joined, number, plain, prose, visible
from exptilt.run_folder.estimate_record import Estimate


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.0, "0"),
        (-0.00001, "\u22121e\u221205"),
        (31.5, "31.5"),
        (12345.6, "12,346"),
        (float("nan"), "—"),
        (-4.2, "\u22124.20"),
    ],
)
def test_number_keeps_three_significant_digits(value: float, expected: str) -> None:
    assert number(value) == expected


def test_number_has_no_negative_zero() -> None:
    assert number(-0.04, 1) == "0.0"


def test_an_interval_decides_the_digits() -> None:
    assert estimate(Estimate(value=15.268, low=14.1, high=16.5)) == "15.3 [14.1, 16.5]"
    assert estimate(Estimate(value=0.12345, low=0.1231, high=0.1238)) == "0.12345 [0.12310, 0.12380]"
    assert estimate(Estimate(value=250.3, low=180.0, high=320.0)) == "250 [180, 320]"
    assert estimate(Estimate(value=1.0, low=1.0, high=1.0)) == "1.00 [1.00, 1.00]"


def test_a_number_without_interval_says_so() -> None:
    assert estimate(Estimate(value=0.6213), percent=True) == "62.1 % (no interval)"
    assert estimate(Estimate(value=0.5, low=0.4)) == "0.500 (no interval)"


def test_plain_values() -> None:
    assert plain(1e-6) == "1e\u221206"
    assert plain([-10, 10]) == "\u221210 to 10"
    assert plain(["a:1", "a:2"]) == "a:1, a:2"
    assert plain({"value": 0.61, "low": 0.56, "high": 0.66, "level": 0.95}) == "0.61 [0.56, 0.66]"
    assert plain({"least": 2, "median": 30.0}) == "least 2, median 30"


def test_foreign_text_cannot_hide_characters() -> None:
    assert visible("ok\u202egnp.exe\x1b[31m") == "ok⟨U+202E⟩gnp.exe⟨U+001B⟩[31m"
    assert visible("line\n\ttab é 日本") == "line\n\ttab é 日本"
    assert visible("x" * 20, limit=5) == "xxxxx … (15 more characters)"


def test_prose_escapes_markup_and_keeps_numbers_together() -> None:
    assert str(prose("<b> `a` 5 % [1, 2]")) == "&lt;b&gt; <code>a</code> 5\u00a0%\u00a0[1,\u00a02]"


def test_joined() -> None:
    assert [joined(words) for words in ([], ["a"], ["a", "b"])] == ["", "a", "a and b"]
