"""The table of other tools' words: every key on the right exists, and the page is the table."""

from pathlib import Path

import pytest

from exptilt.errors import ConfigError
from exptilt.settings.known_keys import all_keys
from exptilt.settings.load import load
from exptilt.settings.objectives import entries
from exptilt.settings.other_tools import LOSS_TYPES, WORDS, page, word_for
from exptilt.settings.recipe import Recipe

_OF_LOSSES = {f"loss.{setting.name}" for entry in entries() for setting in entry.settings}


@pytest.mark.parametrize("theirs", WORDS)
def test_every_word_has_a_key_of_ours(theirs):
    word = WORDS[theirs]
    key = word.ours.partition("=")[0]
    assert key in {*all_keys(Recipe, {}), *_OF_LOSSES} or key.startswith("exptilt export") or (not key and word.note)


@pytest.mark.parametrize("theirs", WORDS)
def test_the_answer_names_ours_in_one_short_line(theirs):
    if theirs in {key.rpartition(".")[2] for key in all_keys(Recipe, {})}:
        pytest.fail("a key of ours needs no translation")
    with pytest.raises(ConfigError) as refusal:
        load(Recipe, None, ["output=out", "model.path=m", "data.train=x", f"{theirs}=1"])
    (line,) = str(refusal.value).splitlines()
    assert line.startswith(f"command line: {theirs}: unknown key; ")
    assert (WORDS[theirs].ours or "no counterpart") in line
    assert len(line) < 300


def test_a_word_with_a_value_is_answered_with_ours():
    known = {entry.name for entry in entries()} | {"bradley_terry"}
    assert set(LOSS_TYPES.values()) <= known
    assert word_for("rl", "dpo").ours == "loss=dpo"
    assert word_for("pref_loss", "kto_pair").ours == "loss=kto"
    assert word_for("no_such_word") is None


def test_the_page_is_the_table():
    written = Path(__file__).parents[2] / "docs" / "from_other_tools.md"
    assert written.read_text(encoding="utf-8") == page(), "run `make docs`"
