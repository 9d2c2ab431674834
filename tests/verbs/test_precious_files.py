"""Every verb that writes, told to write where a person's files lie: refused with the reason, and not a byte is another."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from exptilt.cli import main
from exptilt.run_folder.ownership import LOCK_FILE, OWNER_FILE

RECIPE = """\
output: runs/new
model: {path: models/base}
data: {train: data/pairs.jsonl, test_fraction: 0.3}
batch: {size: 8}
"""
STUDY = """\
output: studies/new
task: {name: own, model: {path: models/base}, data: {train: data/pairs.jsonl, test_fraction: 0.3}, reward: "operator:eq"}
methods: [{loss: {name: dpo}}]
"""
MODEL = ("models/base", "models/other", "models/adapter")


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: Any) -> Path:
    """A working directory full of what people have: models with notes, rows, a finished run, links; home is above it."""
    home = tmp_path / "home"
    desk = home / "desk"
    for name in MODEL:
        shutil.copytree(finished.folder / "model", desk / name)
        (desk / name / "notes.md").write_text("three weeks of work\n")
    shutil.move(finished.folder, desk / "run")
    (desk / "run" / "model" / "notes.md").write_text("the one we ship\n")
    for name in ("photos", "data", "empty/below"):
        (desk / name).mkdir(parents=True)
    (desk / "photos" / "cat.jpg").write_bytes(bytes(range(256)))
    rows = [{"prompt": f"Is it {n}?", "chosen": f" Yes, {n}.", "rejected": f" No, not {n}."} for n in range(30)]
    (desk / "data" / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in ("notes.txt", "page.html", "numbers.json", "table.json"):
        (desk / name).write_text(f"{name}: mine\n")
    (desk / "locked.html").write_text("")
    (desk / "locked.html").chmod(0o444)
    (desk / "recipe.yaml").write_text(RECIPE)
    (desk / "study.yaml").write_text(STUDY)
    (desk / "link-to-base").symlink_to(desk / "models" / "base")
    (desk / "link-to-photos").symlink_to(desk / "photos")
    (desk / "link-to-desk").symlink_to(desk)
    (desk / "link.html").symlink_to(desk / "page.html")
    monkeypatch.chdir(desk)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("MPLCONFIGDIR", str(tmp_path / "matplotlib"))
    return desk


def everything(folder: Path) -> dict[str, tuple[int, bytes | str]]:
    """Every path below a folder with its permissions and its content or where it leads."""
    found: dict[str, tuple[int, bytes | str]] = {}
    for path in sorted(path for path in folder.rglob("*") if path.name not in (OWNER_FILE, LOCK_FILE)):
        content = os.readlink(path) if path.is_symlink() else b"" if path.is_dir() else path.read_bytes()
        found[str(path.relative_to(folder))] = (path.lstat().st_mode, content)
    return found


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["exptilt", *words])
    try:
        main()
    except SystemExit as leaving:
        return int(leaving.code or 0)
    return 0


CWD, THEIRS = "working directory", "holds files that exptilt did not make"
TRAIN = [
    ("output=.", CWD),
    ("output=..", CWD),
    ("output=models/..", CWD),
    ("output=link-to-desk", CWD),
    ("output=/", CWD),
    ("output=~/", CWD),
    ("output=models/base", "is model.path=models/base"),
    ("output=./photos/../models//base/", "is model.path"),
    ("output=link-to-base", "is model.path"),
    ("output=models", "holds model.path"),
    ("output=models/base/run", "lies inside model.path"),
    ("output=link-to-base/run", "lies inside model.path"),
    ("output=models/other reference.model=models/other", "is reference.model"),
    ("output=models/other/run reference.model=models/other", "lies inside reference.model"),
    ("output=models/adapter adapter.path=models/adapter", "is adapter.path"),
    ("output=models/other model.tokenizer=models/other", "is model.tokenizer"),
    ("output=data", "holds data.train=data/pairs.jsonl"),
    ("output=data/pairs.jsonl", "a file is in its way"),
    ("output=data data.train=data/*.jsonl", "holds data.train=data/*.jsonl"),
    ("output=photos", THEIRS),
    ("output=link-to-photos", THEIRS),
    ("output=empty", THEIRS),
    ("output=photos train.resume=never", THEIRS),
    ("output=photos train.resume=force", THEIRS),
    ("output=models/other train.resume=never", THEIRS),
    ("output=run/model", THEIRS),
    ("output=notes.txt", "a file is in its way"),
    ("output=notes.txt/run", "a file is in its way"),
    ("output=run", "holds a run of another recipe"),
    ("output=run model.path=run/model train.resume=never", "holds model.path=run/model"),
]
OTHERS = [
    ("evaluate models/base data.train=data/pairs.jsonl --output .", CWD),
    ("evaluate models/base data.train=data/pairs.jsonl --output photos", THEIRS),
    ("evaluate models/base data.train=data/pairs.jsonl --output models/base", "is model.path"),
    ("evaluate models/base data.train=data/pairs.jsonl --output models/base/numbers", "lies inside model.path"),
    ("evaluate models/base data.train=data/pairs.jsonl --output data", "holds data.train"),
    ("evaluate models/base data.train=data/pairs.jsonl --output notes.txt", "a file is in its way"),
    ("evaluate models/base data.train=data/pairs.jsonl --output run", "holds a run, not an evaluation"),
    ("evaluate run --output photos", THEIRS),
    ("evaluate run --output .", CWD),
    ("evaluate run --output run/model", "is the run's model"),
    ("evaluate run --output run/model/numbers", "lies inside the run's model"),
    ("evaluate run --reference models/other --output models/other", "is reference.model"),
    ("export run --output photos", "is not an empty folder"),
    ("export run --output models/base", "is not an empty folder"),
    ("export run --output link-to-base", "is not an empty folder"),
    ("export run --output .", "is not an empty folder"),
    ("export run --output notes.txt", "is not an empty folder"),
    ("export run --output run/model/copy", "lies inside the run's model"),
    ("report run --output page.html", "is no report of exptilt"),
    ("report run --output link.html", "is no report of exptilt"),
    ("report run --output numbers.html", "numbers.json: is no report of exptilt"),
    ("report run --output notes.txt", "a file is in its way"),
    ("report run --output locked.html", "is write-protected"),
    ("doctor data/pairs.jsonl --html page.html", "is no report of exptilt"),
    ("doctor data/pairs.jsonl --html data/pairs.jsonl", "is no report of exptilt"),
    ("doctor data/pairs.jsonl --html photos", "is a folder"),
    ("init recipe.yaml", "exists already"),
    ("init notes.txt", "exists already"),
    ("init data/pairs.jsonl --force", "is no recipe"),
    ("init photos/cat.jpg --force", "is no recipe"),
    ("init link.html --force", "is no recipe"),
    ("init photos", "is a folder"),
    ("frontier study.yaml output=.", CWD),
    ("frontier study.yaml output=photos", THEIRS),
    ("frontier study.yaml output=models/base", "is task.model.path"),
    ("frontier study.yaml output=data", "holds task.data.train"),
    ("frontier study.yaml output=run", "holds a run, not a study"),
    ("frontier study.yaml output=notes.txt", "a file is in its way"),
    ("demo --output photos", THEIRS),
    ("demo --output .", CWD),
    ("demo --output models", THEIRS),
    ("demo --output run", "holds a run, not a demo"),
    ("demo --output notes.txt", "a file is in its way"),
]
CASES = [(f"train recipe.yaml {words}", why) for words, why in TRAIN] + OTHERS


def test_no_verb_touches_what_it_did_not_make(desk, monkeypatch, capfd):
    """One desk for all, so that one verb's trace would be the next one's failure."""
    before = everything(desk.parent)
    wrong = []
    for words, why in CASES:
        status = run(monkeypatch, *words.split())
        lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("exptilt: ")]
        after = everything(desk.parent)
        changed = {name for name in {**before, **after} if before.get(name) != after.get(name)}
        if (
            (status, len(lines), changed) != (2, 1, set())
            or why not in lines[0]
            or len(lines[0]) > 300 + len(str(desk))
        ):
            wrong.append((words, status, lines, changed))
    assert not wrong, "\n".join(map(str, wrong))


def test_an_exported_merge_is_replaced_and_no_other_folder_of_its_name(desk, monkeypatch, capfd):
    shutil.copytree("photos", "run/merged")
    before = everything(desk.parent)
    assert run(monkeypatch, "export", "run", "--merge") == 2
    assert "merged: is no model that exptilt merged" in capfd.readouterr().err
    assert everything(desk.parent) == before


def test_what_people_put_beside_a_saved_model_stays_when_it_is_saved_again(desk, monkeypatch, capfd):
    card = Path("run/model/README.md")
    card.write_text("my own words")
    config = Path("run/config.yaml")
    config.write_text(re.sub("num_prompts: 2", "num_prompts: 3", config.read_text()))
    assert run(monkeypatch, "train", "run/config.yaml", "output=run") == 0
    assert Path("run/model/notes.md").read_text() == "the one we ship\n"


def test_a_forced_starter_replaces_a_recipe_with_mistakes(desk, monkeypatch):
    Path("recipe.yaml").write_text("output: x\nmodle: {}\n")
    assert run(monkeypatch, "init", "recipe.yaml", "--force") == 0
    assert Path("recipe.yaml").read_text().startswith("# A recipe for exptilt")


def test_a_report_is_written_again_over_itself_and_through_a_link(desk, monkeypatch):
    Path("pages").mkdir()
    Path("pages/link.html").symlink_to(desk / "pages" / "real.html")
    assert run(monkeypatch, "report", "run", "--output", "pages/link.html") == 0
    assert Path("pages/link.html").is_symlink()
    first = Path("pages/real.html").read_text()
    assert run(monkeypatch, "report", "run", "--output", "pages/link.html") == 0
    assert Path("pages/real.html").read_text() == first
