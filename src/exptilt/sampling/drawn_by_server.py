"""Completions of token ids by an OpenAI-compatible server: what is asked, and what an answer must hold to be believed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from exptilt.data.groups import TokenIds
from exptilt.sampling.generate import Sample
from exptilt.sampling.sampling_law import SamplingLaw
from exptilt.servers.server_client import ServerReply


@dataclass(frozen=True, eq=False, kw_only=True)
class AskedDraw:
    """All completions of one prompt."""

    prompt_index: int
    prompt: TokenIds
    count: int
    law: SamplingLaw
    """Plain, and with its `eos_ids`."""
    seed: int
    model: str
    """What the server calls the weights."""

    @property
    def body(self) -> dict[str, Any]:
        """The request: the plain law, spelled out, since a server otherwise reads a model's generation config."""
        ends = list(self.law.eos_ids or ())
        return {
            "model": self.model,
            "prompt": self.prompt.tolist(),
            "n": self.count,
            "seed": self.seed,
            "max_tokens": self.law.max_new_tokens,
            "temperature": 1.0,
            "top_p": 1.0,
            "logprobs": 1,
            "extra_body": {
                "top_k": -1,
                "min_p": 0.0,
                "repetition_penalty": 1.0,
                "ignore_eos": True,  # of the model's own ends: those of the law are the next key
                "stop_token_ids": ends,
                "return_token_ids": True,
            },
        }

    def samples(self, reply: ServerReply) -> list[Sample] | str:
        """The completions, or why there are none."""
        if reply.fault:
            return reply.fault
        choices = reply.body["choices"]
        fault = self._fault_of_whole(reply.body) or next(filter(None, map(self._fault, choices)), "")
        if fault:
            return fault
        ordered = sorted(choices, key=lambda choice: choice["index"])
        if [choice["index"] for choice in ordered] != list(range(self.count)):
            return f"its completions are not numbered 0 to {self.count - 1}"
        return [self._sample(choice) for choice in ordered]

    def _fault_of_whole(self, body: dict[str, Any]) -> str:
        if body.get("model") != self.model:
            return f"it answers as {body.get('model')!r} and not as {self.model!r}: it did not take the last update"
        read = body.get("prompt_token_ids", self.prompt.tolist())
        usage = body.get("usage")
        num_read = usage.get("prompt_tokens") if isinstance(usage, dict) else None
        if read != self.prompt.tolist() or num_read not in (None, len(self.prompt)):
            count = len(read) if isinstance(read, list) and read != self.prompt.tolist() else num_read
            return f"it read another prompt ({count} tokens) than it was sent ({len(self.prompt)})"
        if len(body["choices"]) != self.count:
            return f"it gave {len(body['choices'])} of {self.count} completions"
        return ""

    def _fault(self, choice: Any) -> str:
        """What is wrong with one completion; empty for nothing."""
        if not isinstance(choice, dict) or not isinstance(choice.get("index"), int):
            return "a completion has no number"
        ids, logps = _ids(choice), _logps(choice)
        if ids is None:
            return "it gives text without token ids (return_token_ids), and text does not say which tokens were drawn"
        if logps is None or len(logps) != len(ids):
            return "it gives no log-probability for each token"
        if not all(logp <= 1e-4 and math.isfinite(logp) for logp in logps):
            return "a log-probability is not finite, or above 0"
        ends, limit = set(self.law.eos_ids or ()), self.law.max_new_tokens
        if not ids or any(token in ends for token in ids[:-1]):
            return "a completion is empty, or goes on after its end token"
        if len(ids) > limit or (ids[-1] not in ends and len(ids) < limit):
            why = f"{choice.get('finish_reason')!r} after {len(ids)} tokens"
            return f"a completion was cut ({why}; it has no end token, and {limit} were asked for)"
        return ""

    def _sample(self, choice: dict[str, Any]) -> Sample:
        ids = np.array(_ids(choice), dtype=np.int32)
        return Sample(
            prompt_index=self.prompt_index,
            sample_index=choice["index"],
            prompt=self.prompt,
            ids=ids,
            ended=int(ids[-1]) in (self.law.eos_ids or ()),
            law=self.law,
            logps=np.minimum(np.array(_logps(choice), dtype=np.float32), 0),
        )


def _ids(choice: dict[str, Any]) -> Sequence[int] | None:
    ids = choice.get("token_ids")
    is_ids = isinstance(ids, list) and all(isinstance(one, int) and not isinstance(one, bool) for one in ids)
    return ids if is_ids else None


def _logps(choice: dict[str, Any]) -> Sequence[float] | None:
    logprobs = choice.get("logprobs")
    logps = logprobs.get("token_logprobs") if isinstance(logprobs, dict) else None
    is_numbers = isinstance(logps, list) and all(isinstance(one, float | int) for one in logps)
    return logps if is_numbers else None
