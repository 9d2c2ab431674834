"""A server on this machine that answers, refuses, talks nonsense and says nothing."""

from __future__ import annotations

import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

pytest.importorskip("openai", reason="the extra `server` is not installed")

from exptilt.errors import ConfigError, ExptiltError
from exptilt.sampling.sample_request import SampleRequest
from exptilt.sampling.sample_rows import read_samples
from exptilt.settings.load import load
from exptilt.verbs.sample import request_of, sample


class Answers(BaseHTTPRequestHandler):
    """Says the prompt and the seed again; what goes wrong is written in the prompt."""

    calls: Counter = Counter()
    lock = threading.Lock()

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = asked.get("prompt") or asked["messages"][-1]["content"]
        with self.lock:
            self.calls[prompt] += 1
            count = self.calls[prompt]
        said, reason = f"{prompt} {asked['seed']}", "stop"
        if "busy" in prompt and count % 2:
            return self._send(429, {"error": {"message": "slow down"}}, {"retry-after": "0"})
        if "broken" in prompt:
            return self._send(500, {"error": {"message": "it broke with key sk-secret"}})
        if "garbage" in prompt:
            return self._send(200, "<html>", raw=True)
        if "nothing" in prompt:
            said, reason = None, "length"
        choice = {"index": 0, "finish_reason": reason, "text": said, "message": {"role": "assistant", "content": said}}
        return self._send(200, {"id": "1", "object": "x", "created": 1, "model": "m", "choices": [choice]})

    def _send(self, status, content, headers=None, raw=False):
        body = (content if raw else json.dumps(content)).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    Answers.calls.clear()
    made = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    made.handle_error = lambda *_: None  # a client that gave up
    thread = threading.Thread(target=made.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{made.server_port}/v1"
    made.shutdown()
    thread.join()
    made.server_close()


def asked(tmp_path, *prompts):
    data = tmp_path / "prompts.jsonl"
    data.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    return data


def run(server, data, output, *overrides):
    settings = [f"data.train={data}", "server.model=m", "server.max_retries=3", "num_samples=2", *overrides]
    return sample(request_of(server, settings, output))


def test_text_and_turns_are_answered_with_a_seed_of_their_own_and_busy_servers_asked_again(server, tmp_path):
    data = asked(tmp_path, "plain", "busy", [{"role": "user", "content": "turns"}])
    run(server, data, tmp_path / "out")
    rows = list(read_samples(tmp_path / "out"))
    assert {row.completion.split()[0] for row in rows} == {"plain", "busy", "turns"}
    assert len({row.completion for row in rows}) == len(rows) == 6
    calls = dict(Answers.calls)
    run(server, data, tmp_path / "out")
    assert calls == Answers.calls  # nobody is asked what is answered


@pytest.mark.parametrize("fault", ["broken", "garbage", "nothing"])
def test_a_failed_call_is_a_missing_sample_in_one_line_and_the_others_stay(server, tmp_path, fault):
    with pytest.raises(ExptiltError, match=r"2 calls failed .*; 2 were answered and stay") as refusal:
        run(server, asked(tmp_path, "plain", fault), tmp_path / "out", "server.max_retries=0")
    assert "\n" not in str(refusal.value)
    assert "sk-secret" not in str(refusal.value)
    assert [row.completion.split()[0] for row in read_samples(tmp_path / "out")] == ["plain", "plain"]
    kept = "".join(path.read_text() for path in (tmp_path / "out").iterdir())
    assert "sk-secret" not in kept


def test_a_server_that_only_fails_is_given_up(server, tmp_path):
    data = asked(tmp_path, *(f"broken {number}" for number in range(100)))
    with pytest.raises(ExptiltError, match="0 were answered"):
        run(server, data, tmp_path / "out", "server.max_retries=0", "server.concurrency=2")
    assert sum(Answers.calls.values()) < 30


def test_prompts_leave_this_machine_only_where_somebody_confirms():
    stated = ["output=x", "data.train=y", "server.url=https://api.example.com/v1", "server.model=m"]
    with pytest.raises(ConfigError, match=r"confirmed must be true for api\.example\.com"):
        load(SampleRequest, None, stated)
    assert load(SampleRequest, None, [*stated, "server.confirmed=true"]).server.confirmed
    with pytest.raises(ConfigError, match=r"law.top_k is not part of the protocol"):
        load(SampleRequest, None, [*stated, "server.confirmed=true", "law.top_k=5"])
