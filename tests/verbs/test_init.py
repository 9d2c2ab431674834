from __future__ import annotations

import json

import pytest

from exptilt.errors import ConfigError
from exptilt.runs.run_recipe import run_recipe
from exptilt.settings.data_settings import DataConfig
from exptilt.settings.load import load
from exptilt.settings.model_settings import ModelConfig
from exptilt.settings.recipe import Recipe
from exptilt.verbs.init import init, init_from


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


def rows_of(path, *rows):
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return str(path)


def test_a_recipe_from_pairs_is_lora_with_the_reason_and_what_it_decides(tmp_path):
    pairs = [
        {"prompt": f"p {n}", "chosen": f"yes {n}", "rejected": f"no {n} or so"[: 5 + 4 * (n % 2)]} for n in range(50)
    ]
    data = rows_of(tmp_path / "my pairs.jsonl", *pairs, pairs[0])
    path = tmp_path / "r.yaml"
    said = str(init_from(path, [data]))
    recipe = load(Recipe, path)
    assert (recipe.loss.name, recipe.adapter.rank, recipe.data.test_fraction, recipe.output) == (
        "dpo",
        16,
        0.1,
        "runs/my-pairs",
    )
    assert (recipe.data.on_duplicate, recipe.data.on_tie, recipe.optim.learning_rate) == ("drop", "error", 2e-5)
    text = path.read_text()
    assert f"# - {said}"[:100] in text
    assert said.startswith("objective that fits: dpo, because 50 pairs")
    assert max(map(len, text.replace(str(tmp_path), "").splitlines())) <= 120
    with pytest.raises(ConfigError, match="exists already"):
        init_from(path, [data])


def test_every_advice_becomes_a_recipe_that_loads(tmp_path, finished):
    marks = rows_of(
        tmp_path / "marks.jsonl", *({"prompt": f"p{n}", "completion": f"c{n}", "label": n % 3 == 0} for n in range(30))
    )
    ranks = rows_of(
        tmp_path / "ranks.jsonl",
        *({"prompt": f"p{n}", "completions": ["a", "b", "c"], "ranks": [1, 2, 3]} for n in range(9)),
    )
    sums = rows_of(
        tmp_path / "sums.jsonl", *({"prompt": f"{n}+1=", "completion": f"so\n#### {n + 1}"} for n in range(9))
    )
    init_from(tmp_path / "kto.yaml", [marks])
    kto = load(Recipe, tmp_path / "kto.yaml")
    assert (kto.loss.name, kto.loss.desirable_weight, kto.sft) == ("kto", 2.0, None)
    init_from(tmp_path / "pl.yaml", [ranks])
    assert load(Recipe, tmp_path / "pl.yaml").loss.name == "plackett_luce"
    init_from(tmp_path / "rounds.yaml", [sums])
    rounds = load(Recipe, tmp_path / "rounds.yaml")
    assert (rounds.rounds.labelled_by, rounds.rounds.reward.check, rounds.loss.name) == ("reward", "gsm8k", "dpo")
    assert rounds.sft is not None
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "tokenizer_config.json").write_text("{}")
    init_from(tmp_path / "base.yaml", [marks], str(bare))
    assert load(Recipe, tmp_path / "base.yaml").sft.optim.learning_rate == 2e-4
    assert "has no chat template" in (tmp_path / "base.yaml").read_text()


def test_prompts_alone_are_told_what_comes_first(tmp_path):
    data = rows_of(tmp_path / "asks.jsonl", *({"prompt": f"Why {n}?"} for n in range(9)))
    with pytest.raises(ConfigError, match="draw some with `exptilt sample`"):
        init_from(tmp_path / "r.yaml", [data])
    assert not (tmp_path / "r.yaml").exists()


def test_a_written_recipe_trains(tmp_path, finished):
    """The rows that its recipe leaves out are the only ones a run would have refused."""
    rows = [{"prompt": f"Say {n}.", "chosen": f"Well, {n}.", "rejected": f"No {n} and so"} for n in range(40)]
    data = rows_of(tmp_path / "rows.jsonl", *rows, rows[0], {"prompt": "x", "chosen": "same", "rejected": "same"})
    init_from(tmp_path / "r.yaml", [data], str(finished.folder / "model"))
    overrides = [f"output={tmp_path / 'out'}", "train.max_steps=1", "batch.size=8", "evaluate.num_prompts=0"]
    outcome = run_recipe(load(Recipe, tmp_path / "r.yaml", overrides), page=False)
    assert outcome.finished
    kept = outcome.folder.read("data.json")["train"]
    assert kept["rows_left_out"] | kept["examples_left_out"] == {"duplicate": 1, "identical": 1}
