"""Rows of samples from an OpenAI-compatible server; a failed call is a missing sample, never an empty one."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from typing import Any

from exptilt.errors import ConfigError, ExptiltError
from exptilt.sampling.prompts_to_sample import AskedPrompt
from exptilt.sampling.sample_request import SampleRequest, ServerConfig
from exptilt.sampling.sample_rows import SampleRow
from exptilt.wording import counted, in_one_line

_GIVE_UP = 10
"""Calls that may fail, each after its retries, before any has succeeded."""
_MOST_FAILURES = 1000
"""Calls that may fail in all before nothing more is asked."""


@dataclass(frozen=True)
class _Failure:
    """Why one call gave no completion."""

    reason: str


def server_identity(server: ServerConfig) -> str:
    """What is known of who answers: nobody sees the weights."""
    return f"{server.model} at {server.url}"


def server_rows(
    asked: Sequence[AskedPrompt], request: SampleRequest, done: set[tuple[str, int]]
) -> Iterator[list[SampleRow]]:
    """Ask for all completions that are not done, several at once.

    Prompts of turns go to `chat/completions`, text goes to `completions`. Every call has a seed of its own, made of the
    request's seed, the prompt and the number of the completion; whether it is obeyed is the server's doing. Retries are the
    client's own.

    Yields:
        One row at a time, in the order in which they come.

    Raises:
        ConfigError: the client is not installed, or there is no key for a server elsewhere.
        ExptiltError: calls failed; it is raised after all others were answered.
    """
    assert request.server is not None  # noqa: S101 - for mypy
    client, key = _client(request.server)
    todo = ((one, index) for one in asked for index in range(request.num_samples) if (one.id, index) not in done)
    failures: list[str] = []
    num_answered = 0
    with ThreadPoolExecutor(request.server.concurrency) as pool, client:
        running: set[Future[SampleRow | _Failure]] = set()
        try:
            while True:
                free = 2 * request.server.concurrency - len(running)
                running |= {pool.submit(_ask, client, request, key, *each) for each in islice(todo, free)}
                if not running:
                    break
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                for result in (future.result() for future in finished):
                    if isinstance(result, _Failure):
                        failures.append(result.reason)
                        continue
                    num_answered += 1
                    yield [result]
                if len(failures) >= (_MOST_FAILURES if num_answered else _GIVE_UP):
                    break
        finally:
            for future in running:
                future.cancel()
    if failures:
        raise ExptiltError(
            f"{request.server.url}: {counted(len(failures), 'call')} failed ({failures[0]}); {num_answered:,} were answered and "
            "stay; run the same command again for the others"
        )


def _client(server: ServerConfig) -> tuple[Any, str]:
    try:
        import openai
    except ImportError:
        raise ConfigError("a server needs the client openai: pip install 'exptilt[server]'") from None
    key = os.environ.get(server.key_variable, "")
    if not key and server.confirmed:
        raise ConfigError(f"{server.url}: there is no key in the environment variable {server.key_variable}")
    made = openai.OpenAI(
        base_url=server.url, api_key=key or "none", timeout=server.timeout, max_retries=server.max_retries
    )
    return made, key


def _ask(client: Any, request: SampleRequest, key: str, asked: AskedPrompt, index: int) -> SampleRow | _Failure:
    law, server = request.law, request.server
    assert server is not None  # noqa: S101 - for mypy
    settings = {
        "model": server.model,
        "temperature": law.temperature,
        "top_p": law.top_p,
        "max_tokens": law.max_new_tokens,
        "seed": _seed(request.seed, asked.id, index),
    }
    try:
        if isinstance(asked.prompt, str):
            answered = client.completions.create(prompt=asked.prompt, **settings)
            said = answered.choices[0].text
        else:
            answered = client.chat.completions.create(
                messages=[dict(turn) for turn in asked.prompt], **settings, **_template_settings(asked.template_args)
            )
            said = answered.choices[0].message.content
        reason = answered.choices[0].finish_reason
    except Exception as error:  # the client's errors, and what it makes of garbage
        text = f"{type(error).__name__}: {in_one_line(error)}"
        return _Failure(text.replace(key, "***") if key else text)
    if not isinstance(said, str) or (not said and reason != "stop"):
        return _Failure("the server answered without text")
    return SampleRow(
        prompt_id=asked.id,
        prompt=asked.prompt,
        sample_index=index,
        completion=said,
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
