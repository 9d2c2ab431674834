"""Configurations of other tools: every key is accounted for, and the recipe says what the configuration said."""

import runpy
from pathlib import Path

import pytest
import yaml

from exptilt.converters.conversion import convert_files
from exptilt.converters.recipe_text import nested, recipe_text
from exptilt.errors import ConfigError
from exptilt.settings.load import build, load
from exptilt.settings.recipe import Recipe
from exptilt.settings.yaml_source import Source
from exptilt.verbs.convert import convert

_PUBLIC = runpy.run_path(str(Path(__file__).with_name("public_shapes.py")), run_name="public_shapes")
AXOLOTL_BASE, SHAPES, TRL_BASE = (_PUBLIC[name] for name in ("AXOLOTL_BASE", "SHAPES", "TRL_BASE"))


def _written(shape, folder: Path) -> list[Path]:
    for name, text in {**shape.files, **shape.extra}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return [folder / name for name in shape.files]


@pytest.mark.parametrize("name", SHAPES)
def test_a_configuration_becomes_a_recipe(name, tmp_path):
    shape = SHAPES[name]
    conversion = convert_files(_written(shape, tmp_path))
    assert {key: conversion.settings.get(key) for key in shape.expected} == shape.expected
    refused = {fate.key for fate in conversion.fates if fate.outcome == "refused"}
    assert refused == set(shape.refused)
    build(Recipe, Source(label="converted", values=nested(conversion)))


@pytest.mark.parametrize("name", SHAPES)
def test_every_key_of_the_source_is_accounted_for_once(name, tmp_path):
    files = _written(SHAPES[name], tmp_path)
    conversion = convert_files(files)
    keys = [fate.key for fate in conversion.fates]
    assert len(keys) == len(set(keys))
    assert all(fate.says for fate in conversion.fates)
    for path in files:
        if path.suffix != ".py":
            assert set(yaml.safe_load(path.read_text())) <= set(keys)
    text = recipe_text(conversion)
    for key in keys:
        assert sum(line.startswith(f"#   - {key}: ") for line in text.splitlines()) == 1
    assert max(map(len, text.splitlines())) <= 121


def test_there_are_enough_shapes():
    assert len(SHAPES) >= 40


def test_what_is_written_loads(tmp_path, capsys):
    files = _written(SHAPES["trl dpo lora"], tmp_path)
    convert(files, tmp_path / "recipe.yaml")
    recipe = load(Recipe, tmp_path / "recipe.yaml")
    assert (recipe.loss.name, recipe.loss.beta, recipe.adapter.rank, recipe.batch.size) == ("dpo", 0.05, 32, 8)
    printed = capsys.readouterr().out
    assert printed.startswith("TRL: 18 keys: 17 used, ")
    assert f"exptilt doctor {tmp_path / 'recipe.yaml'}" in printed
    with pytest.raises(ConfigError, match="is there already"):
        convert(files, tmp_path / "recipe.yaml")


def test_the_number_of_processes_counts(tmp_path):
    (tmp_path / "t.yaml").write_text(TRL_BASE + "beta: 0.1\n")
    assert convert_files([tmp_path / "t.yaml"], processes=4).settings["batch.size"] == 32


def test_no_key_is_left_out_in_silence(tmp_path):
    (tmp_path / "a.yaml").write_text(AXOLOTL_BASE + "rl: dpo\nmystery: 3\nno_mystery: false\n")
    conversion = convert_files([tmp_path / "a.yaml"])
    fates = {fate.key: fate.outcome for fate in conversion.fates}
    assert (fates["mystery"], fates["no_mystery"]) == ("refused", "default")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("empty.yaml", "", "holds no keys"),
        ("list.yaml", "- a\n", "holds no keys"),
        ("broken.yaml", "a: [\nb: 1", "line 2: cannot be parsed"),
        ("broken.json", "{", "line 1: cannot be parsed"),
        ("broken.py", "def (", "line 1: cannot be parsed"),
        ("plain.py", "print(1)", "no call with settings"),
        ("other.yaml", "name: ci\non: push\n", "no configuration of TRL"),
        ("ours.yaml", "model: {path: m}\ndata: {train: t}\n", "no configuration of TRL"),
        ("value.yaml", TRL_BASE + "learning_rate: fast\n", "learning_rate"),
        ("range.yaml", TRL_BASE + "beta: -1\n", "beta must be > 0"),
    ],
)
def test_what_cannot_be_converted_is_one_line(name, text, message, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError) as refusal:
        convert([tmp_path / name], tmp_path / "recipe.yaml")
    (line,) = str(refusal.value).splitlines()
    assert message in line
    assert len(line) < 300
    assert not (tmp_path / "recipe.yaml").exists()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"gone\.yaml: cannot be read: No such file"):
        convert([tmp_path / "gone.yaml"], tmp_path / "recipe.yaml")
