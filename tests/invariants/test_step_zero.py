"""Promise 1, through the real path: at the start every log-ratio is zero and the loss is what its formula says there."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from rich.console import Console

from exptilt.errors import TrainingError
from exptilt.losses import BCO, DPO, IPO, KTO, TDPO2, SimPO
from exptilt.policies.reference.references import TableReference
from exptilt.runs import run_reference
from exptilt.runs.run_recipe import run_recipe
from exptilt.settings.model_settings import ReferenceConfig

QUIET = Console(quiet=True)
AT_THE_REFERENCE = [
    (DPO(beta=0.1), math.log(2)),
    (DPO(beta=5.0, label_smoothing=0.2), math.log(2)),
    (IPO(beta=0.1), 25.0),  # (1 / (2 * 0.1))^2
    (BCO(), 2 * math.log(2)),
    (KTO(), 0.5),
    (TDPO2(), math.log(2)),
]


@pytest.mark.parametrize(("loss", "expected"), AT_THE_REFERENCE, ids=lambda value: getattr(value, "name", ""))
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_the_first_losses_are_those_of_equal_models(recipe_of, metrics_of, loss, expected, architecture):
    recipe = recipe_of(loss, small={"architecture": architecture}, train={"max_steps": 1})
    assert run_recipe(recipe, QUIET, page=False).finished
    held_out, _, trained = metrics_of(recipe)
    assert (held_out["step"], trained["step"]) == (0, 1)
    assert held_out["eval/loss"] == pytest.approx(expected, abs=1e-5)
    assert trained["train/loss"] == pytest.approx(expected, abs=1e-5)
    moved = [name for name in (*held_out, *trained) if "rewards/" in name or "displacement" in name]
    moved = [name for name in moved if not name.endswith("accuracies")]
    assert len(moved) >= 6
    assert [(held_out | trained)[name] for name in moved] == pytest.approx([0] * len(moved), abs=1e-4)
    if loss.kind == "pair":
        assert held_out["eval/rewards/accuracies"] == trained["train/rewards/accuracies"] == 0.5


def test_another_model_as_reference_is_not_held_to_zero(recipe_of, metrics_of):
    other = recipe_of(SimPO(), "other", train={"max_steps": 3})
    run_recipe(other, QUIET, page=False)
    recipe = recipe_of(
        DPO(beta=1.0),
        model={"tokenizer": str(other.folder / "model")},
        train={"max_steps": 1},
        reference=ReferenceConfig(model=str(other.folder / "model")),
    )
    assert run_recipe(recipe, QUIET, page=False).finished
    assert abs(metrics_of(recipe)[0]["eval/loss"] - math.log(2)) > 1e-3


def test_a_reference_that_is_not_the_start_stops_the_run_and_says_what_to_do(recipe_of, monkeypatch):
    real = run_reference.table_reference

    class Tampered(TableReference):
        def __call__(self, groups):
            found = super().__call__(groups)
            return replace(found, values=found.tokens() - 0.01 * (found.tokens() < -3))

    monkeypatch.setattr(run_reference, "table_reference", lambda *args, **more: Tampered(**vars(real(*args, **more))))
    recipe = recipe_of(DPO())
    with pytest.raises(TrainingError, match=r"differ by 0\.01 nats on a token.*set reference\.cache=false"):
        run_recipe(recipe, QUIET, page=False)
    assert not (recipe.folder / "checkpoints").exists()


def test_dropout_is_no_difference(recipe_of, metrics_of):
    """The comparison is made without dropout; the training loss of the first step has it."""
    recipe = recipe_of(DPO(beta=1.0), model={"dropout": 0.3}, small={"architecture": "gpt2"}, train={"max_steps": 1})
    assert run_recipe(recipe, QUIET, page=False).finished
    held_out, _, trained = metrics_of(recipe)
    assert held_out["eval/loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert abs(trained["train/loss"] - math.log(2)) > 1e-5


def test_the_check_leaves_weights_and_random_state_alone(tiny_model, draw_rows):
    from exptilt.policies.reference.step_zero import check_step_zero
    from exptilt.policies.scoring import score

    model = tiny_model(dtype=torch.float32)
    before = [parameter.clone() for parameter in model.parameters()]
    state = torch.get_rng_state()
    scorer = lambda groups: score(model, groups)  # noqa: E731
    assert check_step_zero(scorer, scorer, draw_rows("pair"), torch.float32) == 0.0
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))
