"""The process that holds models: an OpenAI-compatible server on 127.0.0.1 for whoever started it.

    GET  /v1/models
    POST /v1/chat/completions     messages; with `stream`, pieces as server-sent events
    POST /v1/completions          a text, or token ids; token ids and log-probabilities come back
    POST /v1/load_lora_adapter    an adapter beside the policy, by a name of its own (`lora_name`, `lora_path`)
    POST /v1/unload_lora_adapter

It reads what it is to load as one line of its standard input, says in one line of its standard output on which port it listens
or why not, and ends when its standard input ends: it never outlives whoever started it.
"""

from __future__ import annotations

import hmac
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from exptilt.conversations.chat_request import POLICY, REFERENCE, ChatRequest
from exptilt.conversations.served_model import ServedModel, WantedDraw
from exptilt.conversations.served_models import ServedModels
from exptilt.errors import ExptiltError
from exptilt.processes.surroundings import left_as_found
from exptilt.settings.load import load
from exptilt.wording import in_one_line

_MOST_BODY = 64 * 1024 * 1024


class _Refused(Exception):
    """An answer with a status other than 200."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def serve_models(models: Mapping[str, ServedModel], token: str, seed: int = 0) -> ThreadingHTTPServer:
    """A server on a free port of 127.0.0.1; call its `serve_forever`.

    Args:
        models: by name.
        token: the key that every request has to bring.
        seed: of requests that bring none.
    """

    class Handler(_Handler):
        pass

    Handler.models, Handler.token, Handler.seed = ServedModels(models), token, seed
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    return server


class _Handler(BaseHTTPRequestHandler):
    models: ServedModels
    token: str
    seed: int

    def do_GET(self) -> None:
        self._answering(self._list)

    def do_POST(self) -> None:
        others = {"/v1/load_lora_adapter": self._load, "/v1/unload_lora_adapter": self._unload}
        self._answering(others.get(self.path, self._complete))

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: texts are nobody else's business."""

    def _answering(self, answer: Any) -> None:
        try:
            try:
                self._require_key()
                answer()
            except _Refused as refused:
                self._json({"error": {"message": str(refused), "code": refused.status}}, refused.status)
            except ExptiltError as error:
                self._json({"error": {"message": in_one_line(error), "code": 400}}, 400)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # whoever asked went away; the model is free again

    def _require_key(self) -> None:
        given = self.headers.get("authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(given.encode(), self.token.encode()):
            raise _Refused(401, "the key is missing or wrong")

    def _list(self) -> None:
        if self.path != "/v1/models":
            raise _Refused(404, f"{self.path}: there is nothing here")
        self._json({"object": "list", "data": self.models.listed()})

    def _load(self) -> None:
        name, folder = self._texts("lora_name", "lora_path")
        self.models.load(name, folder)
        self._json({"loaded": name})

    def _unload(self) -> None:
        (name,) = self._texts("lora_name")
        if not self.models.unload(name):
            raise _Refused(404, f"there is no adapter {name!r} here")
        self._json({"unloaded": name})

    def _texts(self, *names: str) -> list[str]:
        body = self._body()
        for name in names:
            if not isinstance(body.get(name), str) or not body[name]:
                raise _Refused(400, f"{name} must be a text")
        return [body[name] for name in names]

    def _complete(self) -> None:
        if self.path not in ("/v1/chat/completions", "/v1/completions"):
            raise _Refused(404, f"{self.path}: there is nothing here")
        body = self._body()
        model = self.models.get(body.get("model", ""))
        if model is None:
            raise _Refused(
                404, f"there is no model {body.get('model')!r} here; there are {', '.join(self.models.names)}"
            )
        is_chat = self.path == "/v1/chat/completions"
        if is_chat == ("messages" not in body):
            raise _Refused(400, "chat/completions takes messages, and completions a prompt")
        wanted = model.wanted(body, self.seed)
        if body.get("stream"):
            self._stream(body["model"], model, wanted, is_chat=is_chat)
        else:
            self._json(_whole(body["model"], model, wanted, is_chat=is_chat))

    def _body(self) -> dict[str, Any]:
        size = int(self.headers.get("content-length") or 0)
        if size > _MOST_BODY:
            raise _Refused(413, "that is more than a request may hold")
        try:
            body = json.loads(self.rfile.read(size))
        except ValueError:
            raise _Refused(400, "the request is no JSON") from None
        if not isinstance(body, dict):
            raise _Refused(400, "the request is no JSON object")
        return body

    def _stream(self, name: str, model: ServedModel, wanted: WantedDraw, *, is_chat: bool) -> None:
        if wanted.count != 1:
            raise _Refused(400, "n: a stream holds one completion")
        pieces = model.stream(wanted)
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        for chunk in _chunks(name, pieces, is_chat=is_chat):
            self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
            self.wfile.flush()
        self.wfile.write(b"data: [DONE]\n\n")

    def _json(self, content: Mapping[str, Any], status: int = 200) -> None:
        sent = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)


def _chunks(name: str, pieces: Iterator[str], *, is_chat: bool) -> Iterator[dict[str, Any]]:
    kind = "chat.completion.chunk" if is_chat else "text_completion"

    def chunk(text: str, reason: str | None) -> dict[str, Any]:
        said = {"delta": {"content": text} if text else {}} if is_chat else {"text": text}
        return {
            "id": "exptilt",
            "object": kind,
            "created": int(time.time()),
            "model": name,
            "choices": [{"index": 0, **said, "finish_reason": reason}],
        }

    before: str | None = None
    try:
        for piece in pieces:
            if before is not None:
                yield chunk(before, None)
            before = piece
    except Exception as error:  # the status is sent already, so that only the stream can say it
        yield {"error": {"message": in_one_line(error), "code": 500}}
        return
    yield chunk("", before)  # the last piece says what ended it


def _whole(name: str, model: ServedModel, wanted: WantedDraw, *, is_chat: bool) -> dict[str, Any]:
    drawn = model.draw(wanted)
    choices = []
    for number, one in enumerate(drawn):
        text = one.text(model.tokenizer)
        ids = one.ids.tolist()
        logps = [float(value) for value in one.logps] if one.logps is not None else []
        tokens = model.tokenizer.convert_ids_to_tokens(ids)
        choice: dict[str, Any] = {"index": number, "finish_reason": "stop" if one.ended else "length", "token_ids": ids}
        if is_chat:
            choice["message"] = {"role": "assistant", "content": text}
            choice["logprobs"] = {
                "content": [
                    {"token": token, "logprob": value, "bytes": None, "top_logprobs": []}
                    for token, value in zip(tokens, logps, strict=True)
                ]
            }
        else:
            choice["text"] = text
            choice["logprobs"] = {"tokens": tokens, "token_logprobs": logps, "top_logprobs": None, "text_offset": []}
        choices.append(choice)
    count = sum(len(one.ids) for one in drawn)
    return {
        "id": "exptilt",
        "object": "chat.completion" if is_chat else "text_completion",
        "created": int(time.time()),
        "model": name,
        "prompt_token_ids": wanted.prompt.tolist(),
        "choices": choices,
        "usage": {
            "prompt_tokens": len(wanted.prompt),
            "completion_tokens": count,
            "total_tokens": len(wanted.prompt) + count,
        },
    }


def main() -> None:
    """Load what the first line of standard input says, and serve until standard input ends."""
    stated = json.loads(sys.stdin.readline())
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print does not belong into the one line
    try:
        request = load(ChatRequest, None, stated["settings"])
        with left_as_found():
            models = {POLICY: ServedModel.load(request.model, request.turns, request.law)}
            if request.against is not None:
                models[REFERENCE] = ServedModel.load(request.against, request.turns, request.law)
            server = serve_models(models, stated["token"], request.seed)
            plain = [name for name, model in models.items() if not model.has_chat_template]
            print(json.dumps({"port": server.server_address[1], "without_template": plain}), file=out, flush=True)
            Thread(target=_end_with_input, daemon=True).start()
            server.serve_forever()
    except ExptiltError as error:
        print(json.dumps({"error": str(error)}), file=out, flush=True)


def _end_with_input() -> None:
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()
