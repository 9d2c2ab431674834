"""Texts as HTML: what comes out has no link, no picture, no handler, whatever went in."""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exptilt.people.raw_votes import as_csv
from exptilt.people.rendering import MOST_SHOWN, differences, markdown, raw

sys.path.insert(0, str(Path(__file__).parent))
from hostile_texts import FORMULAS, HOSTILE

ALLOWED = {
    *("p", "br", "hr", "h3", "blockquote", "ul", "ol", "li", "pre", "code", "em", "strong", "s", "mark", "span"),
    *("table", "thead", "tbody", "tr", "th", "td"),
}


class Elements(HTMLParser):
    """What a browser would make of HTML: elements with attributes, and the words."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(str(html))
        self.close()

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words += data


def harmless(html: str) -> bool:
    found = Elements(html).found
    return all(tag in ALLOWED and attributes.keys() <= {"class", "start", "align"} for tag, attributes in found)


def test_there_are_enough_hostile_texts():
    assert len(set(HOSTILE)) >= 60


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_nothing_of_a_hostile_text_is_left_but_words(text):
    for html in (markdown(text), raw(text), *(differences(text, "plain words") or ())):
        assert harmless(html)


@given(st.text(alphabet="<>/=\"'&;:!-[]()`*_#|\\ \n\t abimgscriptonerrorhref", max_size=80))
@settings(max_examples=150, deadline=None)
def test_nothing_of_any_text_is_left_but_words(text):
    assert harmless(markdown(text))
    assert harmless(raw(text))
    if text.isprintable():
        assert Elements(raw(text)).words == text


def test_markdown_is_formatted():
    html = markdown("# Title\n\n**bold** and `code`\n\n3. three\n4. four\n\n| a |\n|---|\n| b |\n\n```\n<b>\n```")
    tags = [tag for tag, _ in Elements(html).found]
    assert tags == [
        "h3",
        "p",
        "strong",
        "code",
        "ol",
        "li",
        "li",
        "table",
        "thead",
        "tr",
        "th",
        "tbody",
        "tr",
        "td",
        "pre",
        "code",
    ]
    assert ("ol", {"start": "3"}) in Elements(html).found
    assert "<b>" in Elements(html).words


def test_a_link_shows_where_it_leads():
    assert (
        Elements(markdown("see [the paper](http://evil.example/x)")).words.strip()
        == "see [the paper](http://evil.example/x)"
    )


def test_a_long_text_is_shown_in_part_and_the_rest_is_counted():
    html = raw("x" * (MOST_SHOWN + 1234))
    assert "1,234 more characters are not shown" in html
    assert html.count("x") == MOST_SHOWN


def test_what_turns_text_round_is_named():
    assert Elements(raw("a\u202eb\u200bc\x00")).words == "aU+202EbU+200BcU+0000"
    assert Elements(raw("\U0001f468\u200d\U0001f469")).words == "\U0001f468\u200d\U0001f469"


def test_differences_are_marked_on_both_sides():
    one, other = differences("the cat sat down", "the dog sat")
    assert one == '<pre class="raw">the <mark>cat</mark> sat<mark> down</mark></pre>'
    assert other == '<pre class="raw">the <mark>dog</mark> sat</pre>'
    assert differences("a " * 30_000, "b") is None


@pytest.mark.parametrize("text", FORMULAS)
def test_no_cell_is_a_formula(text):
    cell = as_csv([{"note": text}]).split("\r\n", 1)[1].strip('"\r\n')
    assert cell.startswith("'")
