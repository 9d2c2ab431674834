"""The page of the data report: everything on it, nothing of the rows alive in it, the same bytes each time."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from exptilt.errors import CheckpointError
from exptilt.reports.doctor_page import render_doctor_page, write_doctor_page
from exptilt.run_folder.data_record import DataReport, Example, Finding, Lengths, SourceReport, SplitReport

ATTACK = "</p><script>alert(1)</script><img src=http://evil.test/x onerror=alert(2)>\u202e{{ 7*7 }}"
LENGTHS = Lengths(least=3, median=12.0, p95=40.0, most=1234, total=56789)
TRAIN = SplitReport(
    source="pairs.jsonl",
    format="preference",
    rows=1000,
    rows_left_out={"invalid_json": 2, "duplicate": 11},
    examples=987,
    examples_left_out={"too_long": 4},
    kept=983,
    lengths={"prompt": LENGTHS, "chosen": LENGTHS},
    longer_chosen=0.614,
    more_markup_chosen=0.7,
    p_chosen=(0.5, 0.9, 1.0),
    columns_not_read=("source_url",),
    sources=(SourceReport(path="pairs.jsonl", format="preference", rows=1000, records=987, weight=1.0, licence="MIT"),),
)
WARNING = Finding(
    code="length_bias", severity="warning", count=604, examples=(), message="longer is chosen", fix="compare"
)
ERROR = Finding(
    code="empty", severity="error", count=7, examples=("a.jsonl:4", "a.jsonl:9"), message="is empty", fix="repair it"
)
EXAMPLE = Example(
    id="a.jsonl:1",
    prompt="<bos>Is it red?",
    completions=((("Yes.<eos>", True), ("<|user|>And?", False), ("Blue.<eos>", True)), (("No.<eos>", True),)),
)
REPORT = DataReport(kind="pair", train=TRAIN, test=None, findings=(WARNING, ERROR), examples=(EXAMPLE,))


def words(html: str) -> str:
    """What a reader sees."""
    body = html[html.index("<body>") :]
    return " ".join(re.sub(r"<[^>]+>", " ", body).split())


def test_the_account_the_lengths_and_the_findings_are_on_the_page() -> None:
    text = words(render_doctor_page(REPORT.updated(test=TRAIN.updated(kept=55))))
    assert "A run would refuse these data: 1 kind of error" in text
    assert "983 examples are left to train on, 55 held out" in text
    assert "1,000 2 invalid json, 11 duplicate 987 4 too long 983" in text
    assert "chosen train 3 12 40 1,234 56,789" in text
    assert "The longer completion is chosen 61.4 % of pairs" in text
    assert "70.0 % of pairs that differ in it" in text
    assert "0.500 to 1, 0.900 on average" in text
    assert "weight 1, licence MIT" in text
    assert "source_url" in text
    assert "empty error 7 is empty also 9, ... → repair it" in text
    assert text.index("empty error") < text.index("length_bias warning")


def test_data_a_run_would_take() -> None:
    text = words(render_doctor_page(REPORT.updated(findings=(WARNING,))))
    assert "A run would take these data. 983 examples to train on." in text
    nothing = words(render_doctor_page(REPORT.updated(findings=(), train=TRAIN.updated(kept=0))))
    assert "A run would refuse these data: nothing is left to use" in nothing
    assert "Nothing to report." in nothing


def test_tokens_that_count_are_marked_apart_from_those_that_do_not() -> None:
    html = render_doctor_page(REPORT)
    shown = html[html.index("<article") :]
    assert re.findall(r'<span class="counted">([^<]*)</span>', shown) == [
        "Yes.&lt;eos&gt;",
        "Blue.&lt;eos&gt;",
        "No.&lt;eos&gt;",
    ]
    assert re.findall(r'<span class="uncounted">([^<]*)</span>', shown) == ["&lt;|user|&gt;And?"]
    assert re.findall(r'<span class="tag">(\w+)</span>', shown) == ["chosen", "rejected"]
    rated = EXAMPLE.updated(completions=EXAMPLE.completions[:1])
    html = render_doctor_page(REPORT.updated(kind="unpaired", examples=(rated,)))
    assert '<span class="tag">completion</span>' in html


def test_without_a_tokenizer_the_page_says_how_to_see_examples() -> None:
    text = words(render_doctor_page(REPORT.updated(examples=(), train=TRAIN.updated(lengths={}))))
    assert "with --model" in text
    assert "Median" not in text


def test_hostile_text_stays_text_wherever_it_comes_from() -> None:
    finding = Finding(
        code=ATTACK, severity="error", count=1, examples=(ATTACK,), message=f"`{ATTACK}`", fix=f"x {ATTACK}"
    )
    source = TRAIN.sources[0].updated(path=ATTACK, format=ATTACK, licence=ATTACK)
    split = TRAIN.updated(
        source=ATTACK,
        format=ATTACK,
        rows_left_out={ATTACK: 1},
        examples_left_out={ATTACK: 1},
        columns_not_read=(ATTACK,),
        sources=(source,),
        lengths={ATTACK: LENGTHS},
    )
    example = Example(id=ATTACK, prompt=ATTACK, completions=(((ATTACK, True), (ATTACK, False)),) * 2)
    html = render_doctor_page(
        DataReport(kind="pair", train=split, test=split, findings=(finding,), examples=(example,))
    )
    assert not re.search(r"<script|<img|<iframe|<object|@import|\bsrc=(?!http://evil)", html)
    references = re.findall(r'href="([^"]*)"|url\(([^)]*)\)', html)
    assert all((left or right).startswith(("#", "data:,")) for left, right in references)
    assert "\u202e" not in html
    assert "⟨U+202E⟩" in html
    assert "{{ 7*7 }}" in html
    assert html.count("&lt;script&gt;alert(1)") >= 15
    assert "default-src 'none'" in html


def test_the_same_report_gives_the_same_bytes_and_a_bad_place_is_one_line(tmp_path: Path) -> None:
    first = write_doctor_page(REPORT, tmp_path / "new" / "a.html")
    second = write_doctor_page(DataReport.from_dict(REPORT.as_dict()), tmp_path / "b.html")
    assert first.read_bytes() == second.read_bytes()
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"cannot be written: .*; name another place with --html"):
        write_doctor_page(REPORT, tmp_path / "file" / "a.html")
