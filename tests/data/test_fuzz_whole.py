"""From the bytes of a file to tokens, report and page: an account of every row, or one clear error."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import os

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from exptilt.data.account.data_terminal import print_report, show_examples
from exptilt.data.formats import ADAPTERS
from exptilt.data.prepared import prepare
from exptilt.errors import ExptiltError
from exptilt.labels import Preferred
from exptilt.reports.doctor_page import render_doctor_page
from exptilt.run_folder.data_record import DataReport
from exptilt.settings.data_settings import DECISION_CHOICES, DataConfig

ODD = ["", " ", "\n", "\u00a0", "\u200b", "<bos>", "<eos>", "<|im_end|>", "[UNK]", "[SEP]", "\n\nHuman: a", "a\u0301",
       "\n\nAssistant:", "\n\nHuman: a\n\nAssistant: b", "\n\nHuman: a\n\nAssistant: c", "\ud800", "\x00", "\u2028",
       "\U0001f468\u200d\U0001f469", "\r\n", "[a]", "[/red]", "a" * 70, "good film ", "-1", "tie", "nan", "N/A",
       '["a", null]', '[{"type": "function", "function": {"name": "f"}}]', "{}", "[]"]  # fmt: skip
WORDS = st.sampled_from(ODD) | st.text(max_size=12)
TEXT = WORDS | st.builds(lambda *parts: "".join(parts), WORDS, WORDS, WORDS)
ROLE = st.sampled_from(["user", "assistant", "user", "assistant", "system", "human", "gpt", "tool", "alien", None])
PART = st.fixed_dictionaries({"type": st.sampled_from(["text", "image"]), "text": TEXT})
CALLS = st.none() | st.lists(st.dictionaries(st.text(max_size=3), TEXT, max_size=1), max_size=1)
TURN = st.fixed_dictionaries(
    {"role": ROLE, "content": TEXT | st.none() | st.lists(PART, max_size=2)}, optional={"tool_calls": CALLS}
) | st.fixed_dictionaries({"from": ROLE, "value": TEXT})
CHAT = st.lists(TURN, max_size=4)
SPOKEN = TEXT | TEXT | CHAT | TURN
NUMBER = st.integers(-2, 8) | st.floats() | st.none() | st.booleans() | st.sampled_from(["1", "N/A", "nan", 10**400])
ASPECTS = st.dictionaries(
    st.sampled_from(["honesty", "helpfulness"]),
    st.none() | st.fixed_dictionaries({"Rating": NUMBER | TEXT}),
    max_size=2,
)
ANSWER = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(["answer", "text", "response"], TEXT),
        **dict.fromkeys(["rank", "score", "pm_score", "overall_score"], NUMBER),
        "annotations": ASPECTS,
    },
)
COMPARED = st.fixed_dictionaries({"i": NUMBER, "j": NUMBER, "label": st.sampled_from(["i", "j", "tie", None, 3])})
NESTED = st.recursive(
    st.none() | NUMBER | TEXT | TURN,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=5,
)
SPECIFIC = {
    **dict.fromkeys(["prompt", "chosen", "rejected", "completion", "chosen_response", "rejected_response", "history",
                     "human_ref_A", "human_ref_B", "question", "instruction", "output", "response", "text"], SPOKEN),
    **dict.fromkeys(["messages", "conversations", "conversation_a", "conversation_b", "context"], CHAT),
    **dict.fromkeys(["completions", "generations", "steps"], st.lists(SPOKEN | ANSWER, max_size=4)),
    **dict.fromkeys(["answers"], st.lists(ANSWER | TEXT, max_size=4)),
    **dict.fromkeys(["pair_labels"], st.lists(COMPARED, max_size=4)),
    **dict.fromkeys(["ranks", "scores", "ratings", "rating", "annotators", "labels"], st.lists(NUMBER, max_size=4) | NUMBER),
    **dict.fromkeys(["label", "kto_tag", "winner", "preference", "p_chosen", "margin", "weight", "score", "labels", "choice",
                     "better_response_id", "safer_response_id", "preference_strength", "overall_preference"],
                    NUMBER | st.sampled_from(["tie", "model_a", "model_b", "both_bad", "chosen", "bad"])),
    "chat_template_kwargs": st.dictionaries(st.text(max_size=3), TEXT, max_size=2) | TEXT,
    "tools": st.lists(st.dictionaries(st.text(max_size=3), TEXT, max_size=2), max_size=2) | TEXT,
}  # fmt: skip
POLICIES = {name: st.sampled_from(["error", *choices]) for name, choices in DECISION_CHOICES.items()}
SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        **POLICIES,
        "boundary": st.sampled_from(["split", "merge"]),
        "template": st.sampled_from(["auto", "plain", "chat"]),
        "pairs": st.sampled_from(["all", "best_worst", "adjacent"]),
        "max_tokens": st.integers(1, 60),
        "min_margin": st.floats(0, 3),
        "max_per_prompt": st.integers(1, 2),
        "test_fraction": st.sampled_from([0.3, 0.6]),
        "limit": st.integers(1, 4),
        "weight": st.sampled_from([0.0, 0.5, 1.5, 2.0]),
    },
)


@st.composite
def tables(draw):
    """Rows that nearly fit a format: most of its columns, mostly with what belongs there, and some columns more."""
    adapter = draw(st.sampled_from(ADAPTERS))
    always = ["prompt", "weight", "system", "id", "tools", "chat_template_kwargs"]
    columns = [*sorted(adapter.columns), *draw(st.lists(st.sampled_from(always), max_size=2))]
    left_out = draw(st.sets(st.sampled_from(columns), max_size=1))
    row = st.fixed_dictionaries(
        {}, optional={name: SPECIFIC.get(name, NESTED) | NESTED for name in columns if name not in left_out}
    ) | st.fixed_dictionaries({name: SPECIFIC.get(name, NESTED) for name in columns if name not in left_out})
    rows = draw(st.lists(row, min_size=1, max_size=5))
    return [*rows, *draw(st.lists(st.sampled_from(rows), max_size=2))]


def written(rows, suffix, ascii_only):
    """The rows as bytes, or None where such a file cannot hold them."""
    if suffix.startswith(".json"):
        lines = [json.dumps(row, ensure_ascii=ascii_only) for row in rows]
        said = "[" + ",\n".join(lines) + "]" if suffix == ".json" else "\n".join(lines)
        data = said.encode("utf-8", "surrogatepass")
        return gzip.compress(data, mtime=0) if suffix.endswith(".gz") else data
    if suffix == ".csv":
        names = sorted({name for row in rows for name in row})
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow(names)
        cells = ([row.get(name, "") for name in names] for row in rows)
        writer.writerows([[cell if isinstance(cell, str) else json.dumps(cell) for cell in line] for line in cells])
        return text.getvalue().encode("utf-8", "surrogatepass")
    try:
        sink = io.BytesIO()
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), sink)
    except (pyarrow.ArrowException, OverflowError, UnicodeEncodeError):
        return None
    return sink.getvalue()


def damaged(data, cut, flips):
    data = bytearray(data)
    for place, byte in flips:
        if data:
            data[place % len(data)] = byte
    return bytes(data[: len(data) - cut % (len(data) + 1)])


DAMAGE = st.just((0, [])) | st.tuples(
    st.integers(0, 40), st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=3)
)


def whole_way(path, tokenizer, kind, config):
    try:
        made = prepare(DataConfig(train=str(path), **config), tokenizer, kind, strict=False)
    except ExptiltError as error:
        said = str(error)
        assert said == said.splitlines()[0]
        return
    report = made.report
    assert DataReport.from_dict(json.loads(json.dumps(report.as_dict(), allow_nan=False))) == report
    console = Console(file=io.StringIO(), width=80)
    print_report(report, console)
    render_doctor_page(report).encode()
    console.file.getvalue().encode()
    for split in (report.train, report.test):
        if split is not None:
            assert split.examples - sum(split.examples_left_out.values()) == split.kept
            assert split.rows >= sum(split.rows_left_out.values())
    if tokenizer is not None:
        show_examples(made.train, tokenizer, console, 2)
        groups_hold(made, config.get("max_tokens"))


def groups_hold(made, max_tokens):
    assert (len(made.train), len(made.test)) == (
        made.report.train.kept,
        made.report.test.kept if made.report.test else 0,
    )
    for group in (*made.train, *made.test):
        if isinstance(group.label, Preferred):
            assert 0 <= group.label.p_chosen <= 1
        assert math.isfinite(group.weight)
        for part in group.completions:
            assert len(part.ids) == len(part.counted)
            assert part.length > 0
            assert max_tokens is None or len(group.prompt) + len(part.ids) <= max_tokens
            assert len(group.prompt) or not part.counted[0]


KINDS = st.sampled_from(["pair", "completion", "unpaired", "list"])
QUIET = settings(
    deadline=None, max_examples=60 * int(os.environ.get("EXPTILT_FUZZ", "1")), suppress_health_check=list(HealthCheck)
)


@QUIET
@given(
    tables(),
    st.sampled_from([".jsonl", ".json", ".csv", ".parquet", ".jsonl.gz"]),
    st.booleans(),
    DAMAGE,
    st.integers(0, 9),
    KINDS,
    SETTINGS,
)
def test_any_table_in_any_file_by_any_tokenizer(
    tmp_path_factory, all_tokenizers, rows, suffix, ascii_only, damage, which, kind, config
):
    data = written(rows, suffix, ascii_only)
    if data is None:
        return
    path = tmp_path_factory.getbasetemp() / f"any{suffix}"
    path.write_bytes(damaged(data, *damage))
    whole_way(path, [None, *all_tokenizers][which], kind, config)


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet", ".jsonl.gz"])
def test_a_table_without_damage_is_kept_whole(tmp_path, suffix):
    rows = [{"prompt": f"q {n}", "chosen": f" good {n}", "rejected": f" bad {n}"} for n in range(3)]
    path = tmp_path / f"a{suffix}"
    path.write_bytes(written(rows, suffix, True))
    assert prepare(DataConfig(train=str(path)), None, "pair").report.train.kept == 3
