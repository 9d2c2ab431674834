"""Samples while training: fixed prompts, KL to a reference, files."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from exptilt.policies.divergence import sequence_kl
from exptilt.sampling.generate import sample, samples_as_groups
from exptilt.sampling.sampling_law import SamplingLaw
from exptilt.training.callbacks.callback import Progress
from exptilt.training.callbacks.sample_files import SampleFiles, draw_samples
from exptilt.training.sums import Sums


class Letters:
    """A tokenizer in so far as samples need one."""

    eos_token_id = 2

    def decode(self, ids, skip_special_tokens):
        return "".join(chr(97 + token) for token in ids if token > 2)


PROMPTS = [np.array([1, 5], np.int32), np.array([1, 6, 7], np.int32)]
LAW = SamplingLaw(max_new_tokens=6)


def test_rows_and_sums_are_of_the_same_samples(tiny_model):
    """Length, end and KL of each sample, by their own functions; the prompts' text beside them."""
    policy, reference = tiny_model(seed=0), tiny_model(seed=1)
    rows, sums = draw_samples(policy, reference, Letters(), PROMPTS, LAW, seed=3)
    drawn = sample(policy, Letters(), PROMPTS, law=LAW, seed=3)
    kl = sequence_kl(policy, reference, samples_as_groups(drawn)).kl
    assert [row["prompt"] for row in rows] == ["f", "gh"]
    assert [row["tokens"] for row in rows] == [len(one.ids) for one in drawn]
    assert [row["ended"] for row in rows] == [int(one.ids[-1]) == 2 for one in drawn]
    assert [row["kl"] for row in rows] == kl.tolist()
    assert sums.means() == {
        "sample_length": np.mean([len(one.ids) for one in drawn]),
        "ended": np.mean([one.ended for one in drawn]),
        "kl": pytest.approx(float(kl.mean())),
    }
    assert float(kl.mean()) > 0.1


def test_the_policy_itself_is_at_no_distance_and_without_a_reference_there_is_none(tiny_model):
    policy = tiny_model()
    assert draw_samples(policy, policy, Letters(), PROMPTS, LAW)[1].means()["kl"] == pytest.approx(0, abs=1e-9)
    rows, sums = draw_samples(policy, None, Letters(), PROMPTS, LAW)
    assert "kl" not in rows[0]
    assert set(sums.means()) == {"sample_length", "ended"}


def test_the_same_step_draws_the_same_and_training_is_not_disturbed(tiny_model):
    policy = tiny_model().train()
    before = torch.get_rng_state()
    first, second = (draw_samples(policy, None, Letters(), PROMPTS, LAW, seed=1)[0] for _ in range(2))
    assert first == second
    assert policy.training
    assert torch.equal(before, torch.get_rng_state())


def test_a_bent_law_has_no_such_kl(tiny_model):
    with pytest.raises(ValueError, match=r"KL of samples needs samples of the model's own distribution.*top_k=3"):
        draw_samples(tiny_model(), None, Letters(), PROMPTS, SamplingLaw(top_k=3))


@pytest.mark.parametrize("writes", [True, False])
def test_a_file_for_every_evaluation(tmp_path, writes):
    files = SampleFiles(tmp_path, lambda step: ([{"step": step, "prompt": "é"}], Sums({"kl": [4.0, 2.0]})), writes)
    for step in (0, 20):
        assert files(Progress(step, 99, 99)).means() == {"kl": 2.0}
    found = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*"))
    assert found == (["samples/step-000000.jsonl", "samples/step-000020.jsonl"] if writes else [])
    if writes:
        assert json.loads((tmp_path / "samples" / "step-000020.jsonl").read_text()) == {"step": 20, "prompt": "é"}
