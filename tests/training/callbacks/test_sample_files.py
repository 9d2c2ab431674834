"""Samples while training: fixed prompts, KL to a reference, files."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from exptilt.policies.divergence import sequence_kl
from exptilt.run_folder.folder import RunFolder
from exptilt.sampling.draws import draw
from exptilt.sampling.generate import sample, samples_as_groups
from exptilt.sampling.sampling_law import SamplingLaw
from exptilt.training.callbacks.callback import Progress
from exptilt.training.callbacks.sample_files import SampleFiles, step_samples, sums_of


class Letters:
    """A tokenizer in so far as samples need one."""

    eos_token_id = 2

    def decode(self, ids, skip_special_tokens):
        return "".join(chr(97 + token) for token in ids if token > 2)


PROMPTS = [np.array([1, 5], np.int32), np.array([1, 6, 7], np.int32)]
LAW = SamplingLaw(max_new_tokens=6)


def test_lines_and_sums_are_of_the_same_samples(tiny_model):
    """Length, end and KL of each sample, by their own functions; the prompts' text beside them."""
    policy, reference = tiny_model(seed=0), tiny_model(seed=1)
    draws = draw(policy, Letters(), PROMPTS, law=LAW, seed=3).compared(policy, reference)
    lines, sums = [line.as_dict() for line in step_samples(draws, Letters())], sums_of(draws)
    drawn = sample(policy, Letters(), PROMPTS, law=LAW, seed=3)
    kl = sequence_kl(policy, reference, samples_as_groups(drawn)).kl
    assert [line["prompt"] for line in lines] == ["f", "gh"]
    assert [line["completion"] for line in lines] == [one.text(Letters()) for one in drawn]
    assert [line["tokens"] for line in lines] == [len(one.ids) for one in drawn]
    assert [line["ended"] for line in lines] == [int(one.ids[-1]) == 2 for one in drawn]
    assert [line["kl"] for line in lines] == kl.tolist()
    assert sums.means() == {
        "sample_length": np.mean([len(one.ids) for one in drawn]),
        "ended": np.mean([one.ended for one in drawn]),
        "kl": pytest.approx(float(kl.mean())),
    }
    assert float(kl.mean()) > 0.1


def test_without_a_reference_there_is_no_kl(tiny_model):
    draws = draw(tiny_model(), Letters(), PROMPTS, law=LAW)
    assert "kl" not in step_samples(draws, Letters())[0].as_dict()
    assert set(sums_of(draws).means()) == {"sample_length", "ended"}


def test_the_same_step_draws_the_same_and_training_is_not_disturbed(tiny_model):
    policy = tiny_model().train()
    before = torch.get_rng_state()
    first, second = (step_samples(draw(policy, Letters(), PROMPTS, law=LAW, seed=1), Letters()) for _ in range(2))
    assert first == second
    assert policy.training
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("writes", [True, False])
def test_a_file_for_every_evaluation(tmp_path, tiny_model, writes):
    draws = draw(tiny_model(), Letters(), PROMPTS, law=LAW)
    files = SampleFiles(RunFolder(tmp_path, writes=writes).write_lines, lambda: draws, Letters())
    for step in (0, 20):
        assert files(Progress(step, 99, 99)).means() == sums_of(draws).means()
    found = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*"))
    assert found == (["samples/step-000000.jsonl", "samples/step-000020.jsonl"] if writes else [])
    if writes:
        lines = (tmp_path / "samples" / "step-000020.jsonl").read_text().splitlines()
        assert [json.loads(line) for line in lines] == [line.as_dict() for line in step_samples(draws, Letters())]
