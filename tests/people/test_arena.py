"""Two models side by side: blind, every vote once, the conversation kept; as rules, over HTTP and in a browser."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from exptilt.errors import ModelError
from exptilt.people.arena import Arena, model_shown_first
from exptilt.policies.models import load_model
from exptilt.policies.saving import save_model
from exptilt.policies.tokenizers import train_tokenizer
from exptilt.settings.model_settings import ModelConfig, SmallModel
from exptilt.votes.vote_store import VoteStore

sys.path.insert(0, str(Path(__file__).parent))
from conftest import Page, nonce_in, run_in_process


def say(model, turns, number):
    return f"{'pq'[model]} says {len(turns)} {number}"


@pytest.fixture
def store(tmp_path):
    with VoteStore(tmp_path / "votes.db") as opened:
        yield opened


def test_a_vote_is_about_the_whole_conversation_and_it_goes_on_with_the_better_answer(store):
    arena = Arena(store, say, ("policy", "base"), system="Be kind.")
    for number in range(4):
        assert arena.ask("anna", 2 * number, f"message {number}") == "asked"
        exchange = arena.talk("anna").waiting
        want = "p says" if number % 2 else "q says"
        outcome = "first" if exchange.answers[0].startswith(want) else "second"
        assert arena.vote("anna", exchange.nonce, outcome) == "stored"
        assert arena.vote("anna", exchange.nonce, outcome) == "again"
    comparisons, sources = store.comparisons(), store.sources()
    votes = store.votes()
    assert len(votes) == len(comparisons) == 4
    for number, vote in enumerate(votes):
        comparison = comparisons[vote.comparison]
        assert [turn["role"] for turn in comparison.prompt] == ["system", *["user", "assistant"] * number, "user"]
        winner = comparison.answers[0 if vote.first_share == 1 else 1]
        assert winner.startswith("p" if number % 2 else "q")
        for at, answer in enumerate(comparison.answers):
            assert sources[vote.comparison][at] == ["policy" if answer.startswith("p") else "base"]
        if number:
            assert comparison.prompt[-2]["content"].startswith("q" if number % 2 else "p")


def test_sides_are_hidden_by_a_hash_that_is_balanced(store):
    arena = Arena(store, lambda model, turns, number: f"{'zA'[model]} {number}", ("policy", "base"))
    first = 0
    for number in range(400):
        arena.ask("anna", 0, f"message {number}")
        first += model_shown_first(arena.talk("anna").waiting)
        arena.begin_anew("anna")
    assert 160 < first < 240  # four standard deviations


def test_a_message_that_comes_twice_is_asked_once_and_one_without_answer_is_not_said(store):
    asked = []

    def answer(model, turns, number):
        asked.append(model)
        if turns[-1]["content"] == "fail":
            raise ModelError("the model process was ended by SIGKILL")
        return "equal" if turns[-1]["content"] == "same" else say(model, turns, number)

    arena = Arena(store, answer, ("policy", "base"))
    with pytest.raises(ModelError, match="SIGKILL"):
        arena.ask("anna", 0, "fail")
    assert len(arena.talk("anna").conversation) == 0
    assert (arena.ask("anna", 0, "same"), arena.ask("anna", 0, "same")) == ("same", "old")
    assert len(asked) == 4
    assert arena.ask("anna", 2, "more") == "asked"
    assert arena.ask("anna", 3, "and more") == "old"  # a vote is waited for
    assert arena.vote("anna", "0" * 32, "first") == "unknown"
    assert arena.ask("ben", 0, "hello") == "asked"  # others have conversations of their own
    assert store.votes() == []


@pytest.fixture(scope="module")
def arena_page(tmp_path_factory):
    """The command as people start it, on two models."""
    folder = tmp_path_factory.mktemp("arena")
    tokenizer = train_tokenizer(["the film was good and the plot was bad"] * 4, 300)
    for seed, name in enumerate(("tuned", "startingpoint")):
        size = SmallModel(hidden_size=16, num_layers=1, num_heads=2, max_positions=256)
        save_model(load_model(ModelConfig(config=size), tokenizer, seed=seed), tokenizer, folder / name)
    words = ["chat", "tuned", "law.max_new_tokens=12", "--against", "startingpoint", "--port", "0", "--no-browser"]
    page = run_in_process(words, folder)
    yield page, folder
    page.stop()


def spoken(page: str) -> str:
    return re.search(r'name="turn" value="(\d+)"', page).group(1)


def talk(page: Page, name: str, text: str) -> str:
    status, shown = page.ask("/say", name, {"text": text, "turn": spoken(page.ask("/", name)[1])})
    assert status == 200
    return shown


def test_a_conversation_over_http_becomes_rows_to_train_on(arena_page):
    page, folder = arena_page
    (name,) = page.links
    assert page.ask("/")[0] == 401
    page.ask("/new", name, {})
    for number in range(2):
        shown = talk(page, name, f"hello {number} <script>alert(1)</script>")
        assert "tuned" not in shown
        assert "startingpoint" not in shown
        assert "<script>alert" not in shown
        nonce = nonce_in(shown)
        assert "Stored." in page.ask("/vote", name, {"nonce": nonce, "outcome": "first"})[1]
        assert "counts once" in page.ask("/vote", name, {"nonce": nonce, "outcome": "first"})[1]
    assert page.ask("/vote", name, {"nonce": "1" * 32, "outcome": "first"})[0] == 409
    assert page.ask("/say", name, {"text": " ", "turn": "4"})[0] == 400
    assert page.ask("/say", name, {"text": "a", "turn": "4"}, Sec_Fetch_Site="cross-site")[0] == 403
    assert "leave no room" in page.ask("/say", name, {"text": "word " * 300, "turn": "4"})[1]
    command = [sys.executable, "-m", "exptilt", "pair", "votes.db", "--output", "pairs.jsonl"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]
    assert [len(row["prompt"]) for row in rows] == [1, 3]
    assert rows[1]["prompt"][1] == rows[0]["chosen"][0]
    with VoteStore(folder / "votes.db", create=False) as store:
        origins = {source for found in store.sources().values() for at in found.values() for source in at}
    assert origins == {"tuned", "startingpoint"}


@pytest.mark.parametrize("script", [True, False], ids=["keys", "no-script"])
def test_a_person_talks_and_votes_in_a_browser(arena_page, browser, script):
    page, folder = arena_page
    (link,) = page.links.values()
    context = browser.new_context(viewport={"width": 390, "height": 844}, java_script_enabled=script)
    try:
        tab = context.new_page()
        tab.goto(link)
        tab.wait_for_selector("h1:not(:text('Welcome'))")
        tab.get_by_role("button", name="New conversation").click()
        tab.wait_for_selector("text=A new conversation.")
        tab.wait_for_load_state()
        with VoteStore(folder / "votes.db") as store:
            before = len(store.votes())
        tab.fill("#text", "how was the film")
        if script:
            tab.press("#text", "Enter")
        else:
            tab.get_by_role("button", name="Send").click()
        tab.wait_for_selector("text=Answer B")
        tab.wait_for_load_state()  # the script has run
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390
        if script:
            tab.keyboard.press("3")
        else:
            tab.get_by_role("button", name="B is better").click()
        tab.wait_for_selector("text=Stored.")
        with VoteStore(folder / "votes.db") as store:
            votes = store.votes()
        assert len(votes) == before + 1
        assert votes[-1].outcome == "second"
    finally:
        context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_violation(arena_page, browser, violations, scheme):
    page, _ = arena_page
    (link,) = page.links.values()
    context = browser.new_context(color_scheme=scheme, bypass_csp=True)
    try:
        tab = context.new_page()

        def check(what: str) -> None:
            tab.wait_for_load_state()
            for width in (1280, 390):
                tab.set_viewport_size({"width": width, "height": 844})
                assert violations(tab) == [], (what, width)

        tab.goto(link)
        tab.wait_for_selector("h1:not(:text('Welcome'))")
        tab.get_by_role("button", name="New conversation").click()
        tab.wait_for_selector("text=A new conversation.")
        check("nothing said yet")
        for number in range(2):
            tab.fill("#text", f"how was film {number}")
            tab.get_by_role("button", name="Send").click()
            tab.wait_for_selector("text=Answer B")
            if not number:
                check("two answers")
                tab.goto(f"{page.address}/?view=diff")
                tab.wait_for_selector("mark")
                tab.locator(".note summary").click()
                check("differences, and a note")
            tab.get_by_role("button", name="A is better").click()
            tab.wait_for_selector("text=Stored.")
        assert tab.locator(".prompt > .turn").count() == 2  # what was asked stays with its answer
        tab.locator(".prompt summary").click()
        check("a conversation that goes on")
    finally:
        context.close()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--against", "tuned"], "--against tuned: is the same model; name another"),
        (["--against", "reference"], "tuned: is no run, so its reference is not known; name a model with --against"),
        (["--against", "./nothing", "--port", "0"], "./nothing: no such folder"),
        (["--against", "startingpoint", "--port", "PORT"], "is in use; name another with --port, or --port 0 for any"),
    ],
)
def test_what_cannot_be_compared_is_one_line(arena_page, words, says):
    page, folder = arena_page
    words = [page.address.rsplit(":", 1)[1] if word == "PORT" else word for word in words]
    command = [sys.executable, "-m", "exptilt", "chat", "tuned", *words, "--no-browser"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert says in done.stderr


def test_the_page_process_never_imports_torch():
    code = (
        "import sys, exptilt.verbs.chat, exptilt.verbs.label, exptilt.people.arena_page; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "False\n", done.stderr
