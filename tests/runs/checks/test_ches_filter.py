"""Pairs likely to displace: scored as by hand, left out and counted, named by the doctor."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from exptilt.data.groups import Completion, Group
from exptilt.data.prepared import prepare
from exptilt.errors import ConfigError
from exptilt.evaluation.pairs.ches import ches_of, highest
from exptilt.kinds import PAIR, UNPAIRED
from exptilt.labels import Preferred
from exptilt.policies.models import load_model, load_tokenizer
from exptilt.run_folder.data_record import DataReport
from exptilt.runs.checks.ches_filter import ches_finding, leave_out_displacing
from exptilt.settings.model_settings import ModelConfig
from exptilt.settings.recipe import SFTPhase
from exptilt.verbs.doctor import doctor


@pytest.fixture
def prepared(finished):
    where = ModelConfig(path=str(finished.folder / "sft" / "model"))
    tokenizer = load_tokenizer(where)
    return load_model(where, tokenizer), prepare(finished.data, tokenizer, "pair", 64)


def by_hand(model, group):
    """From the model's own forward passes, one completion at a time."""
    sums, counts = [], []
    for part in group.completions:
        fed = torch.from_numpy(np.concatenate([group.prompt, part.ids]).astype(np.int64))[None]
        with torch.no_grad():
            states = model.base_model(input_ids=fed).last_hidden_state[0].double()
        before = [len(group.prompt) + at - 1 for at in np.flatnonzero(part.counted)]
        sums.append(states[before].sum(dim=0).numpy())
        counts.append(len(before))
    won, lost = sums if group.label.p_chosen >= 0.5 else sums[::-1]
    num = counts if group.label.p_chosen >= 0.5 else counts[::-1]
    return won @ lost / (num[0] * num[1]) - won @ won / num[0] ** 2


def test_a_pairs_score_is_that_of_its_own_forward_passes_whatever_it_is_scored_with(prepared):
    model, rows = prepared
    groups = [
        replace(group, label=Preferred(p_chosen=0.2)) if at % 3 == 0 else group for at, group in enumerate(rows.train)
    ]
    found = ches_of(model, groups).normalised
    assert found == pytest.approx([by_hand(model, group) for group in groups], rel=1e-4, abs=1e-6)
    assert ches_of(model, groups[5:7]).normalised == pytest.approx(found[5:7], rel=1e-5)
    assert ches_of(model, groups, max_tokens=40).normalised == pytest.approx(found, rel=1e-5)


def test_the_highest_share_is_left_out_and_counted(prepared):
    model, rows = prepared
    scores = ches_of(model, rows.train).normalised
    count = len(rows.train)
    less = leave_out_displacing(model, rows, 0.25, kind=PAIR)
    num = round(0.25 * count)
    gone = {rows.train[int(at)].id for at in highest(ches_of(model, rows.train), num)}
    assert min(scores[[at for at in range(count) if rows.train[at].id in gone]]) > max(
        scores[[at for at in range(count) if rows.train[at].id not in gone]]
    )
    assert [group.id for group in less.train] == [group.id for group in rows.train if group.id not in gone]
    account = less.report.train
    assert (account.kept, account.examples_left_out["displacing"]) == (count - num, num)
    assert account.kept + sum(account.examples_left_out.values()) == account.examples
    assert account.lengths["chosen"].total == sum(group.completions[0].length for group in less.train)
    assert account.longer_chosen is None
    [finding] = [one for one in less.report.findings if one.code == "displacing"]
    assert finding.count == num
    assert set(finding.examples) <= gone
    assert f"{num} of {count} pairs were left out by data.drop_highest_ches=0.25" in finding.message
    assert DataReport.from_dict(less.report.as_dict()).train.kept == count - num
    assert less.test is rows.test


def test_nothing_is_asked_nothing_is_left_out_and_other_kinds_are_refused(prepared):
    model, rows = prepared
    assert leave_out_displacing(None, rows, 0.0, kind=UNPAIRED) is rows
    with pytest.raises(ConfigError, match="only pairs have a CHES, and this objective is trained on kind 'unpaired'"):
        leave_out_displacing(model, rows, 0.1, kind=UNPAIRED)
    assert len(leave_out_displacing(model, rows, 0.999, kind=PAIR).train) == 1


def test_the_supervised_phase_keeps_all_rows(make_recipe):
    recipe = replace(make_recipe("data.drop_highest_ches=0.3"), sft=SFTPhase())
    assert recipe.data.drop_highest_ches == 0.3
    assert recipe.sft_recipe().data.drop_highest_ches == 0.0
    with pytest.raises(ConfigError, match=r"drop_highest_ches must be in \[0, 1\), got 1"):
        make_recipe("data.drop_highest_ches=1")


def test_the_doctor_names_the_pairs_and_applies_the_filter(finished, write_rows, pairs, capsys):
    source = write_rows("some.jsonl", pairs(20))
    model = str(finished.folder / "sft" / "model")
    assert doctor(str(source), [], model, False, 0, reference_check=True) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "CHES per token of 20 pairs: median" in said
    assert "leaves the highest 1 out" in said
    assert doctor(str(source), ["data.drop_highest_ches=0.2"], model, False, 0, reference_check=True) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "20 rows read, 16 examples kept; left out: 4 displacing" in said
    assert "CHES per token of 16 pairs" in said


def test_rows_that_are_no_pairs_have_no_score(prepared):
    model, _ = prepared
    part = Completion(ids=np.array([5], dtype=np.int32), counted=np.ones(1, dtype=bool))
    assert ches_finding(model, [Group(id="a:1", prompt=np.array([4], dtype=np.int32), completions=(part,))]) is None
