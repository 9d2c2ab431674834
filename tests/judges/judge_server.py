"""A real HTTP server that judges like a person with a lean to the first slot, and fails by a script."""

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
    """

    def __init__(self, choose, script=lambda number: None, rejects=(), latency=0.0, logprobs=None):
        self.calls, self.faults, self.requests, self.keys = 0, 0, [], set()
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer._lock:
                    outer.calls += 1
                    number = outer.calls
                    outer.requests.append(body)
                    outer.keys.add(self.headers.get("Authorization"))
                time.sleep(latency)
                if not self.path.endswith("/v1/chat/completions"):
                    return self.answer(404, {"error": {"message": "no such path"}})
                if body["model"] == "unknown":
                    return self.answer(404, {"error": {"message": "the model `unknown` does not exist"}})
                if self.headers.get("Authorization") == "Bearer wrong-key-123":
                    return self.answer(401, {"error": {"message": "bad key wrong-key-123"}})
                for name in rejects:
                    if name in body:
                        error = {"message": f"Unsupported parameter: '{name}'", "param": name}
                        return self.answer(400, {"error": error})
                fault = script(number)
                if fault is not None:
                    with outer._lock:
                        outer.faults += 1
                return self.reply(body, fault)

            def reply(self, body, fault):
                if isinstance(fault, int):
                    headers = {"Retry-After": "0"} if fault == 429 else {"retry-after-ms": "1"}
                    return self.answer(fault, {"error": {"message": f"scripted {fault}"}}, headers)
                if fault == "slow":
                    time.sleep(1.5)
                text = body["messages"][-1]["content"]
                content = choose(text, *_shown(text))
                choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
                if logprobs is not None:
                    choice["logprobs"] = {"content": logprobs(content, _shown(text))}
                if fault == "cut":
                    choice["message"]["content"], choice["finish_reason"] = content[: len(content) // 2], "length"
                if fault == "refusal":
                    choice["message"] = {"role": "assistant", "content": None, "refusal": "I will not"}
                choices = [] if fault == "empty" else [choice]
                usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
                whole = {"id": "x", "object": "chat.completion", "model": "judge-1", "choices": choices, "usage": usage}
                if fault == "garbage":
                    choice["message"]["content"] = "I cannot decide."
                return self.answer(200, whole, cut=fault == "bodycut")

            def answer(self, status, value, headers=None, cut=False):
                data = json.dumps(value).encode()
                data = data[: len(data) // 2] if cut else data
                self.send_response(status)
                for name, entry in {"Content-Type": "application/json", **(headers or {})}.items():
                    self.send_header(name, entry)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, *_):  # a client that was killed
                pass

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self):
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _shown(text):
    """Labels and answers, from a prompt of our own frame."""
    found = re.findall(r"<<< (?:ANSWER|REPLY|SUMMARY) (\w) >>>\n(.*?)\n<<< END OF", text, re.DOTALL)
    if len(found) == 2:
        (first, one), (second, other) = found
        return first, second, one, other
    return "", "", text, ""


def reply(verdict, reason="It is better."):
    return json.dumps({"reason": reason, "verdict": verdict})
