"""Numbers as people read them: only digits that the interval supports, a real minus sign, "no interval" if there is none."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup, escape

from exptilt.run_folder.estimate_record import Estimate

NO_INTERVAL = "no interval"
MINUS = "\N{MINUS SIGN}"
NO_BREAK = "\N{NO-BREAK SPACE}"


def number(value: float | None, decimals: int | None = None) -> str:
    """Format a number with about three significant digits; a missing number is a dash.

    Example:
        >>> number(0.123456), number(-12.345), number(1234567), number(None), number(2.5e-7)
        ('0.123', '−12.3', '1,234,567', '—', '2.5e−07')
    """
    if value is None or not math.isfinite(value):
        return "—"
    if decimals is None and float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}".replace("-", MINUS)
    if decimals is None and (abs(value) < 1e-3 or abs(value) >= 1e7):
        return f"{value:.3g}".replace("-", MINUS)
    digits = _decimals(value) if decimals is None else decimals
    text = f"{value:,.{digits}f}"
    return text.replace("-", MINUS) if float(text.replace(",", "")) != 0 else text.lstrip("-")


def estimate(measured: Estimate | None, *, percent: bool = False) -> str:
    """Format a number with its interval, both to the digits that the interval supports.

    Behind intervals of few prompts, and of those measured to hold the truth less than 90 times in 100, it says how often.

    Example:
        >>> estimate(Estimate(value=0.6213, low=0.5902, high=0.6511), percent=True)
        '62.1 % [59.0, 65.1]'
        >>> estimate(Estimate(value=2.0))
        '2 (no interval)'
    """
    if measured is None or measured.value is None:
        return "—"
    scale, unit = (100.0, " %") if percent else (1.0, "")
    value = measured.value * scale
    if measured.interval is None:
        return f"{number(value, 1 if percent else None)}{unit} ({NO_INTERVAL})"
    low, high = (bound * scale for bound in measured.interval)
    digits = (
        1 if percent else max(0, min(6, 1 - math.floor(math.log10(high - low)))) if high > low else _decimals(value)
    )
    return f"{number(value, digits)}{unit} [{number(low, digits)}, {number(high, digits)}]{measured.coverage_note}"


def factor(nats: float) -> Markup:
    """Format a log-ratio as "times likelier"; beyond a million as a power of ten.

    Example:
        >>> str(factor(0.0)), str(factor(4.6)), str(factor(30.0))
        ('1', '99.5', '10<sup>13</sup>')
    """
    if abs(nats) < math.log(1e6):
        return escape(number(math.exp(nats)))
    return Markup("10<sup>{}</sup>").format(number(float(round(nats / math.log(10)))))


def plain(value: Any) -> str:
    """Format any value of a run folder as short text for a table cell."""
    if value is None:
        return "—"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float) and not value.is_integer():
        return f"{value:.4g}".replace("-", MINUS)
    if isinstance(value, int | float):
        return number(value)
    if isinstance(value, dict):
        if "value" in value:
            return estimate(Estimate.from_dict(value))
        return ", ".join(f"{key} {plain(child)}" for key, child in value.items())
    if isinstance(value, list | tuple):
        is_range = len(value) == 2 and all(isinstance(child, int | float) for child in value)
        return (" to " if is_range else ", ").join(plain(child) for child in value)
    return str(value)


def duration(seconds: float | None) -> str:
    """Format seconds as hours, minutes and seconds.

    Example:
        >>> duration(3725), duration(42.3), duration(None)
        ('1 h 2 min', '42 s', '—')
    """
    if seconds is None:
        return "—"
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 60} min {whole % 60} s" if whole >= 60 else f"{whole} s"


def visible(text: str, limit: int = 1500) -> str:
    """Make foreign text safe to show: control and direction characters are spelled out, a long tail is counted.

    The template escapes markup; this function handles characters that escaping lets through.

    Example:
        >>> visible("a" + chr(0x202E) + "b" + chr(0))
        'a⟨U+202E⟩b⟨U+0000⟩'
    """
    shown = text if len(text) <= limit else f"{text[:limit]} … ({len(text) - limit:,} more characters)"
    return "".join(f"⟨U+{ord(letter):04X}⟩" if _hidden(letter) else letter for letter in shown)


def prose(text: str) -> Markup:
    """Convert a sentence of ours to HTML: escaped, `code` marked up, a number on one line with its unit and interval.

    Example:
        >>> str(prose("see `exptilt chat` <b>"))
        'see <code>exptilt chat</code> &lt;b&gt;'
    """
    shown = re.sub(r"\[[^\[\] ]+, [^\[\] ]+\]", lambda match: match[0].replace(" ", NO_BREAK), visible(text, 10_000))
    shown = shown.replace(" %", NO_BREAK + "%").replace(" [", NO_BREAK + "[")
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(shown))))  # noqa: S704 - escaped one step before


def stacked(text: str) -> Markup:
    r"""Convert an estimate to HTML with its interval on a second line, for tables of many columns.

    Example:
        >>> str(stacked("0.5 [0.4, 0.6] *"))
        '0.5 *<br><span class="muted">[0.4,\xa00.6]</span>'
    """
    match = re.fullmatch(r"(.*?) (\[[^\]]*\])(.*)", text)
    if match is None:
        return escape(text)
    value, interval, rest = match[1], match[2].replace(" ", NO_BREAK), match[3]
    return Markup('{}{}<br><span class="muted">{}</span>').format(value, rest, interval)


def joined(words: Sequence[str]) -> str:
    """Join words into a list in a sentence.

    Example:
        >>> joined(["a", "b", "c"])
        'a, b and c'
    """
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else ""


def _decimals(value: float) -> int:
    return 0 if value == 0 else max(0, min(6, 2 - math.floor(math.log10(abs(value)))))


def _hidden(letter: str) -> bool:
    code = ord(letter)
    if letter in "\n\t":
        return False
    bidi = code in (0x061C, 0x200B, 0x200E, 0x200F, 0xFEFF) or 0x202A <= code <= 0x202E or 0x2066 <= code <= 0x2069
    return code < 0x20 or 0x7F <= code < 0xA0 or bidi or 0xD800 <= code <= 0xDFFF


def with_interval(measured: Estimate | None, digits: int) -> str:
    """A value with its interval; empty where it was not measured."""
    if measured is None or measured.value is None:
        return ""
    if measured.low is None or measured.high is None:
        return f"{measured.value:.{digits}f}"
    return f"{measured.value:.{digits}f} [{measured.low:.{digits}f}, {measured.high:.{digits}f}]"
