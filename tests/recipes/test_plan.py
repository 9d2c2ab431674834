import json
from dataclasses import replace

import pytest
import torch

from exptilt.config import dump
from exptilt.errors import ModelError
from exptilt.recipes import plan_probe
from exptilt.recipes.devices import Fleet, parse_fleet
from exptilt.recipes.plan import Planner
from exptilt.recipes.plan_show import plan_recipe
from exptilt.recipes.plan_work import Load, Manner, step_flops
from exptilt.train.objective import Objective
from exptilt.train.optim import OptimConfig


def fleet(count=1, memory=80e9):
    found = parse_fleet(f"{count}xH100-80GB")
    return Fleet(count, replace(found.device, memory=memory), here=False)


def test_steps_and_tokens_are_those_of_the_run(make_recipe):
    recipe = make_recipe("batch.tokens=100", "train.epochs=2", "sft={train: {epochs: 1}, batch: {size: 4}}")
    planner = Planner(recipe, fleet())
    found = planner.plan()
    rows = planner.rows(recipe)
    assert [phase.name for phase in found.phases] == ["supervised phase", "dpo"]
    assert rows.num_train + rows.num_test == 30
    assert [phase.steps for phase in found.phases] == [-(-rows.num_train // 4), 2 * -(-rows.num_train // 8)]
    load = Load.of(rows.train)
    assert found.phases[1].tokens == pytest.approx(load.tokens * 8 / rows.num_train)
    assert found.phases[1].micro_batches == -(-round(found.phases[1].tokens) // 100)
    assert found.phases[1].flops == pytest.approx(
        step_flops(found.size, load.times(8 / rows.num_train), Manner()), rel=1e-9
    )
    assert not (recipe.folder / "tokenizer").exists()  # a plan leaves nothing behind


def test_time_is_operations_over_the_rate_that_is_reached(make_recipe):
    recipe = make_recipe("train.precision=bfloat16")
    one, eight = (Planner(recipe, fleet(count)).plan().phases[0] for count in (1, 8))
    layers, weights = 1, Planner(recipe, fleet()).plan().size.trained
    told = layers * 0.7e-3 * one.micro_batches
    moved = 28 * weights / 3.35e12
    assert one.step_seconds == pytest.approx(one.flops / (0.4 * 989e12) + told + moved)
    assert eight.flops == one.flops
    assert eight.step_seconds - told - moved == pytest.approx((one.step_seconds - told - moved) / 8)
    assert set(one.seconds) == {"training", "reference, once", "held-out loss", "samples (roughly)"}


def test_auto_is_the_largest_budget_that_fits(make_recipe):
    recipe = make_recipe("batch.tokens=auto", "batch.size=20")
    planner = Planner(recipe, fleet(memory=1.4e9))
    largest = planner.largest(recipe)
    assert sum(planner.memory(recipe, largest, 2).values()) <= 0.85 * 1.4e9
    assert sum(planner.memory(recipe, largest + 256, 2).values()) > 0.85 * 1.4e9
    assert Planner(recipe, fleet()).largest(recipe) == 65_536


def test_what_does_not_fit_comes_with_what_would(make_recipe):
    recipe = make_recipe("model.config={hidden_size: 768, num_layers: 8, num_heads: 8, vocab_size: 300}")
    roomy = Planner(recipe, fleet(2)).plan()
    assert roomy.fits
    assert roomy.advice == []
    tight = Planner(recipe, fleet(2, memory=roomy.peak)).plan()  # a plan leaves a twentieth free
    assert not tight.fits
    assert any(line.startswith("parallel.kind=fsdp") for line in tight.advice)
    assert any("train.gradient_checkpointing=true" in line for line in tight.advice)
    assert not any("adapter" in line for line in tight.advice)  # not beside random weights
    hopeless = Planner(recipe, fleet(memory=1e6)).plan()
    assert hopeless.advice == ["nothing known makes it fit H100-80GB; use more or larger devices"]


def test_a_moving_reference_is_a_second_model(make_recipe):
    plain = Planner(make_recipe(), fleet()).plan()
    moving = Planner(make_recipe("reference.move_every=2"), fleet()).plan()
    assert plain.memory["reference model"] == 0
    assert moving.memory["reference model"] == 4 * plain.size.total
    assert moving.phases[0].flops > 1.3 * plain.phases[0].flops
    assert "reference, once" not in moving.phases[0].seconds


def test_the_command_prints_a_plan_and_json_and_says_by_its_status_whether_it_fits(make_recipe, tmp_path, capsys):
    path = tmp_path / "recipe.yaml"
    path.write_text(dump(make_recipe()))
    assert plan_recipe(path, ["batch.size=4"], "8xH100", as_json=False) == 0
    shown = capsys.readouterr().out
    assert "8 x H100-80GB (ddp)" in shown
    assert "it fits" in shown
    assert "assumption" in shown
    assert plan_recipe(path, [], "8xH100", as_json=True) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["fits"] is True
    assert content["peak"] == pytest.approx(sum(content["memory"].values()))
    assert content["fleet"]["count"] == 8


def test_a_probe_on_this_machine_extends_small_steps_to_the_whole_model(make_recipe, monkeypatch):
    recipe = make_recipe("model.config.num_layers=3")
    seen = []

    def probe(subject, groups, sizes, clock):
        seen.append((subject.twin(2).config.num_hidden_layers, subject.products, sizes))
        return plan_probe.Costs(plan_probe.Line(0.5, 0.001), plan_probe.Line(0.1, 0.0005), 1e-6)

    monkeypatch.setattr(plan_probe, "probe", probe)
    found = Planner(recipe, parse_fleet("cpu")).plan()
    assert seen == [(2, torch.float32, (512, 2048))]
    phase = found.phases[0]
    assert phase.step_seconds == pytest.approx(0.5 + 0.001 * phase.tokens + 1e-6 * found.size.trained)
    assert "measured here" in found.notes[0]


def test_a_probe_measures_each_part_and_changes_no_random_state(make_recipe):
    recipe = make_recipe()
    planner = Planner(recipe, parse_fleet("cpu"))
    before = torch.get_rng_state()
    subject = plan_probe.Subject(
        architecture=planner.architecture,
        adapter=None,
        weights=torch.float32,
        products=torch.float32,
        device=torch.device("cpu"),
        checkpointing=False,
        optimizer=OptimConfig(),
        objective=Objective(recipe.loss),
    )
    ticks = iter(range(10_000))
    costs = plan_probe.probe(subject, list(planner.rows(recipe).train), (64, 256), lambda: float(next(ticks)))
    # A clock that gives every piece of work one second: no cost grows with tokens or blocks.
    assert costs.step == costs.forward == plan_probe.Line(1.0, 0.0)
    assert costs.update * subject.twin(1).num_parameters() == pytest.approx(1.0)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_model_too_large_to_be_probed_here_asks_for_its_devices(make_recipe, monkeypatch):
    monkeypatch.setattr(plan_probe, "free_memory", lambda device: 1000)
    with pytest.raises(ModelError, match="--gpus 8xH100-80GB"):
        Planner(make_recipe(), parse_fleet("cpu")).plan()
