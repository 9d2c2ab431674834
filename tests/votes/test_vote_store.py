"""The store: append-only, exactly once, one comparison whatever the order of its answers."""

import multiprocessing
import sqlite3
from pathlib import Path

import pytest

from exptilt.errors import DataError, DiskError
from exptilt.preferences import Comparison, Verdict
from exptilt.votes.network_disk import network_file_system
from exptilt.votes.vote_records import Call, Rater, Vote, verdict_of, vote_of
from exptilt.votes.vote_store import VoteStore

ANNA = Rater("person", "anna")
QUESTION = Comparison("2 + 2?", ("5", "4"))


def vote(nonce: str, comparison: Comparison = QUESTION, outcome: str = "first", **more) -> Vote:
    return vote_of(comparison, Verdict(comparison=comparison.id, order=(0, 1), outcome=outcome), ANNA, nonce, **more)


def test_a_comparison_given_in_the_other_order_is_the_same_and_the_winner_stays(tmp_path):
    swapped = Comparison("2 + 2?", ("4", "5"))
    with VoteStore(tmp_path / "votes.db") as store:
        store.add(QUESTION, vote("a"))
        store.add(swapped, vote("b", swapped))
        assert list(store.comparisons().values()) == [Comparison("2 + 2?", ("4", "5"))]
        first, second = store.votes()
    assert [first.order, second.order] == [(1, 0), (0, 1)]
    assert [first.first_share, second.first_share] == [0.0, 1.0]  # "5" won, then "4" won
    assert QUESTION.answers[verdict_of(QUESTION, second).winner] == "4"


def test_rows_cannot_be_changed_or_deleted(tmp_path):
    with VoteStore(tmp_path / "votes.db") as store:
        store.add(QUESTION, vote("a"), [Call(key="k", request="{}")])
    raw = sqlite3.connect(tmp_path / "votes.db")
    for statement in (
        "UPDATE vote SET outcome='tie'",
        "DELETE FROM vote",
        "DELETE FROM call",
        "DELETE FROM comparison",
    ):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            raw.execute(statement)
    assert raw.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    raw.close()


def test_a_nonce_counts_once_and_its_call_is_paid_once(tmp_path):
    with VoteStore(tmp_path / "votes.db") as store:
        assert store.add(QUESTION, vote("a"), [Call(key="k", request="{}")])
        assert not store.add(QUESTION, vote("a"), [Call(key="k", request="{}")])
        assert len(store.votes()) == len(list(store.calls())) == 1


def test_an_undo_is_a_new_row(tmp_path):
    with VoteStore(tmp_path / "votes.db") as store:
        store.add(QUESTION, vote("a"))
        store.add(QUESTION, vote("b", outcome="second", supersedes="a"))
        assert [each.nonce for each in store.votes()] == ["b"]
        assert [each.nonce for each in store.votes(superseded=True)] == ["a", "b"]


def test_a_ranking_of_three_and_messages_come_back_as_they_were(tmp_path):
    chat = Comparison(({"role": "user", "content": "Hi \ud83d"},), ("c", "a", "b"))
    ranked = Vote(
        comparison=chat.id, rater=ANNA, order=(2, 0, 1), ranking=(1, 2, 2), nonce="r", note="n", strength="clearly"
    )
    with VoteStore(tmp_path / "votes.db") as store:
        store.add(chat, ranked, sources=("C", "A", "B"))
        assert store.votes() == [ranked]
        assert store.comparisons() == {chat.id: Comparison(chat.prompt, ("a", "b", "c"))}
        assert store.sources() == {chat.id: {2: ["C"], 0: ["A"], 1: ["B"]}}


def test_a_newer_store_another_database_and_no_database_are_refused(tmp_path):
    with VoteStore(tmp_path / "new.db"):
        pass
    raw = sqlite3.connect(tmp_path / "new.db")
    raw.execute("UPDATE exptilt_votes SET version = 99")
    raw.commit()
    raw.close()
    other = sqlite3.connect(tmp_path / "other.db")
    other.execute("CREATE TABLE songs (name)")
    other.close()
    (tmp_path / "text.db").write_text("no database, " * 100)
    for name, message in [("new", "version 99.*update"), ("other", "something else"), ("text", "not a store")]:
        with pytest.raises(DataError, match=message):
            VoteStore(tmp_path / f"{name}.db")
    with pytest.raises(DataError, match="no such store"):
        VoteStore(tmp_path / "absent.db", create=False)
    with pytest.raises(DataError, match="is a folder"):
        VoteStore(tmp_path)


def test_a_network_disk_is_refused(tmp_path, monkeypatch):
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/sda / ext4 rw 0 0\nserver:/x {tmp_path}/my\\040share nfs4 rw 0 0\n")
    assert network_file_system(tmp_path / "my share" / "votes.db", mounts) == "nfs4"
    assert network_file_system(tmp_path / "my shared" / "votes.db", mounts) is None
    monkeypatch.setattr("exptilt.votes.vote_store.network_file_system", lambda path: "nfs4")
    with pytest.raises(DiskError, match=r"network disk \(nfs4\)"):
        VoteStore(tmp_path / "votes.db")


def test_a_full_store_keeps_what_was_there(tmp_path):
    with VoteStore(tmp_path / "votes.db") as store:
        store.add(QUESTION, vote("a"))
        with store._transaction(writes=False) as connection:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
            connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")
        with pytest.raises(DiskError, match=r"full.*free some space"):
            store.add(QUESTION, vote("b", note="x" * 100_000))
        assert [each.nonce for each in store.votes()] == ["a"]


def _write(path: Path, number: int) -> None:
    with VoteStore(path) as store:
        for index in range(25):
            store.add(QUESTION, vote(f"{number}-{index}"))
            store.add(QUESTION, vote(f"shared-{index}"))


def test_four_processes_write_at_once_and_every_vote_is_there_once(tmp_path):
    path = tmp_path / "votes.db"
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write, args=(path, number)) for number in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0, 0, 0]
    with VoteStore(path) as store:
        nonces = sorted(each.nonce for each in store.votes())
    assert nonces == sorted([f"{n}-{i}" for n in range(4) for i in range(25)] + [f"shared-{i}" for i in range(25)])


def test_a_password_is_in_no_message():
    with pytest.raises(DataError) as error:
        VoteStore("mysql://me:secret@host/db")
    assert "secret" not in str(error.value)
