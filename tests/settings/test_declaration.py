"""What a settings dataclass takes for a number, and what it does not."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

import pytest

from exptilt.errors import ConfigError
from exptilt.settings.declaration import as_dict, config
from exptilt.settings.load import load
from exptilt.settings.ranges import Range
from exptilt.settings.recipe import Recipe

BARE = ["output=run", "model.path=m", "data.train=rows.jsonl"]


@config
class Part:
    share: Annotated[float, Range(ge=0, lt=1)] = 0.5
    """A share."""


@config
class Whole:
    rate: float = 1.0
    """Any number."""
    count: int | None = 1
    """How many."""
    limit: int | Literal["auto"] = 8
    """A number, or auto."""
    flag: bool = False
    """Yes or no."""
    rates: tuple[float, ...] = ()
    """Many numbers."""
    named: dict[str, float] = field(default_factory=dict)
    """Numbers by name."""
    part: Part | None = None
    """A section."""


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("rate=true", "rate: must be a valid number, got true"),
        ("rate='2'", "rate: must be a valid number, got '2'"),
        ("rate=1_0", "rate: must be a valid number, got '1_0'"),
        ("count=true", "count: must be a valid integer, got true"),
        ("count=1_0", "count: must be a valid integer, got '1_0'"),
        ("count='3'", "count: must be a valid integer, got '3'"),
        ("count=1:30", "count: must be a valid integer, got '1:30'"),
        ("flag=1", "flag: must be a valid boolean, got 1"),
        ("flag='true'", "flag: must be a valid boolean, got 'true'"),
        ("rates=[1, false]", "rates.1: must be a valid number, got false"),
        ("named={a: true}", "named.a: must be a valid number, got true"),
        ("part.share=true", "part.share: must be a valid number, got true"),
        ("part.share=1", "part.share must be in [0, 1), got 1.0"),
        ("part.share=.nan", "part.share must be in [0, 1), got nan"),
    ],
)
def test_what_only_looks_like_a_number_is_refused(override, message):
    with pytest.raises(ConfigError) as caught:
        load(Whole, None, [override])
    assert str(caught.value) == f"command line: {message}"


def test_a_limit_that_is_a_number_or_a_word_takes_no_boolean():
    with pytest.raises(ConfigError, match="limit"):
        load(Whole, None, ["limit=true"])
    assert load(Whole, None, ["limit=auto"]).limit == "auto"


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("rate=3", 3.0), ("rate=1e-6", 1e-6), ("rate=-.5", -0.5), ("rate=1.", 1.0), ("rate=.inf", float("inf")), ("rate=010", 10.0),
        ("count=1e3", 1000), ("count=64.0", 64), ("count=0x10", 16), ("count=010", 10), ("count=-7", -7), ("count=null", None),
        ("flag=yes", True), ("flag=off", False), ("rates=[1, 2.5]", (1.0, 2.5)), ("named={a: 1}", {"a": 1.0}),
    ],
)  # fmt: skip
def test_numbers_are_read_as_people_write_them(override, value):
    found = getattr(load(Whole, None, [override]), override.partition("=")[0])
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    "key", ["optim.learning_rate", "train.epochs", "batch.size", "evaluate.num_prompts", "data.weight", "seed"]
)
def test_no_section_of_a_recipe_takes_a_boolean_for_a_number(key):
    with pytest.raises(ConfigError, match=rf"command line: {key}: must be a valid (number|integer), got true"):
        load(Recipe, None, [*BARE, f"{key}=true"])


def test_plain_values_hold_no_tuples():
    assert as_dict(Whole(rates=(1.0,), part=Part())) == {
        "rate": 1.0, "count": 1, "limit": 8, "flag": False, "rates": [1.0], "named": {}, "part": {"share": 0.5}
    }  # fmt: skip
