"""Scorers: what gives log-probabilities of groups."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from exptilt.data.groups import Group
from exptilt.types import LogProbs

Scorer = Callable[[Sequence[Group]], LogProbs]
"""Log-probabilities of all completions of some groups: the policy's with a gradient, or the reference's without.

A `Policy` is one that can also take the gradient of a loss chunk by chunk, without ever holding all logits."""


MicroBatches = Sequence[Sequence[Group]]
"""The share of one process. All have equally many; an empty one keeps step with the others' forward passes."""
