"""What a model's head is: a language model's, or the one score of a reward model. It decides how a model is made and loaded."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
)

from exptilt.errors import ModelError
from exptilt.policies.engine.pooled import has_score

Names = Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class ModelHead:
    """One kind of head, as transformers and peft know it."""

    what: str
    """A model with it, in words."""
    auto: Any
    """The transformers class that loads such models."""
    classes: Names
    """Class names of such models, by model type."""
    peft_task: str
    labels: int | None = None
    """`num_labels` of the configuration; None where it has no meaning."""
    made: tuple[str, ...] = ()
    """Names of weights that start random in the folder of a model with another head."""
    left: tuple[str, ...] = ()
    """Beginnings of names of weights that a folder may hold unread: another head."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled by name: transformers' tables hold classes of folders with code of their own, which no other process has."""
        return _head_named, (next(name for name, head in globals().items() if head is self),)

    def config(self, path: str, given: PreTrainedConfig) -> PreTrainedConfig:
        """The configuration with which a folder is loaded.

        Raises:
            ModelError: there is no such model of this architecture, or the folder's own head has other labels.
        """
        auto: Names = getattr(given, "auto_map", None) or {}
        if given.model_type not in self.classes and self.auto.__name__ not in auto:
            raise ModelError(
                f"{path}: cannot load {self.what}: {given.model_type} is none (it has no such class in transformers)"
                f"{'; exptilt tilts models that write text from left to right' if self.labels is None else ''}"
            )
        if self.labels is None or given.num_labels == self.labels:
            return given
        if self.wrote(given):
            raise ModelError(f"{path}: has {given.num_labels} labels; a reward model has one")
        return self.own(given)

    def wrote(self, config: PreTrainedConfig) -> bool:
        """Tell whether the folder of a configuration was saved with such a head."""
        task = self.auto.__name__.removeprefix("AutoModelFor")
        return any(name.endswith(f"For{task}") for name in config.architectures or ())

    def own(self, architecture: PreTrainedConfig) -> PreTrainedConfig:
        """A copy of an architecture's configuration for this head."""
        architecture = copy.deepcopy(architecture)
        if self.labels is not None:
            architecture.num_labels = self.labels
        return architecture

    def model(self, architecture: PreTrainedConfig, **options: Any) -> Any:
        """Make a model with random weights."""
        return self.auto.from_config(self.own(architecture), **options)


def _head_named(name: str) -> ModelHead:
    head: ModelHead = globals()[name]
    return head


LANGUAGE_HEAD = ModelHead(
    what="a causal language model",
    auto=AutoModelForCausalLM,
    classes=MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    peft_task="CAUSAL_LM",
)
SCORE_HEAD = ModelHead(
    what="a reward model",
    auto=AutoModelForSequenceClassification,
    classes=MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    peft_task="SEQ_CLS",
    labels=1,
    made=("score.weight",),
    left=("lm_head.", "embed_out."),
)
"""A reward model to train: a language model's body gets a new score."""
TRAINED_SCORE = replace(SCORE_HEAD, what="a trained reward model", made=(), left=("",))
"""A reward model to use: its score must be in the folder."""


def head_of(model: Any) -> ModelHead:
    """The head of a model, with or without an adapter around it."""
    return SCORE_HEAD if has_score(model) else LANGUAGE_HEAD


def set_padding(model: Any, tokenizer: Any) -> None:
    """Let a reward model and its tokenizer agree on the padding token, by which the model finds the place of its score.

    It is the tokenizer's, else the model's own, else the end token, as in TRL.
    """
    text = model.config.get_text_config()
    if tokenizer.pad_token_id is None:
        own = text.pad_token_id
        tokenizer.pad_token = tokenizer.eos_token if own is None else tokenizer.convert_ids_to_tokens(own)
    text.pad_token_id = model.config.pad_token_id = tokenizer.pad_token_id
