"""A reward model's run against TRL's RewardTrainer (1.16), step by step: the same rows, seed and settings.

Both start from one folder of a language model and draw their score themselves. TRL gets token ids in the order in which exptilt's
batches have them, and pads them; exptilt packs them.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from exptilt.policies.models import load_model
from exptilt.policies.saving import save_model
from exptilt.policies.tokenizers import train_tokenizer
from exptilt.processes.world import World
from exptilt.run_folder.folder import RunFolder
from exptilt.runs.session import Session, open_session
from exptilt.settings.load import load
from exptilt.settings.model_settings import ModelConfig, SmallModel
from exptilt.settings.recipe import Recipe

pytest.importorskip("trl", reason="the comparison with TRL's own code needs it: pip install 'exptilt[peers]'")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from datasets import Dataset
    from trl import RewardConfig, RewardTrainer

pytestmark = pytest.mark.filterwarnings("ignore")
STEPS, SIZE, SEED, RATE = 12, 4, 3, 1e-3
SHAPE: dict[str, Any] = {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "max_positions": 64}
WORDS = ("red", "blue", "green", "good", "bad", "tall")


@pytest.fixture(params=["llama", "gpt2"])
def base(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A language model whose padding token is its end token, or one of its own."""
    small = SmallModel(architecture=request.param, initializer_range=0.2, **SHAPE)
    tokenizer = train_tokenizer([f"a {word} film it is not" for word in WORDS], 300)
    if request.param == "gpt2":
        tokenizer.pad_token = tokenizer.eos_token
    save_model(load_model(ModelConfig(config=small), tokenizer), tokenizer, tmp_path / "base")
    return tmp_path / "base"


def rows(with_margins: bool) -> list[dict[str, Any]]:
    def row(number: int) -> dict[str, Any]:
        word, other = WORDS[number % 6], WORDS[(number + 1 + number // 6) % 6]
        margin = {"margin": (1.0, 2 / 3, 1 / 3)[number % 3]} if with_margins else {}
        return {
            "prompt": f"film {number}",
            "chosen": f" it is {word}",
            "rejected": f" it is not {other} {word}",
        } | margin

    return [row(number) for number in range(24)]


def opened(base: Path, folder: Path, loss: str, with_margins: bool) -> Session:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows(with_margins)))
    recipe = load(Recipe, None, [
        f"output={folder / 'run'}", f"model.path={base}", f"data.train={path}", f"seed={SEED}", f"loss={loss}",
        f"batch.size={SIZE}", f"optim.learning_rate={RATE}", "optim.warmup_ratio=0", f"train.max_steps={STEPS}",
        "train.epochs=9", "train.log_every=1",
    ])  # fmt: skip
    (folder / "run").mkdir()
    return open_session(recipe, RunFolder(folder / "run"), Console(quiet=True), World.alone())


def of_trl(base: Path, session: Session, folder: Path, centering: float | None) -> tuple[list[dict[str, Any]], Any]:
    steps = [[group for part in session.batches.step(step) for group in part] for step in range(STEPS)]
    data = [
        {
            "chosen_ids": [*group.prompt.tolist(), *group.completions[0].ids.tolist()],
            "rejected_ids": [*group.prompt.tolist(), *group.completions[1].ids.tolist()],
            **({} if group.label.margin is None else {"margin": group.label.margin}),
        }
        for step in steps
        for group in step
    ]
    arguments = RewardConfig(
        output_dir=str(folder / "trl"), seed=SEED, per_device_train_batch_size=SIZE, max_steps=STEPS, logging_steps=1,
        learning_rate=RATE, lr_scheduler_type="linear", warmup_steps=0, weight_decay=0.0, max_grad_norm=1.0,
        center_rewards_coefficient=centering, bf16=False, use_cpu=True, report_to=[], save_strategy="no",
        train_sampling_strategy="sequential", model_init_kwargs={"dtype": "float32"}, disable_tqdm=True,
        gradient_checkpointing=False,
    )  # fmt: skip
    trainer = RewardTrainer(model=str(base), args=arguments, train_dataset=Dataset.from_list(data))
    start = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
    trainer.train()
    return [line for line in trainer.state.log_history if "loss" in line], start


@pytest.mark.parametrize("with_margins", [False, True], ids=["plain", "margins"])
@pytest.mark.parametrize("centering", [None, 0.01], ids=["free", "centred"])
def test_losses_and_metrics_are_those_of_trl_at_every_step(base, tmp_path, with_margins, centering):
    session = opened(base, tmp_path, f"{{name: bradley_terry, centering: {centering or 0}}}", with_margins)
    theirs, start = of_trl(base, session, tmp_path, centering)
    for name, weight in session.models.policy.named_parameters():
        assert torch.equal(weight, start[name]), name  # the score too, which both have drawn
    session.train()
    ours = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(ours) == len(theirs) == STEPS
    for mine, line in zip(ours, theirs, strict=True):
        assert mine["train/loss"] == pytest.approx(line["loss"], abs=1e-5)
        # A common shift of all scores has a gradient of nothing but rounding, of which Adam makes whole steps.
        for name, tolerance in {"accuracy": 0, "margin": 1e-4, "mean_reward": 1e-3}.items():
            assert mine[f"train/{name}"] == pytest.approx(line[name], abs=tolerance), name
        assert mine["train/grad_norm"] == pytest.approx(line["grad_norm"], rel=1e-3)
    assert abs(ours[0]["train/loss"] - ours[-1]["train/loss"]) > 0.05
