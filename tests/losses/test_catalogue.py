"""The catalogue page is the code's, complete and up to date."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import get_args

import jsonschema
import pytest

from exptilt.losses import AnyLoss, AnyRewardLoss
from exptilt.losses.catalogue import catalogue_markdown, objectives_document
from exptilt.settings.objectives import PATH, entries

ROOT = Path(__file__).parents[2]


def test_the_page_is_up_to_date():
    page = (ROOT / "docs" / "objectives.md").read_text(encoding="utf-8")
    assert page == catalogue_markdown(), "run: make docs"


def test_what_recipes_are_checked_against_is_up_to_date():
    assert json.loads(PATH.read_text(encoding="utf-8")) == json.loads(json.dumps(objectives_document())), (
        "run: make docs"
    )
    jsonschema.Draft202012Validator.check_schema(objectives_document())


def test_every_loss_is_listed_once():
    names = [entry.name for entry in entries()]
    assert len(names) == len(set(names)) == len(get_args(AnyLoss)) + len(get_args(AnyRewardLoss))


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: entry.name)
def test_every_entry_says_what_a_reader_needs(entry):
    assert entry.summary.endswith(".")
    assert "\n" in entry.definition
    assert entry.formula
    assert all(len(text) > 15 for text in (entry.use_when, entry.known_failure, entry.source))
    assert all(len(setting.help) > 10 for setting in entry.settings)


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: entry.name)
def test_every_loss_names_its_source_and_says_whether_it_was_checked(entry):
    """An equation number that nobody compared with the paper is marked, and the page of papers has a row for the loss."""
    named = r"https://arxiv\.org/abs/\d{4}\.\d{5}|\(\d{4}\)|TRL|segmentation, as circulated|`\w+`|penalty|Cal-DPO"
    assert re.search(named, entry.source)
    assert re.search(r"\b(un)?checked\b", entry.source, re.IGNORECASE)
    cites = re.search(r"\beq\. \d", entry.source)
    said = re.search(r"against the papers?'s? text|against the papers' text|equation number is unchecked", entry.source)
    assert not cites or said
    assert f"`{entry.name}`" in (ROOT / "docs" / "papers.md").read_text(encoding="utf-8")


def test_what_a_loss_needs_is_read_from_its_attributes():
    needs = {entry.name: entry.needs for entry in entries()}
    assert needs["dpo"] == ("reference",)
    assert needs["slic"] == ()
    assert needs["kto"] == ("reference", "whole batch", "mismatched", "mismatched_reference")
    assert needs["wpo"] == ("reference", "lengths", "tokens", "full distribution (sum of squares)")
    assert needs["bco"] == ("reference", "whole batch", "state")


def test_a_section_holds_the_formula_and_the_defaults():
    section = catalogue_markdown().split("### simpo\n")[1].split("### ")[0]
    assert "loss = -log sigmoid(beta * p_chosen - beta * p_rejected - gamma)" in section
    assert "With p the mean log-probability per token," in section
    assert "| `gamma` | `1` | Target margin in units of reward" in section


def test_every_objective_is_mapped_to_its_paper_file_and_test():
    """docs/papers.md names each loss, and every file and test it names exists."""
    page = (ROOT / "docs" / "papers.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    mapped = {name.strip("` ") for row in rows for name in row.split("|")[1].split(",")}
    assert {entry.name for entry in entries()} <= mapped
    for row in rows:
        for cell in row.split("|"):
            for path in [part.strip("` ") for part in cell.split(",") if part.strip().endswith(".py`")]:
                assert (ROOT / "src/exptilt/losses" / path).exists() or (ROOT / "tests/losses" / path).exists(), path
