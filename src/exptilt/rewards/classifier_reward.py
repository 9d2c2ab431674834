"""A text classifier's probability as a reward."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from exptilt.data.records import words_of
from exptilt.errors import ConfigError
from exptilt.preferences import Answer
from exptilt.rewards.text_classifier import TextClassifier
from exptilt.wording import in_one_line


@dataclass(frozen=True, eq=False)
class ClassifierReward:
    """P(label 1) of a completion, or of prompt and completion together."""

    classifier: TextClassifier
    identity: str
    """Digest of the classifier's file, and what it reads."""
    reads: Literal["completion", "whole"] = "completion"

    name = "classifier"
    scale = "probability"

    @classmethod
    def load(cls, path: str | Path, reads: Literal["completion", "whole"] = "completion") -> ClassifierReward:
        """Of a file that `TextClassifier.save` wrote.

        Raises:
            ConfigError: there is no such file, or it holds something else.
        """
        try:
            content = Path(path).expanduser().read_bytes()
            classifier = TextClassifier.load(Path(path).expanduser())
        except Exception as error:  # numpy and zipfile each raise their own kinds
            raise ConfigError(f"{path}: is no file of a text classifier ({in_one_line(error)})") from error
        return cls(classifier, f"classifier {hashlib.sha256(content).hexdigest()} of {reads}", reads)

    def __call__(self, answers: Sequence[Answer]) -> NDArray[np.float64]:
        """(N,) probabilities."""
        texts = [
            answer.text if self.reads == "completion" else words_of(answer.prompt) + answer.text for answer in answers
        ]
        return self.classifier.probabilities(texts)
