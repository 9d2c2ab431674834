"""Compiled blocks give the losses and gradients of blocks that are not (`train.compile`).

Traced forward and backward, for lengths that change; without the C++ that torch would generate, which takes a minute.
"""

from __future__ import annotations

from functools import partialmethod

import pytest
import torch

from exptilt.losses import SimPO
from exptilt.policies.policy import Policy
from exptilt.policies.tokenizers import train_tokenizer
from exptilt.runs.run_models import models_of, setup_of
from exptilt.training.objective import Objective
from exptilt.training.step import accumulate


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # torch asks for it, and hides it
def test_compiled_blocks_have_the_gradients_of_plain_ones(recipe_of, draw_rows, monkeypatch):
    traced = []

    def backend(graph, inputs):
        traced.append(len(inputs))
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    monkeypatch.setattr(torch.nn.Module, "compile", partialmethod(torch.nn.Module.compile, backend=backend))
    tokenizer, found = train_tokenizer(["a good film"], 265), []
    for compiled in (False, True):
        recipe = recipe_of(SimPO(), train={"compile": compiled})
        model = models_of(recipe.model, recipe.reference, setup_of(recipe, SimPO()), tokenizer).policy.train()
        losses = [
            accumulate(model, [draw_rows("pair", num)], Objective(SimPO()), Policy(model), None).means()["loss"]
            for num in (8, 3)
        ]
        found.append((losses, [weights.grad for weights in model.parameters()]))
        assert bool(traced) == compiled
    (losses, gradients), (others, other_gradients) = found
    assert others == pytest.approx(losses, abs=1e-6)
    for one, other in zip(gradients, other_gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
