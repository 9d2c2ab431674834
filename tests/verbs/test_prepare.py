from __future__ import annotations

import pytest
from rich.console import Console

from exptilt.errors import DataError
from exptilt.processes.world import World
from exptilt.runs.run_rows import rows_of
from exptilt.runs.run_tokenizer import find_tokenizer
from exptilt.settings.load import load
from exptilt.settings.recipe import Recipe
from exptilt.verbs.prepare import prepare

MODEL = "model.config={hidden_size: 16, num_layers: 1, num_heads: 2, vocab_size: 300}"


@pytest.fixture
def recipe(tmp_path, write_rows, monkeypatch):
    """A recipe of two phases over 2,200 pairs, with a cache of its own."""
    monkeypatch.setenv("EXPTILT_CACHE", str(tmp_path / "cache"))
    rows = [{"prompt": f"ask {n}", "chosen": f"good {n}", "rejected": f"bad {n}"} for n in range(2200)]
    path = write_rows("rows.jsonl", rows)
    return load(Recipe, None, [f"output={tmp_path / 'run'}", f"data.train={path}", MODEL, "sft={}"])


def test_a_run_finds_the_rows_of_every_phase_and_reads_none(recipe, tmp_path, monkeypatch):
    quiet = Console(quiet=True)
    sft, dpo = prepare(recipe, quiet)
    assert [phase.name for phase in (sft, dpo)] == ["sft", "dpo"]
    assert sft.folder != dpo.folder
    assert all((phase.folder / "train.arrow").is_file() for phase in (sft, dpo))
    assert not (tmp_path / "run").exists()

    tokenizer = find_tokenizer(recipe.model, recipe.data)
    monkeypatch.setattr("exptilt.data.prepared.read_splits", lambda *_: pytest.fail("the rows were read again"))
    for phase, prepared in ((recipe.sft_recipe(), sft), (recipe, dpo)):
        rows = rows_of(phase, tokenizer, World.alone())
        assert [group.id for group in rows.train] == [group.id for group in prepared.rows.train]


def test_what_a_run_would_refuse_is_refused(recipe, write_rows):
    path = write_rows("bad.jsonl", [{"prompt": "a", "chosen": "b", "rejected": "b"}])
    wrong = load(Recipe, None, [f"output={recipe.output}", f"data.train={path}", MODEL])
    with pytest.raises(
        DataError, match=r"bad\.jsonl:1: chosen and rejected are identical; repair the row, or set data"
    ):
        prepare(wrong, Console(quiet=True))


def test_few_rows_are_not_kept_and_it_says_so(recipe, capsys):
    few = load(Recipe, None, [f"output={recipe.output}", f"data.train={recipe.data.train}", "data.limit=30", MODEL])
    (phase,) = prepare(few, Console(width=200))
    assert phase.folder is None
    assert "30 examples to train on and 0 held out; so few are made again" in capsys.readouterr().out
