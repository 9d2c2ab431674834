"""A run whose rollouts another process draws: killed in the middle of a step, it leaves a checkpoint and goes on bitwise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from safetensors.torch import load_file

pytest.importorskip("openai", reason="the extra `server` is not installed")

from exptilt.conversations.chat_request import ChatRequest
from exptilt.conversations.model_process import ModelProcess
from exptilt.errors import ServerError
from exptilt.losses import DPO, RLOO
from exptilt.policies.models import load_model
from exptilt.policies.saving import save_model
from exptilt.policies.tokenizers import train_tokenizer
from exptilt.runs.run_recipe import run_recipe
from exptilt.runs.run_rollouts import weighs_sampler
from exptilt.sampling.policy_on_server import ServerSampler
from exptilt.settings.evaluation_settings import EvaluateConfig
from exptilt.settings.model_settings import AdapterConfig, ModelConfig, SmallModel
from exptilt.settings.reward_settings import LengthConfig
from exptilt.settings.rollout_settings import RolloutConfig
from exptilt.settings.rounds_settings import RoundLaw
from exptilt.settings.sampler_settings import SamplerConfig
from exptilt.training.checkpoints.choice import newest_checkpoint

QUIET = Console(quiet=True)
STEPS = 6


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "model"
    tokenizer = train_tokenizer(["a good film"], 265)
    size = SmallModel(hidden_size=8, num_layers=1, num_heads=2, max_positions=96)
    save_model(load_model(ModelConfig(config=size), tokenizer), tokenizer, folder)
    return folder


def served(base: Path) -> ModelProcess:
    return ModelProcess(ChatRequest(model=ModelConfig(path=str(base))))


def online(recipe_of: Callable[..., Any], base: Path, name: str, sampler: SamplerConfig | None, **loss: Any) -> Any:
    return recipe_of(
        RLOO(beta=0.1, **loss),
        name,
        model={"path": str(base), "config": None},
        adapter=AdapterConfig(rank=2),
        evaluate=EvaluateConfig(num_prompts=2, num_samples=1),
        rollout=RolloutConfig(
            reward=LengthConfig(), num_samples=3, law=RoundLaw(max_new_tokens=6), take_prompts=True, sampler=sampler
        ),
        train={"max_steps": STEPS, "save_every": 100, "eval_every": 3},
    )


def at(process: ModelProcess, monkeypatch) -> SamplerConfig:
    monkeypatch.setenv("OPENAI_API_KEY", process._token)
    return SamplerConfig(url=f"http://127.0.0.1:{process._port}/v1", max_retries=0, timeout=60)


def weights_of(recipe: Any) -> dict[str, Any]:
    return load_file(next((recipe.folder / "model").glob("*model.safetensors")))


def test_a_server_killed_in_a_step_leaves_a_checkpoint_and_the_run_ends_as_if_it_had_stayed(
    base, recipe_of, metrics_of, monkeypatch, caplog
):
    with served(base) as process:
        whole = online(recipe_of, base, "whole", at(process, monkeypatch), max_weight=2.0)
        run_recipe(whole, QUIET, page=False)
        local = online(recipe_of, base, "local", None, max_weight=2.0)
        run_recipe(local, QUIET, page=False)
        cut = online(recipe_of, base, "cut", at(process, monkeypatch), max_weight=2.0)
        draw, asked = ServerSampler.draw, []

        def fatal(self: Any, *inputs: Any, **settings: Any) -> Any:
            asked.append(0)
            if len(asked) == 5:  # asked are: held-out prompts, three rollouts, held-out prompts, a rollout ...
                process._process.kill()
                process._process.wait()
            return draw(self, *inputs, **settings)

        monkeypatch.setattr(ServerSampler, "draw", fatal)
        with pytest.raises(ServerError):
            run_recipe(cut, QUIET, page=False)
        monkeypatch.setattr(ServerSampler, "draw", draw)
    stopped = newest_checkpoint(cut.folder / "checkpoints")
    assert stopped is not None
    assert int(stopped.name.removeprefix("step-")) == 3
    assert not (cut.folder / "rollout-weights").exists()
    with served(base) as process:  # another port, another key
        run_recipe(online(recipe_of, base, "cut", at(process, monkeypatch), max_weight=2.0), QUIET, page=False)
    first, second, third = weights_of(whole), weights_of(cut), weights_of(local)
    for name in first:
        assert first[name].numpy().tobytes() == second[name].numpy().tobytes(), name
        assert float((first[name] - third[name]).abs().max()) < 1e-4
    missing = [line for line in metrics_of(whole) if line not in metrics_of(cut)]
    assert [(line["step"], "eval/reward" in line) for line in missing] == [(3, True)]
    mismatch = [line["train/rollout/mismatch"] for line in metrics_of(cut) if "train/rollout/mismatch" in line]
    assert len(mismatch) == STEPS
    assert max(mismatch) < 1e-5
    assert "held-out prompts are not measured at step 3" in caplog.text  # and the next rollout stopped the run
    for one, other in zip(metrics_of(whole), metrics_of(local), strict=True):
        assert one == pytest.approx(other, abs=1e-3)


def test_samples_of_a_server_that_are_not_weighed_are_said(caplog):
    by_server = RolloutConfig(reward=LengthConfig(), sampler=SamplerConfig(url="http://127.0.0.1:1/v1"))
    assert weighs_sampler(RLOO(max_weight=2.0), by_server)
    assert not weighs_sampler(RLOO(max_weight=2.0), RolloutConfig(reward=LengthConfig()))
    assert not weighs_sampler(DPO(), by_server)
    assert not caplog.text
    assert not weighs_sampler(RLOO(), by_server)
    assert "loss.max_weight=2 weighs samples by trainer over sampler" in caplog.text
