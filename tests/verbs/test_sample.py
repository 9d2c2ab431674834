"""`exptilt sample`: every completion once, equal whatever happened on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from exptilt.errors import CheckpointError, ConfigError, DataError
from exptilt.policies.models import load_model
from exptilt.policies.saving import save_model
from exptilt.policies.tokenizers import train_tokenizer
from exptilt.sampling.sample_rows import read_samples
from exptilt.settings.model_settings import ModelConfig, SmallModel
from exptilt.verbs.sample import request_of, sample

SIZE = SmallModel(hidden_size=16, num_layers=1, num_heads=2, max_positions=64)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tokenizer = train_tokenizer(["the film was good and the plot was bad"] * 4, 300)
    made = load_model(ModelConfig(config=SIZE), tokenizer)
    save_model(made, tokenizer, folder)
    return folder


def prompts(path: Path, count: int, first: int = 0) -> Path:
    rows = [{"prompt": "the film " + "was " * (number % 5) + str(number)} for number in range(first, count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(model: Path, data: Path, output: Path, *overrides: str) -> list[dict]:
    sample(request_of(str(model), [f"data.train={data}", "law.max_new_tokens=6", *overrides], output))
    return [json.loads(line) for line in (output / "samples.jsonl").read_text().splitlines()]


def by_key(rows: list[dict]) -> dict:
    return {(row["prompt_id"], row["sample_index"]): row for row in rows}


def test_rows_keep_ids_and_log_probabilities_of_the_model_itself(model, tmp_path):
    rows = run(model, prompts(tmp_path / "p.jsonl", 3), tmp_path / "out", "num_samples=2", "law.temperature=0.7")
    plain = AutoModelForCausalLM.from_pretrained(model).eval()
    assert len(rows) == 6
    for row in rows:
        ids = torch.tensor([row["prompt_ids"] + row["completion_ids"]])
        with torch.no_grad():
            logps = plain(input_ids=ids).logits[0].log_softmax(-1)
        start = len(row["prompt_ids"])
        own = [float(logps[start + at - 1, token]) for at, token in enumerate(row["completion_ids"])]
        np.testing.assert_allclose(row["logps"], own, atol=1e-4)


def test_more_prompts_samples_or_another_batch_leave_the_rest_unchanged(model, tmp_path):
    few = by_key(run(model, prompts(tmp_path / "few.jsonl", 8, first=3), tmp_path / "few", "num_samples=2"))
    many = by_key(run(model, prompts(tmp_path / "many.jsonl", 12), tmp_path / "many", "num_samples=3", "batch_size=5"))
    assert len(few) == 10
    assert len(many) == 36
    assert all(many[key]["completion_ids"] == row["completion_ids"] for key, row in few.items())
    assert len({tuple(row["completion_ids"]) for row in many.values()}) > 20


def test_a_request_goes_on_with_more_samples_and_repeats_none(model, tmp_path):
    data = prompts(tmp_path / "p.jsonl", 4)
    first = run(model, data, tmp_path / "out", "num_samples=2")
    both = run(model, data, tmp_path / "out", "num_samples=5")
    assert both[: len(first)] == first
    assert len(by_key(both)) == len(both) == 20


def test_half_a_row_is_drawn_again(model, tmp_path):
    data, output = prompts(tmp_path / "p.jsonl", 6), tmp_path / "out"
    whole = run(model, data, output)
    file = output / "samples.jsonl"
    content = file.read_bytes()
    file.write_bytes(content[: len(content) * 2 // 3])
    assert run(model, data, output) == whole
    assert file.read_bytes() == content


def test_samples_of_another_request_are_not_gone_on_with(model, tmp_path):
    data = prompts(tmp_path / "p.jsonl", 2)
    run(model, data, tmp_path / "out")
    with pytest.raises(CheckpointError, match=r"holds samples of another request.*seed: 0.*seed: 1"):
        run(model, data, tmp_path / "out", "seed=1")
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="holds files that exptilt did not make"):
        run(model, data, theirs)


def test_right_answers_come_along(model, tmp_path):
    data = tmp_path / "questions.jsonl"
    data.write_text(json.dumps({"question": "the film", "answer": "good"}) + "\n")
    assert [row["answer"] for row in run(model, data, tmp_path / "out", "num_samples=2")] == ["good", "good"]


def test_what_cannot_be_asked_is_one_line(model, tmp_path):
    data = tmp_path / "long.jsonl"
    data.write_text(json.dumps({"prompt": "film " * 80}) + "\n")
    with pytest.raises(DataError, match=r"prompt 1 of 1 has .* tokens, and 1 leave no room for law.max_new_tokens=6"):
        run(model, data, tmp_path / "out")
    data.write_text('{"prompt": "a"}\n{"prompt": 3}\n')
    with pytest.raises(DataError, match=r"1 row cannot be read: .*long.jsonl:2.* must be text"):
        run(model, data, tmp_path / "other")
    with pytest.raises(ConfigError, match="num_samples must be at least 1"):
        request_of(str(model), [f"data.train={data}", "num_samples=0"], tmp_path)


@pytest.mark.slow
def test_a_killed_command_leaves_every_row_once_and_equal(model, tmp_path):
    data = prompts(tmp_path / "p.jsonl", 60)
    settings = ["num_samples=4", "batch_size=8"]
    whole = by_key(run(model, data, tmp_path / "whole", *settings))
    output = tmp_path / "killed"
    command = [sys.executable, "-m", "exptilt", "sample", str(model), f"data.train={data}", "law.max_new_tokens=6"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # as in this process: the last bit depends on it
    for kill in range(3):
        process = subprocess.Popen(
            [*command, *settings, "--output", str(output)], stderr=subprocess.DEVNULL, env=environment
        )
        file = output / "samples.jsonl"
        wanted = (kill + 1) * 20
        while process.poll() is None and (not file.exists() or file.read_bytes().count(b"\n") < wanted):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run([*command, *settings, "--output", str(output)], check=True, env=environment)
    rows = list(read_samples(output))
    assert len(rows) == 240
    assert by_key([json.loads(row.line()) for row in rows]) == whole
