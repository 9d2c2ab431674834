"""A world where every answer is known exactly: the oracle for estimators and methods."""

from exptilt.testbed.markov import MarkovWorld, Samples
from exptilt.testbed.reward_law import RewardLaw
from exptilt.testbed.sequences import SequenceLaw, completions
from exptilt.testbed.world_rows import as_demonstrations, as_preferences, as_text, as_tokens

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
