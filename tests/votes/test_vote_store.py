"""The store: append-only, exactly once, one comparison whatever the order of its answers."""

import multiprocessing
import sqlite3
from concurrent.futures import ThreadPoolExecutor

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


def test_a_comparison_given_in_the_other_order_is_the_same_and_the_winner_stays(where):
    swapped = Comparison("2 + 2?", ("4", "5"))
    with VoteStore(where) as store:
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


def test_a_nonce_counts_once_and_its_call_is_paid_once(where):
    with VoteStore(where) as store:
        assert store.add(QUESTION, vote("a"), [Call(key="k", request="{}")])
        assert not store.add(QUESTION, vote("a"), [Call(key="k", request="{}")])
        assert len(store.votes()) == len(list(store.calls())) == 1


def test_an_undo_is_a_new_row(where):
    with VoteStore(where) as store:
        store.add(QUESTION, vote("a"))
        store.add(QUESTION, vote("b", outcome="second", supersedes="a"))
        assert [each.nonce for each in store.votes()] == ["b"]
        assert [each.nonce for each in store.votes(superseded=True)] == ["a", "b"]


def test_a_ranking_of_three_and_messages_come_back_as_they_were(where):
    chat = Comparison(({"role": "user", "content": "Hi \ud83d"},), ("c", "a", "b"))
    ranked = Vote(
        comparison=chat.id, rater=ANNA, order=(2, 0, 1), ranking=(1, 2, 2), nonce="r", note="n", strength="clearly"
    )
    with VoteStore(where) as store:
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


def _write(where: str, number: int) -> None:
    with VoteStore(where) as store:
        for index in range(25):
            store.add(QUESTION, vote(f"{number}-{index}"))
            store.add(QUESTION, vote(f"shared-{index}"))


def test_four_processes_write_at_once_and_every_vote_is_there_once(where):
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write, args=(where, number)) for number in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0, 0, 0]
    with VoteStore(where) as store:
        nonces = sorted(each.nonce for each in store.votes())
    assert nonces == sorted([f"{n}-{i}" for n in range(4) for i in range(25)] + [f"shared-{i}" for i in range(25)])


def test_sixteen_threads_send_the_same_nonces_in_opposite_orders_and_each_is_one_vote_with_one_call(where):
    pairs = [Comparison(f"{k} + 2?", ("5", "4")) for k in range(12)]
    rows = [(pair, vote(f"n{k}", pair), [Call(key=f"k{k}", request="{}")], ("A", "B")) for k, pair in enumerate(pairs)]

    def send(number: int) -> int:
        with VoteStore(where) as store:
            ordered = rows if number % 2 else rows[::-1]
            return store.add_with_calls(ordered) if number % 4 < 2 else sum(store.add(*row) for row in ordered)

    with ThreadPoolExecutor(16) as pool:
        added = list(pool.map(send, range(16)))
    with VoteStore(where) as store:
        assert sum(added) == len(store.votes()) == 12
        assert sorted(call.key for call in store.calls()) == sorted(f"k{k}" for k in range(12))
        assert store.sources()[pairs[0].id] == {1: ["A"], 0: ["B"]}


def test_a_writer_does_not_keep_others_from_opening_and_reading(where):
    with VoteStore(where) as store:
        store.add(QUESTION, vote("a"))
        with store._transaction(), VoteStore(where, create=False) as reader:
            assert len(reader.votes()) == 1


def test_texts_that_no_database_holds_come_back_readable(where):
    odd = Comparison("a\x00b \ud83d", ("x\x00", "y\ud83d"))
    given = vote("odd", odd, note="n\x00 \ud83d", strength="s" * 300)
    call = Call(key="k", request="{}", reply="r\x00", finish_reason="f" * 60)
    with VoteStore(where) as store:
        assert store.add(odd, given, [call], sources=("p" * 500, "q\x00"))
        assert store.comparisons()[odd.id] == Comparison(odd.prompt, tuple(sorted(odd.answers)))
        (kept,) = store.votes()
        assert (kept.note, kept.strength) == ("n␀ ?", "s" * 300)
        assert sorted(name for names in store.sources()[odd.id].values() for name in names) == ["p" * 500, "q␀"]


def test_postgres_rows_cannot_be_changed_deleted_or_emptied(postgres):
    with VoteStore(postgres) as store:
        store.add(QUESTION, vote("a"), [Call(key="k", request="{}")])
        for statement in (
            "UPDATE vote SET outcome='tie'",
            "DELETE FROM call",
            "TRUNCATE vote",
            "TRUNCATE comparison CASCADE",
        ):
            with pytest.raises(DiskError, match="append-only"), store._transaction() as connection:
                connection.exec_driver_sql(statement)
        assert len(store.votes()) == 1


def test_postgres_refusals_are_one_line_without_the_password(postgres, postgres_server, tmp_path):
    nobody = postgres_server.replace("tester", "nobody")
    nowhere = "postgresql://tester:secret-word@127.0.0.1:9"
    for url, message in [
        (f"{postgres_server}/absent", "make it first"),
        (f"{nobody}/postgres", "check user and password"),
        (f"{nowhere}/votes", "is the server running"),
    ]:
        with pytest.raises(DiskError, match=message) as error:
            VoteStore(url)
        assert "secret-word" not in str(error.value)
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 300
    with pytest.raises(DataError, match="there is no store"):
        VoteStore(postgres, create=False)
    with VoteStore(postgres) as store, store._transaction() as connection:
        connection.exec_driver_sql("UPDATE exptilt_votes SET version = 99")
    with pytest.raises(DataError, match=r"version 99.*update"):
        VoteStore(postgres)


def test_postgres_is_reached_again_after_the_server_ended_the_connection(postgres):
    with VoteStore(postgres) as store, VoteStore(postgres) as other:
        store.add(QUESTION, vote("a"))
        with other._transaction() as connection:
            connection.exec_driver_sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE pid <> pg_backend_pid() AND datname = current_database()"
            )
        assert store.add(QUESTION, vote("b"))
        assert [each.nonce for each in store.votes()] == ["a", "b"]


def test_a_password_is_in_no_message():
    with pytest.raises(DataError) as error:
        VoteStore("mysql://me:secret@host/db")
    assert "secret" not in str(error.value)
