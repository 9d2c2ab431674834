"""Promise 5: what is not finite stops the step before anything moves, and names the rows."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from rich.console import Console
from worlds import InfiniteSlope

from exptilt.errors import NonFiniteError
from exptilt.losses import AOT, BCO, DPO, IPO, KTO, SFT, PlackettLuce, SimPO
from exptilt.policies.scorer import ScorerFunction
from exptilt.policies.scoring import score
from exptilt.runs.run_recipe import run_recipe
from exptilt.settings.training_settings import TrainConfig
from exptilt.training.loop import train
from exptilt.training.objective import Objective
from exptilt.types import Pair, PairLoss


def snapshot(run: Any) -> dict[str, Any]:
    return copy.deepcopy(
        {
            "model": run.model.state_dict(),
            "optimizer": run.optimizer.state_dict(),
            "schedule": run.schedule.state_dict(),
            "loss": run.objective.state,
        }
    )


def same(one: Any, other: Any) -> bool:
    """Bit for bit, NaN included."""
    if isinstance(one, torch.Tensor):
        return one.numpy().tobytes() == other.numpy().tobytes()
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def after_one_good_step(make_run: Any, loss: Any, rows: list[Any]) -> Any:
    """A run whose optimizer and running statistics hold something, with a second step still to do."""
    run = make_run(loss, [[rows[:4], rows[4:]]] * 2)
    train(replace(run, num_steps=1))
    return replace(run, settings=TrainConfig(resume="never"))  # a resume would mend what the test breaks


@pytest.mark.parametrize(
    "loss", [DPO(), BCO(), AOT(), KTO(), SFT(), SimPO(), PlackettLuce()], ids=lambda loss: loss.name
)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite(make_run, draw_rows, loss, value):
    run = after_one_good_step(make_run, loss, Objective(loss).prepare(draw_rows(loss.kind)))
    with torch.no_grad():
        run.model.lm_head.weight[:, 3] = value
    before = snapshot(run)
    with pytest.raises(NonFiniteError, match=r"log-probability of \d row.*no weight was moved: rows\.jsonl:\d"):
        train(run)
    assert same(snapshot(run), before)


@pytest.mark.parametrize("loss", [DPO(), BCO()], ids=lambda loss: loss.name)
def test_one_row_with_an_infinite_log_probability_is_the_one_named(make_run, draw_rows, loss):
    rows = draw_rows("pair")
    run = after_one_good_step(make_run, loss, rows)

    def broken(groups: Any) -> Any:
        logps = run.policy(groups)
        place = next((at for at, group in enumerate(groups) if group.id == "rows.jsonl:6"), None)
        if place is None:
            return logps
        shift = torch.zeros(len(logps))
        shift[2 * place + 1] = float("inf")
        return replace(logps, values=logps.tokens() + shift.repeat_interleave(logps.lengths))

    before = snapshot(run)
    with pytest.raises(NonFiniteError, match=r"the log-probability of 1 row.*: rows\.jsonl:6\."):
        train(replace(run, policy=ScorerFunction(broken)))
    assert same(snapshot(run), before)


class Steep(IPO):
    """IPO's loss to the sixth: 1e360 is no float64."""

    def __call__(self, policy: Pair, reference: Pair | None) -> PairLoss:
        out = super().__call__(policy, reference)
        return out._replace(loss=out.loss**6)


def test_a_loss_that_overflows_names_its_row(make_run, draw_rows):
    rows = draw_rows("pair")
    run = after_one_good_step(make_run, Steep(), rows)

    def far(groups: Any) -> Any:
        logps = run.policy(groups)
        shift = torch.tensor([-1e30 if group.id == "rows.jsonl:2" else 0.0 for group in groups for _ in range(2)])
        shift[1::2] = 0
        return replace(logps, values=logps.tokens() + shift.repeat_interleave(logps.lengths))

    before = snapshot(run)
    with pytest.raises(NonFiniteError, match=r"the loss of 1 row is not finite.*: rows\.jsonl:2\."):
        train(replace(run, policy=ScorerFunction(far)))
    assert same(snapshot(run), before)


@pytest.mark.parametrize("loss", [DPO(), AOT(), BCO()], ids=lambda loss: loss.name)
def test_a_finite_loss_with_a_gradient_that_is_not(make_run, draw_rows, loss):
    rows = draw_rows("pair")
    run = after_one_good_step(make_run, loss, rows)

    def steep(groups: Any) -> Any:
        logps = score(run.model, groups)
        bad = torch.tensor([group.id == "rows.jsonl:3" for group in groups for _ in range(2)])
        return replace(logps, values=InfiniteSlope.apply(logps.tokens(), bad.repeat_interleave(logps.lengths)))

    before = snapshot(run)
    with pytest.raises(NonFiniteError, match=r"gradient is not finite.*no weight was moved.*own: rows\.jsonl:3\."):
        train(replace(run, policy=ScorerFunction(steep)))
    assert same(snapshot(run), before)


def test_a_run_that_diverges_never_writes_nan(recipe_of, metrics_of):
    """A learning rate of 1e38 overflows the weights on the second step; the run stops, and what is on disk is finite."""
    from exptilt.settings.training_settings import OptimConfig

    recipe = recipe_of(SimPO(), optim=OptimConfig(learning_rate=1e38, warmup_ratio=0.0))
    with pytest.raises(NonFiniteError, match="not finite"):
        run_recipe(recipe, Console(quiet=True), page=False)
    assert "NaN" not in (recipe.folder / "metrics.jsonl").read_text()
    assert not (recipe.folder / "model").exists()
