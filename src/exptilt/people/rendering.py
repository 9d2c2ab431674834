"""Texts as HTML that can do nothing: Markdown without links and pictures, raw text, and what differs between two answers.

Nothing of an answer becomes a link, an image or a handler: nothing runs, and no request leaves the machine. A link stands
there as it was written, so that people see where it leads.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import nh3
from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup, escape

MOST_MARKDOWN = 20_000
"""Characters; longer texts are shown raw, since some texts cost a parser the square of their length."""
MOST_SHOWN = 400_000
"""Characters of a text that a page holds; the rest is counted."""
MOST_COMPARED = 20_000
"""Words of two answers together whose differences are marked."""
_TAGS = {
    *("p", "br", "hr", "h3", "blockquote", "ul", "ol", "li", "pre", "code", "em", "strong", "s"),
    *("table", "thead", "tbody", "tr", "th", "td"),
}
_SURROGATE = re.compile("[\ud800-\udfff]")
_WORD = re.compile(r"\s+|\w+|[^\w\s]", re.UNICODE)
_UNSEEN = re.compile(
    "([\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff])"
)
"""Control characters and those that turn or hide text; joiners are not among them, since scripts and emoji need them."""


@lru_cache(maxsize=2048)
def markdown(text: str) -> Markup:
    r"""Markdown as HTML that was cleaned; a text that is too long for it is shown raw.

    Example:
        >>> markdown("*yes* ![x](http://a/b.png) [here](javascript:alert(1))")
        Markup('<p><em>yes</em> ![x](http://a/b.png) [here](javascript:alert(1))</p>\n')
    """
    if len(text) > MOST_MARKDOWN:
        return raw(text)
    return Markup(_clean(_PARSER.render(_sound(text))))  # noqa: S704 - cleaned


@lru_cache(maxsize=2048)
def raw(text: str) -> Markup:
    r"""Every character of a text as it is; those that are not seen are named.

    Example:
        >>> raw("a < b\u202e")
        Markup('<pre class="raw">a &lt; b<span class="unseen">U+202E</span></pre>')
    """
    sound = _sound(text)
    shown, rest = sound[:MOST_SHOWN], len(sound) - MOST_SHOWN
    body = Markup("").join(map(_named, _UNSEEN.split(shown)))
    more = (
        Markup('<p class="more">{} more characters are not shown.</p>').format(f"{rest:,}") if rest > 0 else Markup("")
    )
    return Markup('<pre class="raw">{}</pre>').format(body) + more


def differences(one: str, other: str) -> tuple[Markup, Markup] | None:
    """Two texts with what only one of them says marked; None where they are too long to compare.

    Example:
        >>> differences("a red car", "a blue car")[0]
        Markup('<pre class="raw">a <mark>red</mark> car</pre>')
    """
    first, second = (_WORD.findall(_sound(text)) for text in (one, other))
    if len(first) + len(second) > MOST_COMPARED:
        return None
    steps = difflib.SequenceMatcher(None, first, second, autojunk=len(first) > 2000).get_opcodes()
    left = [(step == "equal", first[a:b]) for step, a, b, _, _ in steps]
    right = [(step == "equal", second[a:b]) for step, _, _, a, b in steps]
    return _marked(left), _marked(right)


def _marked(parts: Sequence[tuple[bool, list[str]]]) -> Markup:
    body = Markup("").join(
        escape("".join(words)) if same else Markup("<mark>{}</mark>").format("".join(words))
        for same, words in parts
        if words
    )
    return Markup('<pre class="raw">{}</pre>').format(body)


def _named(part: str) -> Markup:
    return Markup('<span class="unseen">U+{:04X}</span>').format(ord(part)) if _UNSEEN.fullmatch(part) else escape(part)


def _sound(text: str) -> str:
    """The text without halves of a character, which no page can hold."""
    return _SURROGATE.sub("\ufffd", text)


def _clean(html: str) -> str:
    return nh3.clean(
        html,
        tags=_TAGS,
        clean_content_tags={"script", "style"},
        attributes={"ol": {"start"}, "th": {"align"}, "td": {"align"}},
        allowed_classes={"h3": {"h1", "h2", "h3", "h4", "h5", "h6"}},
        url_schemes=set(),
        strip_comments=True,
        link_rel=None,
    )


def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False, "linkify": False}).enable(["table", "strikethrough"])
    parser.validateLink = lambda url: False  # type: ignore[method-assign]  # links and images stay the text they are
    parser.add_render_rule("heading_open", _heading_open)
    parser.add_render_rule("heading_close", lambda self, tokens, at, options, env: "</h3>\n")
    return parser


def _heading_open(self: Any, tokens: Sequence[Token], at: int, options: Any, env: Any) -> str:
    return f'<h3 class="{tokens[at].tag}">'


_PARSER = _parser()
