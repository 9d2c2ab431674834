"""Starts the process that holds the models, and asks it; this side never imports torch."""

from __future__ import annotations

import http.client
import json
import secrets
import signal
import subprocess
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from threading import Lock
from typing import Any

from exptilt.conversations.chat_request import ChatRequest
from exptilt.errors import ModelError
from exptilt.sampling.sampling_law import SamplingLaw
from exptilt.settings.declaration import as_dict, dotted

_WAIT = 1200
"""Seconds that a piece of an answer may take."""


@dataclass
class Ending:
    """How an answer ended; filled in when it has."""

    was_cut: bool = False
    """It reached the greatest length."""


class ModelProcess:
    """The models of a request in a process of their own, which ends with this one.

    Args:
        request: which models.

    Raises:
        ModelError: a model cannot be loaded; the message is that of loading it.
    """

    def __init__(self, request: ChatRequest) -> None:
        self._request = request
        self._token = secrets.token_hex(16)
        self._process: subprocess.Popen[str] | None = None
        self._port = 0
        self._starting = Lock()
        self.without_template: tuple[str, ...] = ()
        """Models whose tokenizer has no chat template."""

    def __enter__(self) -> ModelProcess:
        self.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.end()

    def start(self) -> None:
        """Start the process and wait until the models are loaded; nothing where it runs."""
        with self._starting:
            if self._process is not None and self._process.poll() is None:
                return
            self.end()  # of one that was killed, the pipes
            self._process = subprocess.Popen(
                [sys.executable, "-m", "exptilt.conversations.model_server"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,  # Ctrl-C ends an answer, and not the models
            )
            said = self._told(self._process)
            if "error" in said:
                self.end()
                raise ModelError(str(said["error"]))
            self._port, self.without_template = int(said["port"]), tuple(said["without_template"])

    def end(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(OSError):
            assert process.stdin is not None  # noqa: S101 - for mypy
            process.stdin.close()
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert process.stdout is not None  # noqa: S101 - for mypy
        process.stdout.close()

    def answer(
        self,
        model: str,
        turns: Sequence[Mapping[str, Any]],
        law: SamplingLaw,
        *,
        seed: int = 0,
        index: int = 0,
        ending: Ending | None = None,
    ) -> Generator[str, None, None]:
        """Stream an answer in pieces; who stops asking for pieces stops the model.

        Args:
            model: "policy" or "reference".
            turns: the conversation, ending in a turn of the user.
            law: to draw by.
            seed: of the draw.
            index: another index is another answer.
            ending: is told how the answer ended.

        Raises:
            ModelError: the process ended, or refuses; the message says why. The next call starts an ended process again.
        """
        self.start()
        body = {
            "model": model,
            "messages": [dict(turn) for turn in turns],
            "stream": True,
            "seed": seed,
            "index": index,
            "temperature": law.temperature,
            "top_p": law.top_p,
            "top_k": law.top_k,
            "repetition_penalty": law.repetition_penalty,
            "min_tokens": law.min_new_tokens,
            "max_tokens": law.max_new_tokens,
        }
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        with closing(http.client.HTTPConnection("127.0.0.1", self._port, timeout=_WAIT)) as connection:
            try:
                connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
                with closing(connection.getresponse()) as reply:
                    if reply.status != 200:
                        raise ModelError(json.load(reply)["error"]["message"])
                    done = yield from _pieces(reply, ending)
            except (OSError, http.client.HTTPException):
                raise ModelError(self._how_it_ended()) from None
            if not done:
                raise ModelError(self._how_it_ended())

    def _told(self, process: subprocess.Popen[str]) -> dict[str, Any]:
        assert process.stdin is not None and process.stdout is not None  # noqa: S101, PT018 - for mypy
        settings = [f"{key}={json.dumps(value)}" for key, value in dotted(as_dict(self._request)).items()]
        with suppress(OSError):
            print(json.dumps({"token": self._token, "settings": settings}), file=process.stdin, flush=True)
        line = process.stdout.readline()
        if not line:
            return {"error": self._how_it_ended()}
        said: dict[str, Any] = json.loads(line)
        return said

    def _how_it_ended(self) -> str:
        process = self._process
        status = None
        if process is not None:
            with suppress(subprocess.TimeoutExpired):
                status = process.wait(timeout=5)
        if status is None:
            return "the model process does not answer"
        if status < 0:
            name = signal.Signals(-status).name
            more = ", perhaps because memory ran out" if name == "SIGKILL" else ""
            return f"the model process was ended by {name}{more}"
        return f"the model process ended with status {status}"


def _pieces(reply: http.client.HTTPResponse, ending: Ending | None) -> Generator[str, None, bool]:
    """Pieces of a stream of events; returns whether it came to its end."""
    for line in reply:
        if not line.startswith(b"data: "):
            continue
        if line.strip() == b"data: [DONE]":
            return True
        event = json.loads(line[len(b"data: ") :])
        if "error" in event:
            raise ModelError(event["error"]["message"])
        choice = event["choices"][0]
        if choice["finish_reason"] is not None and ending is not None:
            ending.was_cut = choice["finish_reason"] == "length"
        if text := choice["delta"].get("content"):
            yield text
    return False
