"""The loop in a real browser: sample, label, pair, train, evaluate, and label again what was trained."""

from __future__ import annotations

import json
import re
import sys

import pytest

from exptilt.cli import main
from exptilt.policies.models import load_model
from exptilt.policies.saving import save_model
from exptilt.policies.tokenizers import train_tokenizer
from exptilt.settings.model_settings import ModelConfig, SmallModel

pytest.importorskip("exptilt.votes.settled_votes", reason="`exptilt pair votes.db` is not there")


@pytest.fixture
def exptilt_command(monkeypatch):
    """A command of exptilt, which must succeed."""

    def call(*words: str) -> None:
        monkeypatch.setattr(sys, "argv", ["exptilt", *words])
        with pytest.raises(SystemExit) as leaving:
            main()
        assert not leaving.value.code

    return call


def letters(text: str) -> int:
    """What the person likes: small letters."""
    return len(re.findall("[a-z]", text))


def prefers_more_letters(browser, page) -> int:
    """A person who compares everything there is, by keyboard alone; the number of votes."""
    tab = browser.new_page()
    tab.goto(next(iter(page.links.values())))
    tab.wait_for_selector("#vote")
    tab.goto(f"{page.address}/?view=raw")
    votes = 0
    while tab.locator("#vote").count():
        left, right = (letters(tab.locator("section.answer").nth(at).text_content()) for at in (0, 1))
        with tab.expect_navigation():
            tab.keyboard.press("1" if left > right else "3" if right > left else "2")
        votes += 1
    tab.close()
    return votes


@pytest.mark.slow
def test_what_people_prefer_is_what_the_policy_becomes(browser, open_page, exptilt_command, tmp_path):
    tokenizer = train_tokenizer(["the film was good and the plot was bad"] * 4, 300)
    size = SmallModel(hidden_size=32, num_layers=1, num_heads=2, max_positions=64, initializer_range=0.2)
    save_model(load_model(ModelConfig(config=size), tokenizer), tokenizer, tmp_path / "model")
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"the film {n}"}) + "\n" for n in range(40)))
    drawing = [f"data.train={prompts}", "law.max_new_tokens=8", "num_samples=2"]
    exptilt_command("sample", str(tmp_path / "model"), *drawing, "--output", str(tmp_path / "before"))

    page = open_page("before", "--repeats", "0.1")
    assert prefers_more_letters(browser, page) >= 40
    page.stop()
    exptilt_command("pair", "before", "votes.db", "--output", "pairs.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    gaps = [letters(row["chosen"]) - letters(row["rejected"]) for row in rows if row["p_chosen"] != 0.5]
    assert min(gaps) > 0
    assert len(gaps) >= 20

    (tmp_path / "recipe.yaml").write_text(
        "output: run\nmodel: {path: model}\ndata: {train: pairs.jsonl, test_fraction: 0.2, on_empty: keep, on_tie: drop}\n"
        "batch: {size: 16}\noptim: {learning_rate: 3.0e-3}\ntrain: {epochs: 12}\n"
    )
    exptilt_command("train", "recipe.yaml")
    exptilt_command("evaluate", "run")
    exptilt_command("sample", "run", *drawing, "--output", str(tmp_path / "after"))

    page = open_page("after", "before", "--store", "second.db", "--repeats", "0")
    assert prefers_more_letters(browser, page) >= 40
    results = page.ask("/results", next(iter(page.links)))[1]
    assert "after against before" in results
    page.stop()
    exptilt_command("pair", "after", "before", "second.db", "--output", "second.jsonl")
    second = [json.loads(line) for line in (tmp_path / "second.jsonl").read_text().splitlines()]
    drawn = {json.loads(line)["completion"] for line in (tmp_path / "after" / "samples.jsonl").read_text().splitlines()}
    # The page measures what training changed: the same person now prefers the trained policy.
    wins = [row["chosen"] in drawn for row in second if row["p_chosen"] != 0.5]
    assert sum(wins) > 0.6 * len(wins) >= 12
