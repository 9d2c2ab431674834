from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from exptilt.errors import ConfigError
from exptilt.settings.objectives import entries
from exptilt.settings.recipe import Recipe
from exptilt.verbs.config import commented_yaml, config, keys_of, scalar


def printed(prefix="", width=80):
    console = Console(file=StringIO(), width=width, no_color=True)
    config(Recipe, prefix, console)
    return console.file.getvalue()


KEYS = {key.path: key for key in keys_of(Recipe)}


def test_every_key_has_type_default_and_meaning():
    assert (KEYS["output"].default, KEYS["data.train"].default) == ("required", "required")
    assert (KEYS["optim.learning_rate"].type, KEYS["optim.learning_rate"].default) == ("number", "1e-6")
    assert KEYS["data.on_empty"].type == "error | drop | keep"
    assert (KEYS["data.columns"].default, KEYS["model.path"].default) == ("{}", "null")
    assert KEYS["loss.ipo.length_normalized"].default == "false"
    assert [path for path, key in KEYS.items() if not key.meaning and not path.endswith(".name")] == []


def test_a_default_is_that_of_its_place_not_of_its_class():
    assert KEYS["sft.optim.learning_rate"].default == "1e-5"
    assert KEYS["sft.optim.beta1"].default == KEYS["optim.beta1"].default == "0.9"
    assert KEYS["loss.dpo.beta"].default == "0.1"
    assert KEYS["loss.simpo.beta"].default == "2.0"


@pytest.mark.parametrize("width", [80, 120])
def test_the_overview_names_each_key_and_each_objective_once(width):
    lines = printed(width=width).splitlines()
    assert max(map(len, lines)) <= width
    firsts = [line.split()[0] for line in lines if line[:1].isalpha()]
    plain = [
        path
        for path, key in KEYS.items()
        if not key.is_section and not path.startswith(("loss.", "sft.", "critic.optim."))
    ]
    assert [path for path in plain if firsts.count(path) != 1] == []
    assert [entry.name for entry in entries() if entry.kind in ("pair", "list") and entry.name not in firsts] == []
    text = "\n".join(lines)
    assert "Keys as in optim, but learning_rate 1e-5." in text
    assert "sft.optim.beta1" not in text


def test_a_prefix_shows_what_stands_under_it():
    assert [line.split()[0] for line in printed("reference").splitlines() if line[:1].isalpha()][:2] == [
        "reference",
        "reference.model",
    ]
    assert "data.train" not in printed("optim")
    one = printed("optim.learning_rate")
    assert "optim.learning_rate  1e-6  Peak learning rate, > 0. (number)" in one
    assert "weight_decay" not in one
    assert "sft.optim.learning_rate" in printed("sft.optim")
    assert "beta 0.1, label_smoothing 0.0" in printed("loss", width=200)


def test_an_objective_shows_its_formula_and_what_it_needs():
    text = printed("loss.dpo")
    assert "log sigmoid(z)" in text
    assert "needs: reference" in text
    assert "loss.label_smoothing  0.0" in text
    assert printed("loss.dpo.beta") == printed("loss.beta")
    assert "label_smoothing" not in printed("loss.beta").replace("with label smoothing", "")


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        ("los", "did you mean 'loss'?"),
        ("optim.learningrate", "did you mean 'optim.learning_rate'?"),
        ("optim.lr", "`exptilt config optim` lists them"),
        ("loss.dpoo", "did you mean"),
        ("qqq", "`exptilt config` lists them"),
    ],
)
def test_a_key_that_is_none_is_one_line(prefix, expected):
    with pytest.raises(ConfigError, match="no key of a recipe") as caught:
        printed(prefix)
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("value", "written"),
    [(1e-6, "1e-6"), (2.5e-7, "2.5e-7"), (0.02, "0.02"), (0.0, "0.0"), (1e6, "1e6"), (123456.0, "1.23456e5"),
     (float("inf"), ".inf"), (True, "true"), (None, "null"), ("none", "'none'"), ("1e-6", "'1e-6'"), ([], "[]"), (3, "3")],
)  # fmt: skip
def test_values_are_written_as_people_write_them(value, written):
    assert scalar(value) == written


def test_comments_stand_beside_their_keys(make_recipe):
    lines = commented_yaml(make_recipe(), ["seed", "loss", "loss.beta", "optim", "optim.learning_rate"]).splitlines()
    assert [line.split("#")[0].rstrip() for line in lines if line and not line.startswith(" " * 10)] == [
        "seed: 0", "loss:", "  beta: 0.1", "optim:", "  learning_rate: 0.001",
    ]  # fmt: skip
    assert "pull toward the reference" in next(line for line in lines if "beta" in line)
    assert len({line.index("#") for line in lines if "#" in line}) == 1
