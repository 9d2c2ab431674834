"""`transformers serve` with a tiny model: one round trip of sampling, one of judging, over real HTTP."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from exptilt.errors import ConfigError
from exptilt.judges.judge_templates import judge_template
from exptilt.judges.server_judge import ServerJudge
from exptilt.policies.tokenizers import train_word_tokenizer
from exptilt.preferences import Comparison
from exptilt.sampling.sample_rows import read_samples
from exptilt.servers.endpoint import Endpoint
from exptilt.verbs.sample import request_of, sample
from exptilt.votes.vote_store import VoteStore

LETTERS = "BCDFGHJKLMNPQRSTVWXZ"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that answers the letter at the end of a prompt by `[[letter]]`, and everything else by `fine`."""
    path = tmp_path_factory.mktemp("served") / "judge"
    words = [*LETTERS, *(f"[[{letter}]]" for letter in LETTERS), "one", "two", "three", "fine"]
    tokenizer = train_word_tokenizer([" ".join(words)])
    tokenizer.chat_template = "{% for turn in messages %}{{ turn['content'] }}{% endfor %}"
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=len(tokenizer), intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=1, max_position_embeddings=512, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, tie_word_embeddings=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    successor = {letter: f"[[{letter}]]" for letter in LETTERS} | dict.fromkeys(("one", "two", "three"), "fine")
    ends = [*successor.values()]
    ids = tokenizer.get_vocab()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.model.norm.weight.fill_(1)
        model.model.embed_tokens.weight.copy_(
            torch.eye(len(tokenizer))
        )  # a token is a direction, its successor is read off it
        for word, after in successor.items():
            model.lm_head.weight[ids[after], ids[word]] = 10
        for word in ends:
            model.lm_head.weight[tokenizer.eos_token_id, ids[word]] = 10
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    for name in ("fastapi", "uvicorn", "openai"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"transformers serve needs {name}")
    program = shutil.which("transformers", path=f"{Path(os.sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if program is None:
        pytest.skip("there is no program `transformers` here")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("log") / "serve.log"
    command = [program, "serve", str(folder), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    try:
        for _ in range(900):
            assert process.poll() is None, log.read_text()
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except OSError:
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(timeout=60)


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def test_it_judges(server, folder, tmp_path):
    shown = tmp_path / "last.jinja"
    shown.write_text("{{ prompt }} {{ second }} {{ label_second }} {{ first }} {{ label_first }}")
    pairs = [Comparison("one", ("two", "three")), Comparison("two", ("one", "three one"))]
    with VoteStore(tmp_path / "votes.db") as store:
        asks = ServerJudge(
            model=str(folder), template=judge_template(str(shown)), store=store, endpoint=Endpoint(base_url=server)
        )
        verdicts = list(asks(pairs))
        assert [verdict.outcome for verdict in verdicts] == [
            "first"
        ] * 4  # it names the label shown last: the first answer's
        assert [verdict.order for verdict in verdicts[:2]] in ([(0, 1), (1, 0)], [(1, 0), (0, 1)])
        calls = list(store.calls())
        assert len(calls) == len(store.votes()) == 4
        assert {call.finish_reason for call in calls} == {"stop"}
        assert {call.completion_tokens for call in calls} == {2}
        assert list(asks(pairs)) == verdicts
        assert len(list(store.calls())) == 4
        other = ServerJudge(
            model="unknown", template=judge_template("better"), store=store, endpoint=Endpoint(base_url=server)
        )
        with pytest.raises(ConfigError, match="'unknown'"):
            list(other(pairs))


def test_it_samples_turns_and_text(server, folder, tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    asked = ["two one", [{"role": "user", "content": "three K"}]]
    prompts.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in asked))
    settings = [
        f"data.train={prompts}",
        f"server.model={json.dumps(str(folder))}",
        "num_samples=2",
        "law.max_new_tokens=8",
    ]
    sample(request_of(server, settings, tmp_path / "out"))
    rows = sorted((str(row.prompt), row.completion, row.ended) for row in read_samples(tmp_path / "out"))
    assert [(completion, ended) for _, completion, ended in rows] == [("[[K]]", True)] * 2 + [("fine", True)] * 2
