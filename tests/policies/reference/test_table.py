from __future__ import annotations

import gc
from dataclasses import replace

import pytest
import torch

from exptilt.data.groups import Group
from exptilt.data.prepare import prepare
from exptilt.data.table import GroupTable
from exptilt.losses import TDPO1
from exptilt.policies.models import load_model, load_tokenizer
from exptilt.policies.reference import scores
from exptilt.policies.reference.table import Together, reference_model, reference_table
from exptilt.policies.saving import save_model
from exptilt.policies.scoring import score, score_all
from exptilt.runs.run_tokenizer import find_tokenizer


@pytest.fixture
def parts(make_recipe):
    recipe = make_recipe()
    recipe.folder.mkdir()
    tokenizer = find_tokenizer(recipe)
    rows = prepare(recipe.data, tokenizer, "pair", 64)
    return recipe, tokenizer, load_model(recipe.model, tokenizer), rows.train[:20]


def test_the_start_is_the_reference_unless_another_is_named(parts):
    recipe, _, model, groups = parts
    table = reference_table(recipe, model, groups)
    assert table.is_start
    assert table.live is None
    assert table.source == "the weights this run starts from"
    with torch.no_grad():
        torch.testing.assert_close(table(groups[2:4]).sum(), score(model, groups[2:4]).sum(), atol=1e-5, rtol=0)
    assert len(table([groups[0], groups[0]])) == 4


def test_the_table_keeps_what_the_start_said_when_the_model_moves(parts):
    recipe, _, model, groups = parts
    table = reference_table(recipe, model, groups)
    before = table(groups).sum().clone()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)
    assert torch.equal(table(groups).sum(), before)
    moved = reference_table(recipe, model, groups)  # not the cached rows of the old weights
    assert moved.identity != table.identity
    assert not torch.allclose(moved(groups).sum(), before, atol=1e-3)


def test_another_reference_is_loaded_and_frozen(parts, tmp_path):
    recipe, tokenizer, model, groups = parts
    other = load_model(recipe.model, tokenizer, seed=7)
    save_model(other, tokenizer, tmp_path / "other")
    named = replace(recipe, reference=replace(recipe.reference, model=str(tmp_path / "other")))
    table = reference_table(named, model, groups)
    assert not table.is_start
    assert table.source == str(tmp_path / "other")
    with torch.no_grad():
        torch.testing.assert_close(table(groups).sum(), score(other, groups).sum(), atol=1e-5, rtol=0)
    loaded = reference_model(named, model)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert load_tokenizer(replace(recipe.model, path=str(tmp_path / "other"), config=None)).get_vocab()


def test_full_distributions_need_a_live_copy_that_stays(parts):
    recipe, _, model, groups = parts
    table = reference_table(replace(recipe, loss=TDPO1()), model, groups)
    assert table.live is not model
    assert not any(parameter.requires_grad for parameter in table.live.parameters())


def test_a_second_run_takes_the_rows_from_the_cache(parts, monkeypatch):
    recipe, _, model, groups = parts
    scored = []

    def counted(model, groups, **more):
        scored.append(len(groups))
        return score_all(model, groups, **more)

    monkeypatch.setattr("exptilt.policies.reference.scores._score", counted)
    first = reference_table(recipe, model, groups)
    assert scored == [len(groups)]
    again = reference_table(recipe, model, groups)
    assert sum(scored[1:]) < len(groups)  # a few are scored anew, to see that the cache speaks for these weights
    assert torch.equal(again(groups).sum(), first(groups).sum())
    reference_table(replace(recipe, reference=replace(recipe.reference, cache=False)), model, groups)
    assert scored[-1] == len(groups)


def test_rows_of_a_file_are_taken_batch_by_batch_and_the_values_are_those_of_all_at_once(parts, tmp_path, monkeypatch):
    recipe, _, model, groups = parts
    GroupTable.of(groups[:15]).save(tmp_path / "rows.arrow")
    rows = Together(groups[15:], GroupTable.load(tmp_path / "rows.arrow"), groups[:2])
    recipe = replace(recipe, batch=replace(recipe.batch, tokens=100), reference=replace(recipe.reference, cache=False))
    order = [*groups[15:], *groups[:15]]
    whole = score_all(model, order, max_tokens=100)
    expected = {group.id: logps for group, logps in zip(order, whole, strict=True)}
    alive, scored, before = [], scores._score, _num_groups()

    def counted(model, groups):
        alive.append(_num_groups() - before - len(groups))
        return scored(model, groups)

    monkeypatch.setattr(scores, "_score", counted)
    table = reference_table(recipe, model, rows)
    assert len(alive) > 3
    assert max(alive) <= 1
    for at in (0, 7, 14, 19):
        assert torch.equal(table([groups[at]]).tokens(), expected[groups[at].id].tokens())


def _num_groups() -> int:
    return sum(type(thing) is Group for thing in gc.get_objects())
