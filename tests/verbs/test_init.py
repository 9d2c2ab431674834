from __future__ import annotations

import pytest

from exptilt.errors import ConfigError
from exptilt.settings.data_settings import DataConfig
from exptilt.settings.load import load
from exptilt.settings.model_settings import ModelConfig
from exptilt.settings.recipe import Recipe
from exptilt.verbs.init import init


def test_it_loads_as_the_defaults(tmp_path):
    init(tmp_path / "mine.yaml", force=False)
    assert load(Recipe, tmp_path / "mine.yaml") == Recipe(
        output="runs/first",
        model=ModelConfig(path="path/to/model-folder-or-hub-id"),
        data=DataConfig(train="preferences.jsonl", test_fraction=0.1),
    )


def test_it_is_short_explained_and_writes_numbers_as_people_do(tmp_path):
    init(tmp_path / "mine.yaml", force=False)
    text = (tmp_path / "mine.yaml").read_text().replace(str(tmp_path), "")
    lines = text.splitlines()
    assert len(lines) < 90
    assert max(map(len, lines)) <= 120
    assert any(line.startswith("  learning_rate: 1e-6 ") and "Peak learning rate" in line for line in lines)
    assert any("exptilt train" in line and "/mine.yaml" in line for line in lines)
    assert [line for line in lines if ":" in line and "#" not in line and not line.strip().startswith("name:")] == []


def test_an_existing_file_stays_unless_forced(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("precious")
    with pytest.raises(ConfigError, match="exists already; choose another name or add --force"):
        init(path, force=False)
    assert path.read_text() == "precious"
    init(path, force=True)
    assert load(Recipe, path).output == "runs/first"


@pytest.mark.parametrize("force", [False, True])
def test_places_that_cannot_hold_it(tmp_path, force):
    with pytest.raises(ConfigError, match=r"is a folder; name a file in it, such as .*recipe\.yaml"):
        init(tmp_path, force)
    with pytest.raises(ConfigError, match="cannot be written: No such file or directory"):
        init(tmp_path / "none" / "mine.yaml", force)
