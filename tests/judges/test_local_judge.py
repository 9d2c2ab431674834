"""A judge in process: its probabilities are those of the model's own forward pass."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from exptilt.judges.judge_templates import judge_template
from exptilt.judges.local_judge import LocalJudge
from exptilt.policies.tokenizers import train_word_tokenizer
from exptilt.preferences import Comparison


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("judge")
    template = judge_template("better")
    letters = " ".join("BCDFGHJKLMNPQRSTVWXZ")
    texts = [template.pair("one two", "three", "four", ("K", "M"), tie=False), f"The verdict is {letters}"]
    tokenizer = train_word_tokenizer(texts)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=1024, initializer_range=0.3, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def test_probabilities_are_the_models_own(folder):
    template = judge_template("better")
    comparisons = [Comparison("one two", ("three", "four")), Comparison("two", ("four one", "three three"))]
    verdicts = list(LocalJudge(str(folder), template)(comparisons))
    assert [v.comparison for v in verdicts] == [c.id for c in comparisons for _ in range(2)]
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    from exptilt.judges.slots import BOTH_ORDERS, asked

    questions = [asked(c, order, 0, 0) for c in comparisons for order in BOTH_ORDERS]
    for one, verdict in zip(questions, verdicts, strict=True):
        text = template.pair(one.comparison.prompt, one.first, one.second, one.labels, tie=False)
        ids = tokenizer(f"{text}\n\nThe verdict is", return_tensors="pt")["input_ids"]
        logits = model(ids).logits[0, -1].double()
        labels = [tokenizer(f" {label}", add_special_tokens=False)["input_ids"][-1] for label in one.labels]
        assert labels[0] != labels[1]
        expected = torch.softmax(logits[labels], 0)[0].item()
        assert verdict.probability == pytest.approx(expected, abs=1e-5)
        assert verdict.outcome == ("first" if expected > 0.5 else "second")
    assert len({round(v.probability, 6) for v in verdicts}) == 4


def test_a_question_that_does_not_fit_is_unscored_and_the_others_are_as_before(folder):
    asks = LocalJudge(str(folder), judge_template("better"))
    short, long = Comparison("one two", ("three", "four")), Comparison("one two", ("three " * 1200, "four"))
    alone = list(asks([short]))
    both = list(asks([short, long]))
    assert both[:2] == alone
    assert [verdict.outcome for verdict in both[2:]] == ["unscored", "unscored"]
