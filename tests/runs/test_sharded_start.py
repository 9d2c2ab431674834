"""Weights that are sharded are never whole in any process, and are bit for bit those of one process."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.tensor import DTensor
from transformers import LlamaConfig, LlamaForCausalLM

sys.path.insert(0, str(Path(__file__).parents[1] / "invariants"))  # the processes find it there too

from worlds import together

from exptilt.losses.from_choice import build_loss
from exptilt.policies.models import load_tokenizer
from exptilt.policies.tokenizers import train_tokenizer
from exptilt.processes.world import World
from exptilt.runs.run_models import Models, models_of, setup_of
from exptilt.settings.load import load
from exptilt.settings.recipe import Recipe

SHAPE = {"hidden_size": 1024, "intermediate_size": 2816, "num_attention_heads": 16, "num_hidden_layers": 4}
BLOCK = 4 * (4 * 1024**2 + 3 * 1024 * 2816)
"""Bytes of a block in float32."""


@pytest.fixture(scope="module")
def half(tmp_path_factory) -> Path:
    """A folder of 60 million weights in bfloat16, in several files."""
    folder = tmp_path_factory.mktemp("half") / "model"
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=4000, tie_word_embeddings=False, **SHAPE)).to(torch.bfloat16)
    model.save_pretrained(folder, max_shard_size="50MB")
    train_tokenizer(["a film that is good"] * 4, 300).save_pretrained(folder)
    return folder


def made(folder: Path, kind: str, *overrides: str) -> Models:
    keys = [f"output={folder / 'run'}", f"model.path={folder}", "data.train=x", f"parallel.kind={kind}"]
    recipe = load(Recipe, None, [*keys, *overrides])
    world = World.joined()
    return models_of(
        recipe.model,
        recipe.reference,
        setup_of(recipe, build_loss(recipe.loss), world.size),
        load_tokenizer(recipe.model),
        world,
    )


def own_memory() -> int:
    """Bytes of this process that are no pages of files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


class Peak:
    """The most memory of its own that a process has inside the block, above what it has before."""

    def __enter__(self) -> Peak:
        self.before, self.most, self._done = own_memory(), 0, False
        self._watch = threading.Thread(target=self._look)
        self._watch.start()
        return self

    def _look(self) -> None:
        while not self._done:
            self.most = max(self.most, own_memory() - self.before)
            time.sleep(0.001)

    def __exit__(self, *_: Any) -> None:
        self._done = True
        self._watch.join()


def sharded(world: World, folder: Path, overrides: tuple[str, ...]) -> dict[str, Any]:
    import peft  # noqa: F401  (its size is not the model's)

    with Peak() as peak:
        models = made(folder, "fsdp", *overrides)
    weights = dict(models.policy.named_parameters())
    shards = sum(one.to_local().numel() * one.element_size() for one in weights.values() if isinstance(one, DTensor))
    whole = {name: one.full_tensor().detach().clone() for name, one in weights.items() if isinstance(one, DTensor)}
    return {"peak": peak.most, "shards": shards, "whole": whole if world.is_first else None, "identity": models.weights}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory of one's own is read from Linux's /proc")
@pytest.mark.parametrize("overrides", [(), ("adapter.rank=4",)], ids=["full", "lora"])
def test_no_process_holds_more_than_its_shards_and_a_block(half, tmp_path, overrides):
    ranks = together(2, sharded, tmp_path, half, overrides)
    alone = made(half, "none", *overrides)
    assert {rank["identity"] for rank in ranks} == {alone.weights}
    expected = dict(alone.policy.named_parameters())
    assert expected.keys() == ranks[0]["whole"].keys()
    for name, whole in ranks[0]["whole"].items():
        assert whole.dtype == torch.float32
        assert torch.equal(whole, expected[name]), name
    for rank in ranks:
        assert rank["shards"] == pytest.approx(sum(4 * one.numel() for one in expected.values()) / 2, rel=0.01)
        assert rank["peak"] <= 1.2 * rank["shards"] + BLOCK
