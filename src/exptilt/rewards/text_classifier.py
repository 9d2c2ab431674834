"""A text classifier as a reward: scikit-learn's TF-IDF of words and word pairs, and its logistic regression."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from exptilt.disk import writing
from exptilt.errors import ConfigError

Floats = NDArray[np.float64]
_WORD = r"[a-z0-9']+"


@dataclass(frozen=True, eq=False)
class TextClassifier:
    """P(label 1) of a text.

        P = sigmoid(w . x + b)      x_t ~ (1 + log count_t) * log((1 + n) / (1 + df_t)) + 1, scaled to length 1

    over terms t that occur in enough training texts; w minimises the mean log loss plus `penalty / n * |w|^2 / 2`.
    Equal texts and labels give equal weights. Needs the extra `classifier`.

    Example:
        >>> fitted = TextClassifier.fit(["good film", "a good one", "bad film", "a bad one"], [1, 1, 0, 0], min_texts=2)
        >>> fitted.probabilities(["good", "bad"]).round(2).tolist()
        [0.71, 0.29]
    """

    terms: dict[str, int]
    """The column of each term."""
    idf: Floats
    """(F,) inverse document frequencies."""
    weights: Floats
    """(F,) weights of the regression, log-odds."""
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

        Raises:
            ConfigError: scikit-learn is not installed.
            ValueError: labels, penalty or texts that nothing can be learned from.
        """
        target = np.asarray(labels, dtype=np.float64)
        if target.shape != (len(texts),) or set(np.unique(target)) != {0.0, 1.0}:
            raise ValueError(f"need one label 0 or 1 for each of {len(texts)} texts, and both must occur")
        if not penalty > 0:
            raise ValueError(f"penalty must be > 0, got {penalty}")
        linear_model = _scikit_learn().linear_model
        words = _vectorizer(min_df=min_texts)
        try:
            features = words.fit_transform(texts)
        except ValueError:  # scikit-learn has an empty vocabulary
            raise ValueError(f"no term occurs in {min_texts} of {len(texts)} texts") from None
        fitted = linear_model.LogisticRegression(C=1 / penalty, tol=1e-5, max_iter=500).fit(features, target)
        terms = {str(term): place for place, term in enumerate(words.get_feature_names_out())}
        return cls(terms=terms, idf=words.idf_, weights=fitted.coef_[0], bias=float(fitted.intercept_[0]))

    def features(self, texts: Sequence[str]) -> Any:
        """(n, F) sparse rows of length 1; a text without a known term is all zeros."""
        words = _vectorizer(vocabulary=self.terms)
        words.idf_ = self.idf
        return words.transform(texts)

    def probabilities(self, texts: Sequence[str]) -> Floats:
        """(n,) P(label 1)."""
        from scipy.special import expit

        return np.asarray(expit(self.features(texts) @ self.weights + self.bias))

    def accuracy(self, texts: Sequence[str], labels: ArrayLike) -> float:
        """Share of texts whose likelier label is theirs."""
        return float(np.mean((self.probabilities(texts) > 0.5) == (np.asarray(labels) == 1)))

    def save(self, path: Path) -> None:
        """Write one .npz file, in one piece: numbers and terms, nothing that runs when it is read."""
        names = np.frombuffer(json.dumps(list(self.terms)).encode(), dtype=np.uint8)
        with writing(path) as file:
            np.savez(file, terms=names, idf=self.idf, weights=self.weights, bias=np.array(self.bias))

    @classmethod
    def load(cls, path: Path) -> TextClassifier:
        """Read what `save` wrote."""
        with np.load(path) as kept:
            names = json.loads(kept["terms"].tobytes().decode())
            terms = {term: place for place, term in enumerate(names)}
            return cls(terms=terms, idf=kept["idf"], weights=kept["weights"], bias=float(kept["bias"]))


def _vectorizer(**settings: Any) -> Any:
    text = _scikit_learn().feature_extraction.text
    return text.TfidfVectorizer(token_pattern=_WORD, ngram_range=(1, 2), sublinear_tf=True, **settings)


def _scikit_learn() -> Any:
    try:
        import sklearn.feature_extraction.text
        import sklearn.linear_model
    except ImportError:
        raise ConfigError("the text classifier needs scikit-learn: pip install 'exptilt[classifier]'") from None
    return sklearn
