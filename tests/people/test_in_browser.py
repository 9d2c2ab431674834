"""The page in a real Chromium: by keyboard, by mouse, on a phone, without JavaScript; hostile texts; accessibility."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from exptilt.votes.vote_store import VoteStore

sys.path.insert(0, str(Path(__file__).parent))
from hostile_texts import HOSTILE


@pytest.fixture
def visit(browser):
    """`visit(link, width=1280, **context)`: a tab that has opened a link; it fails on any error or foreign request."""
    contexts, faults = [], []

    def make(link: str, width: int = 1280, **context):
        contexts.append(browser.new_context(viewport={"width": width, "height": 844}, **context))
        tab = contexts[-1].new_page()
        host = link.split("/?")[0]
        tab.on("request", lambda request: request.url.startswith(host) or faults.append(f"asked {request.url[:80]}"))
        tab.on("dialog", lambda dialog: (faults.append("a dialog"), dialog.dismiss()))
        tab.on(
            "console",
            lambda message: message.type == "error" and "400" not in message.text and faults.append(message.text),
        )
        tab.on("pageerror", lambda error: faults.append(str(error)))
        tab.goto(link)
        tab.wait_for_selector("h1:not(:text('Welcome'))")
        tab.wait_for_load_state()  # boxes are measured with the style sheet
        return tab

    yield make
    for context in contexts:
        context.close()
    assert faults == []


def stored(folder: Path) -> list:
    with VoteStore(folder / "votes.db") as store:
        return store.votes(superseded=True)


def press(tab, key: str) -> None:
    """Press a key that leads to another page, and wait for it."""
    with tab.expect_navigation():
        tab.keyboard.press(key)


def test_by_keyboard_alone(open_page, pairs_file, visit, tmp_path):
    pairs_file(12)
    page = open_page("pairs.jsonl", "--repeats", "0", "--guide", str(pairs_file(1, "guide.md")))
    (link,) = page.links.values()
    tab = visit(link)
    assert "token" not in tab.url
    for key in "12340":
        press(tab, key)
    press(tab, "u")
    assert [vote.outcome for vote in stored(tmp_path)] == ["first", "tie", "second", "both_bad", "skip", "unscored"]
    tab.keyboard.press("s")
    tab.keyboard.press("s")
    tab.keyboard.press("n")
    tab.keyboard.type("1 is not a vote here")
    tab.keyboard.press("Escape")
    press(tab, "1")
    last = stored(tmp_path)[-1]
    assert (last.outcome, last.strength, last.note) == ("first", "clearly", "1 is not a vote here")
    press(tab, "r")
    assert tab.locator("pre.raw").count() == 3
    press(tab, "d")
    assert sorted(tab.locator("mark").all_inner_texts()) == ["bad", "good"]
    press(tab, "3")
    assert tab.locator("mark").count() == 2  # the view stays
    press(tab, "f")
    tab.keyboard.press("?")
    assert tab.locator("details.help[open]").count() == 1
    tab.locator("#keys").uncheck()
    before = len(stored(tmp_path))
    tab.locator("h1").click()
    tab.keyboard.press("1")
    tab.reload()
    tab.keyboard.press("1")
    tab.wait_for_timeout(300)
    assert len(stored(tmp_path)) == before
    # Tab and Enter do without single keys.
    tab.locator("button[value=second]").focus()
    press(tab, "Enter")
    assert stored(tmp_path)[-1].outcome == "second"


@pytest.mark.parametrize("scripts", [True, False])
def test_enter_in_a_field_votes_for_nothing(open_page, pairs_file, visit, tmp_path, scripts):
    pairs_file(2)
    (link,) = open_page("pairs.jsonl").links.values()
    tab = visit(link, java_script_enabled=scripts)
    tab.locator("input[value=slightly]").check()
    tab.keyboard.press("Enter")
    tab.wait_for_timeout(500)
    assert stored(tmp_path) == []
    assert tab.locator("h1").inner_text() == ("Which answer is better?" if scripts else "Not stored")


def test_by_mouse_on_a_phone_without_javascript(open_page, pairs_file, visit, tmp_path):
    pairs_file(4)
    (link,) = open_page("pairs.jsonl", "--repeats", "0").links.values()
    tab = visit(link, 390, java_script_enabled=False, has_touch=True, is_mobile=True)
    left, right = (tab.locator("section.answer").nth(at).bounding_box() for at in (0, 1))
    assert right["y"] >= left["y"] + left["height"]  # stacked
    for button in tab.locator("button:visible").all():
        assert button.bounding_box()["height"] >= 44
    for name in ("A is better", "Tie", "Both bad", "Undo"):
        with tab.expect_navigation():
            tab.get_by_role("button", name=name).tap()
        assert tab.get_by_role("status").inner_text() == (
            "Stored." if name != "Undo" else "Taken back; here it is again."
        )
    assert [vote.outcome for vote in stored(tmp_path)] == ["first", "tie", "both_bad", "unscored"]


def test_answers_stand_side_by_side_and_scroll_together(open_page, visit, tmp_path):
    row = {"prompt": "Q", "chosen": "good line\n\n" * 300, "rejected": "bad line\n\n" * 300}
    (tmp_path / "long.jsonl").write_text(json.dumps(row) + "\n")
    (link,) = open_page("long.jsonl").links.values()
    tab = visit(link)
    left, right = (tab.locator("section.answer").nth(at).bounding_box() for at in (0, 1))
    assert left["y"] == right["y"]
    assert abs(left["width"] - right["width"]) < 2
    tab.mouse.move(300, 400)
    tab.mouse.wheel(0, 900)
    tab.wait_for_timeout(500)
    assert tab.evaluate("window.scrollY") > 500
    after = [tab.locator("section.answer").nth(at).bounding_box()["y"] for at in (0, 1)]
    assert after[0] == after[1] < left["y"]
    assert tab.locator("button[value=first]").bounding_box()["y"] < 844  # the vote is always in reach


def test_seven_answers_are_ranked_by_keys(open_page, visit, tmp_path):
    answers = [f"answer {word}" for word in ("one", "two", "three", "four", "five", "six", "seven")]
    row = {"prompt": "Q", "completions": answers, "ranks": list(range(1, 8))}
    (tmp_path / "ranked.jsonl").write_text(json.dumps(row) + "\n")
    (link,) = open_page("ranked.jsonl").links.values()
    tab = visit(link)
    for key in ("3", "1", "=", "7", "2"):
        tab.keyboard.press(key)
    tab.keyboard.press("x")
    for key in ("3", "1", "=", "7", "2", "4", "5", "6"):
        tab.keyboard.press(key)
    press(tab, "Enter")
    (vote,) = stored(tmp_path)
    assert vote.ranking == (2, 3, 1, 4, 5, 6, 2)


def test_hostile_texts_stay_words(open_page, visit, tmp_path):
    rows = []
    for at in range(0, len(HOSTILE), 6):
        some = (HOSTILE[at : at + 6] + ["plain"] * 6)[:6]
        some = [text.encode("utf-8", "replace").decode() for text in some]  # the reader refuses halves of characters
        rows.append(
            {"prompt": some[0], "completions": [f"{n} {text}" for n, text in enumerate(some[1:])], "ranks": [1] * 5}
        )
    (tmp_path / "hostile.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "guide.md").write_text("\n\n".join(text for text in HOSTILE if len(text) < 200), errors="replace")
    page = open_page("hostile.jsonl", "--guide", "guide.md", "--question", HOSTILE[0][:200] or "x")
    ((name, link),) = page.links.items()
    seen = 0
    tab = visit(link, 390)
    while tab.locator("#vote").count():
        for view in ("raw", ""):
            tab.goto(f"{page.address}/?view={view}")
            assert tab.evaluate("window.pwned") is None
            assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth"), seen
            assert (
                tab.locator("main img, main a, main iframe, main form, main script, main style, main svg").count() == 0
            )
            assert tab.locator("button[value=rank]").bounding_box()["y"] < 844
        seen += 1
        with tab.expect_navigation():
            tab.locator("button[value=skip]").click()
    assert seen == len(rows)
    assert name
    assert len(stored(tmp_path)) == len(rows)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_violation(open_page, pairs_file, visit, violations, scheme):
    pairs_file(6)
    page = open_page("pairs.jsonl", "--people", "anna", "ben", "--wanted", "2", "--repeats", "0")
    for name, outcomes in (("anna", ["first"] * 6), ("ben", ["second"] * 5)):
        for outcome in outcomes:
            page.vote(name, outcome)
    owner = visit(page.links["results"], color_scheme=scheme, bypass_csp=True)
    rater = visit(page.links["ben"], 390, color_scheme=scheme, bypass_csp=True)
    done = visit(page.links["anna"], color_scheme=scheme, bypass_csp=True)
    dispute = visit(page.links["results"], color_scheme=scheme, bypass_csp=True)
    dispute.locator(".disputes a").first.click()
    dispute.wait_for_selector("#vote")
    dispute.wait_for_load_state()
    rater.keyboard.press("?")
    for tab in (owner, rater, done, dispute):
        assert violations(tab) == [], tab.url


def test_the_owner_settles_a_dispute(open_page, pairs_file, visit, tmp_path):
    pairs_file(3)
    page = open_page("pairs.jsonl", "--people", "anna", "ben", "--wanted", "2", "--repeats", "0")
    for name in ("anna", "ben"):
        for _ in range(3):
            text = page.ask("/", name)[1]
            good_is_first = text.index("good answer") < text.index("bad answer")
            page.vote(name, "first" if good_is_first == (name == "anna") else "second")
    tab = visit(page.links["results"])
    assert "3 open" in tab.content()
    assert "chosen against rejected" in tab.content()
    with tab.expect_navigation():
        tab.locator(".disputes a").first.click()
    assert "anna" in tab.locator("main").inner_text()
    good = tab.locator("section.answer", has_text="good answer").locator("h2").inner_text()[-1]
    press(tab, {"A": "1", "B": "3"}[good])
    assert "2 open" in tab.content()
    votes = stored(tmp_path)
    assert [vote.rater.identity for vote in votes].count("adjudicator") == 1
    with VoteStore(tmp_path / "votes.db") as store:
        comparison = store.comparisons()[votes[-1].comparison]
    best = votes[-1].order[0 if votes[-1].outcome == "first" else 1]
    assert comparison.answers[best].startswith("good")
