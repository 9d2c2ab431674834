"""Draws: one way to sample a policy beside its reference."""

from __future__ import annotations

import numpy as np
import pytest

from exptilt.policies.scoring import score_all
from exptilt.sampling.draws import distinct_prompts, draw, room_for
from exptilt.sampling.generate import sample
from exptilt.sampling.sampling_law import SamplingLaw
from exptilt.types import LogProbs


class Letters:
    """A tokenizer in so far as samples need one."""

    eos_token_id = 2

    def decode(self, ids, skip_special_tokens):
        return "".join(chr(97 + token) for token in ids if token > 2)


PROMPTS = [np.array([1, 5], np.int32), np.array([1, 6, 7], np.int32)]
LAW = SamplingLaw(max_new_tokens=6)


def test_columns_are_of_the_samples_in_their_order(tiny_model):
    draws = draw(tiny_model(), Letters(), PROMPTS, law=LAW, num_samples=3, seed=5)
    drawn = sample(tiny_model(), Letters(), PROMPTS, law=LAW, num_samples=3, seed=5)
    assert draws.prompt_index.tolist() == [0, 0, 0, 1, 1, 1]
    assert draws.sample_index.tolist() == [0, 1, 2, 0, 1, 2]
    assert draws.first == [0, 3]
    assert [ids.tolist() for ids in draws.ids] == [one.ids.tolist() for one in drawn]
    assert draws.texts == [one.text(Letters()) for one in drawn]
    assert draws.length.tolist() == [len(one.ids) for one in drawn]
    assert draws.ended.tolist() == [one.ids[-1] == 2 for one in drawn]
    assert draws.by_prompt(draws.length)[1].tolist() == [len(one.ids) for one in drawn[3:]]


def test_log_probabilities_are_those_of_each_model_alone(tiny_model):
    policy, reference = tiny_model(seed=0), tiny_model(seed=1)
    draws = draw(policy, Letters(), PROMPTS, law=LAW, num_samples=3).compared(policy, reference)
    alone = [LogProbs.cat(score_all(model, draws.groups)).sum().numpy() for model in (policy, reference)]
    assert draws.policy_logps == pytest.approx(alone[0])
    assert draws.reference_logps == pytest.approx(alone[1])
    assert draws.log_ratio == pytest.approx(alone[0] - alone[1])
    assert (draws.column("kl") > 0).all()
    same = draws.compared(policy, policy)
    assert same.column("kl") == pytest.approx(0, abs=1e-9)


def test_what_is_not_measured_is_not_there(tiny_model):
    draws = draw(tiny_model(), Letters(), PROMPTS, law=LAW)
    assert draws.reference_logps is None
    with pytest.raises(ValueError, match="kl of these completions is not measured"):
        draws.column("kl")
    assert draws.rewarded(np.array([1.0, 2.0])).column("reward").tolist() == [1.0, 2.0]
    with pytest.raises(ValueError, match=r"2 completions need as many rewards, got an array of shape \(3,\)"):
        draws.rewarded(np.zeros(3))


def test_a_bent_law_has_no_such_kl(tiny_model):
    draws = draw(tiny_model(), Letters(), PROMPTS, law=SamplingLaw(top_k=3, max_new_tokens=4))
    with pytest.raises(ValueError, match=r"KL of samples needs samples of the model's own distribution.*top_k=3"):
        draws.compared(tiny_model(), tiny_model())


def test_no_sample_runs_past_the_context(tiny_model):
    assert room_for(tiny_model(), PROMPTS, 500) == 61  # of 64 positions, the longest prompt has 3
    assert room_for(tiny_model(), PROMPTS, 5) == 5
    assert room_for(tiny_model(), [np.arange(64)], 5) == 1


def test_each_prompt_is_asked_once(draw_rows):
    groups = draw_rows("pair", 4)
    assert [ids.tolist() for ids in distinct_prompts([*groups, *groups])] == [one.prompt.tolist() for one in groups]
