"""What README.md tells people to type does what it says."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from exptilt.cli import app
from exptilt.policies.models import load_model
from exptilt.policies.saving import save_model
from exptilt.policies.tokenizers import train_tokenizer
from exptilt.settings.model_settings import ModelConfig, SmallModel

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SHELL = [
    shlex.split(line, comments=True)
    for block in re.findall(r"```bash\n(.*?)```", README, re.S)
    for line in block.splitlines()
    if line.strip()
]
QUICK = [
    "batch.size=8",
    "train.max_steps=2",
    "evaluate.num_prompts=2",
    "evaluate.max_new_tokens=8",
    "data.test_fraction=0.3",
]
QUICK_STUDY = [
    *("task.num_reviews=256", "task.sft_epochs=1.0", "task.width=16", "task.num_layers=1", "task.samples_per_prompt=2"),
    *("methods=[{loss: {name: dpo}}, {loss: {name: unlikelihood}}]", "measure.every=0", "measure.num_prompts=5"),
    *("measure.num_samples=3", "measure.pool=16", "measure.max_new_tokens=12"),
]


@pytest.fixture
def workshop(tmp_path, monkeypatch):
    """A folder with a model and preferences, as a user has them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EXPTILT_CACHE", str(tmp_path / "cache"))
    rows = [
        {"prompt": f"Question {number}?", "chosen": f" Yes, {number} it is.", "rejected": f" No, not {number}, never."}
        for number in range(120)
    ]
    Path("preferences.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokenizer = train_tokenizer((" ".join(row.values()) for row in rows), vocab_size=300)
    model = load_model(ModelConfig(config=SmallModel(hidden_size=16, num_layers=1, num_heads=2)), tokenizer)
    save_model(model, tokenizer, "my-model")
    return tmp_path


def run(*words):
    result = CliRunner().invoke(app, list(words))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, (words, result.output, result.exception)
    return result.output


def test_the_make_targets_exist():
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M)
    made = [words[1] for words in SHELL if words[0] == "make"]
    assert made == ["demo", "test"]
    assert set(made) <= set(targets)


def test_the_walk_from_init_to_report(workshop):
    commands = [words for words in SHELL if words[0] == "exptilt"]
    verbs = [words[1] for words in commands]
    assert verbs == [
        "init",
        "doctor",
        "plan",
        "prepare",
        "train",
        "evaluate",
        "report",
        "convert",
        "config",
        "frontier",
        "train",
    ]
    init, doctor, plan, prepare, train, evaluate, report, convert, config, frontier, _ = (
        words[1:] for words in commands
    )
    run(*init)
    recipe = Path("recipe.yaml")
    recipe.write_text(recipe.read_text().replace("path/to/model-folder-or-hub-id", "my-model"))
    assert "108 examples kept" in run(*doctor)
    assert "micro-batch" in run(*plan, *QUICK)
    assert "examples to train on" in run(*prepare)
    run(*train, *QUICK)
    run(*train, *QUICK, "output=runs/second", "loss=ipo")
    assert "accuracy with reference" in run(*evaluate)
    assert run(*report).strip().endswith("report.html")
    Path("trl.yaml").write_text("model_name_or_path: my-model\ndataset_name: pairs.jsonl\nbeta: 0.1\noutput_dir: out\n")
    assert "wrote converted.yaml" in run(*convert, "--output", "converted.yaml")
    assert "ipo" in run(*config)
    run(frontier[0], str(ROOT / frontier[1]), *QUICK_STUDY)
    assert (workshop / "runs/frontier-world/report.html").exists()
    assert (workshop / "runs/first/model/config.json").exists()


def test_the_python_example(capsys):
    _, block = re.findall(r"```python\n(.*?)```", README, re.S)  # the first needs a model of the hub
    exec(block, {})
    # By hand: margins 0.1 * ((-20 + 22) - (-28 + 25)) = 0.5 and 0.1 * ((-31 + 30) - (-30 + 30)) = -0.1.
    numbers = [float(number) for number in re.findall(r"-?\d+\.\d+", capsys.readouterr().out)]
    assert numbers[:2] == pytest.approx([0.4741, 0.7444], abs=1e-4)


def test_every_folder_of_the_map_is_there():
    for path in re.findall(r"^\| `([\w/.]+)`", README, re.M):
        assert (ROOT / path).exists(), path
    for path in re.findall(r"\]\(([\w/.]+)\)", README):
        assert (ROOT / path).exists(), path
