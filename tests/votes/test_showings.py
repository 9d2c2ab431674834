"""Leases and nonces, on SQLite and on a real PostgreSQL, by several stores at once as several machines have them."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from exptilt.people.desk import Desk, Marked
from exptilt.people.items import Item
from exptilt.preferences import Comparison
from exptilt.settings.label_settings import LabelRules
from exptilt.votes.showings import Showing, Showings
from exptilt.votes.vote_store import VoteStore

ONE = Showing(person="anna", comparison="c" * 64, question="better", order=(1, 0))


def test_a_showing_is_one_however_often_it_is_asked_for(where):
    with VoteStore(where) as store:
        showings = Showings(store)
        with store.exclusive() as connection:
            first = showings.lease(connection, ONE, 100.0)
            assert showings.lease(connection, ONE, 200.0) == first
            assert showings.leased(connection, 150.0) == [first]
            assert showings.leased(connection, 250.0) == []
            assert showings.of_nonce(connection, first.nonce) == first
            assert showings.of_nonce(connection, "made up") is None
            showings.end(connection, first.nonce)
            assert showings.leased(connection, 50.0) == []
            other = showings.lease(
                connection, Showing(person="anna", comparison="c" * 64, question="better", order=(1, 0), attempt=1), 9.0
            )
        assert other.nonce != first.nonce
        assert len(first.nonce) >= 32


def test_what_fails_inside_leaves_nothing(where):
    with VoteStore(where) as store:
        showings = Showings(store)

        def fail() -> None:
            with store.exclusive() as connection:
                showings.lease(connection, ONE, 100.0)
                raise RuntimeError

        with pytest.raises(RuntimeError):
            fail()
        with store.exclusive() as connection:
            assert showings.leased(connection, 0.0) == []


def test_several_machines_on_one_store_hand_out_nothing_twice(where):
    """Four desks with stores of their own, eight people, two votes wanted on each of twelve comparisons, every vote sent twice."""
    items = [Item(comparison=Comparison(f"Question {n}?", ("yes", "no")), sources=("one", "other")) for n in range(12)]
    with VoteStore(where):
        pass
    stores = [VoteStore(where) for _ in range(4)]
    desks = [Desk(store, items, LabelRules(wanted=2, repeats=0.0)) for store in stores]

    def person(number: int) -> int:
        desk, name, given = desks[number % 4], f"person {number}", 0
        while (work := desk.work(name)) is not None:
            taken = [desk.take(name, work.showing.nonce, Marked(outcome="first")) for _ in range(2)]
            assert taken == ["stored", "again"]
            given += 1
        return given

    with ThreadPoolExecutor(8) as pool:
        given = list(pool.map(person, range(8)))
    votes = stores[0].votes()
    assert sum(given) == len(votes) == 24
    assert set(Counter(vote.comparison for vote in votes).values()) == {2}
    assert len({(vote.comparison, vote.rater) for vote in votes}) == 24
    for store in stores:
        store.close()
