"""Chats with system turns and tools: what is drawn is what is trained on, token by token."""

from __future__ import annotations

import json

import pytest

from exptilt.data.prepared import prepare
from exptilt.kinds import PAIR
from exptilt.policies.models import load_model, load_tokenizer
from exptilt.policies.saving import save_model
from exptilt.policies.tokenizers import train_tokenizer
from exptilt.settings.data_settings import DataConfig
from exptilt.settings.model_settings import ModelConfig, SmallModel
from exptilt.verbs.pair import pair, pair_request
from exptilt.verbs.sample import request_of, sample

TEMPLATE = (
    "{% if tools %}<|tools|>{{ tools | tojson }}<|end|>{% endif %}"
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
TOOLS = [{"type": "function", "function": {"name": "look", "description": "looks", "parameters": {}}}]
SIZE = SmallModel(hidden_size=16, num_layers=1, num_heads=2, max_positions=512)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chat")
    tokenizer = train_tokenizer(["the film was good and the plot was bad"] * 4, 300)
    tokenizer.add_special_tokens(
        {"additional_special_tokens": ["<|end|>", "<|user|>", "<|assistant|>", "<|system|>", "<|tools|>"]}
    )
    tokenizer.eos_token = "<|end|>"
    tokenizer.chat_template = TEMPLATE
    save_model(load_model(ModelConfig(config=SIZE), tokenizer), tokenizer, folder)
    return folder


def test_chats_are_drawn_and_trained_on_in_the_same_tokens(model, tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    rows = [
        {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": f"the film {n}?"}], "tools": TOOLS}
        for n in range(6)
    ]  # fmt: skip
    rows.append({"messages": [{"role": "user", "content": "the plot?"}]})
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    drawing = [f"data.train={prompts}", "num_samples=3", "law.max_new_tokens=8"]
    sample(request_of(str(model), drawing, tmp_path / "samples"))
    pair(pair_request([str(tmp_path / "samples"), "reward.kind=length", "pairs=all"], tmp_path / "pairs.jsonl"))
    written = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    tokenizer = load_tokenizer(ModelConfig(path=str(model)))
    settings = DataConfig(train=str(tmp_path / "pairs.jsonl"), on_empty="keep", on_missing_end="keep")
    prepared = prepare(settings, tokenizer, PAIR, None)
    codes = {finding.code: finding.count for finding in prepared.report.findings}
    assert "foreign_ids" not in codes
    assert len(prepared.train) == len(written) > 10
    for row, group in zip(written, prepared.train, strict=True):
        assert group.prompt.tolist() == row["prompt_ids"]
        assert [part.ids.tolist() for part in group.completions] == [row["chosen_ids"], row["rejected_ids"]]
    assert "look" in tokenizer.decode(written[0]["prompt_ids"])
    other = DataConfig(
        train=str(tmp_path / "pairs.jsonl"),
        on_empty="keep",
        on_missing_end="keep",
        on_lost="keep",
        chat_template="qwen3",
    )
    assert {f.code: f.count for f in prepare(other, tokenizer, PAIR, None, strict=False).report.findings}["foreign_ids"]
