"""The model of a run at a step: equal to what the run saved at its end, with and without an adapter."""

import pytest
import torch

from exptilt.errors import CheckpointError
from exptilt.policies.models import load_model, load_tokenizer
from exptilt.policies.saving import save_model
from exptilt.policies.tokenizers import train_tokenizer
from exptilt.runs.checkpoint_model import checkpoints_at, model_at
from exptilt.runs.run_recipe import run_recipe
from exptilt.settings.load import load
from exptilt.settings.model_settings import ModelConfig, SmallModel
from exptilt.settings.recipe import Recipe


@pytest.mark.parametrize("adapter", ["", "adapter: {rank: 2}\n"])
def test_the_last_checkpoint_is_the_saved_model(tmp_path, adapter):
    tokenizer = train_tokenizer(["the film was good and the plot was bad"] * 4, 300)
    size = SmallModel(hidden_size=32, num_layers=1, num_heads=2, max_positions=64, initializer_range=0.2)
    save_model(load_model(ModelConfig(config=size), tokenizer), tokenizer, tmp_path / "base")
    rows = [f'{{"prompt": "the film {k}", "chosen": " good", "rejected": " bad"}}\n' for k in range(12)]
    (tmp_path / "pairs.jsonl").write_text("".join(rows))
    recipe_file = tmp_path / "recipe.yaml"
    recipe_file.write_text(
        f"output: {tmp_path / 'run'}\nmodel: {{path: {tmp_path / 'base'}}}\ndata: {{train: {tmp_path / 'pairs.jsonl'}}}\n"
        f"{adapter}batch: {{size: 4}}\noptim: {{learning_rate: 1.0e-2}}\n"
        "train: {epochs: 1, save_every: 1, keep_checkpoints: 9}\nevaluate: {num_prompts: 0}\n"
    )
    recipe = load(Recipe, recipe_file)
    run_recipe(recipe)
    saved = ModelConfig(path=str(tmp_path / "run" / "model"))
    tokenizer, model = load_tokenizer(saved), load_model(saved)
    steps = checkpoints_at(tmp_path / "run", [])
    assert list(steps) == [1, 2, 3]
    ids = torch.tensor([[5, 7, 9, 11]])
    logits = {step: model_at(recipe, path, tokenizer)(ids).logits for step, path in steps.items()}
    torch.testing.assert_close(logits[3], model(ids).logits, rtol=1e-5, atol=1e-5)
    assert (logits[1] - logits[3]).abs().max() > 1e-3
    with pytest.raises(CheckpointError, match="no checkpoint of step 4; there are 1, 2, 3"):
        checkpoints_at(tmp_path / "run", [4])
    (steps[2] / "manifest.json").unlink(missing_ok=True)
    for file in steps[2].iterdir():
        file.unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        checkpoints_at(tmp_path / "run", [2])
