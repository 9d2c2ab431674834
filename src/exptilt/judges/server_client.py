"""One OpenAI-compatible server: calls with one layer of retries, a common rate limit, and errors for a person.

The retries are the `openai` package's own (408, 409, 429, 5xx, time-outs; `Retry-After` is obeyed). What a server refuses of
a request is learnt from its first refusal, never guessed from a model's name. The key goes to the server and nowhere else.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from exptilt.errors import ConfigError
from exptilt.judges.server_request import as_refused, named_in

KEY = "OPENAI_API_KEY"
OPENAI = "https://api.openai.com/v1"
_LOCAL = ("localhost", "127.0.0.1", "::1", "0.0.0.0")  # noqa: S104


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where a server is, and how it may be asked."""

    base_url: str = OPENAI
    concurrency: int = 32
    """Calls in flight at a time."""
    rate: float | None = None
    """Calls a second at most, all together."""
    timeout: float = 120.0
    """Seconds for one attempt."""
    max_retries: int = 5

    @property
    def host(self) -> str:
        """The host's name."""
        return urlsplit(self.base_url).hostname or self.base_url

    @property
    def is_local(self) -> bool:
        """Whether texts stay on this machine."""
        return self.host in _LOCAL


@dataclass(frozen=True, slots=True)
class ServerReply:
    """What came back: a reply, or the reason why none did."""

    sent: dict[str, Any]
    body: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    fault: str = ""
    """Empty where the body is a well-formed chat completion."""
    exhausted: bool = False
    """Whether the package has retried the fault already, so that asking once more is no use."""

    @property
    def choice(self) -> dict[str, Any]:
        """The first choice; empty where there is none."""
        choices = self.body.get("choices") or [{}]
        return dict(choices[0] or {})

    @property
    def text(self) -> str:
        """The reply's text."""
        return str((self.choice.get("message") or {}).get("content") or "")


class ServerClient:
    """Asks a server; use it as an asynchronous context manager, so that its connections are closed."""

    def __init__(self, endpoint: Endpoint) -> None:
        try:
            import openai
        except ImportError as error:
            raise ConfigError("a server as judge needs the openai package: pip install 'exptilt[server]'") from error
        self._openai, self._endpoint = openai, endpoint
        self._key = os.environ.get(KEY) or ("none" if endpoint.is_local else "")
        if not self._key:
            raise ConfigError(f"{endpoint.host}: set {KEY} in the environment; the key is written nowhere")
        if not urlsplit(endpoint.base_url).scheme.startswith("http"):
            raise ConfigError(f"{endpoint.base_url}: a server's address begins with http:// or https://")
        self._client = openai.AsyncOpenAI(
            api_key=self._key, base_url=endpoint.base_url, timeout=endpoint.timeout, max_retries=endpoint.max_retries
        )
        self._free = asyncio.Semaphore(endpoint.concurrency)
        self._next = 0.0
        self._refused: set[str] = set()
        self._answered = False

    async def __aenter__(self) -> ServerClient:
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self._client.close()

    async def ask(self, request: dict[str, Any]) -> ServerReply:
        """Send a request; what the server refuses of it is left out and the rest sent again.

        Raises:
            ConfigError: what no retry can mend: no such server or model, a refused key.
        """
        async with self._free:
            while True:
                sent = as_refused(request, self._refused)
                await self._wait_for_turn()
                started = time.monotonic()
                try:
                    body = await self._body(sent)
                except self._openai.APIStatusError as error:
                    if self._learns(error, sent):
                        continue
                    self._require_usable(error)
                    return ServerReply(sent, {}, time.monotonic() - started, self._said(error), exhausted=True)
                except self._openai.APIError as error:
                    self._require_reachable(error)
                    return ServerReply(sent, {}, time.monotonic() - started, self._said(error), exhausted=True)
                except ValueError as error:  # no JSON: part of a reply
                    return ServerReply(sent, {}, time.monotonic() - started, f"broken reply: {self._said(error)}")
                self._answered = True
                return ServerReply(sent, body, time.monotonic() - started, "" if _is_completion(body) else "no choice")

    async def _body(self, sent: dict[str, Any]) -> dict[str, Any]:
        """The reply as it came, not as a model of the package: a server may leave fields out."""
        raw = await self._client.chat.completions.with_raw_response.create(**sent)
        body = json.loads(raw.text)
        if not isinstance(body, dict):
            raise ValueError("the reply is no JSON object")
        return body

    def _learns(self, error: Any, sent: dict[str, Any]) -> bool:
        if error.status_code not in (400, 422):
            return False
        name = named_in(str(error), error.param)
        if name is None or name not in sent:
            # Another call in flight may have learnt it while this one was on its way.
            return as_refused(sent, self._refused) != sent
        self._refused.add(name)
        return True

    def _require_usable(self, error: Any) -> None:
        host = self._endpoint.host
        if error.status_code in (401, 403):
            raise ConfigError(f"{host}: refuses the key ({error.status_code}); set {KEY}") from None
        if error.status_code == 404:
            raise ConfigError(
                f"{host}: {self._said(error)}; check the address (it ends in /v1) and the model"
            ) from None

    def _require_reachable(self, error: Exception) -> None:
        unreachable = isinstance(error, self._openai.APIConnectionError) and not isinstance(
            error, self._openai.APITimeoutError
        )
        if unreachable and not self._answered:
            raise ConfigError(
                f"{self._endpoint.base_url}: no server answers there; start it, or check the address"
            ) from None

    def _said(self, error: Exception) -> str:
        words = " ".join(str(error).split()) or type(error).__name__
        return words.replace(self._key, "***")[:200]

    async def _wait_for_turn(self) -> None:
        if self._endpoint.rate is None:
            return
        now = time.monotonic()
        turn = max(now, self._next)
        self._next = turn + 1 / self._endpoint.rate
        await asyncio.sleep(turn - now)


def _is_completion(body: dict[str, Any]) -> bool:
    choices = body.get("choices")
    return isinstance(choices, list) and bool(choices) and isinstance(choices[0], dict)
