"""One OpenAI-compatible server: calls with one layer of retries, a common rate limit, and errors for a person.

The retries are the `openai` package's own (408, 409, 429, 5xx, time-outs; `Retry-After` is obeyed). What a server refuses of
a request is learnt from its first refusal, never guessed from a model's name. The key goes to the server and nowhere else:
a reply that repeats it is stored without it. Texts go to the host that was named: redirects are not followed, and no proxy
is asked for a server on this machine.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from exptilt.errors import ConfigError
from exptilt.servers.endpoint import NO_KEY, Endpoint
from exptilt.servers.refused_parameters import as_refused, named_in

_UNTEACHABLE = (401, 402, 403, 404, 429)
"""What these say is not about a parameter."""
_GIVE_UP = 8
"""Requests that a server may refuse before it has answered any."""


@dataclass(frozen=True, slots=True)
class ServerReply:
    """What came back: a reply, or the reason why none did."""

    sent: dict[str, Any]
    body: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    fault: str = ""
    """Empty where the body is a well-formed completion."""
    exhausted: bool = False
    """Whether the package has retried the fault already, so that asking once more is no use."""
    refused: bool = False
    """Whether the server is well and refuses this request, as one that is too long."""

    @property
    def choice(self) -> dict[str, Any]:
        """The first choice; empty where there is none."""
        choices = self.body.get("choices")
        first = choices[0] if isinstance(choices, list) and choices else None
        return dict(first) if isinstance(first, dict) else {}

    @property
    def message(self) -> dict[str, Any]:
        """The first choice's message; empty where there is none."""
        message = self.choice.get("message")
        return message if isinstance(message, dict) else {}

    @property
    def text(self) -> str:
        """The reply's text; empty where there is none."""
        content = self.message.get("content")
        return content if isinstance(content, str) else ""

    @property
    def usage(self) -> dict[str, int]:
        """Numbers of tokens, those that the server gives."""
        usage = self.body.get("usage")
        given = usage if isinstance(usage, dict) else {}
        return {name: n for name, n in given.items() if isinstance(n, int) and not isinstance(n, bool) and n >= 0}


class ServerClient:
    """Asks a server; use it as an asynchronous context manager, so that its connections are closed."""

    def __init__(self, endpoint: Endpoint) -> None:
        try:
            import openai
        except ImportError as error:
            raise ConfigError("a server needs the openai package: pip install 'exptilt[server]'") from error
        self._openai, self._endpoint, self._key = openai, endpoint, endpoint.key()
        self._client = openai.AsyncOpenAI(
            api_key=self._key,
            base_url=endpoint.base_url,
            timeout=endpoint.timeout,
            max_retries=endpoint.max_retries,
            http_client=openai.DefaultAsyncHttpxClient(
                follow_redirects=False,
                trust_env=not endpoint.is_local,
                event_hooks={"request": [self._wait_for_turn]},  # of every attempt, retries too
            ),
        )
        self._free = asyncio.Semaphore(endpoint.concurrency)
        self._next = 0.0
        self._refused: set[str] = set()
        self._answered, self._refusals = False, 0
        self._is_closing = False

    async def __aenter__(self) -> ServerClient:
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self._client.close()

    def begin_no_more(self) -> None:
        """Calls that wait for their turn are cancelled when it comes."""
        self._is_closing = True

    async def ask(self, request: dict[str, Any], optional: Sequence[str] = ()) -> ServerReply:
        """Send a request: to `chat/completions` if it has messages, to `completions` if it has a prompt.

        Args:
            request: the body.
            optional: what may be left out where the server refuses it; the rest is then sent again.

        Raises:
            ConfigError: what no retry can mend: no such server or model, a refused key, an empty account.
        """
        async with self._free:
            while True:
                if self._is_closing:
                    raise asyncio.CancelledError
                sent = as_refused(request, self._refused & set(optional))
                started = time.monotonic()
                try:
                    body = await self._body(sent)
                except self._openai.APIStatusError as error:
                    if self._learns(error, sent, optional):
                        continue
                    self._require_usable(error, sent)
                    seconds, refused = time.monotonic() - started, _is_refusal(error)
                    return ServerReply(sent, {}, seconds, self._said(error), exhausted=True, refused=refused)
                except self._openai.APIError as error:
                    self._require_reachable(error)
                    return ServerReply(sent, {}, time.monotonic() - started, self._said(error), exhausted=True)
                except (ValueError, RecursionError) as error:  # no JSON: part of a reply
                    return ServerReply(sent, {}, time.monotonic() - started, f"broken reply: {self._said(error)}")
                self._answered = True
                return ServerReply(sent, body, time.monotonic() - started, "" if _is_completion(body) else "no choice")

    async def control(
        self, method: Literal["GET", "POST"], path: str, body: dict[str, Any] | None = None
    ) -> ServerReply:
        """Ask for something else than a completion, such as a list of models; what a server refuses is a fault of the reply.

        Args:
            method: of HTTP.
            path: below the server's base, with its slash.
            body: sent as JSON.

        Raises:
            ConfigError: no server answers there, or it refuses the key.
        """
        sent, started = body or {}, time.monotonic()
        try:
            async with self._free:
                if method == "GET":
                    text = await self._client.get(path, cast_to=str)
                else:
                    text = await self._client.post(path, body=sent, cast_to=str)
        except self._openai.APIStatusError as error:
            if error.status_code in (401, 403):
                self._require_usable(error, sent)
            fault = f"{path} answers {error.status_code}: {self._said(error)}"
            return ServerReply(sent, {}, time.monotonic() - started, fault, exhausted=True, refused=_is_refusal(error))
        except self._openai.APIError as error:
            self._require_reachable(error)
            return ServerReply(sent, {}, time.monotonic() - started, self._said(error), exhausted=True)
        self._answered = True
        return ServerReply(sent, _json_object(self._without_key(text)), time.monotonic() - started)

    async def _body(self, sent: dict[str, Any]) -> dict[str, Any]:
        """The reply as it came, not as a model of the package: a server may leave fields out."""
        asked: Any = self._client.chat.completions if "messages" in sent else self._client.completions
        raw = await asked.with_raw_response.create(**sent)
        body = json.loads(self._without_key(raw.text))
        if not isinstance(body, dict):
            raise ValueError("the reply is no JSON object")
        return body

    def _learns(self, error: Any, sent: dict[str, Any], optional: Sequence[str]) -> bool:
        if error.status_code in _UNTEACHABLE:
            return False
        name = named_in(_words(error), error.param, optional)
        if name is None or name not in sent:
            # Another call in flight may have learnt it while this one was on its way.
            return as_refused(sent, self._refused & set(optional)) != sent
        self._refused.add(name)
        return True

    def _require_usable(self, error: Any, sent: dict[str, Any]) -> None:
        host, status = self._endpoint.host, error.status_code
        if status in (401, 403):
            raise ConfigError(f"{host}: refuses the key ({status}); set {self._endpoint.key_variable}") from None
        if status == 402 or error.code == "insufficient_quota":
            raise ConfigError(f"{host}: the account has nothing left to spend: {self._said(error)}") from None
        names_model = re.search(rf"['\"`]{re.escape(str(sent['model']))}['\"`]", _words(error))
        if status == 404 or (status in (400, 422) and names_model):
            raise ConfigError(
                f"{host}: {self._said(error)}; check the address (it ends in /v1) and the model"
            ) from None
        if 300 <= status < 400:
            raise ConfigError(
                f"{host}: sends to another address ({status}), which is not followed; name that address"
            ) from None
        self._refusals += _is_refusal(error)
        if self._refusals >= _GIVE_UP and not self._answered:
            raise ConfigError(f"{host}: has refused every request so far: {self._said(error)}") from None

    def _require_reachable(self, error: Exception) -> None:
        unreachable = isinstance(error, self._openai.APIConnectionError) and not isinstance(
            error, self._openai.APITimeoutError
        )
        if unreachable and not self._answered:
            raise ConfigError(
                f"{self._endpoint.base_url}: no server answers there; start it, or check the address"
            ) from None

    def _said(self, error: Exception) -> str:
        return self._without_key(" ".join(_words(error).split()) or type(error).__name__)[:200]

    def _without_key(self, text: str) -> str:
        return text if self._key == NO_KEY else text.replace(self._key, "***")

    async def _wait_for_turn(self, _request: Any) -> None:
        if self._endpoint.rate is None:
            return
        now = time.monotonic()
        turn = max(now, self._next)
        self._next = turn + 1 / self._endpoint.rate
        await asyncio.sleep(turn - now)


def _is_refusal(error: Any) -> bool:
    return error.status_code < 500 and error.status_code not in (408, 409, 429)


def _words(error: Exception) -> str:
    """What a server says: its error's message, which the package gives, or whatever else the body holds."""
    response = getattr(error, "response", None)
    text = str(error)
    return f"{text} - {response.text}" if response is not None and text.endswith(str(response.status_code)) else text


def _json_object(text: str) -> dict[str, Any]:
    """The object that a reply holds; empty where it holds words or nothing."""
    try:
        body = json.loads(text)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _is_completion(body: dict[str, Any]) -> bool:
    choices = body.get("choices")
    return isinstance(choices, list) and bool(choices) and isinstance(choices[0], dict)
