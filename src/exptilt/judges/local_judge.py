"""A causal language model of transformers in this process: the verdict is the probabilities of the two labels.

No text is generated. The question ends with the assistant's turn begun, and the engine scores both labels after it:

    P(first) = p(label first) / (p(label first) + p(label second))
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any

import numpy as np

from exptilt.data.groups import Completion, Group
from exptilt.errors import ConfigError
from exptilt.judges.judge_templates import JudgeTemplate
from exptilt.judges.slots import BOTH_ORDERS, AskedPair, asked, in_callers_order
from exptilt.preferences import Comparison, Verdict

_AT_ONCE = 16


class LocalJudge:
    """Compares answers by a model folder or hub id.

    Args:
        path: the model.
        template: pairwise.
        seed: of labels and orders.
    """

    def __init__(self, path: str, template: JudgeTemplate, *, seed: int = 0) -> None:
        if template.is_rubric:
            raise ConfigError(f"{template.name}: a local judge compares; a rubric needs a server")
        self.path, self.template, self._seed = path, template, seed

    @property
    def name(self) -> str:
        """The folder's or the hub id's last part."""
        return self.path.rstrip("/").rsplit("/", 1)[-1]

    @cached_property
    def identity(self) -> str:
        """The weights, and the template."""
        from exptilt.policies.fingerprint import fingerprint

        return f"local {fingerprint(self._loaded[0])} template {self.template.digest[:16]} seed {self._seed}"

    def __call__(self, comparisons: Iterable[Comparison]) -> Iterator[Verdict]:
        """Verdicts in both orders, with probabilities; a question longer than the model's context is unscored."""
        waiting = [(c, asked(c, order, 0, self._seed)) for c in comparisons for order in BOTH_ORDERS]
        for start in range(0, len(waiting), _AT_ONCE):
            block = waiting[start : start + _AT_ONCE]
            for (comparison, one), chance in zip(block, self._chances([one for _, one in block]), strict=True):
                shown = in_callers_order(comparison, one.order)
                if chance is None:
                    yield Verdict(comparison=comparison.id, order=shown, outcome="unscored")
                    continue
                yield Verdict(
                    comparison=comparison.id,
                    order=shown,
                    outcome="first" if chance > 0.5 else "second" if chance < 0.5 else "tie",
                    probability=chance,
                )

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        from exptilt.policies.device import model_on_device
        from exptilt.policies.models import load_model, load_tokenizer
        from exptilt.settings.model_settings import ModelConfig

        settings = ModelConfig(path=self.path)
        tokenizer = load_tokenizer(settings)
        return model_on_device(load_model(settings, tokenizer)).eval(), tokenizer

    def _chances(self, block: list[AskedPair]) -> list[float | None]:
        """Of each question; None where it does not fit."""
        from exptilt.policies.engine.forward import context_length
        from exptilt.policies.scoring import score_all

        model, tokenizer = self._loaded
        context = context_length(model) or math.inf
        groups = [self._group(one, tokenizer) for one in block]
        fits = [len(group.prompt) + max(len(one.ids) for one in group.completions) <= context for group in groups]
        scored = iter(score_all(model, [group for group, fit in zip(groups, fits, strict=True) if fit]))
        chances: list[float | None] = []
        for fit in fits:
            first, second = next(scored).sum().double().tolist() if fit else (0.0, 0.0)
            chances.append(1 / (1 + math.exp(min(second - first, 700.0))) if fit else None)
        return chances

    def _group(self, one: AskedPair, tokenizer: Any) -> Group:
        text = self.template.pair(one.comparison.prompt, one.first, one.second, one.labels, tie=False)
        if getattr(tokenizer, "chat_template", None):
            turns = [{"role": "user", "content": text}]
            text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
            prompt = tokenizer(text, add_special_tokens=False)["input_ids"]
        else:
            prompt = tokenizer(f"{text}\n\nThe verdict is")["input_ids"]
        begin = '{"verdict": "' if getattr(tokenizer, "chat_template", None) else " "
        labels = [tokenizer(begin + label, add_special_tokens=False)["input_ids"] for label in one.labels]
        completions = tuple(
            Completion(np.array(ids, np.int32), np.arange(len(ids)) >= _shared(*labels)) for ids in labels
        )
        return Group(id=one.comparison.id, prompt=np.array(prompt, np.int32), completions=completions)


def _shared(one: list[int], other: list[int]) -> int:
    """How many tokens both labels begin with; those say nothing about the verdict."""
    same = 0
    while same < min(len(one), len(other)) - 1 and one[same] == other[same]:
        same += 1
    return same
