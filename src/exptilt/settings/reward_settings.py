"""`reward:` of a command: which reward says how good a completion is. Never imports torch.

reward: {kind: verifier, check: gsm8k}
reward: {kind: sum, parts: [{weight: 1, reward: {kind: model, path: my-rm}}, {weight: -0.01, reward: {kind: length}}]}
reward: {import: my_module:my_reward, timeout: 60}
"""

from __future__ import annotations

import re
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, Self, Union

from pydantic import Discriminator, GetCoreSchemaHandler, TypeAdapter
from pydantic_core import core_schema

from exptilt.settings.declaration import as_dict, config
from exptilt.settings.own_parts import IMPORT, OwnPart, dataclass_named, import_object, is_own, own_schema
from exptilt.settings.ranges import Finite, Positive


@config
class VerifierConfig:
    """1 where a completion's final answer is right, 0 where it is wrong.

    Example:
        >>> VerifierConfig(check="regex")
        Traceback (most recent call last):
        ...
        exptilt.errors.ConfigError: pattern is missing: check=regex looks for it
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
    """The folder of a reward model's run, one saved by transformers or peft, or a hub id."""
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


@dataclass(frozen=True, kw_only=True)
class OwnReward(OwnPart):
    """A reward of your own: a reward, a class of rewards, or a function of a list of answers that gives as many numbers."""

    timeout: float = 600.0
    """Seconds for one call; it runs in a process of its own, which is ended after them."""

    @classmethod
    def read(cls, written: Mapping[str, Any]) -> Self:
        """What stands in a recipe: `import`, `timeout`, and settings of a class beside them.

        Raises:
            ValueError: it cannot be imported or called, or a setting is unknown or wrong.
        """
        part = super().read({key: value for key, value in written.items() if key != "timeout"})
        timeout = written.get("timeout", cls.timeout)
        if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout < float("inf"):
            raise ValueError(f"timeout must be > 0 and finite, got {timeout!r}")
        if not callable(import_object(part.path, IMPORT)):
            raise ValueError(f"import {part.path}: is no reward; it cannot be called with answers")
        return replace(part, timeout=float(timeout))

    def written(self) -> dict[str, Any]:
        """As it stands in a recipe."""
        stated = {} if self.timeout == type(self).timeout else {"timeout": self.timeout}
        return {**super().written(), **stated}


@dataclass(frozen=True)
class RewardOf:
    """Marks a settings field that holds a reward, one of some kinds or one of your own; pydantic asks it what is allowed."""

    kinds: Any
    """Union of the settings classes, by `kind`."""

    def choose(self, written: Any, handler: Callable[[Any], Any]) -> Any:
        """Read what stands in a recipe, or take an object of Python code."""
        if isinstance(written, OwnReward):
            return written
        if is_own(written):
            return OwnReward.read(written)
        is_settings = isinstance(written, Mapping | str | int | float | list | tuple) or hasattr(written, "kind")
        if written is None or is_settings or not callable(written):
            return handler(written)
        return OwnReward.read(OwnPart.of(written).written())

    def settings_class(self, written: Any) -> type[Any] | None:
        """The class of what stands in a recipe; None where the kind is missing or wrong."""
        if is_own(written):
            return dataclass_named(written)
        kind = written.get("kind") if isinstance(written, Mapping) else None
        members = typing.get_args(typing.get_args(self.kinds)[0])
        return next((member for member in members if member.kind == kind), None)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_wrap_validator_function(
            self.choose,
            handler.generate_schema(self.kinds),
            serialization=core_schema.plain_serializer_function_ser_schema(as_dict),
        )

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> Any:
        described = handler(TypeAdapter(self.kinds).core_schema)
        return {**described, "oneOf": [*described["oneOf"], own_schema("reward")]}


_SimpleReward = Annotated[
    Union[VerifierConfig, LengthConfig, ClassifierConfig, RewardModelConfig, ImplicitConfig],  # noqa: UP007 - a discriminated union
    Discriminator("kind"),
]
SimpleReward = Annotated[
    VerifierConfig | LengthConfig | ClassifierConfig | RewardModelConfig | ImplicitConfig | OwnReward,
    RewardOf(_SimpleReward),
]
"""Type of a settings field that holds one reward that is made of no others."""


@config
class StepsConfig:
    """The reward of a completion in steps: one number for each step, aggregated.

    Example:
        >>> StepsConfig(rule="min")
        Traceback (most recent call last):
        ...
        exptilt.errors.ConfigError: reward or column is missing: one of them says how good a step is
    """

    kind: Literal["steps"] = "steps"
    rule: Literal["min", "product", "mean", "last"]
    """Of the numbers of all steps: the least; their product, which needs numbers in [0, 1]; their mean; that of the last."""
    reward: SimpleReward | None = None
    """Scores the completion up to the end of every step."""
    column: str | None = None
    """The column with a list of numbers or yes and no, one for each step, instead of a reward: `labels` of stepwise rows."""
    separator: str = "\n"
    """What stands between steps, where a reward scores them; steps of white space alone are none."""

    def __post_init__(self) -> None:
        if self.reward is None and self.column is None:
            raise ValueError("reward or column is missing: one of them says how good a step is")
        if self.reward is not None and self.column is not None:
            raise ValueError("column must be left out where a reward scores the steps")
        if not self.separator:
            raise ValueError("separator must hold at least one character, got none")


_SingleReward = Annotated[
    Union[VerifierConfig, LengthConfig, ClassifierConfig, RewardModelConfig, ImplicitConfig, StepsConfig],  # noqa: UP007 - a discriminated union
    Discriminator("kind"),
]
SingleReward = Annotated[
    VerifierConfig | LengthConfig | ClassifierConfig | RewardModelConfig | ImplicitConfig | StepsConfig | OwnReward,
    RewardOf(_SingleReward),
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


_AnyReward = Annotated[
    Union[VerifierConfig, LengthConfig, ClassifierConfig, RewardModelConfig, ImplicitConfig, StepsConfig, SumConfig],  # noqa: UP007 - a discriminated union
    Discriminator("kind"),
]
AnyReward = Annotated[
    VerifierConfig
    | LengthConfig
    | ClassifierConfig
    | RewardModelConfig
    | ImplicitConfig
    | StepsConfig
    | SumConfig
    | OwnReward,
    RewardOf(_AnyReward),
]
"""Type of a settings field that holds any reward."""


@config
class RewardFile:
    """A YAML file with a `reward:` section, for commands that take a reward by the file's name."""

    reward: AnyReward
    """Which reward."""
