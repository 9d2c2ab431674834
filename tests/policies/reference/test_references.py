from __future__ import annotations

import gc
from dataclasses import replace

import pytest
import torch

from exptilt.data.chained import Chained
from exptilt.data.groups import Group
from exptilt.data.prepared import prepare
from exptilt.data.table import GroupTable
from exptilt.losses import TDPO1
from exptilt.losses.dpo import DPO
from exptilt.policies.fingerprint import fingerprint
from exptilt.policies.models import load_model, load_tokenizer
from exptilt.policies.reference import scores
from exptilt.policies.reference.references import table_reference
from exptilt.policies.saving import save_model
from exptilt.policies.scoring import score, score_all
from exptilt.processes.world import World
from exptilt.runs.run_models import models_of, reference_model, setup_of
from exptilt.runs.run_reference import table_of
from exptilt.runs.run_tokenizer import find_tokenizer


@pytest.fixture
def parts(make_recipe):
    recipe = make_recipe()
    recipe.folder.mkdir()
    tokenizer = find_tokenizer(recipe.model, recipe.data, recipe.folder)
    rows = prepare(recipe.data, tokenizer, "pair", 64)
    return recipe, tokenizer, load_model(recipe.model, tokenizer), rows.train[:20]


def test_the_start_is_the_reference_unless_another_is_named(parts):
    _, _, model, groups = parts
    table = table_reference(model, groups)
    assert table.model is None
    assert table.source == "the weights this run starts from"
    with torch.no_grad():
        torch.testing.assert_close(table(groups[2:4]).sum(), score(model, groups[2:4]).sum(), atol=1e-5, rtol=0)
    assert len(table([groups[0], groups[0]])) == 4


def test_the_table_keeps_what_the_start_said_when_the_model_moves(parts):
    _, _, model, groups = parts
    table = table_reference(model, groups)
    before = table(groups).sum().clone()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)
    assert torch.equal(table(groups).sum(), before)
    moved = table_reference(model, groups)  # not the cached rows of the old weights
    assert moved.identity != table.identity
    assert not torch.allclose(moved(groups).sum(), before, atol=1e-3)


def test_another_reference_is_loaded_and_frozen(parts, tmp_path):
    recipe, tokenizer, _, groups = parts
    other = load_model(recipe.model, tokenizer, seed=7)
    save_model(other, tokenizer, tmp_path / "other")
    named = replace(recipe, reference=replace(recipe.reference, model=str(tmp_path / "other")))
    models = models_of(named.model, named.reference, setup_of(named, DPO()), tokenizer)
    table = table_of(named.reference, models, Chained(groups), 100, World.alone())
    assert table.source == str(tmp_path / "other")
    assert table.identity == models.held.identity == fingerprint(other)
    with torch.no_grad():
        torch.testing.assert_close(table(groups).sum(), score(other, groups).sum(), atol=1e-5, rtol=0)
    loaded = reference_model(named, tokenizer)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert load_tokenizer(replace(recipe.model, path=str(tmp_path / "other"), config=None)).get_vocab()


def test_full_distributions_need_a_live_copy_that_stays(parts):
    recipe, tokenizer, _, groups = parts
    setup = setup_of(replace(recipe, loss=TDPO1()), TDPO1())
    models = models_of(recipe.model, recipe.reference, setup, tokenizer)
    before = models.held(groups).sum().clone()
    assert not any(parameter.requires_grad for parameter in models.held.model.parameters())
    with torch.no_grad():
        for parameter in models.policy.parameters():
            parameter.add_(0.1)
    assert torch.equal(models.held(groups).sum(), before)


def test_sums_are_those_of_the_tokens(parts):
    _, _, model, groups = parts
    table = table_reference(model, groups)
    torch.testing.assert_close(table.as_sums()(groups).sum(), table(groups).sum().double(), atol=1e-5, rtol=0)


def test_a_second_run_takes_the_rows_from_the_cache(parts, monkeypatch):
    _, _, model, groups = parts
    scored = []

    def counted(model, groups, **more):
        scored.append(len(groups))
        return score_all(model, groups, **more)

    monkeypatch.setattr("exptilt.policies.reference.scores._score", counted)
    first = table_reference(model, groups)
    assert scored == [len(groups)]
    again = table_reference(model, groups)
    assert sum(scored[1:]) < len(groups)  # a few are scored anew, to see that the cache speaks for these weights
    assert torch.equal(again(groups).sum(), first(groups).sum())
    table_reference(model, groups, cache=False)
    assert scored[-1] == len(groups)


def test_rows_of_a_file_are_taken_batch_by_batch_and_the_values_are_those_of_all_at_once(parts, tmp_path, monkeypatch):
    _, _, model, groups = parts
    GroupTable.of(groups[:15]).save(tmp_path / "rows.arrow")
    rows = Chained(groups[15:], GroupTable.load(tmp_path / "rows.arrow"), groups[:2])
    order = [*groups[15:], *groups[:15]]
    whole = score_all(model, order, max_tokens=100)
    expected = {group.id: logps for group, logps in zip(order, whole, strict=True)}
    alive, scored, before = [], scores._score, _num_groups()

    def counted(model, groups):
        alive.append(_num_groups() - before - len(groups))
        return scored(model, groups)

    monkeypatch.setattr(scores, "_score", counted)
    table = table_reference(model, rows, cache=False, max_tokens=100)
    assert len(alive) > 3
    assert max(alive) <= 1
    for at in (0, 7, 14, 19):
        assert torch.equal(table([groups[at]]).tokens(), expected[groups[at].id].tokens())


def _num_groups() -> int:
    return sum(type(thing) is Group for thing in gc.get_objects())
