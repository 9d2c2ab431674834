"""Mistakes with every verb of the command line: one line, exit status 2, no traceback, and what was wrong in it."""

from __future__ import annotations

import json
import shlex
import sys

import pytest

from exptilt.cli import main

MISUSES = {
    "label": "sources must name at least one file",
    "label gone.jsonl": "gone.jsonl: no such file or folder",
    "label prompts.jsonl": "a prompt without an answer",
    "label rows.jsonl --next best": "must be 'random', 'uncertain' or 'disagree'",
    "label rows.jsonl --port 99999": "port must be in [0, 65535]",
    "label rows.jsonl --repeats 0.9": "invalid value for '--repeats'",
    "label rows.jsonl --host 0.0.0.0": "name everybody with --people",
    "label rows.jsonl --wanted 0": "invalid value for '--wanted'",
    "label rows.jsonl --lease -3": "lease_minutes must be > 0",
    "label rows.jsonl --guide nothere.md": "--guide nothere.md: there is no such file",
    "label rows.jsonl --known gone.jsonl": "gone.jsonl: no such file",
    "label rows.jsonl --store postgres://x": "a store is a file, or a postgresql:// URL",
    "label text.txt": "unknown type of file",
    "label --import gone.json": "gone.json: no such file",
    "label --import rows.jsonl": "is no vote of Argilla",
    "label --export out.jsonl --store gone.db": "gone.db: there is no such store of votes",
    "label rows.jsonl --people anna --people anna": "names that differ",
    "label rows.jsonl --question ''": "questions must be at least one",
    "chat": "missing argument 'MODEL'",
    "chat ./gone": "./gone: no such folder",
    "chat empty": "empty: is no model folder",
    "chat rows.jsonl": "is a file; give the folder of a model",
    "chat m --port 99999": "invalid value for '--port'",
    "serve": "missing argument 'MODEL'",
    "serve m --merged": "option '--merged' requires an argument",
    "masks m": "images: missing",
    "masks m images=empty number=0": "number: unknown key",
    "votes gone.json": "gone.json: there is no such file of votes",
    "votes rows.jsonl": "no known form of votes",
    "votes --as mt_bench": "--as FORM and --output go together",
    "votes --as csv --output x": "votes.db: there is no such store of votes",
    "votes empty": "is no folder of MT-Bench or Arena-Hard",
    "agree": "missing argument 'VOTES...'",
    "agree gone.db": "gone.db: there is no such store of votes",
    "agree rows.jsonl": "is not a store of votes",
    "agree gone.db --epsilon 2": "invalid value for '--epsilon'",
    "judge": "name the answers to judge",
    "judge answers.jsonl --by coin": "name an opponent with --against",
    "judge answers.jsonl answers.jsonl --by coin": "answers.jsonl: named twice",
    "judge answers.jsonl --by server:gpt --budget 3": "--budget needs the prices",
    "judge answers.jsonl --against gone.jsonl --by coin": "gone.jsonl: there is no such file of answers",
    "judge --benchmark gone.jsonl --by coin": "gone.jsonl: there is no such benchmark file",
    "judge jgrid.yaml temperatures=-1": "temperatures: must be a valid list",
    "judge jgrid.yaml policies=3": "policies: must be a valid list",
    "train rounds.yaml rounds=0": "rounds.num_rounds must be >= 1",
    "train rounds.yaml rounds.reward=nope": "rounds.reward",
    "train rounds.yaml rounds.label=judge": "judge is missing: label=judge needs one",
    "train rounds.yaml rounds.num_samples=1": "num_samples must be >= 2",
    "train rounds.yaml rounds.prompts=gone.jsonl": "gone.jsonl: no such file",
    "train rounds.yaml rounds.law.temperature=-1": "rounds.law.temperature must be >= 0",
    "train rounds.yaml rounds.reward.kind=verifier": "rounds.reward.check: missing",
    "train masks.yaml": "no manifest (.jsonl) and no folder of images and masks",
    "train masks.yaml data.classes=1": "data.classes must be >= 2",
    "train masks.yaml segmenter.path=./gone segmenter.config=null": "./gone: no such folder",
    "train bad.yaml": "bad.yaml line 2: not valid YAML",
    "train list.yaml": "a recipe is a mapping of keys to values, this is a list",
    "train": "the recipe is missing",
    "train r.yaml r.yaml": "'r.yaml' is not of the form key=value",
    "train m": "is a folder, not a recipe file",
    "train r.yaml --loss.beta 0.2": "did you mean 'loss.beta', written key=value?",
    "train r.yaml loss.beta 0.2": "'loss.beta' is not of the form key=value",
    "train r.yaml --output out": "did you mean 'output', written key=value?",
    "trian r.yaml": "no such command 'trian'. Did you mean 'train'?",
    "train r.yaml train.callbacks=[nope]": "train.callbacks.0: must hold keys of its own",
    "train r.yaml 'loss={import: nope:X}'": "no module named 'nope'",
    "frontier grid.yaml task.name=nope": "unknown name 'nope'",
    "frontier grid.yaml methods=dpo": "methods: must be a valid list",
    "frontier grid.yaml seeds=[]": "seeds must name at least one",
    "frontier grid.yaml jobs=0": "jobs must be >= 1",
    "sample": "missing argument 'MODEL'",
    "sample m data.train=prompts.jsonl": "output: missing",
    "sample m data.train=prompts.jsonl num_samples=0 --output s": "num_samples must be at least 1",
    "sample m data.train=prompts.jsonl law.temperature=hot --output s": "must be a valid number, got 'hot'",
    "sample m prompts.jsonl --output s": "'prompts.jsonl' is not of the form key=value",
    "sample http://localhost:1/v1 data.train=prompts.jsonl --output s": "server.model: missing",
    "pair empty": "output: missing",
    "pair rows.jsonl --output x.jsonl": "reward is missing",
    "report gone": "gone: is no folder",
    "report empty": "holds none of config.yaml",
    "export m --merge": "is not a run folder",
    "export m": "nothing to do: add --merge",
    "evaluate m": "name the rows too",
    "evaluate r.yaml": "is not a run folder",
    "plan r.yaml --gpus 8xFOO": "'8xFOO': unknown device",
    "doctor gone.jsonl": "gone.jsonl: no such file",
    "doctor rows.jsonl loss.beta=1": "without a recipe only data.* keys can be set",
    "doctor rows.jsonl --model ./gone": "./gone: no such folder",
    "doctor rows.jsonl --examples -1": "invalid value for '--examples'",
    "prepare rounds.yaml": "rounds: the rows of a round are sampled when it begins",
    "init empty": "is a folder; name a file in it",
    "init r.yaml": "exists already",
    "init new.yaml --model m": "--model needs --from DATA",
    "init new.yaml --from gone.jsonl": "gone.jsonl: no such file",
    "init new.yaml --from prompts.jsonl": "draw some with `exptilt sample`",
    "convert gone.yaml": "gone.yaml: cannot be read",
    "convert text.txt --output r.yaml": "r.yaml: is there already",
    "config los": "did you mean 'loss'?",
    "config loss.nope": "`exptilt config loss` lists them",
    "demo --seeds 0": "seeds: must be >= 1",
    "demo --output mine": "holds files that exptilt did not make",
}  # fmt: skip
VERBS = {words.split()[0] for words in MISUSES} - {"trian"}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with rows, recipes of every kind, and what passes for a model's folder."""
    monkeypatch.chdir(tmp_path)
    pairs = [{"prompt": f"Say {n}.", "chosen": f"Well, {n}.", "rejected": f"No {n}!"} for n in range(6)]
    files = {
        "rows.jsonl": pairs,
        "prompts.jsonl": [{"prompt": f"Why {n}?"} for n in range(5)],
        "answers.jsonl": [{"prompt": f"Why {n}?", "completion": "x"} for n in range(5)],
    }
    for name, rows in files.items():
        (tmp_path / name).write_text("\n".join(map(json.dumps, rows)))
    texts = {
        "r.yaml": "output: run\nmodel: {path: m}\ndata: {train: rows.jsonl}\n",
        "bad.yaml": "output: [\n", "list.yaml": "- a\n", "text.txt": "hi",
        "grid.yaml": "output: grid\ntask: {name: world}\nmethods: [{loss: dpo}]\n",
        "jgrid.yaml": "output: jg\ndata: {train: prompts.jsonl}\npolicies: [{label: a, answers: answers.jsonl}]\n",
        "rounds.yaml": "output: rr\nmodel: {path: m}\ndata: {train: prompts.jsonl}\nrounds: 2\n",
        "masks.yaml": "output: mm\nsegmenter: {config: {}}\ndata: {train: nomanifest.jsonl}\n",
        "m/config.json": '{"model_type": "llama"}', "m/tokenizer.json": "{}", "mine/thesis.txt": "mine",
    }  # fmt: skip
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "m" / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    (tmp_path / "empty").mkdir()
    return tmp_path


@pytest.mark.parametrize("words", MISUSES)
def test_a_mistake_is_one_line(here, monkeypatch, capsys, words):
    monkeypatch.setattr(sys, "argv", ["exptilt", *shlex.split(words)])
    with pytest.raises(SystemExit) as leaving:
        main()
    out, err = capsys.readouterr()
    (line,) = err.splitlines()
    assert leaving.value.code == 2
    assert MISUSES[words] in line
    assert line.startswith("exptilt: ")
    assert len(line) < 320
    assert out == ""


def test_the_corpus_covers_every_verb():
    from exptilt.cli import app

    assert len(MISUSES) >= 100
    assert {command.callback.__name__ for command in app.registered_commands} <= VERBS
