"""Calls as people get them wrong: each is one line under 300 characters that names what is wrong, and nothing else is said."""

from __future__ import annotations

import warnings

import datasets
import pandas
import peft
import pytest
from transformers import BertConfig, BertForSequenceClassification, LlamaForCausalLM

import exptilt as xt

ROWS = [{"prompt": f"{n} + 1 =", "chosen": f" {n + 1}", "rejected": f" {n}"} for n in range(8)]
RATED = [{"prompt": "a", "completion": " b", "label": True}, {"prompt": "c", "completion": " d", "label": False}]
SAMPLES = [{"prompt": "a", "completion": "b"}, {"prompt": "a", "completion": "cc"}]
SMALL = xt.SmallModel(hidden_size=8, num_layers=1, num_heads=2, max_positions=32, vocab_size=300)
BERT = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
MISUSES = {
    # rows
    "rows: row 1 is str 'a' and no mapping; a row is, for example": lambda m, t: xt.train(SMALL, ["a", "b"]),
    "row 1 is NoneType None": lambda m, t: xt.train(SMALL, [None]),
    "there is not one row in it": lambda m, t: xt.train(SMALL, []),
    "rows: give a list of mappings": lambda m, t: xt.train(SMALL, 5),
    "a mapping of columns is no list of rows": lambda m, t: xt.train(SMALL, {"prompt": ["a"], "chosen": ["b"]}),
    "a data set that streams": lambda m, t: xt.train(SMALL, datasets.Dataset.from_list(ROWS).to_iterable_dataset()),
    "rows:1: the row is a prompt without a completion": lambda m, t: xt.train(
        SMALL, pandas.DataFrame({"question": ["a"], "foo": ["b"]})
    ),
    "rows:1: the row has one rated completion, but the objective is trained on pairs": lambda m, t: xt.train(
        SMALL, RATED, loss=xt.IPO()
    ),
    "rows:1: has the prompt of test rows:1": lambda m, t: xt.train(SMALL, ROWS, test=ROWS),
    "nowhere.jsonl: no such file": lambda m, t: xt.train(SMALL, "nowhere.jsonl"),
    "xt.train: no rows: give": lambda m, t: xt.train(SMALL),
    # models and tokenizers
    "xt.train: no model: give": lambda m, t: xt.train(rows=ROWS),
    "needs its tokenizer beside it: tokenizer=tokenizer": lambda m, t: xt.train(m, ROWS),
    "model: give a model of transformers or peft, as from_pretrained loads it, a folder or a hub id, got list": lambda m, t: (
        xt.train(ROWS, SMALL)
    ),
    "a folder or a hub id, got int": lambda m, t: xt.train(3, ROWS, tokenizer=t),
    "LlamaForCausalLM is a class; give a model": lambda m, t: xt.train(LlamaForCausalLM, ROWS, tokenizer=t),
    "has no head that writes text": lambda m, t: xt.train(BertForSequenceClassification(BERT), ROWS, tokenizer=t),
    "tokenizer: give a tokenizer of transformers": lambda m, t: xt.train(m, ROWS, tokenizer=m),
    "model.path: ./nowhere/model: no such folder": lambda m, t: xt.train("./nowhere/model", ROWS),
    # keywords
    "learning_rate: unknown keyword; did you mean optim={'learning_rate': ...}?": lambda m, t: xt.train(
        SMALL, ROWS, learning_rate=1e-5
    ),
    "adaptor: unknown keyword; did you mean 'adapter'?": lambda m, t: xt.train(SMALL, ROWS, adaptor=1),
    "num_train_epochs: unknown keyword; it is train={'epochs': ...} here": lambda m, t: xt.train(
        SMALL, ROWS, num_train_epochs=1
    ),
    "train_dataset: unknown keyword; it is 'rows' here": lambda m, t: xt.train(SMALL, train_dataset=ROWS),
    "processing_class: unknown keyword; it is 'tokenizer' here": lambda m, t: xt.train(m, ROWS, processing_class=t),
    "ref_model: unknown keyword; it is 'reference' here": lambda m, t: xt.train(m, ROWS, ref_model=m),
    "beta: unknown keyword; did you mean loss={'beta': ...}?": lambda m, t: xt.train(SMALL, ROWS, beta=0.1),
    "too many positional arguments; xt.train(model, rows, ...)": lambda m, t: xt.train(SMALL, ROWS, ROWS),
    "optim.lr: unknown key; it is 'optim.learning_rate' here": lambda m, t: xt.train(SMALL, ROWS, optim={"lr": 1}),
    "optim: must hold keys of its own": lambda m, t: xt.train(SMALL, ROWS, optim=1e-5),
    "optim.learning_rate: must be a valid number, got '1e-5'": lambda m, t: xt.train(
        SMALL, ROWS, optim={"learning_rate": "1e-5"}
    ),
    "optim.learning_rate: must be a valid number, got true": lambda m, t: xt.train(
        SMALL, ROWS, optim={"learning_rate": True}
    ),
    "seed: must be a valid integer, got 'a'": lambda m, t: xt.train(SMALL, ROWS, seed="a"),
    "rounds.num_rounds: must be a valid integer, got 'a'": lambda m, t: xt.train(SMALL, ROWS, rounds="a"),
    "recipe: give a YAML file or a Recipe, got 3": lambda m, t: xt.train(recipe=3),
    "nowhere.yaml: no such file": lambda m, t: xt.train(recipe="nowhere.yaml"),
    "callbacks: give a list of objects, got 'log'": lambda m, t: xt.train(SMALL, ROWS, callbacks="log"),
    "is no callback; give an object of a subclass of xt.Callback": lambda m, t: xt.train(
        SMALL, ROWS, callbacks=[print]
    ),
    # losses and adapters
    "loss: DPO is a class; write loss=xt.DPO()": lambda m, t: xt.train(SMALL, ROWS, loss=xt.DPO),
    "unknown name 'simppo'; did you mean 'simpo'?": lambda m, t: xt.train(SMALL, ROWS, loss="simppo"),
    "loss: must hold keys of its own, got 3": lambda m, t: xt.train(SMALL, ROWS, loss=3),
    "beta must be > 0 and finite, got -1": lambda m, t: xt.DPO(beta=-1),
    "DPO: beta must be a number, got '0.1'": lambda m, t: xt.DPO(beta="0.1"),
    "DPO: bta: unknown keyword; did you mean 'beta'?": lambda m, t: xt.DPO(bta=1),
    "DPO: settings are given by name, such as DPO(beta=...)": lambda m, t: xt.DPO(0.1),
    "r: unknown keyword; it is 'rank' here": lambda m, t: xt.LoRA(r=8),
    "rank must be >= 1, got 0": lambda m, t: xt.LoRA(rank=0),
    "adapter: AdapterConfig is a class": lambda m, t: xt.train(SMALL, ROWS, adapter=xt.LoRA),
    "a LoraConfig of peft is no section of a recipe; write xt.LoRA(": lambda m, t: xt.train(
        m, ROWS, tokenizer=t, adapter=peft.LoraConfig()
    ),
    "adapter: must hold keys of its own": lambda m, t: xt.train(m, ROWS, tokenizer=t, adapter=16),
    "adapter needs model.path": lambda m, t: xt.train(SMALL, ROWS, adapter=xt.LoRA()),
    # the other calls
    "is no run folder": lambda m, t: xt.load_run("nowhere"),
    "xt.evaluate: there is no 'rows'; xt.evaluate(model, rows, ...)": lambda m, t: xt.evaluate(m),
    "rows:1: the row has one rated": lambda m, t: xt.evaluate(m, RATED, tokenizer=t, quiet=True),
    "loss: kto is not trained on pairs": lambda m, t: xt.evaluate(m, RATED, tokenizer=t, loss=xt.KTO()),
    "./nowhere: no such folder": lambda m, t: xt.evaluate("./nowhere", ROWS),
    "xt.score: no rows: xt.score(model, tokenizer, rows)": lambda m, t: xt.score(m, ROWS),
    "a folder or a hub id, got TokenizersBackend": lambda m, t: xt.score(t, m, ROWS),
    "these are prompts alone": lambda m, t: xt.score(m, t, [{"prompt": "a"}]),
    "max_tokens must be at least 1, got 0": lambda m, t: xt.score(m, t, ROWS, max_tokens=0),
    "prompts: give a list of mappings": lambda m, t: xt.sample(m, 5, tokenizer=t),
    "law.temperature must be >= 0 and finite, got -1": lambda m, t: xt.sample(
        m, "a", tokenizer=t, law={"temperature": -1}
    ),
    "temperature: unknown keyword": lambda m, t: xt.sample(m, "a", tokenizer=t, temperature=0.7),
    "num_samples must be at least 1, got 0": lambda m, t: xt.sample(m, "a", tokenizer=t, num_samples=0),
    "model and server: give one of them": lambda m, t: xt.sample(None, "a"),
    "samples must name at least one folder or file": lambda m, t: xt.pair(),
    "reward: 3 cannot be called": lambda m, t: xt.pair(SAMPLES, reward=3),
    "reward is missing": lambda m, t: xt.pair(SAMPLES),
    "gave an array of shape () for 2 answers": lambda m, t: xt.pair(SAMPLES, reward=lambda answers: 3),
    "raised ZeroDivisionError: division by zero": lambda m, t: xt.pair(SAMPLES, reward=lambda answers: 1 / 0),
    "row 1 is no mapping with a prompt and a completion": lambda m, t: xt.pair([{"prompt": "a"}], reward="length"),
    "name an opponent with against": lambda m, t: xt.judge({"a": SAMPLES}),
    "by gpt: no such judge": lambda m, t: xt.judge({"a": SAMPLES, "b": SAMPLES}, by="gpt"),
    "by: 3 is no judge": lambda m, t: xt.judge({"a": SAMPLES, "b": SAMPLES}, by=3),
    "a: row 1 is 'x' and no mapping": lambda m, t: xt.judge({"a": ["x"], "b": ["y"]}),
    "nowhere.csv: no such file": lambda m, t: xt.load_rows("nowhere.csv"),
    "limit must be at least 1, got 0": lambda m, t: xt.load_rows(ROWS, limit=0),
    "rows:1: has no column 'question'; it has prompt, chosen, rejected": lambda m, t: xt.load_rows(
        ROWS, columns={"prompt": "question"}
    ),
    "format: give a function of a row": lambda m, t: xt.load_rows(ROWS, format=3),
    "rows: give a list of mappings, a datasets.Dataset": lambda m, t: xt.doctor(3),
    "xt.doctor: loss: DPO is a class": lambda m, t: xt.doctor(ROWS, loss=xt.DPO),
}


@pytest.mark.parametrize("words", MISUSES)
def test_a_misuse_is_one_line(words, make_object, tokenizer, capsys):
    model = make_object()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(xt.ExptiltError) as refused:
            MISUSES[words](model, tokenizer)
    message = str(refused.value)
    assert words in message
    assert "\n" not in message
    assert len(message) < 300
    assert "memory:" not in message
    assert "Warning" not in capsys.readouterr().err


def test_there_are_enough():
    assert len(MISUSES) >= 75
