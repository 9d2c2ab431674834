"""The three steps of a round, whatever is sampled, and the order in which they are taken."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol


class RoundSteps(Protocol):
    """What rounds do with one kind of completion: text, or masks.

    Every step leaves its result in files, written whole or appended, and does only what is not there yet. So the same calls after
    an interruption go on where it stopped, and end equal to rounds that were never stopped. A step that cannot go on raises
    `Stopped`, or `Waiting` where people are to vote first.
    """

    def work(self) -> Sequence[str]:
        """What the rounds will do, in lines for a person.

        Raises:
            ExptiltError: something is known that would keep them from it.
        """

    def begin(self) -> None:
        """Make the model that the first round begins with, where the recipe trains one."""

    def sample(self, number: int) -> None:
        """Draw completions of the model that round `number` begins with; rounds count from 1."""

    def label(self, number: int) -> None:
        """Make the rows that the round trains on."""

    def train(self, number: int) -> None:
        """Train on them; the model is what the next round begins with."""

    def finish(self, num_rounds: int) -> None:
        """Measure the model of the last round."""

    def report(self) -> Path:
        """Write the page of all rounds."""


def follow(steps: RoundSteps, num_rounds: int) -> None:
    """Take all steps of all rounds in order; those that are done take no time."""
    steps.begin()
    for number in range(1, num_rounds + 1):
        steps.sample(number)
        steps.label(number)
        steps.train(number)
    steps.finish(num_rounds)
