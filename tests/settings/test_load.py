"""Recipes into dataclasses: what is accepted, and one clear line for what is not."""

from __future__ import annotations

from typing import Annotated, Literal

import jsonschema
import pytest
from pydantic import Field

from exptilt.errors import ConfigError
from exptilt.settings.declaration import as_dict, config
from exptilt.settings.load import dump, load, schema


@config
class Circle:
    name: Literal["circle"] = "circle"
    radius: float = 1.0
    """Radius, > 0."""

    def __post_init__(self) -> None:
        if not self.radius > 0:
            raise ValueError(f"radius must be > 0, got {self.radius}")


@config
class Square:
    name: Literal["square"] = "square"
    side: float = 2.0
    """Length of a side."""


@config
class Pen:
    width: int = 1
    """Width in points."""
    color: Literal["black", "red"] = "black"
    """Ink."""


@config
class Side:
    edge: Literal["none", "wavy"] = "wavy"
    """How it ends."""
    label: str | None = "?"
    """What stands there."""


@config
class Drawing:
    title: str
    """What is written above."""
    loss: Annotated[Circle | Square, Field(discriminator="name")] = Circle()
    """The shape."""
    pen: Pen = Pen()
    """What draws."""
    rate: float = 1.0
    """Any number."""
    frame: Literal["none", "thin"] = "thin"
    """What is around it; `none` is a word here, though YAML reads it as null."""
    sides: tuple[Side, ...] = ()
    """More of them."""


def write(tmp_path, text):
    path = tmp_path / "drawing.yaml"
    path.write_text(text)
    return path


def test_numbers_without_a_dot_are_numbers(tmp_path):
    path = write(tmp_path, "title: a\nrate: 1e-6\nloss: {name: circle, radius: 2E3}\n")
    drawing = load(Drawing, path)
    assert drawing.rate == 1e-6
    assert drawing.loss == Circle(radius=2000.0)


def test_overrides_win_and_switch_a_choice(tmp_path):
    path = write(tmp_path, "title: a\nloss: {name: circle, radius: 2}\n")
    assert load(Drawing, path, ["loss=square", "loss.side=3", "pen.width=4"]) == Drawing(
        title="a", loss=Square(side=3.0), pen=Pen(width=4)
    )


def test_a_choice_without_a_name_is_the_default_one(tmp_path):
    path = write(tmp_path, "title: a\n")
    assert load(Drawing, path, ["loss.radius=4"]).loss == Circle(radius=4.0)
    assert load(Drawing, write(tmp_path, "title: a\nloss: {radius: 3}\n")).loss == Circle(radius=3.0)


def test_what_is_written_loads_equal(tmp_path):
    drawing = Drawing(title="déjà: vu", loss=Square(side=1e-7), rate=float("inf"))
    assert load(Drawing, write(tmp_path, dump(drawing))) == drawing


@pytest.mark.parametrize(
    ("text", "overrides", "expected"),
    [
        ("title: a\npne: {}\n", [], "drawing.yaml line 2: pne: unknown key; did you mean 'pen'?"),
        ("title: a\npen:\n  widht: 2\n", [], "drawing.yaml line 3: pen.widht: unknown key; did you mean 'width'?"),
        (
            "title: a\nloss:\n  name: circle\n  raduis: 2\n",
            [],
            "line 4: loss.raduis: unknown key; did you mean 'radius'?",
        ),
        (
            "title: a\nloss: {name: squar}\n",
            [],
            "loss.name: unknown name 'squar'; did you mean 'square'?",
        ),
        ("title: a\nloss: {name: oval}\n", [], "line 2: loss.name: unknown name 'oval' (known: circle, square)"),
        ("title: a\nloss:\n  name: circle\n  radius: -1\n", [], "line 4: loss.radius must be > 0, got -1"),
        ("title: a\n", ["loss.radius=-1"], "command line: loss.radius must be > 0, got -1"),
        ("title: a\nloss: circle\n", ["loss.radius=-1"], "command line: loss.radius must be > 0, got -1"),
        ("title: a\n", ["pen.width=wide"], "command line: pen.width: must be a valid integer, got 'wide'"),
        ("title: a\n", ["pen.width=1.5"], "command line: pen.width: must be a valid integer, got 1.5"),
        ("title: a\n", ["pen.color=blue"], "command line: pen.color: must be 'black' or 'red', got 'blue'"),
        ("title: 3\n", [], "drawing.yaml line 1: title: must be a valid string, got 3"),
        ("pen: {}\n", [], "drawing.yaml: title: missing; it has no default"),
        ("title: a\n", ["pen"], "'pen' is not of the form key=value"),
        ("title: a\n", ["pen=[1"], "is not valid YAML"),
        ("title: a\ntitle: b\n", [], "drawing.yaml line 2: title: written twice"),
        ("title: [a\n", [], "drawing.yaml line 2: not valid YAML"),
        ("- a\n", [], "a recipe is a mapping of keys to values, this is a list"),
        ("title: a\npen: 3\n", [], "drawing.yaml line 2: pen: must hold keys of its own, such as pen.width, got 3"),
        ("title: a\npen:\n", [], "drawing.yaml line 2: pen: must hold keys of its own, such as pen.width, got null"),
    ],
)
def test_a_mistake_is_one_line_that_says_where(tmp_path, text, overrides, expected):
    with pytest.raises(ConfigError) as caught:
        load(Drawing, write(tmp_path, text), overrides)
    message = str(caught.value)
    assert expected in message
    assert "\n" not in message


def test_every_mistake_is_named(tmp_path):
    path = write(tmp_path, "titel: a\npen: {width: x}\n")
    with pytest.raises(ConfigError) as caught:
        load(Drawing, path)
    assert len(str(caught.value).splitlines()) == 3


@pytest.mark.parametrize("make", ["missing", "folder", "binary"])
def test_a_file_that_is_no_recipe(tmp_path, make):
    path = tmp_path / "recipe.yaml"
    if make == "folder":
        path.mkdir()
    if make == "binary":
        path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"recipe\.yaml: (no such file|is a folder|cannot be read as text)"):
        load(Drawing, path)


def test_schema_describes_what_is_written():
    described = schema(Drawing)
    jsonschema.validate(as_dict(Drawing(title="a")), described)
    assert described["$defs"]["Pen"]["properties"]["width"]["description"] == "Width in points."
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"title": "a", "pne": 1}, described)


@pytest.mark.parametrize("text", ["none", "None", "'none'", "null"])
def test_a_choice_called_none_can_be_chosen_in_a_file_and_on_the_command_line(tmp_path, text):
    path = write(tmp_path, f"title: a\nframe: {text}\nsides: [{{edge: none, label: none}}, {{edge: wavy}}]\n")
    drawing = load(Drawing, path)
    assert drawing.frame == "none"
    assert [(side.edge, side.label) for side in drawing.sides] == [("none", None), ("wavy", "?")]
    assert load(Drawing, None, ["title=a", f"frame={text}"]).frame == "none"
    assert load(Drawing, write(tmp_path, dump(drawing))) == drawing
    with pytest.raises(ConfigError, match=r"pen\.color: must be 'black' or 'red', got null"):
        load(Drawing, None, ["title=a", "frame=none", "pen.color=none"])
