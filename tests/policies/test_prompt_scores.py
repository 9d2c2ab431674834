"""The tokens of a prompt, scored where they stand: as its own sequence would be, and without a token more to feed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from exptilt.data.groups import Completion, Group, prompt_of
from exptilt.policies.engine.packing import pack
from exptilt.policies.engine.self_check import packable
from exptilt.policies.policy import Policy
from exptilt.policies.reference.scores import key_of
from exptilt.policies.scoring import score
from exptilt.types import LogProbs

LONGROPE = {"rope_type": "longrope", "rope_theta": 10_000.0, "short_factor": [1.0, 1.0], "long_factor": [3.0, 9.0]}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {"num_key_value_heads": 2}),
    "sliding window": ("mistral", {"num_key_value_heads": 2, "sliding_window": 5}),
    "recurrent, unpacked": ("mamba", {"state_size": 4}),
    "two calls": (
        "phi3",
        {
            "original_max_position_embeddings": 16,
            "rope_parameters": {**LONGROPE, "original_max_position_embeddings": 16, "factor": 4.0},
        },
    ),
}


def with_prompt(group: Group) -> Group:
    return replace(group, completions=(*group.completions, prompt_of(group)))


def as_sequence(group: Group) -> Group:
    """The prompt's first token, and the rest as what follows it."""
    rest = Completion(group.prompt[1:], np.ones(len(group.prompt) - 1, np.bool_))
    return replace(group, prompt=group.prompt[:1], completions=(rest,))


@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_scores_as_its_own_sequence(kind, make_model, make_group) -> None:
    name, settings = KINDS[kind]
    model = make_model(name, **settings)
    rows = [make_group(5, 3, 6), make_group(9, 1, 2, share=0.5), make_group(1, 4, 2), make_group(3, 2)]
    found = score(model, [with_prompt(row) for row in rows])
    alone = score(model, rows)
    places = [at for at, one in enumerate(c.repeats_prompt for r in rows for c in with_prompt(r).completions) if one]
    others = [at for at in range(len(found)) if at not in places]
    torch.testing.assert_close(found.select(others).tokens(), alone.tokens(), rtol=0, atol=1e-5)
    prompts = score(model, [as_sequence(row) for row in rows if len(row.prompt) > 1])
    torch.testing.assert_close(found.select(places).tokens(), prompts.tokens(), rtol=0, atol=1e-5)
    assert found.select(places).lengths.tolist() == [len(row.prompt) - 1 for row in rows]
    assert packable(model) == (kind != "recurrent, unpacked")


def test_a_long_completion_takes_its_prompt_into_its_own_call(make_model, make_group) -> None:
    """Positions then are those of the call, as in the model's own forward of prompt and completion together."""
    model, row = make_model(*KINDS["two calls"][:1], **KINDS["two calls"][1]), make_group(6, 14, 3)
    whole = torch.from_numpy(np.concatenate([row.prompt, row.completions[0].ids]).astype(np.int64))[None]
    logs = model(input_ids=whole[:, :-1], use_cache=False).logits[0].log_softmax(-1)
    expected = logs[:5].gather(1, whole[0, 1:6, None]).squeeze(1)
    assert torch.allclose(score(model, [with_prompt(row)]).select([2]).tokens(), expected, atol=1e-5)


def test_gradients_are_those_of_both_sequences(make_model, make_group) -> None:
    """The fused head walks through the prompt's states as through any others."""
    rows = [make_group(5, 3, 6), make_group(9, 1, 2)]
    one, other = (make_model("llama", num_key_value_heads=2).double() for _ in range(2))

    def loss_of(groups: Any, logps: LogProbs) -> torch.Tensor:
        return (logps.sum() ** 2).sum()

    Policy(one).backward([with_prompt(row) for row in rows], loss_of)
    (loss_of(rows, score(other, rows)) + loss_of(rows, score(other, [as_sequence(row) for row in rows]))).backward()
    for (name, mine), theirs in zip(one.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(
            mine.grad, theirs.grad, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: name + text
        )


def test_nothing_more_is_fed_and_the_size_of_a_row_stays(make_group) -> None:
    row = make_group(7, 4, 2)
    more = with_prompt(row)
    assert pack([more]).input_ids.tolist() == pack([row]).input_ids.tolist()
    assert (more.num_tokens, more.num_fed) == (row.num_tokens, row.num_fed) == (13, 11)


def test_a_stored_score_is_not_taken_for_that_of_the_same_tokens_after_the_prompt(make_group) -> None:
    row = with_prompt(make_group(4, 3))
    follows = replace(row, completions=(row.completions[0], replace(row.completions[1], repeats_prompt=False)))
    assert key_of(row) != key_of(follows)


def test_the_context_is_that_of_the_longest_completion(make_model, make_group) -> None:
    """A prompt of 40 and its own 39 again would not fit into 64."""
    model = make_model("gpt2", n_embd=16, n_layer=1, n_head=2, n_positions=64)
    assert score(model, [with_prompt(make_group(40, 3))]).lengths.tolist() == [3, 39]
