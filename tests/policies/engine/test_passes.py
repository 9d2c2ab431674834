"""Rows that would change each other's positions never share a call."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from exptilt.data.groups import Group
from exptilt.errors import ModelError
from exptilt.policies.engine import self_check as checking
from exptilt.policies.engine.forward import context_length
from exptilt.policies.engine.inside import ENTRANCE
from exptilt.policies.engine.passes import lowered_border, passes, rule_of, run_alone
from exptilt.policies.engine.self_check import packable, self_check
from exptilt.policies.hidden_states import state_sums
from exptilt.policies.policy import Policy
from exptilt.policies.scoring import score

BORDER = 16
LONGROPE = {
    "original_max_position_embeddings": BORDER,
    "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 10_000.0,
        "short_factor": [1.0, 1.0],
        "long_factor": [3.0, 9.0],
        "original_max_position_embeddings": BORDER,
        "factor": 4.0,
    },
}
DYNAMIC = {
    "rope_parameters": {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 4.0},
    "max_position_embeddings": BORDER,
}
KINDS = {"longrope": ("phi3", LONGROPE), "dynamic": ("llama", DYNAMIC)}


@pytest.fixture(params=KINDS)
def model(request, make_model):
    kind, settings = KINDS[request.param]
    return make_model(kind, **settings)


@pytest.fixture
def across(make_group) -> list[Group]:
    """Rows on both sides of 16 tokens; the first and the last have completions on both, the short one first and last."""
    return [make_group(9, 4, 20), make_group(3, 5, 6), make_group(12, 30, 9), make_group(14, 25, 1, 2, 25)]


def own(model, groups: list[Group]) -> torch.Tensor:
    """(N,) by the model's own forward: one sequence a call, its memory of longer ones wiped by a short call in between.

    Fed are all tokens but the last, which predicts nothing.
    """
    found = []
    for group in groups:
        for one in group.completions:
            model(input_ids=torch.tensor([[5]]), use_cache=False)
            ids = torch.from_numpy(np.concatenate([group.prompt, one.ids]).astype(np.int64))
            logits = model(input_ids=ids[None, :-1], use_cache=False).logits[0, len(group.prompt) - 1 :]
            logps = logits.log_softmax(-1).gather(1, ids[len(group.prompt) :, None]).squeeze(1)
            found.append(logps[torch.from_numpy(one.counted)])
    return torch.cat(found)


def test_short_and_long_rows_are_as_alone(model, across) -> None:
    with torch.no_grad():
        expected = own(model, across)
        assert packable(model)
        torch.testing.assert_close(score(model, across).tokens(), expected, rtol=0, atol=1e-5)
        alone = torch.cat([score(model, [group]).tokens() for group in across])
    torch.testing.assert_close(alone, expected, rtol=0, atol=1e-5)


def test_in_one_call_they_would_not_be(make_model, across) -> None:
    """What makes the test above one that can fail: frequencies beyond the border are far from those before it."""
    model = make_model("phi3", **LONGROPE)
    with torch.no_grad():
        expected = own(model, across)
        found = torch.cat(
            [rows.gather(1, targets[:, None]).squeeze(1) for rows, targets in checking.separate_rows(model, across)]
        )
    assert (found - expected).abs().max() > 0.1


def test_gradients_do_not_depend_on_the_company(model, across) -> None:
    def gradients(calls: list[list[Group]]) -> dict[str, torch.Tensor]:
        model.zero_grad()
        for call in calls:
            Policy(model).backward(call, lambda _, logps: logps.sum().square().sum())
        return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}

    together, apart = gradients([across]), gradients([[group] for group in across])
    assert together
    for name, gradient in apart.items():
        torch.testing.assert_close(together[name], gradient, rtol=1e-3, atol=1e-3)


def test_a_loss_sees_both_sides_of_a_pair_that_crosses_the_border(model, across) -> None:
    seen: list[tuple[int, list[int]]] = []

    def loss_of(groups, logps):
        seen.append((len(groups), logps.lengths.tolist()))
        return logps.sum().sum()

    Policy(model).backward(across[:1], loss_of)
    assert seen == [(1, [4, 20])]


def test_hidden_states_too(model, across) -> None:
    together, apart = state_sums(model, across), [state_sums(model, [group]) for group in across]
    torch.testing.assert_close(together.sums, torch.cat([one.sums for one in apart]), rtol=0, atol=1e-4)
    assert together.lengths.tolist() == [4, 20, 5, 6, 30, 9, 25, 1, 2, 25]


def test_rows_are_cut_at_the_border_and_put_back_in_order(make_model, across) -> None:
    model = make_model("phi3", **LONGROPE)
    parts = passes([model], across)
    assert len(parts) == 2
    assert [[len(group.completions) for group in part.groups] for part in parts] == [[1, 2, 2], [1, 2, 2]]
    # Fed are all tokens but the last: 12, 28 | 7, 8 | 41, 20 | 38, 14, 15, 38.
    assert [list(part.completions) for part in parts] == [[0, 2, 3, 7, 8], [1, 4, 5, 6, 9]]
    found = [torch.tensor(part.completions) for part in parts]
    assert parts.in_order(found, per_completion=True).tolist() == list(range(10))


def test_where_nothing_depends_on_length_there_is_one_call(make_model, across) -> None:
    model = make_model("llama")
    assert rule_of(model).kind == ""
    assert len(passes([model], across)) == 1


def test_processes_that_share_weights_make_equally_many_calls(make_model, across) -> None:
    model = make_model("phi3", **LONGROPE)
    object.__setattr__(model, ENTRANCE, None)
    assert [len(passes([model], rows)) for rows in (across, across[1:2], [])] == [2, 2, 2]
    dynamic = make_model("llama", **DYNAMIC)
    object.__setattr__(dynamic, ENTRANCE, None)
    with pytest.raises(ModelError, match=r"cannot be sharded; set parallel\.kind=ddp"):
        passes([dynamic], across)


def test_the_probe_crosses_the_border(make_model, monkeypatch) -> None:
    """With everything in one call, as before, the self-check would fail: so it looks on both sides."""
    far = {
        "original_max_position_embeddings": 40,
        "rope_parameters": {**LONGROPE["rope_parameters"], "original_max_position_embeddings": 40},
    }
    model = make_model("phi3", **far)
    assert self_check(model).packed
    assert model.config.rope_parameters["original_max_position_embeddings"] == 40
    monkeypatch.setattr(checking, "passes", lambda models, groups: passes([make_model("llama")], groups))
    assert not self_check(make_model("phi3", **far)).packed


def test_a_lowered_border_is_put_back_after_a_failure(make_model) -> None:
    model = make_model("phi3", **LONGROPE)

    def fails() -> None:
        with lowered_border(model, 5):
            assert rule_of(model).border == 5
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert rule_of(model).border == BORDER


def test_dynamic_positions_reach_beyond_their_own_context(make_model) -> None:
    assert context_length(make_model("llama", **DYNAMIC)) == 4 * BORDER


def test_rows_that_change_each_other_in_any_company_run_alone(make_model, across) -> None:
    model = make_model("llama")
    run_alone(model)
    assert len(passes([model], across)) == 10


def test_a_model_whose_rows_change_each_other_is_found(make_model, groups) -> None:
    model = make_model("llama")
    kind = type(model)

    class Sociable(kind):  # type: ignore[misc, valid-type]
        """Its logits depend on the widest row of the call, as block-sparse attention may."""

        def forward(self, input_ids, *args, **kwargs):
            output = super().forward(input_ids, *args, **kwargs)
            output.logits = output.logits * (1 + input_ids.shape[-1] / 50)
            return output

    model.__class__ = Sociable
    assert not packable(model)
    with torch.no_grad():
        torch.testing.assert_close(score(model, groups).tokens(), own(model, groups), rtol=0, atol=1e-5)
