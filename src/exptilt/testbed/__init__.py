"""A world where every answer is known exactly: the oracle for estimators and methods."""

from exptilt.testbed.law import RewardLaw
from exptilt.testbed.markov import MarkovWorld, Samples
from exptilt.testbed.rows import as_demonstrations, as_preferences, as_text, as_tokens
from exptilt.testbed.sequences import SequenceLaw, completions

__all__ = [
    "MarkovWorld",
    "RewardLaw",
    "Samples",
    "SequenceLaw",
    "as_demonstrations",
    "as_preferences",
    "as_text",
    "as_tokens",
    "completions",
]
