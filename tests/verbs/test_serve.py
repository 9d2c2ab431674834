"""`exptilt serve`: the command for each server, and a real `transformers serve` that answers."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from exptilt.errors import ConfigError, ModelError
from exptilt.policies.adapters import with_adapter
from exptilt.policies.models import load_model
from exptilt.policies.saving import save_model
from exptilt.policies.tokenizers import train_tokenizer
from exptilt.settings.model_settings import AdapterConfig, ModelConfig, SmallModel
from exptilt.verbs.serve import serve, server_command

SIZE = SmallModel(hidden_size=16, num_layers=1, num_heads=2, max_positions=128)


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "base"
    tokenizer = train_tokenizer(["the film was good and the plot was bad"] * 4, 300)
    save_model(load_model(ModelConfig(config=SIZE), tokenizer), tokenizer, folder)
    return folder


def adapter(base: Path, folder: Path, **settings) -> Path:
    model = with_adapter(load_model(ModelConfig(path=str(base))), AdapterConfig(**settings))
    save_model(model, train_tokenizer(["the film was good and the plot was bad"] * 4, 300), folder)
    return folder


def test_a_whole_model_is_served_as_it_is(base):
    assert server_command(str(base), "transformers", "transformers").words == ("transformers", "serve", str(base))
    command = server_command(str(base), "vllm", "vllm", ["--port", "9000"])
    assert command.words == ("vllm", "serve", str(base), "--served-model-name", "base", "--port", "9000")


def test_vllm_gets_an_adapter_beside_its_base_with_a_rank_that_it_knows(base, tmp_path):
    folder = adapter(base, tmp_path / "policy", rank=10)
    command = server_command(str(folder), "vllm", "vllm")
    assert command.merge_to is None
    assert command.words[:3] == ("vllm", "serve", str(base))
    flags = dict(zip(command.words[4::2], command.words[5::2], strict=True))
    assert command.words[3] == "--enable-lora"
    assert flags == {
        "--max-lora-rank": "16",
        "--lora-modules": f"policy={folder}",
        "--tokenizer": str(folder),
        "--chat-template": str(folder / "chat_template.jinja"),
    }


@pytest.mark.parametrize("change", [{"use_dora": True}, {"modules_to_save": ["lm_head"]}, {"rank_pattern": {"q": 3}}])
def test_an_adapter_that_vllm_cannot_take_is_merged(base, tmp_path, change):
    folder = adapter(base, tmp_path / "policy", rank=2)
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    command = server_command(str(folder), "vllm", "vllm", merged=tmp_path / "whole")
    assert command.merge_to == tmp_path / "whole"
    assert command.words[:3] == ("vllm", "serve", str(tmp_path / "whole"))
    with pytest.raises(ConfigError, match="name a folder with --merged FOLDER"):
        server_command(str(folder), "vllm", "vllm")


def test_what_cannot_be_served_is_one_line(base, tmp_path, monkeypatch):
    with pytest.raises(ModelError, match="no such folder"):
        server_command(str(tmp_path / "nothing"), "vllm", "vllm")
    rewards = tmp_path / "rewards"
    rewards.mkdir()
    (rewards / "config.json").write_text(json.dumps({"architectures": ["LlamaForSequenceClassification"]}))
    with pytest.raises(ModelError, match="reward model, which gives scores"):
        server_command(str(rewards), "vllm", "vllm")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(ConfigError, match="no server is installed"):
        serve(str(base))


def test_a_run_with_an_adapter_is_served_by_transformers_as_its_merged_model(base, tmp_path):
    """A real server: the command merges, prints what it runs, and becomes it."""
    pytest.importorskip("fastapi")
    pytest.importorskip("openai")
    folder = adapter(base, tmp_path / "policy", rank=2)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = ["serve", str(folder), "--merged", str(tmp_path / "whole"), "--", "--port", str(port), "--device", "cpu"]
    environment = {**os.environ, "PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1"}
    with (tmp_path / "out").open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "exptilt", *words], env=environment, stdout=out, stderr=subprocess.STDOUT
        )
    try:
        model = f"{tmp_path / 'whole'}"
        said = _ask(process, port, {"model": model, "messages": [{"role": "user", "content": "the"}], "max_tokens": 4})
        assert said["choices"][0]["message"]["role"] == "assistant"
    finally:
        process.kill()
        process.wait()
    printed = (tmp_path / "out").read_text().splitlines()[0]
    assert f"transformers serve {model} --port {port} --device cpu  # the adapter merged with its base" in printed


def _ask(process: subprocess.Popen, port: int, body: dict) -> dict:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    for _ in range(240):
        assert process.poll() is None, "the server ended"
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            pytest.fail(error.read().decode())
        except urllib.error.URLError:
            time.sleep(0.5)
    pytest.fail("the server did not come up")


@pytest.mark.parametrize("what", ["no/such/folder", "nowhere"])
def test_what_is_nowhere_is_told_before_a_server_is_started(what, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("exptilt.verbs.serve.is_reachable", lambda: False)
    monkeypatch.setattr("exptilt.verbs.serve.os.execvp", lambda *_: pytest.fail("started"))
    with pytest.raises(ModelError, match=f"{what}: no such folder"):
        serve(what)
