"""The world itself: reviews to learn from, prompts to answer, and the reward that judges the answers."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

from exptilt.testbed.reviews.grammar import ASPECTS, expand, terminals
from exptilt.testbed.reviews.openings import openings
from exptilt.testbed.reviews.sentiment import reward, valence_sum

MIN_WORDS, MAX_WORDS = 8, 24
"""Bounds on a continuation's length, punctuation counted."""
HELD_OUT = 0.25
"""Share of openings kept for evaluation."""


class FilmReviews:
    """A procedural world of short film reviews with a known reward.

    Words are what stands between spaces, punctuation included; text is lower case. A review is an opening (the prompt)
    and a continuation of 8 to 24 words that ends with a full stop; join them with a space. The seed decides which
    openings are held out; the language itself is fixed.

    Over reviews the reward has mean 0, standard deviation 1 and no correlation with length. For one opening it varies
    by 0.9, so there is much to gain from choosing words and little from choosing prompts.

    Example:
        >>> world = FilmReviews(seed=0)
        >>> opening, continuation = world.review(np.random.default_rng(3))
        >>> opening
        'to be fair , this comedy seems'
        >>> continuation
        'splendid , and the songs never sag . we loved the characters , and the villain is not unbearable .'
        >>> round(world.reward(opening + " " + continuation), 4)
        2.173
    """

    def __init__(self, seed: int = 0) -> None:
        self._symbols = openings()
        order = np.random.default_rng(seed).permutation(len(self._symbols))
        cut = round(HELD_OUT * len(order))
        self._held_out = [self.openings[place] for place in sorted(order[:cut])]
        self._training = [self.openings[place] for place in sorted(order[cut:])]

    @cached_property
    def vocabulary(self) -> list[str]:
        """Every word of every review and opening, sorted."""
        opened = {word for opening in self._symbols for word in opening.split()}
        return sorted(terminals() | opened | {".", ",", "and", "but"})

    @property
    def openings(self) -> list[str]:
        """Every opening, training and held out."""
        return list(self._symbols)

    def review(self, rng: np.random.Generator, opening: str | None = None) -> tuple[str, str]:
        """One review: a training opening (or the one given) and its continuation."""
        if opening is None:
            opening = self._training[rng.integers(len(self._training))]
        if opening not in self._symbols:
            raise ValueError(f"{opening!r} is no opening of this world; FilmReviews.openings lists them")
        while True:
            words = self._continue(opening, rng)
            aspects = [word for word in [*opening.split(), *words] if word in ASPECTS]
            if MIN_WORDS <= len(words) <= MAX_WORDS and len(aspects) == len(set(aspects)):
                return opening, " ".join(words)

    def reward(self, text: str) -> float:
        """The ground-truth reward of opening and continuation together, in [-3, 3]; any text has one."""
        return reward(text)

    def corpus(self, num: int, seed: int) -> list[tuple[str, str]]:
        """`num` reviews of training openings."""
        rng = np.random.default_rng(seed)
        return [self.review(rng) for _ in range(num)]

    def prompts(self, num: int, seed: int, *, held_out: bool) -> list[str]:
        """`num` openings, held out or for training; each is used once before any is used again."""
        pool = self._held_out if held_out else self._training
        rng = np.random.default_rng(seed)
        rounds = -(-num // len(pool))
        order = np.concatenate([rng.permutation(len(pool)) for _ in range(rounds)]) if rounds else np.arange(0)
        return [pool[place] for place in order[:num]]

    def _continue(self, opening: str, rng: np.random.Generator) -> list[str]:
        # A good opening makes good words likelier after it, and a review leans one way, but seldom all the way.
        lean = 0.5 + 0.15 * np.sign(valence_sum(opening)) + rng.choice([-0.2, 0.2])
        mood = 1 if rng.random() < lean else -1
        words = expand(self._symbols[opening], mood, rng)
        joined = False
        for _ in range(rng.integers(1, 4)):
            joint = "." if joined else str(rng.choice([".", "and", "but"]))
            joined = joint != "."
            if joint == "but":
                mood = -mood
            elif joint == ".":
                mood = 1 if rng.random() < lean else -1
            words += ["."] if joint == "." else [",", joint]
            words += expand("FACT" if rng.random() < 0.15 and joint == "." else "CLAUSE", mood, rng)
        return [*words, "."]


def label_pairs(
    rewards_a: ArrayLike, rewards_b: ArrayLike, scale: float, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Bradley-Terry labels: True where a is preferred, by a coin with P = sigmoid(scale * (r_a - r_b)).

    DPO with beta on such labels has reference * exp(r * scale / beta) / Z as its optimum: `scale` divides beta. On
    pairs of reviews of one opening, the better one wins 74 %, 84 % or 93 % of the time at scale 1, 2 or 4.

    Args:
        rewards_a: (n,) true rewards of the first completions.
        rewards_b: (n,) true rewards of the second ones.
        scale: sharpness of the labels, > 0 and finite; larger is less noisy.
        rng: where the coin comes from.

    Example:
        >>> label_pairs([2.0, 0.0], [-2.0, 0.0], 1.0, np.random.default_rng(0)).tolist()
        [True, True]
    """
    if not 0 < scale < float("inf"):
        raise ValueError(f"scale must be > 0 and finite, got {scale}")
    gap = np.asarray(rewards_a, dtype=np.float64) - np.asarray(rewards_b, dtype=np.float64)
    if not np.isfinite(gap).all():
        raise ValueError("rewards must be finite")
    preferred: NDArray[np.bool_] = rng.random(gap.shape) < expit(scale * gap)
    return preferred
