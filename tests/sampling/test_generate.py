import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from transformers import (
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
)

from exptilt.errors import ModelError
from exptilt.sampling.generate import sample, samples_as_groups
from exptilt.sampling.sampling_law import SamplingLaw

torch.set_num_threads(1)
VOCABULARY = 12
EOS = 2


def llama(seed=0, **changes):
    torch.manual_seed(seed)
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    settings = sizes | {"num_attention_heads": 2, "max_position_embeddings": 64, "initializer_range": 0.6} | changes
    return LlamaForCausalLM(LlamaConfig(**settings)).eval()


def gpt2():
    torch.manual_seed(1)
    settings = GPT2Config(vocab_size=VOCABULARY, n_embd=16, n_layer=2, n_head=2, n_positions=64, initializer_range=0.6)
    return GPT2LMHeadModel(settings).eval()


def prompt(*ids):
    return np.array(ids, dtype=np.int32)


@torch.inference_mode()
def probabilities(model, *ids):
    return torch.softmax(model(torch.tensor([ids])).logits[0, -1].double(), dim=-1).numpy()


def counts(tokens):
    return np.bincount(np.array(tokens), minlength=VOCABULARY)


@pytest.mark.parametrize("build", [llama, gpt2])
def test_tokens_come_as_often_as_the_model_says(build):
    model = build()
    drawn = sample(model, [EOS], [prompt(1, 5)], num_samples=4000, law=SamplingLaw(max_new_tokens=2), batch_size=1000)
    firsts = [int(one.ids[0]) for one in drawn]
    assert chisquare(counts(firsts), 4000 * probabilities(model, 1, 5)).pvalue > 1e-3
    first = int(np.argmax(np.where(np.arange(VOCABULARY) == EOS, 0, counts(firsts))))
    seconds = [int(one.ids[1]) for one in drawn if one.ids[0] == first]
    assert len(seconds) > 400
    assert chisquare(counts(seconds), len(seconds) * probabilities(model, 1, 5, first)).pvalue > 1e-3


def test_a_bent_law_draws_from_the_bent_distribution():
    model = llama()
    law = SamplingLaw(temperature=0.7, top_k=5, max_new_tokens=1)
    drawn = sample(model, [EOS], [prompt(1, 5)], num_samples=4000, law=law, batch_size=4000)
    bent = probabilities(model, 1, 5) ** (1 / 0.7)
    kept = np.argsort(bent)[-5:]
    found = counts([int(one.ids[0]) for one in drawn])
    assert found[kept].sum() == 4000
    assert chisquare(found[kept], 4000 * bent[kept] / bent[kept].sum()).pvalue > 1e-3


def test_nucleus_penalty_and_minimum_length_bend_as_in_transformers():
    model = llama()
    exact = probabilities(model, 1, 5)
    order = np.argsort(exact)[::-1]
    held = int(np.searchsorted(np.cumsum(exact[order]), 0.6)) + 1
    nucleus = SamplingLaw(top_p=0.6, max_new_tokens=1)
    drawn = sample(model, [EOS], [prompt(1, 5)], num_samples=2000, law=nucleus)
    assert {int(one.ids[0]) for one in drawn} == set(order[:held].tolist())
    never = sample(model, [EOS], [prompt(1)], num_samples=500, law=SamplingLaw(max_new_tokens=6, min_new_tokens=6))
    assert all(len(one.ids) == 6 and EOS not in one.ids for one in never)
    forbidding = sample(
        model, [], [prompt(1, 5)], num_samples=200, law=SamplingLaw(repetition_penalty=1e6, max_new_tokens=1)
    )
    logits = model(torch.tensor([[1, 5]])).logits[0, -1]
    assert logits[5] < 0
    assert all(int(one.ids[0]) != 5 for one in forbidding)


def test_temperature_zero_takes_the_likeliest_token():
    model = llama()
    (greedy,) = sample(model, [EOS], [prompt(1, 5)], law=SamplingLaw(temperature=0.0, max_new_tokens=4))
    ids = [1, 5]
    for token in greedy.ids.tolist():
        assert token == int(np.argmax(probabilities(model, *ids)))
        ids.append(token)


def test_a_completion_stops_at_its_end_token_and_includes_it():
    drawn = sample(llama(), [EOS], [prompt(1, 5)], num_samples=400, law=SamplingLaw(max_new_tokens=12), batch_size=100)
    ended = [one for one in drawn if one.ended]
    cut = [one for one in drawn if not one.ended]
    assert ended
    assert cut
    assert all(one.ids[-1] == EOS and EOS not in one.ids[:-1] for one in ended)
    assert all(len(one.ids) == 12 and EOS not in one.ids for one in cut)


def test_ended_rows_leave_the_batch_without_disturbing_the_rest():
    model = llama()
    drawn = sample(model, [EOS], [prompt(1, 5)], num_samples=200, law=SamplingLaw(max_new_tokens=12), batch_size=200)
    alone = sample(model, [EOS], [prompt(1, 5)], num_samples=200, law=SamplingLaw(max_new_tokens=12), batch_size=1)
    assert [one.ids.tolist() for one in drawn] == [one.ids.tolist() for one in alone]


@pytest.mark.parametrize("build", [llama, gpt2])
def test_neither_batch_size_nor_other_prompts_nor_padding_change_a_sample(build):
    model = build()
    prompts = [prompt(1, 5, 6), prompt(1), prompt(1, 7, 3, 4, 9), prompt(1, 5)]
    law = SamplingLaw(max_new_tokens=8)
    whole = sample(model, [EOS], prompts, num_samples=5, law=law, seed=3, batch_size=64)
    for batch_size in (1, 3, 7):
        part = sample(model, [EOS], prompts, num_samples=5, law=law, seed=3, batch_size=batch_size)
        assert [one.ids.tolist() for one in part] == [one.ids.tolist() for one in whole]
    fewer = sample(model, [EOS], prompts[:2], num_samples=2, law=law, seed=3)
    shared = [one for one in whole if one.prompt_index < 2 and one.sample_index < 2]
    assert [one.ids.tolist() for one in fewer] == [one.ids.tolist() for one in shared]


def test_experts_whose_config_asks_for_a_balance_loss_sample_as_without_it():
    drawn = []
    for asks in (False, True):
        torch.manual_seed(0)
        sizes = {"vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
        heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "num_local_experts": 3, "initializer_range": 0.6}
        model = MixtralForCausalLM(MixtralConfig(**sizes, **heads, output_router_logits=asks)).eval()
        found = sample(model, [EOS], [prompt(1, 5), prompt(4)], num_samples=3, law=SamplingLaw(max_new_tokens=5))
        drawn.append([one.ids.tolist() for one in found])
    assert drawn[0] == drawn[1]


def test_a_penalty_does_not_see_the_padding():
    model = llama()
    law = SamplingLaw(max_new_tokens=6, repetition_penalty=1.8)
    prompts = [prompt(1, 5, 6, 7, 8), prompt(4)]
    together = sample(model, [EOS], prompts, num_samples=20, law=law, batch_size=40)
    apart = sample(model, [EOS], prompts, num_samples=20, law=law, batch_size=1)
    assert [one.ids.tolist() for one in together] == [one.ids.tolist() for one in apart]


def test_samples_come_in_order_and_the_seed_decides_them():
    model, law = llama(), SamplingLaw(max_new_tokens=8)
    prompts = [prompt(1, 5, 6), prompt(1)]
    drawn = sample(model, [EOS], prompts, num_samples=3, law=law, seed=1)
    assert [(one.prompt_index, one.sample_index) for one in drawn] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    assert all(one.prompt is prompts[one.prompt_index] and one.law.eos_ids == (EOS,) for one in drawn)
    other = sample(model, [EOS], prompts, num_samples=3, law=law, seed=2)
    assert [one.ids.tolist() for one in drawn] != [one.ids.tolist() for one in other]


def test_a_model_folders_generation_config_cannot_leak_in(tmp_path):
    model, law = llama(), SamplingLaw(max_new_tokens=8)
    model.save_pretrained(tmp_path)
    poison = {"top_k": 1, "temperature": 0.1, "repetition_penalty": 3.0, "eos_token_id": 5, "no_repeat_ngram_size": 1}
    GenerationConfig(do_sample=True, suppress_tokens=[3], min_new_tokens=8, **poison).save_pretrained(tmp_path)
    poisoned = LlamaForCausalLM.from_pretrained(tmp_path).eval()
    assert poisoned.generation_config.top_k == 1
    clean = sample(model, [EOS], [prompt(1, 5)], num_samples=50, law=law)
    drawn = sample(poisoned, [EOS], [prompt(1, 5)], num_samples=50, law=law)
    assert [one.ids.tolist() for one in drawn] == [one.ids.tolist() for one in clean]


def test_dropout_is_off_while_sampling_and_the_mode_is_restored():
    model = llama(attention_dropout=0.5)
    law = SamplingLaw(max_new_tokens=8)
    quiet = sample(model, [EOS], [prompt(1, 5)], num_samples=20, law=law)
    model.train()
    loud = sample(model, [EOS], [prompt(1, 5)], num_samples=20, law=law)
    assert model.training
    assert [one.ids.tolist() for one in loud] == [one.ids.tolist() for one in quiet]


def test_progress_counts_completions():
    seen = []
    law = SamplingLaw(max_new_tokens=1)
    sample(llama(), [EOS], [prompt(1)], num_samples=5, law=law, batch_size=2, progress=lambda *done: seen.append(done))
    assert seen == [(2, 5), (4, 5), (5, 5)]


def test_samples_become_groups_in_the_same_order():
    prompts = [prompt(1, 5), prompt(1)]
    drawn = sample(llama(), [EOS], prompts, num_samples=3, law=SamplingLaw(max_new_tokens=8))
    groups = samples_as_groups(drawn, max_completions=2)
    assert [len(group.completions) for group in groups] == [2, 1, 2, 1]
    flat = [completion for group in groups for completion in group.completions]
    assert [one.ids.tolist() for one in flat] == [one.ids.tolist() for one in drawn]
    assert all(completion.counted.all() and completion.length == len(completion.ids) for completion in flat)
    assert [group.prompt.tolist() for group in groups] == [[1, 5], [1, 5], [1], [1]]


def test_text_leaves_special_tokens_out():
    class Tokenizer:
        def decode(self, ids, skip_special_tokens):
            assert skip_special_tokens
            return " ".join(str(token) for token in ids if token != EOS)

    (drawn, *_) = (
        one
        for one in sample(llama(), [EOS], [prompt(1)], num_samples=50, law=SamplingLaw(max_new_tokens=12))
        if one.ended and len(one.ids) > 1
    )
    assert drawn.text(Tokenizer()) == " ".join(str(token) for token in drawn.ids[:-1])


def test_what_cannot_be_sampled_is_refused_with_the_reason():
    model, law = llama(), SamplingLaw(max_new_tokens=8)
    with pytest.raises(ValueError, match="prompt 1 has no token"):
        sample(model, [EOS], [prompt(1), prompt()], law=law)
    with pytest.raises(ValueError, match=r"prompt 0 has 60 tokens.*context of 64"):
        sample(model, [EOS], [prompt(*[1] * 60)], law=law)
    with pytest.raises(ValueError, match="num_samples must be >= 1, got 0"):
        sample(model, [EOS], [prompt(1)], num_samples=0, law=law)
    with torch.no_grad():
        model.lm_head.weight[0, 0] = float("nan")
    with pytest.raises(ModelError, match="not finite at new token 0"):
        sample(model, [EOS], [prompt(1)], law=law)
