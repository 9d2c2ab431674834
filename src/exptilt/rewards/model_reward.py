"""The score of a reward model: a sequence-classification model of transformers with one label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from exptilt.data.batching import by_size
from exptilt.data.groups import Completion, Group
from exptilt.errors import ModelError
from exptilt.policies.device import model_on_device
from exptilt.policies.engine.attention import NAME, mask_of
from exptilt.policies.engine.forward import context_of, evaluating
from exptilt.policies.engine.packing import pack
from exptilt.policies.engine.passes import rule_of
from exptilt.policies.fingerprint import fingerprint
from exptilt.policies.gate import check_folder, read_config, refused
from exptilt.policies.models import load_tokenizer
from exptilt.preferences import Answer
from exptilt.rewards.answer_groups import groups_of
from exptilt.settings.data_settings import DEFAULT_TOKENS
from exptilt.settings.model_settings import ModelConfig
from exptilt.settings.reward_settings import RewardModelConfig

_AUTO: Any = AutoModelForSequenceClassification
"""Untyped in transformers."""
_TOLERANCE = 1e-5
"""By how much packed scores may differ from padded ones, relative to 1 or to the score's size."""
_PROBE = 4
"""Groups that are scored both ways before packed scores are trusted."""


class ModelReward:
    """Scores of a reward model on packed groups, the prompt read once.

    Equal to the model's own padded forward within 1e-5: the first groups are scored both ways, and a model that differs
    (an encoder, layers that packed rows do not know) is run padded. Answers are rendered by the reward model's own
    template. A completion that does not fit its context is unscored.

    Args:
        model: with one label.
        tokenizer: of the model.
    """

    name = "model"
    scale = "logits of a reward model"

    def __init__(self, model: Any, tokenizer: Any) -> None:
        if model.config.pad_token_id is None:
            model.config.pad_token_id = tokenizer.pad_token_id
        self._model, self._tokenizer = model, tokenizer
        self._packs: bool | None = None
        """Whether packed scores were found equal; None before the first call."""
        self.identity = f"model {fingerprint(model)}"

    @classmethod
    def load(cls, settings: RewardModelConfig) -> ModelReward:
        """Load a reward model and its tokenizer.

        Raises:
            ModelError: there is none, it has another number of labels than one, or its head is missing.
        """
        check_folder(settings.path, "model", ("config.json",))
        where = ModelConfig(
            path=settings.path,
            revision=settings.revision,
            tokenizer=settings.tokenizer,
            trust_remote_code=settings.trust_remote_code,
        )
        config = read_config(where, settings.path)
        tokenizer = load_tokenizer(where)
        if config.num_labels != 1:
            raise ModelError(f"{settings.path}: has {config.num_labels} labels; a reward model has one")
        try:
            model, info = _AUTO.from_pretrained(
                settings.path,
                revision=settings.revision,
                config=config,
                dtype="auto" if settings.dtype == "auto" else getattr(torch, settings.dtype),
                output_loading_info=True,
                trust_remote_code=settings.trust_remote_code,
            )
        except Exception as error:  # transformers, safetensors and the hub each raise their own kinds
            raise refused(settings.path, "a reward model", error) from error
        missing = sorted(info["missing_keys"])
        if missing:
            raise ModelError(f"{settings.path}: is no trained reward model; the folder lacks the weights {missing[0]}")
        return cls(model_on_device(model).eval(), tokenizer)

    def __call__(self, answers: Sequence[Answer]) -> NDArray[np.float64]:
        """(N,) scores."""
        groups = list(groups_of(answers, self._tokenizer))
        limit = context_of(self._model.config)
        values = [np.full(len(group.completions), np.nan) for group in groups]
        fits = [place for place, group in enumerate(groups) if limit is None or _longest(group) <= limit]
        with evaluating(self._model), torch.no_grad():
            if self._packs is None and fits:
                self._packs = self._packs_like_padded([groups[place] for place in fits[:_PROBE]])
            for batch in by_size([groups[place].num_tokens for place in fits], DEFAULT_TOKENS):
                chosen = [groups[fits[index]] for index in batch]
                scores = (self._packed(chosen) if self._packs else self._padded(chosen)).double().cpu()
                ends = np.cumsum([len(group.completions) for group in chosen])
                for index, part in zip(batch, np.split(scores.numpy(), ends[:-1]), strict=True):
                    values[fits[index]] = part
        return np.concatenate([np.zeros(0), *values])

    def _packs_like_padded(self, groups: Sequence[Group]) -> bool:
        config = self._model.config
        # Rounding of half precision would hide a mistake, or be taken for one.
        if not hasattr(self._model, "score") or rule_of(self._model).kind or self._model.dtype != torch.float32:
            return False
        before = config._attn_implementation
        own = self._padded(groups).double()
        try:
            self._model.set_attn_implementation(NAME)
            near = (self._packed(groups).double() - own).abs() <= _TOLERANCE * own.abs().clamp(min=1)
            equal = config._attn_implementation == NAME and bool(near.all())
        except Exception:  # whatever a foreign architecture raises means the same: run it as its authors do
            equal = False
        if not equal:
            self._model.set_attn_implementation(before)
        return equal

    def _packed(self, groups: Sequence[Group]) -> Tensor:
        """(C,) scores of all completions from one packed row."""
        packed = pack([self._pooled_at_end(group) for group in groups], self._model.device)
        states = self._model.base_model(
            input_ids=packed.input_ids,
            position_ids=packed.position_ids,
            attention_mask=mask_of(packed.segments),
            use_cache=False,
            segments=packed.segments,
        ).last_hidden_state[0]
        scores: Tensor = self._model.score(states.index_select(0, packed.source))
        return scores.squeeze(1)

    def _pooled_at_end(self, group: Group) -> Group:
        """The group with one more token after each completion, the only one that counts: the state before it is pooled.

        As transformers pools, padding at the end of a completion (an end token that is the padding token too) is passed over.
        """
        completions = []
        for completion in group.completions:
            real = np.flatnonzero(completion.ids != self._model.config.pad_token_id)
            length = int(real[-1]) + 1 if len(real) else 0
            ids = np.append(completion.ids[:length], np.int32(0)).astype(np.int32)
            completions.append(Completion(ids, np.arange(len(ids)) == len(ids) - 1))
        return replace(group, completions=tuple(completions))

    def _padded(self, groups: Sequence[Group]) -> Tensor:
        """(C,) scores by the model's own forward, padded on the right."""
        rows = [np.concatenate([group.prompt, completion.ids]) for group in groups for completion in group.completions]
        padding = self._model.config.pad_token_id
        scores = []
        size = len(rows) if padding is not None else 1
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            width = max(len(row) for row in part)
            ids = np.full((len(part), width), padding or 0, dtype=np.int64)
            mask = np.zeros_like(ids)
            for number, row in enumerate(part):
                ids[number, : len(row)], mask[number, : len(row)] = row, 1
            inputs = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
            output = self._model(**{name: tensor.to(self._model.device) for name, tensor in inputs.items()})
            scores.append(output.logits[:, 0])
        return torch.cat(scores)


def _longest(group: Group) -> int:
    return len(group.prompt) + max(len(completion.ids) for completion in group.completions)
