from __future__ import annotations

import sys

import numpy as np
import pytest
from scipy.special import expit

from exptilt.errors import ConfigError
from exptilt.rewards.text_classifier import TextClassifier

TEXTS = ["good film", "a good one", "bad film", "a bad one", "good bad"]
LABELS = [1, 1, 0, 0, 1]


def test_features_are_log_counts_times_idf_on_the_unit_sphere():
    known = TextClassifier({"good": 0, "film": 1}, np.array([2.0, 1.0]), weights=np.zeros(2), bias=0.0)
    found = known.features(["good good film", "nothing known", "Film!"]).toarray()
    raw = np.array([(1 + np.log(2)) * 2.0, 1.0])
    np.testing.assert_allclose(found, [raw / np.linalg.norm(raw), [0, 0], [0, 1]])


def test_idf_falls_with_the_number_of_texts_a_term_is_in():
    found = TextClassifier.fit(TEXTS, LABELS, min_texts=1)
    assert found.idf[found.terms["good"]] == pytest.approx(np.log(6 / 4) + 1)
    assert found.idf[found.terms["good film"]] == pytest.approx(np.log(6 / 2) + 1)
    assert set(TextClassifier.fit(TEXTS, LABELS, min_texts=2).terms) == {"a", "bad", "film", "good", "one"}


def test_the_fit_is_the_minimum_of_the_penalised_log_loss():
    penalty = 0.3
    found = TextClassifier.fit(TEXTS, LABELS, penalty=penalty, min_texts=1)
    features = found.features(TEXTS)
    error = expit(features @ found.weights + found.bias) - LABELS
    np.testing.assert_allclose(features.T @ error + penalty * found.weights, 0, atol=1e-4)
    assert error.sum() == pytest.approx(0, abs=1e-4)


def test_two_fits_are_equal_to_the_bit():
    one, other = (TextClassifier.fit(TEXTS, LABELS, min_texts=1) for _ in range(2))
    np.testing.assert_array_equal(one.weights, other.weights)
    assert one.bias == other.bias


def test_without_scikit_learn_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    with pytest.raises(ConfigError, match=r"needs scikit-learn: pip install 'exptilt\[classifier\]'"):
        TextClassifier.fit(TEXTS, LABELS)


def test_saved_and_loaded_it_says_the_same(tmp_path):
    found = TextClassifier.fit(TEXTS, LABELS, min_texts=1)
    found.save(tmp_path / "classifier.npz")
    again = TextClassifier.load(tmp_path / "classifier.npz")
    np.testing.assert_array_equal(again.probabilities(["a good film", ""]), found.probabilities(["a good film", ""]))
    assert [path.name for path in tmp_path.iterdir()] == ["classifier.npz"]


@pytest.mark.parametrize(
    ("labels", "changes", "message"),
    [
        ([1, 1, 1, 1, 1], {}, "both must occur"),
        ([1, 0], {}, "one label 0 or 1 for each of 5"),
        (LABELS, {"penalty": 0.0}, "penalty"),
        (LABELS, {"min_texts": 6}, "no term occurs in 6"),
    ],
)
def test_what_cannot_be_fitted_is_refused(labels, changes, message):
    with pytest.raises(ValueError, match=message):
        TextClassifier.fit(TEXTS, labels, **changes)
