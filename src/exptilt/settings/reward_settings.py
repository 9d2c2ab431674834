"""`reward:` of a command: which reward says how good a completion is. Never imports torch.

reward: {kind: verifier, check: gsm8k}
reward: {kind: sum, parts: [{weight: 1, reward: {kind: model, path: my-rm}}, {weight: -0.01, reward: {kind: length}}]}
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, Union

from pydantic import Discriminator

from exptilt.settings.declaration import config
from exptilt.settings.ranges import Finite, Positive


@config
class VerifierConfig:
    """1 where a completion's final answer is right, 0 where it is wrong.

    Example:
        >>> VerifierConfig(check="regex")
        Traceback (most recent call last):
        ...
        ValueError: pattern is missing: check=regex looks for it
    """

    kind: Literal["verifier"] = "verifier"
    check: Literal["math", "gsm8k", "exact", "regex", "json"]
    """math: equal as mathematics (math-verify); gsm8k: the number after the last `####` or `A:`; exact: the same text but for
    white space around it; regex: `pattern`; json: JSON that fits `schema`."""
    column: str = "answer"
    """The column with the right answer."""
    pattern: str | None = None
    """Of check=regex: what is looked for; its first group is compared with the column, without a group a match is enough."""
    schema: str | None = None
    """Of check=json: a file with the JSON Schema."""
    ignore_case: bool = False
    """Of check=exact: whether upper and lower case are the same."""
    timeout: Positive = 5.0
    """Seconds for one completion; after them it is unscored."""
    workers: int = 2
    """Worker processes."""

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ValueError(f"workers must be at least 1, got {self.workers}")
        for name, check in (("pattern", "regex"), ("schema", "json")):
            if self.check == check and not getattr(self, name):
                raise ValueError(f"{name} is missing: check={check} looks for it")
            if self.check != check and getattr(self, name):
                raise ValueError(f"{name} belongs to check={check} and not to check={self.check}")
        if self.pattern is not None:
            try:
                re.compile(self.pattern)
            except re.error as error:
                raise ValueError(f"pattern is no regular expression: {error}") from None

    @property
    def needs_answer(self) -> bool:
        """Whether the right answer is read from a column."""
        if self.check == "regex":
            return re.compile(str(self.pattern)).groups > 0
        return self.check != "json"


@config
class LengthConfig:
    """The length of a completion: a probe for what other rewards may really measure."""

    kind: Literal["length"] = "length"
    unit: Literal["characters", "words"] = "characters"
    """What is counted."""


@config
class ClassifierConfig:
    """The probability of label 1 by a saved text classifier; needs the extra `classifier`."""

    kind: Literal["classifier"] = "classifier"
    path: str
    """The .npz file that `TextClassifier.save` wrote."""
    reads: Literal["completion", "whole"] = "completion"
    """completion: it alone; whole: the prompt before it."""


@config
class RewardModelConfig:
    """The score of a sequence-classification model with one label."""

    kind: Literal["model"] = "model"
    path: str
    """A folder saved by transformers, or a hub id."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    tokenizer: str | None = None
    """Folder or hub id of its tokenizer. Default: the same as `path`."""
    dtype: Literal["auto", "float32", "bfloat16"] = "float32"
    """Precision of the weights."""
    trust_remote_code: bool = False
    """Run the Python code that the folder or hub id brings along; read it first."""


@config
class ImplicitConfig:
    """beta * (log pi(y|x) - log pi_ref(y|x)): the reward that a trained policy stands for."""

    kind: Literal["implicit"] = "implicit"
    policy: str
    """Model or adapter, a folder or hub id."""
    reference: str
    """What it was trained from, a folder or hub id."""
    beta: Positive = 0.1
    """The beta it was trained with."""


@config
class ImportedRewardConfig:
    """A reward of your own, by its import path; modules of the current folder are found too."""

    kind: Literal["import"] = "import"
    path: str
    """`module:name` of a reward, a class of rewards, or a function of a list of answers that gives as many numbers."""


SingleReward = Annotated[
    Union[VerifierConfig, LengthConfig, ClassifierConfig, RewardModelConfig, ImplicitConfig, ImportedRewardConfig],  # noqa: UP007 - a discriminated union
    Discriminator("kind"),
]
"""Type of a settings field that holds one reward that is no sum."""


@config
class WeightedReward:
    """One part of a sum."""

    weight: Finite = 1.0
    """What its numbers are multiplied by."""
    reward: SingleReward
    """The reward."""


@config
class SumConfig:
    """A weighted sum of rewards, clipped."""

    kind: Literal["sum"] = "sum"
    parts: tuple[WeightedReward, ...]
    """The rewards and their weights."""
    low: Finite | None = None
    """Smaller sums are raised to it."""
    high: Finite | None = None
    """Greater sums are lowered to it."""

    def __post_init__(self) -> None:
        if not self.parts:
            raise ValueError("parts must hold at least one reward, got none")
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise ValueError(f"low must be below high = {self.high:g}, got {self.low:g}")


AnyReward = Annotated[
    Union[  # noqa: UP007 - a discriminated union
        VerifierConfig,
        LengthConfig,
        ClassifierConfig,
        RewardModelConfig,
        ImplicitConfig,
        ImportedRewardConfig,
        SumConfig,
    ],
    Discriminator("kind"),
]
"""Type of a settings field that holds any reward."""


@config
class RewardFile:
    """A YAML file with a `reward:` section, for commands that take a reward by the file's name."""

    reward: AnyReward
    """Which reward."""
