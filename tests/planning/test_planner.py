import json
from dataclasses import replace

import pytest

from exptilt.data.batching import Batches, pack
from exptilt.planning import planner
from exptilt.planning.arithmetic import Load, Manner, step_flops
from exptilt.planning.devices import Fleet, parse_fleet
from exptilt.planning.planner import Planner
from exptilt.planning.probe import Rehearsal
from exptilt.settings.load import dump, load
from exptilt.settings.recipe import Recipe
from exptilt.verbs.plan import plan


def fleet(count=1, memory=80e9):
    found = parse_fleet(f"{count}xH100-80GB")
    return Fleet(count, replace(found.device, memory=memory), here=False)


def test_steps_and_tokens_are_those_of_the_run(make_recipe):
    recipe = make_recipe("batch.tokens=100", "train.epochs=2", "sft={train: {epochs: 1}, batch: {size: 4}}")
    made = Planner(recipe, fleet())
    found = made.plan()
    rows = made.rows(recipe)
    assert [phase.name for phase in found.phases] == ["supervised phase", "dpo"]
    assert rows.num_train + rows.num_test == 30
    assert [phase.steps for phase in found.phases] == [-(-rows.num_train // 4), 2 * -(-rows.num_train // 8)]
    steps, load = -(-rows.num_train // 8), Load.of(rows.train)
    assert found.phases[1].tokens == pytest.approx(load.tokens / steps)
    batches = Batches(rows.train, recipe.batch, seed=recipe.seed)
    packed = [len(pack(batches.groups(step), 100)) for step in range(2 * steps)]
    assert found.phases[1].micro_batches == pytest.approx(sum(packed) / len(packed))
    assert found.phases[1].flops == pytest.approx(step_flops(found.size, load.times(1 / steps), Manner()), rel=1e-9)
    assert not (recipe.folder / "tokenizer").exists()  # a plan leaves nothing behind


def test_time_is_operations_over_the_rate_that_is_reached(make_recipe):
    recipe = make_recipe("train.precision=bfloat16")
    one, eight = (Planner(recipe, fleet(count)).plan().phases[0] for count in (1, 8))
    layers, weights = 1, Planner(recipe, fleet()).plan().size.trained
    told = layers * 0.7e-3
    moved = 28 * weights / 3.35e12
    assert one.step_seconds == pytest.approx(one.flops / (0.4 * 989e12) + told + moved)
    assert eight.flops == one.flops
    assert eight.step_seconds - told - moved == pytest.approx((one.step_seconds - told - moved) / 8)
    spent = {"training", "reference, once", "check of the reference", "held-out loss", "samples (roughly)"}
    assert set(one.seconds) == spent


def test_auto_is_the_largest_budget_that_fits(make_recipe):
    recipe = make_recipe("batch.tokens=auto", "batch.size=20")
    made = Planner(recipe, fleet(memory=1.4e9))
    largest = made.largest(recipe)
    assert sum(made.memory(recipe, largest, 2).values()) <= 0.85 * 1.4e9
    assert sum(made.memory(recipe, largest + 256, 2).values()) > 0.85 * 1.4e9
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
    assert plan(load(Recipe, path, ["batch.size=4"]), "8xH100", as_json=False) == 0
    shown = capsys.readouterr().out
    assert "8 x H100-80GB (ddp)" in shown
    assert "it fits" in shown
    assert "assumption" in shown
    assert plan(load(Recipe, path), "8xH100", as_json=True) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["fits"] is True
    assert content["peak"] == pytest.approx(sum(content["memory"].values()))
    assert content["fleet"]["count"] == 8


def rehearsal(**changed):
    measured = {
        "step": (1.0, 3.0),
        "forward": (0.5, 1.0),
        "update": 0.25,
        "draw": 0.1,
        "before": 10.0,
        "peak": (4e6, 7e6),
    }
    return Rehearsal(**{**measured, **changed})


def test_here_time_and_peak_are_those_of_a_rehearsal_on_lines_to_the_runs_own_size(make_recipe, monkeypatch):
    recipe, seen = make_recipe("batch.size=20", "batch.tokens=400", "train.precision=float32"), []
    monkeypatch.setattr(planner, "_FLOPS", {"cpu": 1.0})  # so that 256 tokens are the most that is rehearsed
    monkeypatch.setattr(planner, "rehearse", lambda subject: seen.append(subject) or rehearsal())
    found = Planner(recipe, parse_fleet("cpu")).plan()
    (subject,) = seen
    assert [len(some) for some in (subject.small, subject.large)] == [3, 3]
    sizes = [
        max(sum(group.num_tokens for group in groups) for (groups,) in some) for some in (subject.small, subject.large)
    ]
    assert sizes[0] <= 64 < sizes[1] <= 256
    assert subject.accumulates
    assert len(subject.prompts) == Planner(recipe, fleet()).rows(recipe).num_train
    slope = 3e6 / (sizes[1] - sizes[0])
    assert found.peak - found.memory["rows, and what reads them"] == pytest.approx(
        4e6 + slope * (found.batch_tokens - sizes[0])
    )
    assert found.memory["weights"] == 4 * found.size.total

    phase, manner = found.phases[0], Manner()
    operations = [
        sum(step_flops(found.size, Load.of(groups), manner) for (groups,) in some[1:]) / 2
        for some in (subject.small, subject.large)
    ]
    slope = 2 / (operations[1] - operations[0])
    start = 1 - slope * operations[0]
    assert phase.step_seconds == pytest.approx(phase.micro_batches * start + slope * phase.flops + 0.25)
    assert phase.seconds["check of the reference"] == pytest.approx(64 * 0.1)
    assert "measured here" in found.notes[0]


def test_a_run_with_short_steps_is_rehearsed_with_its_own(make_recipe, monkeypatch):
    recipe, seen = make_recipe("batch.size=8", "batch.tokens=100", "train.precision=float32"), []
    monkeypatch.setattr(planner, "rehearse", lambda subject: seen.append(subject) or rehearsal())
    made = Planner(recipe, parse_fleet("cpu"))
    made.plan()
    (subject,) = seen
    batches = Batches(made.rows(recipe).train, recipe.batch, seed=recipe.seed)
    own = [pack(batches.groups(step), 100) for step in range(batches.num_steps)]
    ids = [[[[group.id for group in groups] for groups in step] for step in some] for some in (subject.large, own)]
    assert len(own) >= 3
    assert ids[0] == ids[1]
    assert len(own[0]) > 1
    assert not subject.accumulates


def test_what_was_held_before_the_first_step_may_be_the_peak(make_recipe, monkeypatch):
    monkeypatch.setattr(planner, "rehearse", lambda subject: rehearsal(before=9e9))
    roomy = Fleet(1, replace(parse_fleet("cpu").device, memory=1e10), here=True)
    found = Planner(make_recipe(), roomy).plan()
    assert found.peak - found.memory["rows, and what reads them"] == pytest.approx(9e9)


def test_a_model_that_does_not_fit_here_is_not_rehearsed_and_says_so(make_recipe):
    tight = Fleet(1, replace(parse_fleet("cpu").device, memory=1e6), here=True)
    found = Planner(make_recipe(), tight).plan()
    assert (found.fits, found.phases, found.seconds) == (False, [], 0)
    assert any("time was not measured" in note for note in found.notes)


def test_a_step_is_the_mean_of_the_runs_own_first_steps_and_memory_is_that_of_the_largest(make_recipe):
    recipe = make_recipe("train.max_steps=2", "batch.tokens=null")
    made = Planner(recipe, fleet())
    batches = Batches(made.rows(recipe).train, recipe.batch, seed=recipe.seed)
    tokens = [sum(group.num_tokens for group in batches.groups(step)) for step in range(2)]
    found = made.plan()
    assert found.batch_tokens == max(tokens)
    load = Load.of([group for step in range(2) for group in batches.groups(step)])
    assert found.phases[0].tokens == load.tokens / 2
    assert found.phases[0].micro_batches == 1


def test_the_critic_of_ppo_is_a_second_model_that_is_trained(make_recipe):
    """Its weights, gradients and Adam's two numbers are held beside the policy's, and its steps take time of their own."""
    online = "rollout={reward: {kind: length}, take_prompts: true, num_samples: 4, epochs: 2, law: {max_new_tokens: 8}}"
    without = Planner(make_recipe(online, "loss={name: grpo}"), fleet())
    with_one = Planner(make_recipe(online, "loss={name: ppo}"), fleet())
    plain, found = without.plan(), with_one.plan()
    assert "critic" not in plain.memory
    # Head and embedding of the policy are one matrix, so that the critic has all of it and a score besides.
    assert found.memory["critic"] == 16 * (found.size.total + found.size.width)
    assert found.disk > 1.5 * plain.disk
    seconds = found.phases[0].seconds
    assert 0.3 * seconds["training"] < seconds["critic"] < 3 * seconds["training"]
    assert set(seconds) - set(plain.phases[0].seconds) == {"critic"}
