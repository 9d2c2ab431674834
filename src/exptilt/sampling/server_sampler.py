"""Rows of samples from an OpenAI-compatible server; a failed call is a missing sample, never an empty one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from itertools import islice
from typing import Any

from exptilt.errors import ExptiltError
from exptilt.sampling.prompts_to_sample import AskedPrompt
from exptilt.sampling.sample_request import SampleRequest, ServerConfig
from exptilt.sampling.sample_rows import SampleRow
from exptilt.servers.background_calls import BackgroundCalls
from exptilt.servers.server_client import ServerReply
from exptilt.wording import counted

_GIVE_UP = 10
"""Calls that may fail, each after its retries, before any has succeeded."""
_MOST_FAILURES = 1000
"""Calls that may fail in all before nothing more is asked."""
_OPTIONAL = ("seed", "max_tokens")
"""What a server may refuse: without a seed the law is the same, and the limit has another name. Nothing else is left out."""


def server_identity(server: ServerConfig) -> str:
    """What is known of who answers: nobody sees the weights."""
    return f"{server.model} at {server.url}"


def server_rows(
    asked: Sequence[AskedPrompt], request: SampleRequest, done: set[tuple[str, int]]
) -> Iterator[list[SampleRow]]:
    """Ask for all completions that are not done, several at once.

    Prompts of turns go to `chat/completions`, text goes to `completions`. Every call has a seed of its own, made of the
    request's seed, the prompt and the number of the completion; whether it is obeyed is the server's doing.

    Yields:
        One row at a time, in the order in which they come.

    Raises:
        ConfigError: the client is not installed, or there is no key for a server elsewhere.
        ExptiltError: calls failed; it is raised after all others were answered.
    """
    assert request.server is not None  # noqa: S101 - for mypy
    todo = ((one, index) for one in asked for index in range(request.num_samples) if (one.id, index) not in done)
    failures: list[str] = []
    num_answered = 0
    with BackgroundCalls(request.server.endpoint) as calls:
        running: dict[Future[ServerReply], tuple[AskedPrompt, int]] = {}
        while True:
            for one, index in islice(todo, 2 * request.server.concurrency - len(running)):
                running[calls.submit(_body(request, one, index), _OPTIONAL)] = (one, index)
            if not running:
                break
            for finished in wait(running, return_when=FIRST_COMPLETED).done:
                row = _row(finished.result(), *running.pop(finished))
                if isinstance(row, str):
                    failures.append(row)
                else:
                    num_answered += 1
                    yield [row]
            if len(failures) >= (_MOST_FAILURES if num_answered else _GIVE_UP):
                break
    if failures:
        raise ExptiltError(
            f"{request.server.url}: {counted(len(failures), 'call')} failed ({failures[0]}); {num_answered:,} were answered and "
            "stay; run the same command again for the others"
        )


def _body(request: SampleRequest, asked: AskedPrompt, index: int) -> dict[str, Any]:
    assert request.server is not None  # noqa: S101 - for mypy
    text = isinstance(asked.prompt, str)
    prompt = (
        {"prompt": asked.prompt}
        if text
        else {"messages": [dict(turn) for turn in asked.prompt], **_template_settings(asked.template_args)}  # type: ignore[arg-type]
    )
    return prompt | {
        "model": request.server.model,
        "temperature": request.law.temperature,
        "top_p": request.law.top_p,
        "max_tokens": request.law.max_new_tokens,
        "seed": _seed(request.seed, asked.id, index),
    }


def _row(reply: ServerReply, asked: AskedPrompt, index: int) -> SampleRow | str:
    """The sample, or why there is none."""
    if reply.fault:
        return reply.fault
    completion = reply.choice.get("text") if isinstance(asked.prompt, str) else reply.message.get("content")
    reason = reply.choice.get("finish_reason")
    if not isinstance(completion, str) or (not completion and reason != "stop"):
        return "the server answered without text"
    return SampleRow(
        prompt_id=asked.id,
        prompt=asked.prompt,
        sample_index=index,
        completion=completion,
        ended=reason == "stop",
        answer=asked.answer,
        template_args=dict(asked.template_args) or None,
    )


def _template_settings(args: Mapping[str, Any]) -> dict[str, Any]:
    """What a row gives the chat template, as servers take it: tools, and other arguments under vLLM's and SGLang's name."""
    others = {name: value for name, value in args.items() if name != "tools"}
    settings: dict[str, Any] = {"extra_body": {"chat_template_kwargs": others}} if others else {}
    return settings | ({"tools": args["tools"]} if args.get("tools") else {})


def _seed(seed: int, prompt: str, index: int) -> int:
    digest = hashlib.blake2b(f"{seed} {prompt} {index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 33  # 31 bits, as some servers take no more
