from __future__ import annotations

import gzip
import json
from itertools import pairwise

import pytest

from exptilt.data.formats import hh
from exptilt.data.formats.pairs import transcripts
from exptilt.data.problems import RowError
from exptilt.data.records import words_of


def test_markers_count_only_after_an_empty_line():
    turns = hh.parse("\n\nHuman: Say\nHuman: no\n\nAssistant:  two\n\nlines \n\nAssistant:")
    assert turns == (
        {"role": "user", "content": "Say\nHuman: no"},
        {"role": "assistant", "content": " two\n\nlines "},
        {"role": "assistant", "content": ""},
    )


@pytest.mark.parametrize(
    ("text", "code"),
    [("Hello", "not_a_transcript"), ("\n\nAssistant: hi", "not_a_transcript"), ("\n\nHuman: hi", "bad_roles")],
)
def test_what_is_no_transcript(text, code):
    with pytest.raises(RowError) as caught:
        hh.parse(text)
    assert caught.value.code == code


def test_real_rows_have_the_known_oddities_and_no_row_is_lost(real_data):
    with gzip.open(real_data / "hh_rlhf" / "harmless-base.test.jsonl.gz") as file:
        rows = [json.loads(line) for line in file]
    records = [transcripts(row, str(index)) for index, row in enumerate(rows)]
    assert len(records) == 2312

    def where(test):
        return [index for index, record in enumerate(records) if test(record)]

    def same_role_twice(turns):
        return any(one["role"] == other["role"] for one, other in pairwise(turns))

    def says_a_name(turns):
        return any("Human:" in turn["content"] or "Assistant:" in turn["content"] for turn in turns)

    assert len(where(lambda r: len(r.prompt) == 1)) == 662
    assert where(lambda r: not words_of(r.chosen).strip()) == [86, 516, 925, 1103]
    assert where(lambda r: len(r.chosen) > 1 or len(r.rejected) > 1) == [1254, 1688, 1950, 1952, 2036]
    assert where(lambda r: same_role_twice(r.prompt)) == [667, 763, 1319, 1849]
    prefix = where(lambda r: words_of(r.chosen).startswith(words_of(r.rejected)))
    prefix += where(lambda r: words_of(r.rejected).startswith(words_of(r.chosen)))
    assert sorted(prefix) == [86, 516, 925, 1103, 1609]
    same_letter = where(lambda r: words_of(r.chosen)[:1] == words_of(r.rejected)[:1])
    assert len(set(same_letter) - set(prefix)) == 444
    assert len({words_of(record.prompt) for record in records}) == 2310
    assert not where(lambda r: r.chosen == r.rejected)
    assert all(record.prompt[-1]["role"] == "user" for record in records)
    inline = [where(lambda r, side=side: says_a_name(r.prompt + getattr(r, side))) for side in ("chosen", "rejected")]
    assert [len(rows) for rows in inline] == [40, 33]
