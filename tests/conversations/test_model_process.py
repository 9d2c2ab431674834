"""A real process with real models, asked over real HTTP."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from exptilt.conversations.model_process import Ending, ModelProcess
from exptilt.errors import ModelError
from exptilt.sampling.sampling_law import SamplingLaw
from exptilt.verbs.sample import request_of, sample

TURNS = ({"role": "user", "content": "how was the film"},)
LAW = SamplingLaw(max_new_tokens=12)


def ask(models, path: str, body: dict, key: str | None = None) -> dict:
    request = urllib.request.Request(
        f"http://127.0.0.1:{models._port}{path}",
        json.dumps(body).encode(),
        {"Authorization": f"Bearer {models._token if key is None else key}"},
    )
    with urllib.request.urlopen(request, timeout=60) as reply:
        return json.load(reply)


def refusal(models, path: str, body: dict, key: str | None = None) -> tuple[int, str]:
    with pytest.raises(urllib.error.HTTPError) as refused:
        ask(models, path, body, key)
    return refused.value.code, json.loads(refused.value.read())["error"]["message"]


def test_an_answer_is_what_exptilt_sample_draws_of_the_conversation(models, talkers, tmp_path):
    (tmp_path / "prompts.jsonl").write_text(json.dumps({"prompt": list(TURNS)}) + "\n")
    overrides = [f"data.train={tmp_path / 'prompts.jsonl'}", "law.max_new_tokens=12", "seed=5", "num_samples=2"]
    for name, folder in zip(("policy", "reference"), talkers, strict=True):
        sample(request_of(str(folder), overrides, tmp_path / name))
        rows = [json.loads(line) for line in (tmp_path / name / "samples.jsonl").read_text().splitlines()]
        for row in rows:
            ending = Ending()
            pieces = list(models.answer(name, TURNS, LAW, seed=5, index=row["sample_index"], ending=ending))
            assert "".join(pieces) == row["completion"]
            assert ending.was_cut != row["ended"]
    assert len(pieces) > 3  # in pieces, not at once


def test_completions_take_ids_and_give_ids_with_their_log_probabilities(models):
    body = {"model": "policy", "prompt": [5, 6, 7], "n": 3, "seed": 2, "max_tokens": 4}
    said = ask(models, "/v1/completions", body)
    assert said["prompt_token_ids"] == [5, 6, 7]
    assert len(said["choices"]) == 3
    again = ask(models, "/v1/completions", body | {"n": 1, "index": 2})["choices"][0]
    assert again["token_ids"] == said["choices"][2]["token_ids"]
    likeliest = ask(models, "/v1/completions", body | {"temperature": 0, "n": 1, "max_tokens": 1})["choices"][0]
    drawn = {one["token_ids"][0]: one["logprobs"]["token_logprobs"][0] for one in said["choices"]}
    assert all(-20 < logp <= likeliest["logprobs"]["token_logprobs"][0] for logp in drawn.values())


def test_the_openai_client_can_ask_and_stream(models):
    openai = pytest.importorskip("openai")
    with openai.OpenAI(base_url=f"http://127.0.0.1:{models._port}/v1", api_key=models._token) as client:
        assert [one.id for one in client.models.list().data] == ["policy", "reference"]
        asked = {"model": "policy", "messages": list(TURNS), "seed": 1, "max_tokens": 8}
        whole = client.chat.completions.create(**asked).choices[0].message.content
        streamed = client.chat.completions.create(**asked, stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in streamed) == whole


@pytest.mark.parametrize(
    ("path", "change", "status", "says"),
    [
        ("/v1/chat/completions", {"model": "gpt"}, 404, "there is no model 'gpt' here; there are policy, reference"),
        ("/v1/chat/completions", {"tools": []}, 400, "tools: this server does not know the field; leave it out"),
        ("/v1/chat/completions", {"temperature": -1}, 400, "temperature must be >= 0 and finite, got -1"),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": "the " * 400}]},
            400,
            "leave no room in the",
        ),
        ("/v1/chat/completions", {"messages": "hello"}, 400, "messages: give a list of turns"),
        ("/v1/completions", {}, 400, "chat/completions takes messages, and completions a prompt"),
        ("/v1/else", {}, 404, "there is nothing here"),
    ],
)
def test_what_cannot_be_answered_says_why(models, path, change, status, says):
    code, message = refusal(models, path, {"model": "policy", "messages": list(TURNS)} | change)
    assert (code, says in message) == (status, True), message


def test_nobody_else_may_ask(models):
    assert refusal(models, "/v1/chat/completions", {}, key="wrong") == (401, "the key is missing or wrong")


def test_who_stops_listening_frees_the_model(models):
    pieces = models.answer("policy", TURNS, SamplingLaw(max_new_tokens=200))
    next(pieces)
    pieces.close()
    began = time.monotonic()
    assert list(models.answer("policy", TURNS, SamplingLaw(max_new_tokens=2), seed=3))
    assert time.monotonic() - began < 30


def test_a_killed_process_is_one_line_and_the_next_question_starts_it_again(request_of_two):
    with ModelProcess(request_of_two) as own, ThreadPoolExecutor() as pool:
        said = list(own.answer("policy", TURNS, LAW))
        os.kill(own._process.pid, signal.SIGSTOP)  # so that the answer is certainly under way
        waiting = pool.submit(lambda: list(own.answer("policy", TURNS, LAW)))
        time.sleep(0.5)
        os.kill(own._process.pid, signal.SIGKILL)
        says = r"^the model process was ended by SIGKILL, perhaps because memory ran out$"
        with pytest.raises(ModelError, match=says):
            waiting.result(timeout=30)
        assert list(own.answer("policy", TURNS, LAW)) == said


def test_a_model_that_is_not_there_is_the_line_of_loading_it(tmp_path, request_of_two):
    gone = replace(request_of_two, model=replace(request_of_two.model, path=str(tmp_path / "gone")))
    with pytest.raises(ModelError, match=r"gone: no such folder$"), ModelProcess(gone):
        pass


def test_models_end_with_whoever_started_them_and_the_starter_never_imports_torch(talkers, tmp_path):
    code = (
        "import sys, time; from exptilt.verbs.chat import chat_request; "
        "from exptilt.conversations.model_process import ModelProcess; "
        f"process = ModelProcess(chat_request({str(talkers[0])!r}, [])); process.start(); "
        "print(process._process.pid, 'torch' in sys.modules, flush=True); time.sleep(600)"
    )
    starter = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert starter.stdout is not None
    pid, has_torch = starter.stdout.readline().split()
    starter.kill()
    starter.wait()
    starter.stdout.close()
    assert has_torch == "False"
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            return
        if state == "Z":
            return
        time.sleep(0.1)
    os.kill(int(pid), signal.SIGKILL)
    pytest.fail("the model process outlived its starter")
