"""The one client of servers: where texts go, what becomes of the key, how often it asks."""

import asyncio
import gc
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from exptilt.errors import ConfigError
from exptilt.sampling.sample_request import ServerConfig
from exptilt.servers.background_calls import BackgroundCalls, run_to_end
from exptilt.servers.endpoint import Endpoint
from exptilt.servers.server_client import ServerClient

REQUEST = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "seed": 1, "temperature": 0.5}


class Service(BaseHTTPRequestHandler):
    """Answers what the test put into `plan`: (status, body, headers), the last one for ever."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        owner = self.server
        owner.seen.append((time.monotonic(), self.path, body, self.headers["Authorization"]))
        status, answer, headers = owner.plan.pop(0) if len(owner.plan) > 1 else owner.plan[0]
        data = json.dumps(answer).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "retry-after-ms": "1", **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def service():
    made = ThreadingHTTPServer(("127.0.0.1", 0), Service)
    made.seen, made.plan = [], []
    made.url = f"http://127.0.0.1:{made.server_port}/v1"
    thread = threading.Thread(target=made.serve_forever, args=(0.02,))
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


@pytest.fixture(autouse=True)
def _key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-42")


def good(text="yes", **more):
    return 200, {"choices": [{"message": {"content": text}, "finish_reason": "stop"}], **more}, {}


def asked(service, *requests, optional=(), **settings):
    settings = {"base_url": service.url, "max_retries": 0} | settings

    async def work():
        async with ServerClient(Endpoint(**settings)) as client:
            return await asyncio.gather(*(client.ask(each, optional) for each in requests or [REQUEST]))

    return run_to_end(work())


def test_a_redirect_is_not_followed(service):
    service.plan = [(307, {}, {"Location": "http://localhost:9/elsewhere"})]
    with pytest.raises(ConfigError, match=r"sends to another address \(307\)"):
        asked(service)


def test_no_proxy_sees_what_goes_to_this_machine(service, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    service.plan = [good()]
    assert asked(service)[0].text == "yes"


def test_a_reply_that_repeats_the_key_is_given_without_it(service, monkeypatch):
    service.plan = [good("your key is sk-secret-42", model="sk-secret-42")]
    (reply,) = asked(service)
    assert service.seen[0][3] == "Bearer sk-secret-42"
    assert "sk-secret-42" not in json.dumps(reply.body)
    monkeypatch.setenv("OPENAI_API_KEY", " \n")
    service.plan = [good("none of them")]
    assert asked(service)[0].text == "none of them"  # without a key nothing is hidden


@pytest.mark.parametrize("key", ["sk-é", "sk-a\nb"])
def test_a_key_that_no_header_can_hold_is_refused_without_showing_it(service, monkeypatch, key):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(ConfigError, match="characters that no key has") as error:
        asked(service)
    assert key not in str(error.value)


def test_the_rate_holds_for_every_attempt(service):
    service.plan = [(500, {}, {})] * 3 + [good()]
    started = time.monotonic()
    replies = asked(service, *[REQUEST] * 5, rate=20.0, max_retries=3)
    assert [reply.fault for reply in replies] == [""] * 5
    assert len(service.seen) == 8
    assert service.seen[-1][0] - started > 7 / 20 - 0.01


def test_only_what_is_optional_is_left_out(service):
    refusal = (400, {"error": {"message": "Unsupported parameter: 'temperature'", "param": "temperature"}}, {})
    service.plan = [refusal, good()]
    assert "temperature" in asked(service)[0].fault
    service.plan = [refusal, good()]
    assert asked(service, optional=["temperature"])[0].fault == ""
    assert [set(body) & {"temperature", "seed"} for _, _, body, _ in service.seen][1:] == [
        {"temperature", "seed"},
        {"seed"},
    ]


@pytest.mark.parametrize("body", [{"error": {"message": "no response_format"}}, {"detail": "no response_format"}])
def test_a_server_error_that_names_a_parameter_teaches_too(service, body):
    service.plan = [(500, body, {}), good()]
    (reply,) = asked(service, REQUEST | {"response_format": {}}, optional=["response_format"])
    assert reply.fault == ""
    assert "response_format" not in reply.sent


def test_an_empty_account_ends_the_run(service):
    service.plan = [(429, {"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}}, {})]
    with pytest.raises(ConfigError, match="nothing left to spend"):
        asked(service)


def test_a_server_that_refuses_everything_ends_the_run_and_one_long_prompt_does_not(service):
    refusal = (400, {"error": {"message": "maximum context length is 10 tokens"}}, {})
    service.plan = [good(), *[refusal] * 10]
    replies = asked(service, *[REQUEST] * 11, concurrency=1)
    assert [bool(reply.fault) for reply in replies] == [False] + [True] * 10
    service.plan = [refusal]
    with pytest.raises(ConfigError, match=r"refused every request so far.*context length"):
        asked(service, *[REQUEST] * 11, concurrency=1)


@pytest.mark.parametrize(
    "body",
    [
        [],
        {"choices": None},
        {"choices": [None]},
        {"choices": ["x"]},
        {"choices": [{"message": "text"}], "usage": []},
        {"choices": [{"message": {"content": [1]}}], "usage": {"prompt_tokens": "7"}},
    ],
)
def test_a_reply_of_another_shape_is_a_fault_or_empty_never_a_crash(service, body):
    service.plan = [(200, body, {})]
    (reply,) = asked(service)
    assert reply.fault or (reply.text, reply.usage) == ("", {})


def test_background_calls_work_inside_a_running_event_loop(service):
    service.plan = [good()]

    async def notebook():
        with BackgroundCalls(Endpoint(base_url=service.url)) as calls:
            first = calls.submit(REQUEST).result(timeout=20).text
        return first, asked(service)[0].text

    assert asyncio.run(notebook()) == ("yes", "yes")


@pytest.mark.parametrize(
    "url",
    ["ftp://localhost/v1", "localhost:8000/v1", "http://u:p@localhost/v1", "http://localhost/v1?key=s", "http://[/v1"],
)
def test_an_address_that_is_none_or_holds_a_key_is_refused(url):
    with pytest.raises(ConfigError) as error:
        Endpoint(base_url=url)
    assert "u:p" not in str(error.value)
    with pytest.raises(ConfigError):
        ServerConfig(url=url, model="m")


def test_calls_that_are_given_up_leave_nothing_behind(service):
    service.plan = [good()]
    for _ in range(5):
        with BackgroundCalls(Endpoint(base_url=service.url)) as calls:
            futures = [calls.submit(REQUEST) for _ in range(40)]
            futures[0].result(timeout=20)
        assert all(future.done() for future in futures)
        gc.collect()  # a coroutine that was never ended would be named here
