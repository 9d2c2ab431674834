"""`rounds:` of a recipe: sample, label, train, and begin again from the model just trained. Never imports torch.

rounds: 3                                     # people vote between the rounds
rounds: {num_rounds: 3, reward: {kind: classifier, path: sentiment.npz}}
rounds: {num_rounds: 2, judge: {by: "server:my-judge@http://localhost:8000/v1"}}
"""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlsplit

from exptilt.settings.declaration import config
from exptilt.settings.ranges import NonNegative, Positive, Range
from exptilt.settings.reward_settings import AnyReward

LabelledBy = Literal["reward", "judge", "people"]
_LOCAL = ("localhost", "127.0.0.1", "::1", "0.0.0.0")  # noqa: S104 - compared, not bound
_OF_VOTES = ("neighbours", "all", "first_rest")
"""Pairs that can be told before anybody has said how good a completion is."""


@config
class RoundLaw:
    """How completions of a round are drawn; by default from the model's own distribution."""

    temperature: Annotated[float, Range(ge=0)] = 1.0
    """Divides the logits; 1 is the model's own law. KL from the start is measured at 1 only."""
    top_k: Annotated[int, Range(ge=0)] = 0
    """Draw among the k most likely tokens only; 0 keeps all."""
    top_p: Annotated[float, Range(gt=0, le=1)] = 1.0
    """Draw among the likeliest tokens that hold this share of probability; 1 keeps all."""
    max_new_tokens: Annotated[int, Range(ge=1)] = 128
    """A completion not ended after this many tokens is cut there."""


@config
class RoundJudge:
    """A judge that compares the completions of a round, each two in both orders."""

    by: str
    """As in `exptilt judge --by`: server:MODEL[@URL], local:FOLDER, reward:MODULE:NAME, longest, coin."""
    template: str = "better"
    """better, summary, concise-summary, dialogue, or a Jinja2 file."""
    question: str | None = None
    """What is asked. Default: the template's own."""
    confirmed: bool = False
    """Whether prompts and completions may leave this machine; needed for a server that is not local."""

    def __post_init__(self) -> None:
        form, _, rest = self.by.partition(":")
        if self.by not in ("longest", "coin") and not (form in ("server", "local", "reward") and rest):
            raise ValueError(
                f"by must be server:MODEL[@URL], local:FOLDER, reward:MODULE:NAME, longest or coin, got {self.by!r}"
            )
        host = urlsplit(rest.rpartition("@")[2]).hostname if "@http" in rest else "api.openai.com"
        if form == "server" and host not in _LOCAL and not self.confirmed:
            raise ValueError(
                f"confirmed must be true for {host}: it is not this machine, and prompts and completions would be sent there"
            )


@config
class RoundsConfig:
    """Rounds of sampling, labelling and training; each begins from the model that the round before trained.

    Example:
        >>> RoundsConfig(num_rounds=2).labelled_by, RoundsConfig(num_rounds=2).compared
        ('people', 'neighbours')
    """

    num_rounds: Annotated[int, Range(ge=1)]
    """How many; `rounds: 3` is short for it. A finished recipe goes on when it is raised."""
    prompts: str | None = None
    """Where prompts come from: any rows, of which the prompts are taken. Default: data.train."""
    prompts_per_round: Annotated[int, Range(ge=1)] | None = None
    """Prompts that a round answers; the next round takes the next ones, and after the last the first again. Default: all."""
    num_samples: Annotated[int, Range(ge=2)] = 4
    """Completions of each prompt."""
    law: RoundLaw = RoundLaw()
    """How they are drawn."""
    samples_at_once: Annotated[int, Range(ge=1)] = 256
    """Completions drawn at a time; it changes nothing beyond rounding."""
    label: Literal["auto", "reward", "judge", "people"] = "auto"
    """Who says which completion is better; auto: the reward or the judge, if one is given, else people, for whose votes the round waits."""
    reward: AnyReward | None = None
    """Says how good a completion is, e.g. {kind: model, path: my-reward-model}."""
    judge: RoundJudge | None = None
    """Says which of two completions is better."""
    pairs: Literal["auto", "best_worst", "all", "adjacent", "first_rest", "neighbours"] = "auto"
    """Which two completions of a prompt make a row; auto: best_worst by a reward; neighbours (the first with the second, the third
    with the fourth) by a judge or people, who can also have all and first_rest. adjacent: in the order of rewards."""
    decide: Literal["greater", "coin", "soft"] = "greater"
    """By a reward. greater: the greater one is preferred; coin: with probability sigmoid(scale * difference); soft: that
    probability is p_chosen."""
    scale: Positive = 1.0
    """Multiplies differences of rewards for coin and soft (Bradley-Terry)."""
    min_margin: NonNegative = 0.0
    """Pairs whose rewards differ less are left out."""
    on_tie: Literal["drop", "keep"] = "drop"
    """Two completions that are equally good; keep makes a row with p_chosen 0.5."""
    on_dispute: Literal["soft", "majority", "drop"] = "soft"
    """Where people, or a judge's two orders, disagree. soft: p_chosen is the share that prefers it; majority; drop: no row."""
    wanted: Annotated[int, Range(ge=1)] = 1
    """People who vote on each comparison."""
    least_labelled: Annotated[float, Range(gt=0, le=1)] = 1.0
    """Share of the comparisons that need their votes before the round trains."""
    fresh_reference: bool = True
    """The reference of a round is the model it begins with; false keeps the very first model for all rounds."""
    keep_earlier_rows: bool = False
    """Train on the rows of all rounds so far; false: on those of this round alone."""

    def __post_init__(self) -> None:
        given = [name for name in ("reward", "judge") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError("reward and judge: give one of them")
        if self.label in ("reward", "judge") and self.label not in given:
            raise ValueError(f"{self.label} is missing: label={self.label} needs one")
        if given and self.label not in ("auto", given[0]):
            raise ValueError(f"{given[0]} is not asked with label={self.label}; leave one of them out")
        if self.labelled_by != "reward" and self.pairs not in ("auto", *_OF_VOTES):
            raise ValueError(
                f"pairs must be auto, {', '.join(_OF_VOTES)} with labels by {self.labelled_by}, got {self.pairs}"
            )
        if self.labelled_by != "reward" and (self.decide != "greater" or self.min_margin):
            raise ValueError("decide and min_margin belong to a reward; votes say themselves what is better")

    @property
    def labelled_by(self) -> LabelledBy:
        """Who labels."""
        if self.label != "auto":
            return self.label
        return "reward" if self.reward is not None else "judge" if self.judge is not None else "people"

    @property
    def compared(self) -> str:
        """Which two completions of a prompt make a row; see `pairs`."""
        if self.pairs != "auto":
            return self.pairs
        return "best_worst" if self.labelled_by == "reward" else "neighbours"

    @property
    def pairs_of_a_prompt(self) -> int:
        """Most pairs that the completions of one prompt make.

        Example:
            >>> RoundsConfig(num_rounds=1, num_samples=5, pairs="all").pairs_of_a_prompt
            10
        """
        return most_pairs(self.compared, self.num_samples)


def most_pairs(which: str, count: int) -> int:
    """Most pairs that `count` completions of one prompt make.

    Example:
        >>> [most_pairs(which, 6) for which in ("best_worst", "all", "neighbours", "adjacent", "first_rest")]
        [1, 15, 3, 5, 5]
    """
    return {"best_worst": 1, "all": count * (count - 1) // 2, "neighbours": count // 2}.get(which, count - 1)
