"""The house: what is found in one guess, what is unique, and who may see a whole recipe."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "exptilt"
COMPOSING = ("runs", "planning", "studies", "verbs", "calls", "commands", "cli.py", "trl", "settings")

GUESSES = {
    "the formula of DPO": "losses/dpo.py::DPO",
    "what a batch is": "data/batching.py::Batches",
    "one optimizer step": "training/step.py::clipped_gradient",
    "the loop": "training/loop.py::train",
    "a check on a row": "data/checks/record_checks.py::check_record",
    "a guard rail": "training/guards/guards.py::Guards",
    "what evaluation.json holds": "run_folder/evaluation_record.py::Evaluation",
    "the report's section on displacement": "reports/displacement_section.py::is_this_normal",
    "what `exptilt doctor` runs": "verbs/doctor.py::doctor",
    "what `exptilt frontier` runs": "verbs/frontier.py::frontier",
    "the best segmenter at each KL": "evaluation/frontier/factorised.py::FactorisedOptimum",
    "what `exptilt init` runs": "verbs/init.py::init",
    "what `exptilt judge` runs": "verbs/judge.py::judge",
    "what `exptilt votes` runs": "verbs/votes.py::votes",
    "a grid of win rates": "studies/judged_grid.py::grid_answers",
    "what judged.json holds": "run_folder/judged_record.py::Judged",
    "how judges and people agree": "evaluation/judged/judges_and_people.py::judges_and_people",
    "where votes are stored": "votes/vote_store.py::VoteStore",
    "how a server is asked": "servers/server_client.py::ServerClient",
    "what a person is shown next": "people/desk.py::Desk",
    "what `exptilt chat` runs": "verbs/chat.py::chat",
    "what `exptilt serve` runs": "verbs/serve.py::serve",
    "the process that models talk from": "conversations/model_process.py::ModelProcess",
    "who may open the page": "people/page_guard.py::PageGuard",
    "how a judge's reply is read": "judges/verdict_parsing.py::parse_verdict",
    "the reference": "policies/reference/references.py::TableReference",
    "where a model gets its device": "policies/device.py::model_on_device",
    "where a run folder is locked": "run_folder/lock.py::claimed",
    "what a recipe's keys are": "settings/recipe.py::Recipe",
    "what a group is": "data/groups.py::Group",
    "what kinds of objectives there are": "kinds.py::Kind",
    "who draws rollouts": "sampling/sampler.py::Sampler",
    "samples beside the reference": "sampling/draws.py::Draws",
    "what `xt.train` runs": "calls/train_call.py::train",
    "what a run gives in Python": "calls/run_result.py::RunResult",
    "how an object in memory stands for a path": "in_memory.py::InMemory",
    "what a reward is, and what a judge is": "preferences.py::Reward",
    "how votes become one opinion": "votes/settled_votes.py::VoteRule",
    "how samples and votes become rows": "runs/paired_rows.py::paired_rows",
    "where the batches of an online run come from": "online/rollouts.py::Rollouts",
    "how completions are drawn, rewarded and scored": "online/rollout_maker.py::RolloutMaker",
    "what TRL's keywords become": "converters/trl_keywords.py::keywords_of",
    "what TRL's DPOTrainer is": "trl/trainers.py::DPOTrainer",
    "which objective fits a data set": "runs/method_advice.py::advise",
    "what is checked before torch is imported": "runs/first_checks.py::check_run",
    "whether a model's files are whole": "policies/model_files.py::check_model_files",
    "what a source of rows is": "settings/source_settings.py::SourceConfig",
    "what `exptilt pair` runs": "verbs/pair.py::pair",
}


def modules() -> list[Path]:
    return [path for path in PACKAGE.rglob("*.py") if path.stem not in ("__init__", "__main__")]


def definitions(path: Path) -> set[str]:
    return {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef | ast.FunctionDef)}


@pytest.mark.parametrize("question", GUESSES)
def test_a_question_is_answered_by_the_file_one_would_guess(question):
    path, name = GUESSES[question].split("::")
    assert name in definitions(PACKAGE / path)


def test_every_verb_stands_in_the_file_of_its_name():
    commands = [ast.parse(path.read_text()) for path in (PACKAGE / "commands").glob("*_commands.py")]
    verbs = {
        node.name
        for file in commands
        for node in file.body
        if isinstance(node, ast.FunctionDef) and any("app.command" in ast.unparse(mark) for mark in node.decorator_list)
    }
    assert len(verbs) >= 10
    files = {path.stem: path for path in (PACKAGE / "verbs").glob("*.py") if path.stem != "__init__"}
    assert files.keys() == verbs
    assert [verb for verb, path in files.items() if verb not in definitions(path)] == []


def test_module_names_are_unique():
    places = defaultdict(list)
    for path in modules():
        places[path.stem].append(str(path.relative_to(PACKAGE)))
    assert [paths for paths in places.values() if len(paths) > 1] == []


def test_public_class_names_are_unique():
    places = defaultdict(list)
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(str(path.relative_to(PACKAGE)))
    assert {name: paths for name, paths in places.items() if len(paths) > 1} == {}


def test_only_the_composing_rooms_take_a_whole_recipe():
    takers = []
    for path in modules():
        room = path.relative_to(PACKAGE).parts[0]
        if room in COMPOSING:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.FunctionDef):
                continue
            parts = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            annotations = [ast.unparse(part.annotation) for part in parts if part.annotation is not None]
            if any(re.search(r"\b(Grid)?Recipe\b", annotation) for annotation in annotations):
                takers.append(f"{path.relative_to(PACKAGE)}:{node.name}")
    assert takers == []


def test_every_room_is_on_the_readmes_map():
    readme = (ROOT / "README.md").read_text()
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert {room for room in rooms if f"src/exptilt/{room}/" not in readme} == set()


def test_a_glossary_word_is_explained_once():
    words = re.findall(r"^\| ([\w, ]+) \|", (ROOT / "docs" / "glossary.md").read_text(), re.M)[1:]
    assert len(words) > 25
    assert sorted(words) == words
    assert len(set(words)) == len(words)
