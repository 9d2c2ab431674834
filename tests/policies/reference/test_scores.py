from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch

from exptilt.data.groups import Completion
from exptilt.errors import ModelError
from exptilt.policies.reference import scores
from exptilt.policies.reference.reference_cache import ReferenceCache
from exptilt.policies.reference.scores import reference_logps
from exptilt.policies.scoring import score_all


@pytest.fixture
def cache(tmp_path):
    return ReferenceCache(tmp_path / "cache")


@pytest.fixture
def scored(monkeypatch):
    """Rows scored by the model, in place of a clock."""
    rows: list[str] = []
    real = scores._score

    def counting(model, groups, **options):
        rows.extend(group.id for group in groups)
        return real(model, groups, **options)

    monkeypatch.setattr(scores, "_score", counting)
    monkeypatch.setattr(scores, "_verify", lambda *arguments: None)
    return rows


def same(found, expected) -> bool:
    return all(torch.equal(one.tokens(), other.tokens()) for one, other in zip(found, expected, strict=True))


def test_second_time_comes_from_disk_whatever_the_order(cache, make_model, groups, scored) -> None:
    first = reference_logps(cache, make_model("llama"), groups, max_tokens=60)
    assert sorted(scored) == sorted(group.id for group in groups)
    for one, other in zip(first, score_all(make_model("llama"), groups), strict=True):
        torch.testing.assert_close(one.tokens(), other.tokens(), rtol=0, atol=1e-5)
        assert one.lengths.tolist() == other.lengths.tolist()
    scored.clear()
    again = reference_logps(ReferenceCache(cache.folder), make_model("llama"), groups[::-1])
    assert same(again[::-1], first)
    assert scored == []
    renamed = [replace(group, id="elsewhere", weight=2.0) for group in groups]
    assert same(reference_logps(cache, make_model("llama"), renamed), first)
    assert scored == []


def test_only_new_rows_are_scored_and_twins_once(cache, make_model, make_group, groups, scored) -> None:
    reference_logps(cache, make_model("llama"), groups[:3])
    scored.clear()
    new = make_group(5, 4, 4, seed=3)
    found = reference_logps(cache, make_model("llama"), [groups[1], new, new, groups[0]])
    assert scored == [new.id]
    assert same([found[1]], [found[2]])


def test_weights_dtype_tokens_and_mask_each_make_another_entry(cache, make_model, groups, scored) -> None:
    model = make_model("llama")
    group = groups[0]
    reference_logps(cache, model, [group])
    ids, counted = group.completions[0].ids, group.completions[0].counted.copy()
    counted[0] = False
    masked = replace(group, completions=(Completion(ids, counted), group.completions[1]))
    moved = replace(group, prompt=np.append(group.prompt, ids[0]), completions=(Completion(ids[1:], counted[1:]),))
    for other in (masked, moved, replace(group, completions=group.completions[::-1])):
        scored.clear()
        reference_logps(cache, model, [other])
        assert len(scored) == 1
    scored.clear()
    reference_logps(cache, make_model("llama").to(torch.bfloat16), [group])
    model.lm_head.weight.data[0, 0] += 0.1
    reference_logps(cache, model, [group])
    assert len(scored) == 2


def test_killed_run_keeps_what_it_saved(tmp_path, make_model, groups, monkeypatch) -> None:
    cache = ReferenceCache(tmp_path / "cache", save_every=0)
    real, calls = scores._score, []

    def dying(model, rows, **options):
        calls.append(len(rows))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(model, rows, **options)

    monkeypatch.setattr(scores, "_score", dying)
    with pytest.raises(KeyboardInterrupt):
        reference_logps(cache, make_model("llama"), groups, max_tokens=1)
    shards = list(cache.folder.rglob("*.safetensors"))
    assert len(shards) == 2
    calls.clear()
    calls += [0] * 10
    reference_logps(cache, make_model("llama"), groups, max_tokens=1)
    # Two rows are checked in one call, the other rows scored one by one.
    assert calls[10:] == [2] + [1] * (len(groups) - 2)


@pytest.mark.parametrize("damage", ["flipped", "truncated", "emptied"])
def test_damaged_shard_is_reported_and_scored_again(damage, cache, make_model, groups, caplog) -> None:
    first = reference_logps(cache, make_model("llama"), groups)
    (shard,) = cache.folder.rglob("*.safetensors")
    data = bytearray(shard.read_bytes())
    data[-3] ^= 0xFF
    shard.write_bytes({"flipped": bytes(data), "truncated": bytes(data[:-1]), "emptied": b""}[damage])
    with caplog.at_level(logging.WARNING, logger="exptilt"):
        found = reference_logps(cache, make_model("llama"), groups)
    assert same(found, first)
    assert [record.getMessage().partition(": ")[2][:23] for record in caplog.records] == ["damaged reference shard"]
    caplog.clear()
    assert same(reference_logps(cache, make_model("llama"), groups), first)
    assert not caplog.records


def test_entries_that_do_not_match_the_model_stop_the_run(cache, make_model, groups, monkeypatch) -> None:
    monkeypatch.setattr(scores, "fingerprint", lambda model: "0" * 64)
    reference_logps(cache, make_model("llama"), groups)
    other = make_model("llama")
    other.lm_head.weight.data *= 1.5
    with pytest.raises(ModelError, match=r"row rows\.jsonl:\d+: reference log-probabilities cached in .* differ by"):
        reference_logps(cache, other, groups)


def test_folder_that_cannot_be_written_costs_only_the_cache(tmp_path, make_model, groups, caplog) -> None:
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING, logger="exptilt"):
        found = reference_logps(ReferenceCache(tmp_path / "file"), make_model("llama"), groups)
    assert same(found, reference_logps(None, make_model("llama"), groups))
    assert "cannot keep reference log-probabilities" in caplog.records[0].getMessage()


def test_default_folder_follows_the_environment(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("EXPTILT_CACHE", str(tmp_path))
    assert ReferenceCache().folder == tmp_path / "reference"
    monkeypatch.delenv("EXPTILT_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    assert ReferenceCache().folder == tmp_path / "me" / ".cache" / "exptilt" / "reference"


def test_a_pass_resumed_in_its_middle_scores_the_same_rows_side_by_side(cache, make_model, groups, monkeypatch) -> None:
    """Other neighbours would give a row other last bits, and a resumed run another end than one that was never stopped."""
    batches: list[tuple[str, ...]] = []
    real = scores._score

    def watched(model, rows, **options):
        batches.append(tuple(group.id for group in rows))
        if len(batches) == 3 and dies:
            raise KeyboardInterrupt
        return real(model, rows, **options)

    monkeypatch.setattr(scores, "_score", watched)
    monkeypatch.setattr(scores, "_verify", lambda *arguments: None)
    dies = False
    whole = reference_logps(ReferenceCache(cache.folder / "whole"), make_model("llama"), groups, max_tokens=30)
    expected, dies = list(batches), True
    batches.clear()
    cache.save_every = 0.0
    with pytest.raises(KeyboardInterrupt):
        reference_logps(cache, make_model("llama"), groups, max_tokens=30)
    dies = False
    resumed = reference_logps(cache, make_model("llama"), groups, max_tokens=30)
    assert batches == expected[:3] + expected[2:]
    assert same(resumed, whole)
    assert not list(cache.folder.rglob("*.plan"))
