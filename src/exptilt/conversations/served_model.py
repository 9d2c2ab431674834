"""One model that answers: requests of the protocol become draws, one at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Any

import numpy as np

from exptilt.conversations.chat_request import TurnsConfig
from exptilt.data.encode.chat_templates import with_chat_template
from exptilt.data.encode.tokens import Encoder
from exptilt.data.groups import TokenIds
from exptilt.data.problems import RowError
from exptilt.data.stage_account import Decisions
from exptilt.errors import ConfigError, DataError, ModelError
from exptilt.policies.device import model_on_device
from exptilt.policies.engine.forward import context_length
from exptilt.policies.models import load_model, load_tokenizer
from exptilt.policies.turn_ends import turn_ends
from exptilt.sampling.generate import Sample, sample
from exptilt.sampling.sample_rows import prompt_id
from exptilt.sampling.sampling_law import SamplingLaw
from exptilt.sampling.streamed import stream_ids, stream_text
from exptilt.settings.model_settings import ModelConfig

_OF_LAW = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "repetition_penalty": "repetition_penalty",
    "min_tokens": "min_new_tokens",
    "max_tokens": "max_new_tokens",
    "max_completion_tokens": "max_new_tokens",
}
"""Fields of the protocol, and of vLLM's, by what the sampling law calls them."""
_OTHERS = (
    *("model", "messages", "prompt", "n", "index", "seed", "stream", "logprobs", "user"),
    *("stop_token_ids", "ignore_eos", "return_token_ids", "min_p"),
)


@dataclass(frozen=True, kw_only=True)
class WantedDraw:
    """What a request asks for, in tokens."""

    prompt: TokenIds
    key: bytes
    """Names the random streams together with the seed: that of `exptilt sample` for the same prompt."""
    law: SamplingLaw
    seed: int = 0
    count: int = 1
    index: int = 0
    """Number of the first completion."""


@dataclass(eq=False)
class ServedModel:
    """A model, its tokenizer, and how turns become text."""

    model: Any
    tokenizer: Any
    turns: TurnsConfig
    law: SamplingLaw
    """Where a request does not say otherwise."""
    turn: Lock = field(default_factory=Lock)
    """Held by whoever runs the model, or exchanges its adapter."""
    is_gone: bool = False
    """Whether its adapter was unloaded."""

    @classmethod
    def load(cls, settings: ModelConfig, turns: TurnsConfig, law: SamplingLaw) -> ServedModel:
        """Load a model; see `policies.models` for what is raised."""
        tokenizer = with_chat_template(load_tokenizer(settings), turns.chat_template)
        model = model_on_device(load_model(settings, tokenizer))
        return cls(model, tokenizer, turns, law.ending_at(turn_ends(tokenizer, model)))

    @property
    def has_chat_template(self) -> bool:
        """Whether turns go through a chat template; without one they are written Human/Assistant."""
        return self.turns.template != "plain" and getattr(self.tokenizer, "chat_template", None) is not None

    def wanted(self, body: Mapping[str, Any], seed: int = 0) -> WantedDraw:
        """Read a request.

        Raises:
            ConfigError: a field is not known, or its value is out of range.
            DataError: the prompt cannot be read, or leaves no room in the model's context.
        """
        unknown = [name for name in body if name not in _OF_LAW and name not in _OTHERS]
        if unknown or body.get("min_p"):
            raise ConfigError(f"{[*unknown, 'min_p'][0]}: this server does not know the field; leave it out")
        prompt, key = self._prompt(body)
        given = {_OF_LAW[name]: body[name] for name in body if name in _OF_LAW and body[name] is not None}
        given |= self._ends(body) | ({"top_k": 0} if given.get("top_k") == -1 else {})
        try:
            law = replace(self.law, **given)
        except (TypeError, ValueError) as error:
            raise ConfigError(str(error)) from None
        numbers = {"seed": body.get("seed") or seed, "count": body.get("n") or 1, "index": body.get("index") or 0}
        if any(not isinstance(value, int) or value < 0 for value in numbers.values()):
            raise ConfigError("seed, n and index must be whole numbers of at least 0")
        return WantedDraw(prompt=prompt, key=key, law=self._fitting(prompt, law), **numbers)

    def stream(self, wanted: WantedDraw) -> Iterator[str]:
        """The text of one completion in pieces, and last what ended it: "stop" or "length"."""
        ends = set(wanted.law.eos_ids or ())
        last = -1

        def noted(ids: Iterator[int]) -> Iterator[int]:
            nonlocal last
            for token in ids:
                last = token
                yield token

        with self._running():
            ids = stream_ids(
                self.model,
                self.tokenizer,
                wanted.prompt,
                law=wanted.law,
                seed=wanted.seed,
                key=wanted.key,
                index=wanted.index,
            )
            yield from stream_text(self.tokenizer, noted(ids), ends)
        yield "stop" if last in ends else "length"

    def draw(self, wanted: WantedDraw) -> list[Sample]:
        """All completions of a request at once, with log-probabilities."""
        with self._running():
            drawn = sample(
                self.model,
                self.tokenizer,
                [wanted.prompt],
                num_samples=wanted.index + wanted.count,
                law=wanted.law,
                seed=wanted.seed,
                keys=[wanted.key],
                with_logps=True,
            )
        return drawn[wanted.index :]

    @contextmanager
    def _running(self) -> Iterator[None]:
        with self.turn:
            if self.is_gone:
                raise ModelError("this adapter was unloaded meanwhile")
            yield

    def _ends(self, body: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """The ids that end a completion, where a request says so; in vLLM's words."""
        more = body.get("stop_token_ids") or []
        if not isinstance(more, list) or not all(isinstance(one, int) for one in more):
            raise ConfigError("stop_token_ids must be a list of token ids")
        own = () if body.get("ignore_eos") else self.law.eos_ids or ()
        return {"eos_ids": tuple(dict.fromkeys((*own, *more)))}

    def _prompt(self, body: Mapping[str, Any]) -> tuple[TokenIds, bytes]:
        if "messages" in body:
            return self._of_turns(body["messages"])
        prompt = body.get("prompt")
        if isinstance(prompt, list) and prompt and all(isinstance(one, int) for one in prompt):
            if not all(0 <= one < len(self.tokenizer) for one in prompt):
                raise DataError(f"prompt: token ids must lie in 0 to {len(self.tokenizer) - 1}")
            ids = np.array(prompt, dtype=np.int32)
            return ids, ids.tobytes()
        if not isinstance(prompt, str) or not prompt:
            raise DataError("prompt: give one text or one list of token ids, or messages")
        return self._encoder().prompts([prompt])[0], prompt_id(prompt).encode()

    def _of_turns(self, messages: Any) -> tuple[TokenIds, bytes]:
        if not isinstance(messages, list) or not all(
            isinstance(turn, dict) and isinstance(turn.get("role"), str) and isinstance(turn.get("content"), str)
            for turn in messages
        ):
            raise DataError("messages: give a list of turns with a role and a content that is text")
        turns = tuple(messages)
        try:
            return self._encoder().prompts([turns])[0], prompt_id(turns).encode()
        except RowError as error:
            raise DataError(error.detail) from None

    def _encoder(self) -> Encoder:
        return Encoder(
            self.tokenizer,
            decisions=Decisions({}),
            template=self.turns.template,
            template_args=self.turns.template_args,
            fold_system=self.turns.fold_system,
        )

    def _fitting(self, prompt: TokenIds, law: SamplingLaw) -> SamplingLaw:
        """The law with no more new tokens than the context has room for."""
        context = context_length(self.model)
        room = law.max_new_tokens if context is None else context - len(prompt)
        if room < 1:
            raise DataError(
                f"the prompt has {len(prompt)} tokens, which leave no room in the model's context of {context}"
            )
        most = min(room, law.max_new_tokens)
        return replace(law, max_new_tokens=most, min_new_tokens=min(law.min_new_tokens, most))
