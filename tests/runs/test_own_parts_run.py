"""The example of docs/own_parts.md, from its text to a trained, resumed, measured, planned and reported run."""

from __future__ import annotations

import math
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from exptilt.errors import CheckpointError, ConfigError
from exptilt.losses import DPO
from exptilt.run_folder.folder import RunFolder
from exptilt.runs.run_recipe import run_recipe
from exptilt.settings.load import load
from exptilt.settings.recipe import Recipe
from exptilt.testing import require_conforming
from exptilt.training.callbacks.callback import Callback

PAGE = (Path(__file__).parents[2] / "docs" / "own_parts.md").read_text(encoding="utf-8")
LOSS, TEST, *_ = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
COUNTER = """
from dataclasses import dataclass
from pathlib import Path
from exptilt.training.callbacks.callback import Callback

@dataclass
class Count(Callback):
    path: str = "steps.txt"

    def after_step(self, progress, sums):
        with Path(self.path).open("a") as file:
            file.write(f"{progress.step}\\n")
"""


class StopAfter(Callback):
    def __init__(self, step):
        self.step = step

    def after_step(self, progress, sums):
        if progress.step == self.step:
            raise KeyboardInterrupt


@pytest.fixture
def module(tmp_path, monkeypatch):
    """The page's module under its own name, forgotten again afterwards."""
    (tmp_path / "my_losses.py").write_text(LOSS + COUNTER)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    yield tmp_path / "my_losses.py"
    sys.modules.pop("my_losses", None)


def test_the_test_of_the_page_passes(module):
    names: dict = {}
    exec(TEST, names)
    names["test_shifted_dpo_does_what_training_relies_on"]()
    shifted = names["ShiftedDPO"](shift=0.0)
    require_conforming(shifted, skip=("gradient", "finite"))
    sums = [__import__("torch").tensor([total]) for total in (-8.0, -14.0, -10.0, -12.0)]
    assert shifted.from_sums(*sums).loss.item() == pytest.approx(DPO().from_sums(*sums).loss.item(), rel=1e-6)


def test_a_loss_of_ones_own_runs_everywhere(module, make_recipe, tmp_path, capsys):
    own = (
        "loss={import: my_losses:ShiftedDPO, shift: 0.5}",
        "train={save_every: 1, callbacks: [{import: my_losses:Count}]}",
        "evaluate.num_prompts=3",
    )
    recipe = make_recipe(*own)
    whole = replace(recipe, output=str(tmp_path / "whole"))
    run_recipe(whole, page=False)
    assert Path("steps.txt").read_text().split() == ["1", "2", "3"]
    first = RunFolder(whole.folder).read("run.json")
    assert first["status"] == "done"

    with pytest.raises(KeyboardInterrupt):
        run_recipe(recipe, page=False, callbacks=[StopAfter(2)])
    outcome = run_recipe(load(Recipe, recipe.folder / "config.yaml"))
    weights = [(folder / "model" / "model.safetensors").read_bytes() for folder in (recipe.folder, whole.folder)]
    assert (outcome.finished, weights[0] == weights[1]) == (True, True)

    card = (recipe.folder / "model" / "README.md").read_text()
    assert "with the objective `shifted_dpo` (beta 0.1)" in card
    assert "import: my_losses:ShiftedDPO" in card
    assert re.search(r"source: '?[0-9a-f]{16}", card)
    assert (recipe.folder / "report.html").is_file()
    lines = (recipe.folder / "metrics.jsonl").read_text().splitlines()
    expected = math.log1p(math.exp(0.1 * 0.5))  # at the reference
    assert f'"train/loss": {expected:.4f}'[:-1] in lines[0] or f"{expected:.4f}"[:-1] in lines[0]

    from exptilt.verbs.evaluate import evaluate
    from exptilt.verbs.plan import plan

    before = RunFolder(recipe.folder).read("evaluation.json")["accuracy"]
    evaluate(str(recipe.folder), [])
    assert RunFolder(recipe.folder).read("evaluation.json")["accuracy"] == before
    assert plan(load(Recipe, recipe.folder / "config.yaml"), None, as_json=True) == 0
    assert "shifted_dpo" in capsys.readouterr().out

    with module.open("a") as file:
        file.write("# another formula\n")
    with pytest.raises(ConfigError, match=r"loss: the source of my_losses:ShiftedDPO has changed"):
        evaluate(str(recipe.folder), [])
    evaluate(str(recipe.folder), ["loss.source=none"])
    with pytest.raises(CheckpointError, match=r"holds a run of another recipe \(different: loss\.source"):
        run_recipe(make_recipe(*own), page=False)


STUDY = """
output: {output}
task:
  name: own
  model: {{path: {model}}}
  data: {{train: {rows}, test_fraction: 0.3}}
  reward: my_losses:length
methods: [{{loss: {{import: "my_losses:ShiftedDPO", shift: 0.5}}}}]
train: {{max_steps: 1}}
measure: {{num_prompts: 2, num_samples: 2, pool: 4, max_new_tokens: 2, proposals: 0}}
"""


def test_a_study_trains_it_beside_others(module, finished, tmp_path):
    from exptilt.settings.grid_settings import GridRecipe
    from exptilt.verbs.frontier import frontier

    with module.open("a") as file:
        file.write("\n\ndef length(prompt, completion):\n    return float(len(completion))\n")
    (tmp_path / "grid.yaml").write_text(
        STUDY.format(output=tmp_path / "grid", model=finished.folder / "sft" / "model", rows=finished.data.train)
    )
    frontier(load(GridRecipe, tmp_path / "grid.yaml"))
    assert "ShiftedDPO beta=0.1 shift=0.5" in (tmp_path / "grid" / "frontier.json").read_text()
    own = load(Recipe, next((tmp_path / "grid" / "runs").iterdir()) / "config.yaml").loss
    assert (own.path, own.setting("shift")) == ("my_losses:ShiftedDPO", 0.5)
