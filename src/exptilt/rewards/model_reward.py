"""The score of a reward model: a sequence-classification model of transformers with one label."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exptilt.data.groups import Group
from exptilt.policies.device import model_on_device
from exptilt.policies.engine.forward import context_of
from exptilt.policies.fingerprint import identity_of
from exptilt.policies.model_heads import TRAINED_SCORE
from exptilt.policies.models import load_model, load_tokenizer
from exptilt.policies.reward_scorer import scores_of_groups
from exptilt.preferences import Answer
from exptilt.rewards.answer_groups import groups_of
from exptilt.run_folder.file_names import CONFIG, MODEL
from exptilt.settings.model_settings import ModelConfig
from exptilt.settings.reward_settings import RewardModelConfig


class ModelReward:
    """Scores of a reward model on packed groups, the prompt read once.

    Equal to the model's own padded forward within 1e-5 in float32, of which a self-check makes sure before the first use; a model that
    differs (an encoder, layers that packed rows do not know) is run padded. Answers are rendered by the reward model's own
    template. A completion that does not fit its context is unscored.

    Args:
        model: with one label; a PEFT model around one too.
        tokenizer: of the model.
    """

    name = "model"
    scale = "logits of a reward model"

    def __init__(self, model: Any, tokenizer: Any) -> None:
        if model.config.pad_token_id is None:
            model.config.pad_token_id = tokenizer.pad_token_id
        self._model, self._tokenizer = model, tokenizer
        self.identity = f"model {identity_of(model)}"

    @classmethod
    def load(cls, settings: RewardModelConfig) -> ModelReward:
        """Load a reward model, its adapter with the base, or that of a run, and its tokenizer.

        Raises:
            ModelError: there is none, it has another number of labels than one, or its head is missing.
        """
        run = Path(settings.path).expanduser()
        path = str(run / MODEL) if (run / CONFIG).is_file() else settings.path
        where = ModelConfig(
            path=path,
            revision=settings.revision,
            tokenizer=settings.tokenizer,
            dtype=settings.dtype,
            dropout=None,
            trust_remote_code=settings.trust_remote_code,
        )
        tokenizer = load_tokenizer(where)
        model: Any = load_model(where, tokenizer, head=TRAINED_SCORE)
        return cls(model_on_device(model).eval(), tokenizer)

    def __call__(self, answers: Sequence[Answer]) -> NDArray[np.float64]:
        """(N,) scores."""
        groups = list(groups_of(answers, self._tokenizer, whole=True))
        limit = context_of(self._model.config)
        values = [np.full(len(group.completions), np.nan) for group in groups]
        fits = [place for place, group in enumerate(groups) if limit is None or _longest(group) <= limit]
        scored = scores_of_groups(self._model, [groups[place] for place in fits])
        for place, scores in zip(fits, scored, strict=True):
            values[place] = scores.numpy()
        return np.concatenate([np.zeros(0), *values])


def _longest(group: Group) -> int:
    return len(group.prompt) + max(len(completion.ids) for completion in group.completions)
