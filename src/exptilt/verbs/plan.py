"""`exptilt plan`: a plan for people and for programs."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from exptilt.planning.devices import parse_fleet
from exptilt.planning.phases import Plan
from exptilt.planning.planned_rounds import planned_round
from exptilt.planning.planner import Planner
from exptilt.processes.surroundings import left_as_found
from exptilt.runs.rounds.round_recipe import prompt_data, rounds_of
from exptilt.runs.rounds.round_work import work_of
from exptilt.sampling.prompts_to_sample import prompts_of
from exptilt.settings.recipe import Recipe
from exptilt.wording import counted


@left_as_found()
def plan(recipe: Recipe, gpus: str | None, as_json: bool) -> int:
    """Plan a recipe and print it.

    Args:
        recipe: the run.
        gpus: "8xH100-80GB", "cpu"; None is this machine.
        as_json: print JSON instead of tables.

    Returns:
        0, or 1 if it would not fit.
    """
    if recipe.rounds is not None:
        return _plan_rounds(recipe, gpus, as_json)
    plan = Planner(recipe, parse_fleet(gpus)).plan()
    if as_json:
        print(plan_json(plan))
    else:
        print_plan(plan, Console())
    return int(not plan.fits)


def _plan_rounds(recipe: Recipe, gpus: str | None, as_json: bool) -> int:
    """Plan one round, whose rows are the most there can be; the others take as long. The supervised phase is planned by itself."""
    rounds = rounds_of(recipe)
    with planned_round(recipe) as one:
        plan = Planner(one, parse_fleet(gpus)).plan()
    num_prompts = len(prompts_of(prompt_data(recipe)).prompts)
    if as_json:
        print(
            json.dumps(
                json.loads(plan_json(plan)) | {"num_rounds": rounds.num_rounds, "num_prompts": num_prompts}, indent=1
            )
        )
        return int(not plan.fits)
    console = Console()
    for line in work_of(rounds, recipe, num_prompts):
        console.print(line, highlight=False, soft_wrap=True)
    console.print("\nOne round, if every completion has the greatest length and every pair makes a row:")
    print_plan(plan, console)
    console.print(
        f"all {counted(rounds.num_rounds, 'round')}: at most {_duration(rounds.num_rounds * plan.seconds)}, and what the "
        f"{rounds.labelled_by} {'take' if rounds.labelled_by == 'people' else 'takes'} to label",
        highlight=False,
        soft_wrap=True,
    )
    if recipe.sft is not None:
        console.print(
            "the supervised phase comes before that: `exptilt plan` with rounds=null tells its time", soft_wrap=True
        )
    return int(not plan.fits)


def print_plan(plan: Plan, console: Console) -> None:
    """Print the memory and time that a run takes, whether it fits, and the basis of these numbers."""
    size = plan.size
    trained = "all of them trained" if size.trained == size.total else f"{_count(size.trained)} trained"
    console.print(
        f"{size.architecture}: {_count(size.total)} weights, {trained}; products in {plan.products}; on {plan.fleet}"
        f"{'' if plan.fleet.count == 1 else f' ({plan.parallel})'}",
        highlight=False,
        soft_wrap=True,
    )
    console.print(_memory(plan))
    if plan.phases:
        console.print(_time(plan))
    room = plan.fleet.device.memory
    verdict = f"{plan.peak / 1e9:.3g} GB of {room / 1e9:.3g} GB on each device at the peak"
    console.print(
        f"it fits: {verdict}" if plan.fits else f"it does not fit: {verdict}", style="green" if plan.fits else "red"
    )
    console.print(f"disk for checkpoints and model: {plan.disk / 1e9:.3g} GB", highlight=False)
    for line in plan.advice:
        console.print(f"would fit with {line}" if "=" in line else line, highlight=False, soft_wrap=True)
    for note in plan.notes:
        console.print(f"- {note}", style="dim", highlight=False, soft_wrap=True)


def plan_json(plan: Plan) -> str:
    """The plan as JSON: bytes, seconds, operations."""
    content: dict[str, Any] = asdict(plan)
    content["fleet"] = {"count": plan.fleet.count, **asdict(plan.fleet.device)}
    content |= {"peak": plan.peak, "fits": plan.fits, "seconds": plan.seconds}
    return json.dumps(content, indent=1)


def _memory(plan: Plan) -> Table:
    table = Table("memory of each device", "GB", box=None, pad_edge=False)
    for name, size in plan.memory.items():
        what = f"{name} and all else ({plan.batch_tokens} tokens)" if name == "activations" else name
        if size:
            table.add_row(what, f"{size / 1e9:.3g}")
    return table


def _time(plan: Plan) -> Table:
    table = Table("time", "", "", box=None, pad_edge=False)
    for phase in plan.phases:
        each = f"{phase.steps} steps of {_duration(phase.step_seconds)}"
        work = f"{phase.tokens:,.0f} unique tokens in {phase.micro_batches:.3g} micro-batches, {phase.flops / 1e12:.3g} TFLOP"
        table.add_row(phase.name, each, work)
        for name, seconds in phase.seconds.items():
            table.add_row(f"  {name}", _duration(seconds), "")
    table.add_row("in all", _duration(plan.seconds), "")
    return table


def _count(number: float) -> str:
    return f"{number / 1e9:.3g} B" if number >= 1e9 else f"{number / 1e6:.3g} M"


def _duration(seconds: float) -> str:
    """Seconds in a unit that suits them.

    >>> _duration(0.0123), _duration(75), _duration(7300)
    ('12.3 ms', '75 s', '2.03 h')
    """
    for limit, divisor, unit in ((1, 1e-3, "ms"), (120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / divisor:.3g} {unit}"
    return f"{seconds / 86_400:.3g} days"
