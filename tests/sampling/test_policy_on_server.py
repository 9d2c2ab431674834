"""Rollouts by another process: exptilt's own server over real HTTP, and servers that do something else."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("openai", reason="the extra `server` is not installed")

from exptilt.conversations.chat_request import ChatRequest
from exptilt.conversations.model_process import ModelProcess
from exptilt.errors import ConfigError, ServerError
from exptilt.policies.adapters import with_adapter
from exptilt.policies.models import load_model, load_tokenizer
from exptilt.policies.saving import save_model
from exptilt.policies.tokenizers import train_tokenizer
from exptilt.sampling.policy_on_server import ServerSampler, open_sampler
from exptilt.sampling.sampler import LocalSampler
from exptilt.sampling.sampling_law import SamplingLaw
from exptilt.settings.model_settings import AdapterConfig, ModelConfig, SmallModel
from exptilt.settings.sampler_settings import SamplerConfig

LAW = SamplingLaw(max_new_tokens=8, eos_ids=(2,))
PROMPTS = [np.array(ids, np.int32) for ids in ([5, 6, 7], [8, 9], [5, 6, 7])]
DRAW = {"num_samples": 3, "law": LAW, "seeds": [11, 12, 13]}


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "model"
    tokenizer = train_tokenizer(["the film was good and the plot was bad"] * 4, 300)
    size = SmallModel(hidden_size=16, num_layers=1, num_heads=2, max_positions=64)
    save_model(load_model(ModelConfig(config=size), tokenizer, seed=0), tokenizer, folder)
    return folder


@pytest.fixture(scope="module")
def server(base) -> Iterator[ModelProcess]:
    with ModelProcess(ChatRequest(model=ModelConfig(path=str(base)))) as process:
        yield process


@pytest.fixture
def policy(base):
    """A model with an adapter that does something."""
    model = with_adapter(load_model(ModelConfig(path=str(base))), AdapterConfig(rank=2))
    move(model, 0)
    return model.eval()


def move(model, seed: int) -> None:
    drawn = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(0.5 * torch.randn(weight.shape, generator=drawn))


def settings_of(process: ModelProcess, monkeypatch) -> SamplerConfig:
    monkeypatch.setenv("OPENAI_API_KEY", process._token)
    return SamplerConfig(url=f"http://127.0.0.1:{process._port}/v1", max_retries=1, timeout=30)


def test_same_samples_in_process_and_over_http_and_again_after_a_swap(server, policy, base, tmp_path, monkeypatch):
    local = LocalSampler(policy, load_tokenizer(ModelConfig(path=str(base))))
    remote = open_sampler(settings_of(server, monkeypatch), policy, [2], folder=tmp_path / "weights")
    drawn = []
    for version in (0, 1):
        remote.take_weights(version)
        mine, theirs = local.draw(PROMPTS, **DRAW), remote.draw(PROMPTS, **DRAW)
        assert [one.ids.tolist() for one in theirs] == [one.ids.tolist() for one in mine]
        assert [(one.prompt_index, one.sample_index, one.ended) for one in theirs] == [
            (one.prompt_index, one.sample_index, one.ended) for one in mine
        ]
        for left, right in zip(mine, theirs, strict=True):
            np.testing.assert_allclose(left.logps, right.logps, atol=1e-5)
        assert len(list((tmp_path / "weights").iterdir())) == 1  # not one for each version
        drawn.append(theirs)
        move(policy, 1)
    first, second = (np.concatenate([one.logps for one in samples]) for samples in drawn)
    assert len(first) != len(second) or np.abs(first - second).max() > 0.01  # the swap changed something
    remote.close()
    assert not (tmp_path / "weights").exists()
    again = ServerSampler(settings_of(server, monkeypatch), policy, [2], folder=tmp_path / "weights")
    assert [name for name, _ in again._swap._listed()] == ["policy"]  # nothing of the first is left at the server
    again.close()


def test_what_a_killed_run_left_loaded_is_unloaded_by_the_next(server, policy, tmp_path, monkeypatch):
    settings = settings_of(server, monkeypatch)
    killed = ServerSampler(settings, policy, [2], folder=tmp_path / "weights")
    killed.take_weights(5)
    before = killed.draw(PROMPTS, **DRAW)
    killed._calls.__exit__()  # what is left of it when nobody closes it
    resumed = ServerSampler(settings, policy, [2], folder=tmp_path / "weights")
    resumed.take_weights(5)
    after = resumed.draw(PROMPTS, **DRAW)
    assert [one.ids.tolist() for one in after] == [one.ids.tolist() for one in before]
    assert all((left.logps == right.logps).all() for left, right in zip(before, after, strict=True))  # bitwise
    resumed.close()


def test_a_server_holds_one_adapter_and_says_so(server, policy, tmp_path, monkeypatch):
    settings = settings_of(server, monkeypatch)
    one = ServerSampler(settings, policy, [2], folder=tmp_path / "one")
    one.take_weights(0)
    other = ServerSampler(settings, policy, [2], folder=tmp_path / "other")
    with pytest.raises(ServerError, match=r"holds one adapter at a time: unload exptilt-\w+-0 first"):
        other.take_weights(0)
    other.close()
    assert one.draw(PROMPTS[:1], num_samples=1, law=LAW, seeds=[0])
    one.close()


def test_all_weights_need_a_restart_and_a_bent_law_is_no_rollout(server, base, policy, tmp_path, monkeypatch):
    settings = settings_of(server, monkeypatch)
    with pytest.raises(ConfigError, match="all weights only by a restart; train an adapter"):
        open_sampler(settings, load_model(ModelConfig(path=str(base))), [2], folder=tmp_path / "weights")
    with pytest.raises(ConfigError, match=r"confirmed must be true for api\.example\.com"):
        open_sampler(SamplerConfig(url="https://api.example.com/v1"), policy, [2], folder=tmp_path / "weights")
    sampler = open_sampler(settings, policy, [2], folder=tmp_path / "weights")
    with pytest.raises(ValueError, match=r"temperature=0\.7"):
        sampler.draw(PROMPTS, num_samples=1, law=SamplingLaw(temperature=0.7), seeds=[1, 2, 3])
    sampler.close()


def test_a_server_that_is_killed_is_one_line(base, policy, tmp_path, monkeypatch):
    with ModelProcess(ChatRequest(model=ModelConfig(path=str(base)))) as process:
        sampler = ServerSampler(settings_of(process, monkeypatch), policy, [2], folder=tmp_path / "weights")
        sampler.take_weights(0)
        process._process.kill()
        process._process.wait()
        with pytest.raises(ServerError) as gone:
            sampler.draw(PROMPTS, **DRAW)
        assert "\n" not in str(gone.value)
        with pytest.raises(ServerError):
            sampler.take_weights(1)
        sampler.close()
        assert not (tmp_path / "weights").exists()


def good_choice(number: int) -> dict:
    logprobs = {"tokens": ["a", "b"], "token_logprobs": [-1.0, -2.0]}
    return {"index": number, "finish_reason": "stop", "text": "a", "token_ids": [5, 2], "logprobs": logprobs}


def without(choice: dict, name: str) -> dict:
    return {key: value for key, value in choice.items() if key != name}


class Bad(BaseHTTPRequestHandler):
    """Takes adapters, and answers a draw as the class says."""

    answer: dict = {}
    status = 200
    busy = 0
    listed: tuple[str, ...] | None = None
    root: str | None = None
    loaded: list[tuple[str, str]] = []
    drawn = 0

    def do_GET(self):
        names = [(name, self.root or path) for name, path in self.loaded] if self.listed is None else []
        self._send(200, {"data": [{"id": name, "root": path} for name, path in names]})

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path.endswith("load_lora_adapter"):
            if "unload" not in self.path:
                self.loaded.append((asked["lora_name"], asked["lora_path"]))
            return self._send(200, {})
        type(self).drawn += 1
        if type(self).busy:
            type(self).busy -= 1
            return self._send(429, {"error": {"message": "slow down"}})
        if self.status != 200:
            return self._send(self.status, {"error": {"message": "it broke"}})
        whole = {"model": asked["model"], "choices": [good_choice(0)]} | self.answer
        return self._send(200, whole)

    def _send(self, status, content):
        body = b"<html>" if content == "garbage" else b"" if content is None else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("retry-after-ms", "1")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def bad(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)

    class Handler(Bad):
        loaded = []

    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=made.serve_forever)
    thread.start()
    yield Handler, SamplerConfig(url=f"http://127.0.0.1:{made.server_port}/v1", max_retries=2, timeout=5)
    made.shutdown()
    thread.join()
    made.server_close()


def drawn_by(settings, policy, folder):
    sampler = open_sampler(settings, policy, [2], folder=folder)
    try:
        sampler.take_weights(3)
        return sampler.draw(PROMPTS[:1], num_samples=1, law=LAW, seeds=[1])
    finally:
        sampler.close()


CUT = good_choice(0) | {"finish_reason": "length", "token_ids": [5, 6]}


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ({"choices": [CUT]}, r"a completion was cut \('length' after 2 tokens; it has no end token, and 8 were asked"),
        ({"choices": [without(good_choice(0), "token_ids")]}, "text without token ids"),
        ({"choices": [good_choice(0) | {"logprobs": None}]}, "no log-probability for each token"),
        ({"choices": [good_choice(0) | {"logprobs": {"token_logprobs": [-1.0, 3.0]}}]}, "not finite, or above 0"),
        ({"choices": [good_choice(0) | {"token_ids": [2, 5]}]}, "goes on after its end token"),
        ({"choices": [good_choice(0), good_choice(1)]}, "gave 2 of 1 completions"),
        ({"choices": [good_choice(1)]}, "not numbered 0 to 0"),
        ({"choices": []}, "no choice"),
        (
            {"model": "exptilt-00000000-2"},
            r"answers as 'exptilt-00000000-2' and not as .*-3': it did not take the last",
        ),
        ({"prompt_token_ids": [6, 7]}, r"read another prompt \(2 tokens\) than it was sent \(3\)"),
        ({"usage": {"prompt_tokens": 2}}, r"read another prompt \(2 tokens\)"),
    ],
)
def test_an_answer_that_is_not_what_was_asked_is_refused_in_one_line(bad, policy, tmp_path, answer, says):
    handler, settings = bad
    handler.answer = answer
    with pytest.raises(ServerError, match=says) as refused:
        drawn_by(settings, policy, tmp_path / "weights")
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 300


def test_a_good_answer_is_taken(bad, policy, tmp_path):
    (one,) = drawn_by(bad[1], policy, tmp_path / "weights")
    assert (one.ids.tolist(), one.ended, one.logps.tolist()) == ([5, 2], True, [-1.0, -2.0])


def test_a_busy_server_is_asked_again_and_a_broken_one_given_up(bad, policy, tmp_path):
    handler, settings = bad
    handler.busy = 2
    assert len(drawn_by(settings, policy, tmp_path / "weights")) == 1
    assert handler.drawn == 3
    handler.status = 500
    with pytest.raises(ServerError, match="it broke"):
        drawn_by(settings, policy, tmp_path / "weights")
    assert handler.drawn == 6  # two retries, by the client alone


@pytest.mark.parametrize("content", ["garbage", None])
def test_garbage_and_nothing_are_one_line(bad, policy, tmp_path, content, monkeypatch):
    handler, settings = bad
    send = Bad._send

    def answer(self, status, whole):
        send(self, status, content if "choices" in whole else whole)

    monkeypatch.setattr(handler, "_send", answer)
    with pytest.raises(ServerError, match="broken reply"):
        drawn_by(settings, policy, tmp_path / "weights")


@pytest.mark.parametrize(
    ("change", "says"),
    [({"listed": ()}, "did not take the adapter"), ({"root": "/elsewhere"}, "with the weights of /elsewhere, not of")],
)
def test_an_update_that_a_server_drops_is_noticed_before_anything_is_drawn(bad, policy, tmp_path, change, says):
    handler, settings = bad
    for name, value in change.items():
        setattr(handler, name, value)
    with pytest.raises(ServerError, match=says):
        drawn_by(settings, policy, tmp_path / "weights")
    assert handler.drawn == 0


def test_nobody_there_is_one_line(policy, tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    began = time.monotonic()
    with pytest.raises(ServerError, match="no server answers there"):
        open_sampler(SamplerConfig(url="http://127.0.0.1:9/v1", max_retries=0), policy, [2], folder=tmp_path / "w")
    assert time.monotonic() - began < 20
