"""From prompts to a measured model in four commands: sample, pair, train, evaluate."""

from __future__ import annotations

import json
import sys

import pytest

from exptilt.cli import main
from exptilt.policies.models import load_model
from exptilt.policies.saving import save_model
from exptilt.policies.tokenizers import train_tokenizer
from exptilt.settings.model_settings import ModelConfig, SmallModel


@pytest.fixture
def exptilt_command(monkeypatch):
    """A command of exptilt, which must succeed."""

    def call(*words: str) -> None:
        monkeypatch.setattr(sys, "argv", ["exptilt", *words])
        with pytest.raises(SystemExit) as leaving:
            main()
        assert not leaving.value.code

    return call


@pytest.mark.slow
def test_samples_become_preferences_and_a_policy_that_earns_more(tmp_path, exptilt_command):
    tokenizer = train_tokenizer(["the film was good and the plot was bad"] * 4, 300)
    size = SmallModel(hidden_size=32, num_layers=1, num_heads=2, max_positions=64, initializer_range=0.2)
    save_model(load_model(ModelConfig(config=size), tokenizer), tokenizer, tmp_path / "model")
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"the film {n}"}) + "\n" for n in range(48)))
    drawing = [f"data.train={prompts}", "law.max_new_tokens=8", "num_samples=4"]
    exptilt_command("sample", str(tmp_path / "model"), *drawing, "--output", str(tmp_path / "samples"))
    pairs = tmp_path / "pairs.jsonl"
    exptilt_command("pair", str(tmp_path / "samples"), "reward.kind=length", "--output", str(pairs))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"output: {tmp_path / 'run'}\nmodel: {{path: {tmp_path / 'model'}}}\n"
        f"data: {{train: {pairs}, test_fraction: 0.2, on_empty: keep}}\n"
        "batch: {size: 16}\noptim: {learning_rate: 3.0e-3}\ntrain: {epochs: 6}\n"
    )
    exptilt_command("train", str(recipe))
    exptilt_command("evaluate", str(tmp_path / "run"))
    exptilt_command("sample", str(tmp_path / "run"), *drawing, "--output", str(tmp_path / "after"))
    before, after = (
        [json.loads(line) for line in (tmp_path / name / "samples.jsonl").read_text().splitlines()]
        for name in ("samples", "after")
    )
    assert len(after) == len(before) == 192
    lengths = [sum(len(row["completion"]) for row in rows) / len(rows) for rows in (before, after)]
    assert lengths[1] > lengths[0] * 1.05
    evaluation = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert evaluation
