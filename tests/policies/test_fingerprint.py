from __future__ import annotations

import copy

import pytest
import torch

from exptilt.policies import fingerprint as module
from exptilt.policies.engine.self_check import packable
from exptilt.policies.fingerprint import fingerprint


@pytest.fixture(params=["full", "sampled"])
def model(request, make_model, monkeypatch):
    if request.param == "sampled":
        monkeypatch.setattr(module, "_FULL_BYTES", 0)
        monkeypatch.setattr(module, "_NUM_BLOCKS", 2)
        monkeypatch.setattr(module, "_BLOCK_BYTES", 16)
    return make_model("llama")


def test_any_single_weight_changes_it(model) -> None:
    before = fingerprint(model)
    for parameter in model.parameters():
        flat = parameter.data.view(-1)
        kept = flat[len(flat) // 2].clone()
        flat[len(flat) // 2] = torch.nextafter(kept, torch.tensor(9.0))
        assert fingerprint(model) != before
        flat[len(flat) // 2] = kept
    assert fingerprint(model) == before


def test_settings_of_the_forward_pass_change_it(model, make_model) -> None:
    other = make_model("llama", rope_parameters={"rope_type": "default", "rope_theta": 500.0})
    assert fingerprint(other) != fingerprint(model)
    assert fingerprint(copy.deepcopy(model).to(torch.bfloat16)) != fingerprint(model)


def test_what_changes_no_log_probability_leaves_it(model) -> None:
    before = fingerprint(model)
    twin = copy.deepcopy(model).train()
    twin.config.attention_dropout = 0.3
    twin.config.name_or_path = "elsewhere"
    assert packable(twin)
    assert fingerprint(twin) == before
