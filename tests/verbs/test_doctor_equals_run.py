"""What the doctor takes a run takes, and what it refuses a run refuses: over several hundred files, and over whole runs."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

import pytest

from exptilt.data.cache import DataCache
from exptilt.data.kind_of_rows import kind_of_rows
from exptilt.data.prepared import prepare
from exptilt.errors import ExptiltError
from exptilt.policies.tokenizers import train_tokenizer
from exptilt.runs.run_recipe import run_recipe
from exptilt.settings.load import dump, load
from exptilt.verbs.doctor import _Alone, doctor

sys.path.insert(0, str(Path(__file__).parent))
from doctor_corpus import files

CHATML = (
    "{% if tools %}{{ tools | tojson }}{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer():
    made = train_tokenizer(["Q0? good bad so Answer. Be brief."] * 20, 300)
    made.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    made.chat_template = CHATML
    return made


def doctor_status(source, *overrides):
    """0 or 1, whatever way the refusal takes."""
    try:
        return doctor(str(source), list(overrides), None, True, 0)
    except ExptiltError:
        return 1


def run(path, overrides, tokenizer):
    """0 if the rows of a run with a model are taken, else 1."""
    try:
        config = load(_Alone, None, [f"data.train={path}", *overrides]).data
        prepare(config, tokenizer, kind_of_rows(config), 4096)
    except ExptiltError:
        return 1
    return 0


def test_the_doctor_without_a_model_and_a_run_with_one_agree_on_several_hundred_files(
    tmp_path, tokenizer, capsys, monkeypatch
):
    monkeypatch.setattr(DataCache, "of", lambda *_: None)  # so few rows are never kept
    outcomes, disagreed = Counter(), []
    for name, content, overrides in files():
        path = tmp_path / "rows.jsonl"
        path.write_text(content)
        said, done = doctor_status(path, *overrides), run(path, overrides, tokenizer)
        capsys.readouterr()
        outcomes[done] += 1
        if said != done:
            disagreed.append((name, said, done))
    assert disagreed == []
    assert outcomes.total() > 600
    assert min(outcomes.values()) > 150  # both of them occur often


def rated(count, same=False):
    return [
        {"prompt": "One?" if same else f"Is it {n}?", "completion": f" it is {n}", "label": bool(n % 2)}
        for n in range(count)
    ]


def scored(count):
    return [{"prompt": f"Is it {n}?", "chosen": f" it is {n}", "rejected": f" no {n}"} for n in range(count)]


SFT = "sft={train: {epochs: 1}}"
RUNS = {  # rows, overrides, whether a run takes them
    "a last batch of one": (rated(13), [SFT, "loss=kto", "batch.size=12", "data.test_fraction=0"], True),
    "batches of one": (rated(6), [SFT, "loss=kto", "batch.size=1", "data.test_fraction=0"], False),
    "one prompt": (rated(6, same=True), [SFT, "loss=kto", "data.test_fraction=0", "data.on_duplicate=keep"], False),
    "no margin": (scored(8), [SFT, "loss=odpo", "data.test_fraction=0"], False),
    "no scores": (scored(8), ["loss=sppo", "data.test_fraction=0"], False),
    "too long for model.config": (
        [*scored(8), {"prompt": "Long?", "chosen": " it is" * 300, "rejected": " no"}],
        ["data.test_fraction=0"],
        False,
    ),
    "text through a template": (scored(8), ["data.template=chat", "data.test_fraction=0"], True),
    "all of weight 0": ([{**row, "weight": 0} for row in scored(8)], ["data.test_fraction=0"], False),
    "some of weight 0": ([{**row, "weight": n % 2} for n, row in enumerate(scored(8))], ["data.test_fraction=0"], True),
}


@pytest.mark.parametrize("name", RUNS)
def test_the_doctor_of_a_recipe_and_the_whole_run_agree(name, make_recipe, write_rows, tmp_path, capsys):
    rows, overrides, takes = RUNS[name]
    recipe = make_recipe(f"data.train={write_rows('rows.jsonl', rows)}", "train.max_steps=4", *overrides)
    (tmp_path / "mine.yaml").write_text(dump(recipe))
    assert doctor_status(tmp_path / "mine.yaml") == (not takes)
    capsys.readouterr()
    try:
        taken = run_recipe(recipe, page=False).finished
    except ExptiltError:
        taken = False
        assert not (recipe.folder / "sft").exists()  # no phase was trained in vain
    assert taken is takes


def test_held_out_rows_are_counted_as_rows_where_one_gives_several_pairs(write_rows, capsys):
    labels = [{"i": i, "j": j, "label": "i"} for i in range(4) for j in range(i + 1, 4)]
    rows = [{"question": f"Q{n}?", "answers": [f"{n}{k}" for k in "abcd"], "pair_labels": labels} for n in range(40)]
    path = write_rows("compared.jsonl", rows)
    assert doctor(str(path), ["data.test_fraction=0.4"], None, True, 0) == 0
    report = json.loads(capsys.readouterr().out)
    train, test = report["train"], report["test"]
    assert train["rows"] + test["rows"] == 40
    assert (train["kept"], test["kept"]) == (6 * train["rows"], 6 * test["rows"])
    assert min(train["rows"], test["rows"]) > 5
