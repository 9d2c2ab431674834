"""Agreement: hand-computed values, published tables, constants of the reference package."""

import collections
import gzip
import json

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from exptilt.evaluation.intervals import Resampling, wilson
from exptilt.evaluation.judged.agreement import (
    alpha_interval,
    cohens_kappa,
    kappa_from_shares,
    krippendorff_alpha,
    leave_one_out,
    majority_agreement,
    pair_agreement,
)

QUICK = Resampling(num_resamples=200)
GAP = np.nan


def lines(path):
    with gzip.open(path, "rt") as file:
        return [json.loads(line) for line in file]


def test_alpha_of_krippendorffs_own_example():
    # Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", example C: nominal alpha .743, four observers.
    table = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, GAP, GAP, GAP],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, GAP, 3],
        [GAP, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, GAP],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, GAP],
    ]
    assert krippendorff_alpha(np.array(table).T) == pytest.approx(0.743, abs=5e-4)


def test_kappa_equals_scikit_learns():
    rng = np.random.default_rng(0)
    one, two = rng.integers(3, size=(2, 200))
    assert cohens_kappa(one, two) == pytest.approx(cohen_kappa_score(one, two))
    found = pair_agreement(one, two, QUICK)
    assert found.kappa.value == pytest.approx(cohen_kappa_score(one, two))
    assert found.kappa.low < found.kappa.value < found.kappa.high


@pytest.mark.parametrize(
    ("agree", "one", "two", "kappa"),
    [
        (0.70, 0.47, 0.58, 0.41), (0.67, 0.54, 0.58, 0.33), (0.65, 0.58, 0.58, 0.28),  # DPO: (S), (C), people
        (0.77, 0.27, 0.43, 0.51), (0.79, 0.32, 0.43, 0.56),  # SFT
        (0.86, 0.13, 0.17, 0.45), (0.85, 0.12, 0.17, 0.40), (0.87, 0.17, 0.17, 0.54),  # PPO-1
    ],
)  # fmt: skip
def test_the_papers_human_table_from_its_printed_figures(agree, one, two, kappa):
    assert kappa_from_shares(agree, one, two) == pytest.approx(kappa, abs=0.0051)


@pytest.mark.parametrize(
    ("share", "n", "low", "high"),
    [(0.58, 272, 52, 64), (0.43, 122, 35, 52), (0.17, 199, 12, 23), (0.65, 125, 56, 73), (0.87, 100, 79, 92)],
)
def test_the_papers_intervals_from_its_counts(share, n, low, high):
    found = wilson(share * n, n)
    assert (100 * found.low, 100 * found.high) == (pytest.approx(low, abs=0.6), pytest.approx(high, abs=0.6))


def test_pandalm_annotators_and_judges(data_folder):
    rows = lines(data_folder / "judge" / "pandalm_testset_v1.jsonl.gz")
    people = np.array([row["annotators"] for row in rows], dtype=float)
    kappas = [cohens_kappa(people[:, i], people[:, j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert sorted(round(k, 2) for k in kappas) == [0.85, 0.86, 0.88]
    judge = np.array([float(row["pandalm7b"]) for row in rows])
    majority = np.array([collections.Counter(row["annotators"]).most_common(1)[0][0] for row in rows], dtype=float)
    assert 100 * np.mean(judge == majority) == pytest.approx(66.77, abs=0.01)
    assert leave_one_out(people)[0] == pytest.approx(majority_agreement(people[:, 0], people[:, 1:]))


def test_llmbar_published_statistics_are_recomputed(data_folder):
    by = collections.defaultdict(list)
    for row in lines(data_folder / "judge" / "llmbar.jsonl.gz"):
        by[row["subset"]].append(row)
    published = json.loads((data_folder / "judge" / "llmbar_published_statistics.json").read_text())
    for row in published:
        items = by[row["subset"]]
        label = np.array([str(item["label"]) for item in items])
        plain, swapped = (np.array([str(item["judges"][row["judge"]][k]) for item in items]) for k in (0, 1))
        right = [plain == label, swapped == label]
        assert int(row["correct_False"].split()[0]) == right[0].sum()
        assert int(row["correct_True"].split()[0]) == right[1].sum()
        assert int(row["correct_both"].split()[0]) == (right[0] & right[1]).sum()
        assert int(row["equal"].split()[0]) == (plain == swapped).sum()
        # Its code reads "2" and a missing verdict alike as 0 ...
        coded = [(votes == "1").astype(float) for votes in (plain, swapped)]
        assert cohens_kappa(*coded) == pytest.approx(row["kappa_agreement"], nan_ok=True)
        # ... but leaves the label as 1 or 2, so that a right "2" never counts as agreement: kappa_False and kappa_True
        # are Cohen's kappa of two codings that do not match.
        for votes, name in zip(coded, ("kappa_False", "kappa_True"), strict=True):
            assert cohens_kappa(votes, label.astype(float)) == pytest.approx(row[name], nan_ok=True)
    assert len(published) == 51


def test_hand_computed_agreement_with_several_people():
    # Two people on three items; the judge agrees with 3 of 5 votes.
    found = pair_agreement([0, 1, 1], [[0, 0], [1, 0], [GAP, 0]], QUICK)
    assert found.votes == 5
    assert found.agreement.value == pytest.approx(3 / 5)
    assert found.chance == pytest.approx((2 / 5) * (4 / 5) + (3 / 5) * (1 / 5))


def test_alpha_interval_covers():
    rng, held, truths = np.random.default_rng(0), 0, []
    table = lambda size: np.where(rng.random((size, 3)) < 0.8, truth := rng.integers(2, size=(size, 1)), 1 - truth)  # noqa: E731
    truth_alpha = krippendorff_alpha(table(200_000))
    for _ in range(200):
        found = alpha_interval(table(120).astype(float), Resampling(num_resamples=100))
        held += found.low <= truth_alpha <= found.high
        truths.append(found.value)
    assert held / 200 == pytest.approx(0.95, abs=0.04)
    assert np.mean(truths) == pytest.approx(truth_alpha, abs=0.02)


def test_raters_without_a_common_item_are_refused():
    with pytest.raises(ValueError, match="no item in common"):
        pair_agreement([0, GAP], [GAP, 1])
