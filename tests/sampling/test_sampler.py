"""One seed gives one set of completions, whoever draws."""

from __future__ import annotations

import numpy as np
import pytest

from exptilt.sampling.generate import sample
from exptilt.sampling.sampler import LocalSampler, ids_key, prompt_seeds
from exptilt.sampling.sampling_law import SamplingLaw

LAW = SamplingLaw(max_new_tokens=5, eos_ids=(2,))
PROMPTS = [np.array(ids, np.int32) for ids in ([5, 6], [7], [5, 6, 9])]


def ids_of(samples):
    return [one.ids.tolist() for one in samples]


def test_a_prompt_is_drawn_by_its_own_seed_whatever_stands_beside_it(tiny_model):
    model = tiny_model()
    sampler = LocalSampler(model, [2])
    together = sampler.draw(PROMPTS, num_samples=2, law=LAW, seeds=[3, 4, 3])
    for number, (prompt, seed) in enumerate(zip(PROMPTS, (3, 4, 3), strict=True)):
        alone = sampler.draw([prompt], num_samples=2, law=LAW, seeds=[seed])
        assert ids_of(alone) == ids_of(together[2 * number : 2 * number + 2])
        keyed = sample(model, [2], [prompt], num_samples=2, law=LAW, seed=seed, keys=[ids_key(prompt)])
        assert ids_of(keyed) == ids_of(alone)
    others = sampler.draw(PROMPTS, num_samples=2, law=LAW, seeds=[5, 4, 3])
    assert ids_of(others)[:2] != ids_of(together)[:2]
    assert ids_of(others)[2:] == ids_of(together)[2:]


def test_seeds_must_be_as_many_as_prompts(tiny_model):
    with pytest.raises(ValueError, match="3 prompts need as many seeds, or one for all; got 1"):
        LocalSampler(tiny_model(), [2]).draw(PROMPTS, num_samples=1, law=LAW, seeds=[3])


def test_seeds_of_prompts_differ_by_run_rollout_and_position_and_have_31_bits():
    seeds = [*prompt_seeds(0, 0, range(500)), *prompt_seeds(0, 1, range(500)), *prompt_seeds(1, 0, range(500))]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert max(seeds) > 2**30  # all bits are used
