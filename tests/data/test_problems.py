from __future__ import annotations

from exptilt.data.problems import Ledger


def test_findings_count_all_and_show_five_with_the_file_said_once():
    ledger = Ledger({"on_empty": "error"})
    for line in range(1, 8):
        ledger.decide("empty", f"a.jsonl:{line}", f"detail {line}")
    ledger.note("few", detail="only 7", count=7)
    empty, few = ledger.findings()
    assert (empty.count, empty.severity) == (7, "error")
    assert str(empty) == (
        "a.jsonl:1: detail 1 (7 rows: a.jsonl:1, 2, 3, 4, 5, ...); repair the row, or set data.on_empty to drop or keep"
    )
    assert str(few) == "only 7"


def test_a_policy_turns_an_error_into_a_warning_that_says_how_it_is_handled():
    ledger = Ledger({"on_empty": "drop"})
    assert ledger.leaves_out("empty", "a.jsonl:1")
    (finding,) = ledger.findings()
    assert finding.severity == "warning"
    assert str(finding) == "a.jsonl:1: a completion is empty or only white space; handled: data.on_empty=drop"
