"""TRL's configurations: keywords of any version from 0.7 to 1.16, each of which has an answer."""

from __future__ import annotations

import dataclasses
import difflib
import enum
import os
from collections.abc import Mapping
from typing import Any, ClassVar

from exptilt.converters.tools import defaults_of_trainer
from exptilt.converters.trl_keywords import KINDS, OBJECTS, OWN, keywords_of
from exptilt.errors import ConfigError
from exptilt.settings.other_tools import word_for

OUTPUT_DIR = "trainer_output"
"""Where a run goes that names no folder, as in TRL."""
_MADE = ("accelerator_config", "debug", "fsdp_config", "local_rank", "logging_dir", "run_name", "hub_strategy")
"""Fields that transformers fills in by itself."""


class TrainerConfig:
    """The keywords of a trainer; every keyword of TRL 0.7 to 1.16 is known, and a wrong one is refused at once.

    Keywords are attributes: those given, and TRL 1.16's defaults for the others. docs/trl_keywords.md says what becomes of each.

    Args:
        output_dir: the run folder; default `trainer_output`.
        recipe: keys of exptilt's recipe that TRL has no keyword for, by dotted name: `{"data.on_duplicate": "drop"}`. They go
            before everything else.
        keywords: TRL's.

    Raises:
        ConfigError: a keyword that no version of TRL has, or that belongs to another trainer.

    Example:
        >>> config = DPOConfig("runs/first", beta=0.2, max_prompt_length=128)
        >>> config.beta, config.learning_rate, config.num_train_epochs
        (0.2, 1e-06, 3.0)
        >>> DPOConfig(learning_rte=1e-5)
        Traceback (most recent call last):
        exptilt.errors.ConfigError: DPOConfig: no keyword 'learning_rte'; did you mean learning_rate?
    """

    kind: ClassVar[str] = "DPO"
    """Begin of the trainer's name."""
    stated: dict[str, Any]
    """The keywords that were given."""
    recipe: Mapping[str, Any]

    def __init__(
        self, output_dir: str | None = None, *, recipe: Mapping[str, Any] | None = None, **keywords: Any
    ) -> None:
        if output_dir is not None:
            keywords["output_dir"] = str(output_dir)
        require_known(self.kind, keywords, f"{self.kind}Config")
        super().__setattr__("recipe", dict(recipe or {}))
        super().__setattr__("stated", {key: plain(value) for key, value in keywords.items()})

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if name in self.stated:
            return self.stated[name]
        if name in _OF_PROCESSES:
            variable, default = _OF_PROCESSES[name]
            return int(os.environ.get(variable, default))
        if name in ("should_save", "should_log"):
            return os.environ.get("RANK", "0") == "0"
        if name == "output_dir":
            return OUTPUT_DIR
        if name == "metric_for_best_model" and self.load_best_model_at_end:
            return "loss"
        if name == "greater_is_better" and self.metric_for_best_model:
            return not str(self.metric_for_best_model).endswith("loss")
        if name in keywords_of(self.kind):
            return defaults_of_trainer(self.kind, ()).get(name)
        raise AttributeError(f"{self.kind}Config has no keyword {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        require_known(self.kind, {name: value}, f"{self.kind}Config")
        self.stated[name] = plain(value)

    def to_dict(self) -> dict[str, Any]:
        """The given keywords, and the defaults of the others."""
        return {**defaults_of_trainer(self.kind, ()), "output_dir": OUTPUT_DIR, **self.stated}

    def __repr__(self) -> str:
        given = ", ".join(f"{key}={value!r}" for key, value in self.stated.items())
        return f"{self.kind}Config({given})"


_OF_PROCESSES = {
    "process_index": ("RANK", "0"),
    "local_process_index": ("LOCAL_RANK", "0"),
    "world_size": ("WORLD_SIZE", "1"),
}
"""Attributes of transformers' TrainingArguments that callbacks read, as torchrun sets them."""


class DPOConfig(TrainerConfig):
    """Keywords of `DPOTrainer`; see `TrainerConfig`."""


class KTOConfig(TrainerConfig):
    """Keywords of `KTOTrainer`; see `TrainerConfig`."""

    kind = "KTO"


class ORPOConfig(TrainerConfig):
    """Keywords of `ORPOTrainer`; see `TrainerConfig`."""

    kind = "ORPO"


class CPOConfig(TrainerConfig):
    """Keywords of `CPOTrainer`, which also trains SimPO and AlphaPO; see `TrainerConfig`."""

    kind = "CPO"


class RewardConfig(TrainerConfig):
    """Keywords of `RewardTrainer`; see `TrainerConfig`."""

    kind = "Reward"


class SFTConfig(TrainerConfig):
    """Keywords of `SFTTrainer`; see `TrainerConfig`."""

    kind = "SFT"


def config_for(config_class: type[TrainerConfig], args: Any) -> TrainerConfig:
    """The configuration that a trainer works with, made of whatever a program gives: ours, TRL's, or transformers' arguments.

    Raises:
        ConfigError: it is something else, or of another trainer.
    """
    if args is None:
        return config_class()
    if isinstance(args, TrainerConfig):
        if args.kind != config_class.kind:
            raise ConfigError(f"args: a {args.kind}Config is given to {config_class.kind}Trainer")
        return config_class(recipe=args.recipe, **args.stated)
    if not dataclasses.is_dataclass(args) or isinstance(args, type):
        raise ConfigError(
            f"args: must be a {config_class.kind}Config or transformers' TrainingArguments, got a {type(args).__name__}"
        )
    known = keywords_of(config_class.kind)
    given = {
        field.name: getattr(args, field.name)
        for field in dataclasses.fields(args)
        if field.name in known and field.name not in _MADE and _differs(args, field)
    }
    return config_class(**given)


def _differs(args: Any, field: dataclasses.Field[Any]) -> bool:
    """Whether a field has another value than its default; an enumeration counts as the value it stands for."""
    value = plain(getattr(args, field.name))
    default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    return value not in (plain(default), None) and not (value == [] and not default)


def plain(value: Any) -> Any:
    """A value as YAML could hold it: the value of an enumeration, a tuple as a list, the name of a dtype."""
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    if type(value).__module__ == "torch":
        return str(value).removeprefix("torch.")
    return value


def require_known(kind: str, keywords: Mapping[str, Any], where: str) -> None:
    """Refuse keywords that the configuration of a trainer has never had.

    Raises:
        ConfigError: in one line, with the keyword that was meant where one is alike.
    """
    known = keywords_of(kind)
    for key in keywords:
        if key in known:
            continue
        owner = next((other for other in KINDS if key in OWN[other]), None)
        if owner is not None:
            raise ConfigError(f"{where}: {key!r} is a keyword of {owner}Config")
        if key in OBJECTS:
            raise ConfigError(f"{where}: {key!r} is a keyword of the trainer")
        alike = difflib.get_close_matches(key, known, n=1)
        word = word_for(key)
        meant = f"; did you mean {alike[0]}?" if alike else f"; it is {word.ours} here" if word and word.ours else ""
        raise ConfigError(f"{where}: no keyword {key!r}{meant}")
