"""The estimators on real (tiny) models, against the exact values that listing every completion gives."""

import itertools

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from exptilt.data.groups import Completion, Group
from exptilt.evaluation.frontier.comparable import Provenance
from exptilt.evaluation.frontier.optimum import OptimalFrontier
from exptilt.evaluation.kl import estimate_kl
from exptilt.policies.divergence import sequence_kl
from exptilt.policies.scoring import score
from exptilt.sampling.generate import sample, samples_as_groups
from exptilt.sampling.sampling_law import SamplingLaw

torch.set_num_threads(1)
VOCABULARY, EOS, NEW = 5, 2, 4
LAW = SamplingLaw(max_new_tokens=NEW, eos_ids=(EOS,))
PROMPTS = [np.array(ids, dtype=np.int32) for ids in ([1, 3], [1], [1, 4, 4], [1, 0, 3])]


def model(seed):
    torch.manual_seed(0)
    settings = {"vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    made = LlamaForCausalLM(LlamaConfig(**settings, num_attention_heads=2, initializer_range=0.4)).eval()
    torch.manual_seed(seed)
    with torch.no_grad():
        for weight in made.parameters():
            weight += 0.02 * seed * torch.randn_like(weight)
    return made


def completions():
    """Every completion of at most NEW tokens, the end token only at the end."""
    found = []
    for length in range(1, NEW + 1):
        for ids in itertools.product(range(VOCABULARY), repeat=length):
            if EOS not in ids[:-1] and (ids[-1] == EOS or length == NEW):
                found.append(ids)
    return found


def groups():
    made = [np.array(ids, dtype=np.int32) for ids in completions()]
    parts = tuple(Completion(ids=ids, counted=np.ones(len(ids), dtype=np.bool_)) for ids in made)
    return [Group(id=str(at), prompt=prompt, completions=parts) for at, prompt in enumerate(PROMPTS)]


def reward(ids):
    return float(np.mean(np.asarray(ids) == 3) + 0.5 * (ids[-1] == EOS))


@pytest.fixture(scope="module")
def world():
    """Exact probabilities (X, Y) of the policy and the reference, and rewards (X, Y)."""
    policy, reference = model(1), model(0)
    with torch.no_grad():
        laws = [
            np.stack([score(one, [group]).sum().double().exp().numpy() for group in groups()])
            for one in (policy, reference)
        ]
    rewards = np.tile([reward(ids) for ids in completions()], (len(PROMPTS), 1))
    return policy, reference, laws[0], laws[1], rewards


def test_listed_completions_hold_all_probability(world):
    _, _, policy_law, reference_law, _ = world
    assert policy_law.sum(axis=1) == pytest.approx(1, abs=1e-5)
    assert reference_law.sum(axis=1) == pytest.approx(1, abs=1e-5)


def test_kl_and_frontier_of_samples_agree_with_the_exact_ones(world):
    policy, reference, policy_law, reference_law, rewards = world
    exact_kl = (policy_law * np.log(policy_law / reference_law)).sum(axis=1)
    drawn = sample(policy, [EOS], PROMPTS, num_samples=300, law=LAW, batch_size=600)
    prompts = [one.prompt_index for one in drawn]
    sums = sequence_kl(policy, reference, samples_as_groups(drawn))
    found = estimate_kl(sums.kl.numpy(), prompts, drawn[0].law, k1=sums.k1.numpy())
    noise = sums.kl.numpy().reshape(len(PROMPTS), 300).std(axis=1) / np.sqrt(300)
    assert (np.abs(found.by_prompt - exact_kl) < 4 * noise).all()
    assert sums.kl.numpy().std() < 0.6 * sums.k1.numpy().std()
    assert sums.lengths.tolist() == [len(one.ids) for one in drawn]

    own = sample(reference, [EOS], PROMPTS, num_samples=300, law=LAW, seed=1, batch_size=600)
    origin = Provenance(law=own[0].law, reference="tiny", prompts=range(len(PROMPTS)))
    reference_rewards = np.array([reward(one.ids) for one in own]).reshape(len(PROMPTS), 300)
    estimated = OptimalFrontier.from_samples(reference_rewards, provenance=origin)
    exact = OptimalFrontier.from_law(rewards, reference_law / reference_law.sum(axis=1, keepdims=True))
    for kl in (0.05, 0.3, 0.8):
        assert estimated.reward_at(kl).value == pytest.approx(exact.reward_at(kl).value, rel=0.05)
        assert exact.reward_at(kl).value < estimated.upper_reward_at(kl) + 0.05

    gained = np.array([reward(one.ids) for one in drawn]).reshape(len(PROMPTS), 300).mean(axis=1)
    place = estimated.fraction(found.by_prompt, gained, origin)
    true = exact.fraction(exact_kl, (policy_law * rewards).sum(axis=1))
    assert true.reward_fraction.value < 1
    assert place.optimal_reward.value == pytest.approx(true.optimal_reward.value, rel=0.06)
    assert place.excess.value < 0
