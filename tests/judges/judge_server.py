"""A real HTTP server that judges by a function, and fails by a script."""

import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class JudgeServer:
    """Serves /v1/chat/completions on a free port of the loopback.

    Args:
        choose: called with (prompt text, label first, label second, first answer, second answer); returns the reply's text.
        script: called with the number of the call; returns None, or a fault: a status, "cut", "empty", "garbage", "slow",
            "refusal", "bodycut".
        rejects: names of parameters that are answered with 400.
        latency: seconds before each reply.
        logprobs: called with the reply's text and what was shown; returns `choices[0].logprobs.content`.
    """

    def __init__(self, choose, script=lambda number: None, rejects=(), latency=0.0, logprobs=None):
        self.choose, self.script, self.rejects, self.latency, self.logprobs = choose, script, rejects, latency, logprobs
        self.calls, self.faults, self.requests, self.keys = 0, 0, [], set()
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.owner = self
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self):
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def noted(self, body, key):
        """The number of a call."""
        with self._lock:
            self.calls += 1
            self.requests.append(body)
            self.keys.add(key)
            return self.calls

    def refusal(self, path, body, key):
        """(status, error) of a request that no retry mends; None of a good one."""
        if path != "/v1/chat/completions":
            return 404, {"message": "no such path"}
        if body["model"] == "unknown":
            return 404, {"message": "the model `unknown` does not exist"}
        if key == "Bearer wrong-key-123":
            return 401, {"message": "bad key wrong-key-123"}
        refused = next((name for name in self.rejects if name in body), None)
        return None if refused is None else (400, {"message": f"Unsupported parameter: '{refused}'", "param": refused})

    def completion(self, text, fault):
        """The body of a reply."""
        content = self.choose(text, *shown(text))
        choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
        if self.logprobs is not None:
            choice["logprobs"] = {"content": self.logprobs(content, shown(text))}
        if fault == "cut":
            choice["message"]["content"], choice["finish_reason"] = content[: len(content) // 2], "length"
        if fault == "refusal":
            choice["message"] = {"role": "assistant", "content": None, "refusal": "I will not"}
        if fault == "garbage":
            choice["message"]["content"] = "I cannot decide."
        usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
        choices = [] if fault == "empty" else [choice]
        return {"id": "x", "object": "chat.completion", "model": "judge-1", "choices": choices, "usage": usage}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_):  # a client that was killed
        pass


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_POST(self):
        owner, key = self.server.owner, self.headers.get("Authorization")
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        number = owner.noted(body, key)
        time.sleep(owner.latency)
        refusal = owner.refusal(self.path, body, key)
        if refusal is not None:
            self.answer(refusal[0], {"error": refusal[1]})
            return
        fault = owner.script(number)
        owner.faults += fault is not None
        if isinstance(fault, int):
            retry = {"Retry-After": "0"} if fault == 429 else {"retry-after-ms": "1"}
            self.answer(fault, {"error": {"message": f"scripted {fault}"}}, retry)
            return
        if fault == "slow":
            time.sleep(1.5)
        self.answer(200, owner.completion(body["messages"][-1]["content"], fault), cut=fault == "bodycut")

    def answer(self, status, value, headers=None, cut=False):
        data = json.dumps(value).encode()
        data = data[: len(data) // 2] if cut else data
        self.send_response(status)
        for name, entry in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, entry)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def shown(text):
    """Labels and answers, from a prompt of our own frame."""
    found = re.findall(r"<<< (?:ANSWER|REPLY|SUMMARY) (\w) >>>\n(.*?)\n<<< END OF", text, re.DOTALL)
    if len(found) == 2:
        (first, one), (second, other) = found
        return first, second, one, other
    return "", "", text, ""


def reply(verdict, reason="It is better."):
    """What a judge writes."""
    return json.dumps({"reason": reason, "verdict": verdict})
