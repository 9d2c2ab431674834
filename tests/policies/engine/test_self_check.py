"""Models that have no likelihood of a completion are refused before their first use."""

from __future__ import annotations

import pytest
import torch

from exptilt.errors import ModelError
from exptilt.policies.engine.self_check import packable, self_check
from exptilt.policies.scoring import score


def test_a_model_that_sees_the_future_is_refused(make_model, groups) -> None:
    encoder = make_model("bert")
    assert not encoder.config.is_decoder
    with pytest.raises(ModelError, match=r"BertLMHeadModel sees the future: .* nats.*is_decoder"):
        score(encoder, groups)
    assert not packable(make_model("bert", is_decoder=True))  # padded, and right


def test_causal_models_pass_however_they_are_made(make_model) -> None:
    for kind in ("llama", "gpt2", "mamba"):
        self_check(make_model(kind))


def test_half_precision_does_not_hide_the_future(make_model) -> None:
    with pytest.raises(ModelError, match="sees the future"):
        self_check(make_model("bert").to(torch.bfloat16))


def test_weights_that_are_not_finite_are_named(make_model) -> None:
    model = make_model("llama")
    model.model.layers[1].mlp.up_proj.weight.data[0, 0] = float("nan")
    with pytest.raises(ModelError, match=r"1 of its tensors hold NaN.*first: model\.layers\.1\.mlp\.up_proj\.weight"):
        packable(model)


def test_a_model_whose_own_forward_fails_is_one_line(make_model) -> None:
    model = make_model("llama")
    model.model.layers[0].mlp.up_proj = torch.nn.Linear(7, 7)  # as a config that does not fit its weights
    with pytest.raises(
        ModelError, match=r"cannot run: .*Its config\.json, its weights and its code do not fit together"
    ):
        packable(model)


def test_a_model_that_cannot_run_padded_rows_runs_one_sequence_a_call(make_model) -> None:
    model = make_model("mamba")
    forward = model.forward

    def alone(input_ids=None, **kwargs):
        if len(input_ids) > 1:
            raise ValueError("one sequence, please")
        return forward(input_ids=input_ids, **kwargs)

    model.forward = alone
    assert self_check(model).alone
