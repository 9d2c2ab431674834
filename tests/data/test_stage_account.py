from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from exptilt.data.stage_account import NOTHING, Account, Decisions


def test_findings_count_all_and_show_five_with_the_file_said_once():
    account = sum((Account.of("empty", f"a.jsonl:{line}", f"detail {line}") for line in range(1, 8)), NOTHING)
    account += Account.of("few", detail="only 7", count=7)
    empty, few = account.findings(Decisions({"on_empty": "error"}))
    assert (empty.count, empty.severity) == (7, "error")
    assert str(empty) == (
        "a.jsonl:1: detail 1 (7 rows: a.jsonl:1, 2, 3, 4, 5, ...); repair the row, or set data.on_empty to drop or keep"
    )
    assert str(few) == "only 7; lower train.epochs to 3 or less, or collect more rows"


def test_a_decision_turns_an_error_into_a_warning_that_says_how_it_is_handled():
    decisions = Decisions({"on_empty": "drop"})
    assert decisions.leave_out("empty")
    (finding,) = Account.of("empty", "a.jsonl:1").findings(decisions)
    assert finding.severity == "warning"
    assert str(finding) == "a.jsonl:1: a completion is empty or only white space; handled: data.on_empty=drop"


ACCOUNTS = st.lists(
    st.builds(
        Account.of,
        st.sampled_from(["empty", "prefix", "tie"]),
        st.sampled_from(["", "a:1", "a:2", "a:3"]),
        st.sampled_from(["", "so", "thus"]),
        count=st.integers(1, 3),
        left_out=st.booleans(),
    ),
    max_size=12,
)


@given(ACCOUNTS, st.integers(0, 12))
def test_accounts_add_up_whatever_the_chunks_and_no_part_changes(parts, cut):
    whole = sum(parts, NOTHING)
    first, second = sum(parts[:cut], NOTHING), sum(parts[cut:], NOTHING)
    before = Account(dict(first.noted), dict(first.left_out))
    assert first + second == whole
    assert first == before
    assert Account() == NOTHING
    assert sum(noted.count for noted in whole.noted.values()) == sum(
        noted.count for part in parts for noted in part.noted.values()
    )
    for code, noted in whole.noted.items():
        rows = [row for part in parts if code in part.noted for row in part.noted[code].examples]
        assert noted.examples == tuple(rows[:5])
        assert whole.names_next(code) == (len(rows) < 5)
