"""Every keyword of TRL has an answer, which the documentation prints."""

import dataclasses
import inspect
import warnings
from pathlib import Path

import pytest

from exptilt.converters.trl_keywords import BESIDE, EVERY, KINDS, OBJECTS, OWN, keywords_of
from exptilt.converters.trl_page import fate_of, page
from exptilt.settings.known_keys import all_keys
from exptilt.settings.objectives import entries
from exptilt.settings.recipe import Recipe

_KEYWORDS = [(kind, key) for kind in KINDS for key in keywords_of(kind)]


@pytest.mark.parametrize("kind", KINDS)
def test_every_keyword_has_an_answer(kind):
    for key, value in keywords_of(kind).items():
        fate = fate_of(kind, key, value)
        assert fate.says
        assert "unknown here" not in fate.says, key
        assert "\n" not in fate.says


def test_what_is_used_names_keys_of_ours():
    known = {*all_keys(Recipe, {}), "loss.name", "loss.terms"}
    known |= {f"loss.{setting.name}" for entry in entries() for setting in entry.settings}
    for kind, key in _KEYWORDS:
        fate = fate_of(kind, key, keywords_of(kind)[key])
        if fate.outcome == "used" and " " not in fate.says.partition(";")[0].replace(", ", ""):
            assert set(fate.says.partition(";")[0].split(", ")) <= known, (key, fate.says)


def test_a_keyword_stands_in_one_place():
    for kind in KINDS:
        assert not set(OWN[kind]) & (set(EVERY) | set(OBJECTS))
    assert set(BESIDE) <= {key for _, key in _KEYWORDS}


def test_the_page_is_the_table():
    written = Path(__file__).parents[2] / "docs" / "trl_keywords.md"
    assert written.read_text(encoding="utf-8") == page(), "run `make docs`"


@pytest.fixture(scope="module")
def trl():
    pytest.importorskip("trl", reason="TRL's own keywords are read off TRL: pip install 'exptilt[peers]'")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import trl
        import trl.experimental.cpo
        import trl.experimental.orpo
    places = {"ORPO": trl.experimental.orpo, "CPO": trl.experimental.cpo}
    return {kind: [getattr(places.get(kind, trl), kind + end) for end in ("Config", "Trainer")] for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_of_the_installed_trl_is_in_the_table(kind, trl):
    configuration, trainer = trl[kind]
    assert {field.name for field in dataclasses.fields(configuration)} <= set(keywords_of(kind))
    assert set(inspect.signature(trainer).parameters) <= set(OBJECTS)
