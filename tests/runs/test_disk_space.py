from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from exptilt.planning.devices import parse_fleet
from exptilt.planning.planner import Planner
from exptilt.runs.disk_space import disk_space
from exptilt.runs.run_recipe import run_recipe
from exptilt.settings.model_settings import AdapterConfig
from exptilt.training.callbacks.callback import Callback


class Tensors(Callback):
    """The bytes of tensors in the newest checkpoint and in all of them, after each step."""

    def __init__(self, folder: Path):
        self.folder, self.newest, self.number = folder, 0, 0

    def after_step(self, progress, sums):
        steps = [path for path in self.folder.glob("checkpoints/step-*") if path.is_dir()]
        self.number = max(self.number, len(steps))
        for path in steps[-1:]:
            self.newest = sum(file.stat().st_size for file in path.glob("*.distcp"))


@pytest.mark.parametrize("adapter", [None, AdapterConfig(rank=64)])
def test_it_is_what_a_run_writes_with_the_checkpoint_under_way(make_recipe, finished, adapter):
    recipe = make_recipe("train.save_every=1", "train.max_steps=4", "train.keep_checkpoints=2", "evaluate.num_prompts=0",
                         "model.config={hidden_size: 64, num_layers: 2, num_heads: 2, max_positions: 64, vocab_size: 300}")  # fmt: skip
    if adapter is not None:
        recipe = replace(recipe, model=replace(recipe.model, path=str(finished.folder / "model"), config=None))
        recipe = replace(recipe, adapter=adapter)
    planner = Planner(recipe, parse_fleet("1xH100-80GB"))
    size = planner.counted(recipe)[0]
    seen = Tensors(recipe.folder)
    folder = run_recipe(recipe, Console(quiet=True), page=False, callbacks=[seen]).folder
    model = sum(file.stat().st_size for file in folder.model.glob("*.safetensors"))
    assert seen.number == 2
    names = 80_000  # bytes that a checkpoint needs for the names and shapes of its tensors
    assert planner.plan().disk == pytest.approx(3 * seen.newest + model, rel=0.08, abs=3 * names)
    assert disk_space(recipe, (size.total, size.trained), 1, trained=4, saved=4) == pytest.approx(
        seen.newest + model, rel=0.08, abs=names
    )
    assert seen.newest > 3 * names


def test_other_optimizers_a_moving_reference_and_the_best_weights_count(make_recipe):
    recipe = make_recipe()
    size = Planner(recipe, parse_fleet("1xH100-80GB")).counted(recipe)[0]

    def of(*overrides, steps=1):
        return disk_space(make_recipe(*overrides), (size.total, size.trained), steps, trained=4, saved=2) / size.total

    assert of() == 3 * 4 + 2
    assert of("optim.name=adafactor") == 4 + 2
    assert of("reference.move_every=1") == 4 * 4 + 2
    assert of("train={best: min eval/loss, eval_every: 1}") == 3 * 4 + 2 * 2
    assert of("train.keep_checkpoints=4", steps=10_000) == 5 * 3 * 4 + 2
