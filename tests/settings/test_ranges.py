from __future__ import annotations

import math

import pytest

from exptilt.settings.ranges import Range

CASES = [
    (Range(gt=0), "> 0 and finite", [1e-300, 5], [0, -1, math.inf, math.nan]),
    (Range(ge=0), ">= 0 and finite", [0, 5], [-1e-300, math.inf, math.nan]),
    (Range(gt=0, finite=False), "> 0", [math.inf], [0, math.nan]),
    (Range(), "finite", [0, -1e300], [math.inf, -math.inf, math.nan]),
    (Range(ge=0, lt=0.5), "in [0, 0.5)", [0, 0.49], [0.5, -0.1, math.nan]),
    (Range(gt=0, le=1), "in (0, 1]", [1, 1e-9], [0, 1.1]),
    (Range(ge=-1, le=1, other_than=0), "in [-1, 1] and not 0", [-1, 0.5], [0, 1.5]),
]


@pytest.mark.parametrize(("allowed", "text", "inside", "outside"), CASES, ids=[case[1] for case in CASES])
def test_a_range_says_what_it_takes(allowed, text, inside, outside):
    for value in inside:
        allowed.check("x", value)
    for value in outside:
        with pytest.raises(ValueError, match=r"^x must be ") as caught:
            allowed.check("x", value)
        assert str(caught.value) == f"x must be {text}, got {value}"


@pytest.mark.parametrize("allowed", [case[0] for case in CASES if case[0].finite])
def test_a_range_is_read_back_from_its_schema(allowed):
    described = allowed.__get_pydantic_json_schema__(None, lambda _: {"type": "number"})
    assert described["type"] == "number"
    assert Range.of_schema(described) == allowed
