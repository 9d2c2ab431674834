from __future__ import annotations

import pytest

from exptilt.data.problems import CATALOGUE
from exptilt.errors import ConfigError
from exptilt.settings.data_settings import DECISION_CHOICES, DataConfig
from exptilt.settings.load import load


def test_every_decision_is_a_field_that_refuses_by_default_and_has_the_choices_of_its_type():
    config = DataConfig(train="a")
    assert set(config.decisions.values()) == {"error"}
    assert {name for name in DataConfig.__annotations__ if name.startswith("on_")} == set(DECISION_CHOICES)
    for name, choices in DECISION_CHOICES.items():
        for choice in choices:
            assert load(DataConfig, None, ["train=a", f"{name}={choice}"]).decisions[name] == choice


def test_every_problem_names_a_setting_that_exists():
    assert {problem.setting for problem in CATALOGUE.values()} - {None} == set(DECISION_CHOICES)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("test_fraction=1", r"test_fraction must be in \[0, 1\), got 1"),
        ("limit=0", "limit must be at least 1, got 0"),
        ("on_empty=ignore", "on_empty: must be 'error', 'drop' or 'keep', got 'ignore'"),
        ("format=trl", "format: unknown format 'trl'; did you mean 'triple'"),
    ],
)
def test_settings_out_of_range(override, message):
    with pytest.raises(ConfigError, match=message):
        load(DataConfig, None, ["train=a", override])


def test_held_out_rows_have_one_origin():
    with pytest.raises(ValueError, match="test_fraction holds out a part of train"):
        DataConfig(train="a", test="b", test_fraction=0.1)
