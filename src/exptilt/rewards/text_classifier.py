"""A text classifier small enough to read: TF-IDF of words and word pairs, and a logistic regression."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize
from scipy.sparse import csr_matrix
from scipy.special import expit, log_expit

Floats = NDArray[np.float64]
_WORD = re.compile(r"[a-z0-9']+")


@dataclass(frozen=True, eq=False)
class TextClassifier:
    """P(label 1) of a text.

        P = sigmoid(w . x + b)      x_t ~ (1 + log count_t) * log((1 + n) / (1 + df_t)) + 1, scaled to length 1

    over terms t that occur in enough training texts; w minimises the mean log loss plus `penalty / n * |w|^2 / 2`.

    Example:
        >>> found = TextClassifier.fit(["good film", "a good one", "bad film", "a bad one"], [1, 1, 0, 0], min_texts=2)
        >>> found.probabilities(["good", "bad"]).round(2).tolist()
        [0.71, 0.29]
    """

    terms: dict[str, int]
    idf: Floats
    weights: Floats
    bias: float

    @classmethod
    def fit(
        cls, texts: Sequence[str], labels: ArrayLike, *, penalty: float = 0.5, min_texts: int = 5
    ) -> TextClassifier:
        """Fit by L-BFGS, which finds the one minimum.

        Args:
            texts: (n,) to learn from.
            labels: (n,) 0 or 1, both present.
            penalty: of squared weights, > 0.
            min_texts: terms in fewer texts are left out, >= 1.
        """
        target = np.asarray(labels, dtype=np.float64)
        if target.shape != (len(texts),) or set(np.unique(target)) != {0.0, 1.0}:
            raise ValueError(f"need one label 0 or 1 for each of {len(texts)} texts, and both must occur")
        if not penalty > 0:
            raise ValueError(f"penalty must be > 0, got {penalty}")
        counts = Counter(term for text in texts for term in set(_terms(text)))
        kept = sorted(term for term, count in counts.items() if count >= min_texts)
        if not kept:
            raise ValueError(f"no term occurs in {min_texts} of {len(texts)} texts")
        seen = np.array([counts[term] for term in kept], dtype=np.float64)
        idf = np.log((1 + len(texts)) / (1 + seen)) + 1
        terms = {term: place for place, term in enumerate(kept)}
        features = _features(texts, terms, idf)

        def objective(parameters: Floats) -> tuple[float, Floats]:
            weights, bias = parameters[:-1], parameters[-1]
            score = features @ weights + bias
            loss = -np.mean(target * log_expit(score) + (1 - target) * log_expit(-score))
            pull = penalty / len(texts) * weights
            error = (expit(score) - target) / len(texts)
            return loss + 0.5 * pull @ weights, np.append(features.T @ error + pull, error.sum())

        found = minimize(objective, np.zeros(len(kept) + 1), jac=True, method="L-BFGS-B", options={"maxiter": 500}).x
        return cls(terms=terms, idf=idf, weights=found[:-1], bias=float(found[-1]))

    def probabilities(self, texts: Sequence[str]) -> Floats:
        """(n,) P(label 1)."""
        return np.asarray(expit(_features(texts, self.terms, self.idf) @ self.weights + self.bias))

    def accuracy(self, texts: Sequence[str], labels: ArrayLike) -> float:
        """Share of texts whose likelier label is theirs."""
        return float(np.mean((self.probabilities(texts) > 0.5) == (np.asarray(labels) == 1)))

    def save(self, path: Path) -> None:
        """Write one .npz file, in one piece."""
        temporary = path.with_suffix(".tmp.npz")
        names = np.frombuffer(json.dumps(list(self.terms)).encode(), dtype=np.uint8)
        np.savez(temporary, terms=names, idf=self.idf, weights=self.weights, bias=np.array(self.bias))
        os.replace(temporary, path)

    @classmethod
    def load(cls, path: Path) -> TextClassifier:
        """Read what `save` wrote."""
        with np.load(path) as kept:
            names = json.loads(kept["terms"].tobytes().decode())
            terms = {term: place for place, term in enumerate(names)}
            return cls(terms=terms, idf=kept["idf"], weights=kept["weights"], bias=float(kept["bias"]))


def _terms(text: str) -> Iterator[str]:
    words = _WORD.findall(text.lower())
    yield from words
    yield from (f"{first} {second}" for first, second in pairwise(words))


def _features(texts: Sequence[str], terms: dict[str, int], idf: Floats) -> csr_matrix:
    """(n, F) rows of length 1; a text without a known term is all zeros."""
    starts, columns, values = [0], list[int](), list[float]()
    for text in texts:
        counts = Counter(terms[term] for term in _terms(text) if term in terms)
        columns += counts.keys()
        values += counts.values()
        starts.append(len(columns))
    column = np.array(columns, dtype=np.int64)
    weighted = (1 + np.log(np.array(values, dtype=np.float64))) * idf[column]
    row = np.repeat(np.arange(len(texts)), np.diff(starts))
    length = np.sqrt(np.bincount(row, weights=weighted**2, minlength=len(texts)))
    return csr_matrix((weighted / length[row], column, np.array(starts)), shape=(len(texts), len(terms)))
