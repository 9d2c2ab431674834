"""The world's sequences as text, and as the records exptilt's own loop trains on."""

from __future__ import annotations

import string

import numpy as np
from scipy.special import expit

from exptilt.data.records import Demonstration, Preference
from exptilt.testbed.markov import Floats, MarkovWorld, Tokens


def as_text(tokens: Tokens) -> str:
    """Tokens as letters between spaces.

    Example:
        >>> as_text(np.array([0, 5, 2]))
        'a f c'
    """
    return " ".join(string.ascii_lowercase[token] for token in tokens)


def as_tokens(text: str) -> Tokens:
    """The inverse of `as_text`; white space at the ends is ignored."""
    return np.array([string.ascii_lowercase.index(letter) for letter in text.split()], dtype=np.int64)


def as_preferences(
    world: MarkovWorld, num: int, scale: float, rng: np.random.Generator, policy: Floats | None = None
) -> list[Preference]:
    """Pairs from one policy, labelled by a seeded Bradley-Terry coin on the true reward.

    P(a is better) = sigmoid(scale * (r_a - r_b)), so DPO's optimum is `world.optimal_policy(beta / scale)`.
    `scale=inf` labels deterministically, ties by a fair coin; then DPO has no optimum and drifts to the best
    completion. Both completions of a pair may be the same.

    Args:
        world: where the pairs come from.
        num: how many pairs.
        scale: sharpness of the labels, > 0.
        rng: where the randomness comes from.
        policy: whose completions; None is the reference.

    Example:
        >>> row = as_preferences(MarkovWorld(length=4), 1, 8.0, np.random.default_rng(0))[0]
        >>> row.prompt, row.chosen, row.rejected
        ('d', ' e d d c', ' b a a d')
    """
    if not scale > 0:
        raise ValueError(f"scale must be > 0, got {scale}")
    first = world.sample(num, rng, policy)
    second = world.sample(num, rng, policy, prompts=first.prompts)
    gap = world.rewards(first.tokens) - world.rewards(second.tokens)
    # Infinity itself would make a tie 0 * inf.
    first_wins = rng.random(num) < expit(min(scale, 1e300) * gap)
    rows = []
    for index, prompt in enumerate(first.prompts):
        pair = (first.tokens[index], second.tokens[index])
        chosen, rejected = pair if first_wins[index] else pair[::-1]
        rows.append(
            Preference(
                id=f"markov:{index}",
                prompt=as_text(np.array([prompt])),
                chosen=" " + as_text(chosen),
                rejected=" " + as_text(rejected),
            )
        )
    return rows


def as_demonstrations(
    world: MarkovWorld, num: int, rng: np.random.Generator, policy: Floats | None = None
) -> list[Demonstration]:
    """Completions of a policy (None is the reference) to imitate: what a reference model is trained on."""
    prompts, tokens = world.sample(num, rng, policy)
    return [
        Demonstration(id=f"markov:{index}", prompt=as_text(prompt), completion=" " + as_text(completion))
        for index, (prompt, completion) in enumerate(zip(prompts[:, None], tokens, strict=True))
    ]
