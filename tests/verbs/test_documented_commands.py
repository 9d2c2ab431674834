"""Commands that sample and pair, as the pages write them, are read; the documented reward conforms."""

from __future__ import annotations

import importlib
import re
import shlex
import sys
from pathlib import Path

import pytest

from exptilt.preferences import Answer
from exptilt.rewards.reward_from_choice import build_reward
from exptilt.testing import require_conforming_reward
from exptilt.verbs.pair import pair_request
from exptilt.verbs.sample import request_of

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ("sampling.md", "four_commands.md", "own_parts.md", "judges.md")
_FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
COMMANDS = [
    (page, line)
    for page in PAGES
    for _, block in _FENCED.findall((DOCS / page).read_text())
    for line in block.splitlines()
    if line.startswith(("exptilt sample", "exptilt pair")) and "..." not in line
]


@pytest.fixture
def documented_reward(tmp_path, monkeypatch):
    """The reward of the page, as a module of the current folder."""
    (source,) = [code for _, code in _FENCED.findall((DOCS / "own_parts.md").read_text()) if "Brief:" in code]
    (tmp_path / "my_rewards.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "my_rewards", raising=False)
    return importlib.import_module("my_rewards").Brief


def test_there_are_enough_of_them():
    assert len(COMMANDS) >= 9


@pytest.mark.parametrize(("page", "line"), COMMANDS, ids=[f"{page}: {line[:50]}" for page, line in COMMANDS])
def test_a_documented_command_is_read(page, line, documented_reward):
    _, verb, *words = shlex.split(line)
    output = Path(words.pop(words.index("--output") + 1))
    words.remove("--output")
    request = request_of(words[0], words[1:], output) if verb == "sample" else pair_request(words, output)
    assert request.output == str(output)


def test_the_documented_reward_does_what_the_page_says(documented_reward):
    require_conforming_reward(documented_reward(limit=3))
    (line,) = [line for _, line in COMMANDS if "my_rewards" in line]
    request = pair_request(shlex.split(line)[2:-2], Path("pairs.jsonl"))
    reward = build_reward(request.reward)
    values = reward([Answer(prompt="Q", text="word " * count) for count in (30, 34, 0)]).tolist()
    reward.close()
    assert values[:2] == [1.0, 0.2]
    assert values[2] != values[2]
