"""The reward that a trained policy stands for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exptilt.policies.device import model_on_device
from exptilt.policies.engine.forward import context_length
from exptilt.policies.fingerprint import fingerprint
from exptilt.policies.models import load_model, load_tokenizer
from exptilt.policies.scoring import score_all
from exptilt.preferences import Answer
from exptilt.rewards.answer_groups import groups_of
from exptilt.settings.model_settings import ModelConfig
from exptilt.settings.reward_settings import ImplicitConfig


@dataclass(frozen=True, eq=False)
class ImplicitReward:
    """The implicit reward of a policy (Rafailov et al., 2023, equation 5 without the term of the prompt alone).

        r(x, y) = beta * (log pi(y|x) - log pi_ref(y|x))

    Rewards of answers to different prompts are not comparable. A completion that does not fit the context of one of the
    models is unscored.
    """

    policy: Any
    reference: Any
    tokenizer: Any
    beta: float
    identity: str
    """Fingerprints of both models, and beta."""

    name = "implicit"
    scale = "nats, times beta"

    @classmethod
    def load(cls, settings: ImplicitConfig) -> ImplicitReward:
        """Load both models.

        Raises:
            ModelError: one of them cannot be loaded, or the tokenizer does not fit it.
        """
        tokenizer = load_tokenizer(ModelConfig(path=settings.policy))
        policy, reference = (
            model_on_device(load_model(ModelConfig(path=path), tokenizer))
            for path in (settings.policy, settings.reference)
        )
        identity = f"implicit {settings.beta!r} * ({fingerprint(policy)} - {fingerprint(reference)})"
        return cls(policy, reference, tokenizer, settings.beta, identity)

    def __call__(self, answers: Sequence[Answer]) -> NDArray[np.float64]:
        """(N,) rewards."""
        groups = list(groups_of(answers, self.tokenizer))
        limits = [limit for model in (self.policy, self.reference) if (limit := context_length(model)) is not None]
        longest = [len(group.prompt) + max(len(one.ids) for one in group.completions) - 1 for group in groups]
        fits = [place for place, length in enumerate(longest) if length <= min(limits, default=length)]
        values = [np.full(len(group.completions), np.nan) for group in groups]
        chosen = [groups[place] for place in fits]
        scored = zip(fits, score_all(self.policy, chosen), score_all(self.reference, chosen), strict=True)
        for place, policy, reference in scored:
            values[place] = self.beta * (policy.sum().double() - reference.sum().double()).numpy()
        return np.concatenate([np.zeros(0), *values])
