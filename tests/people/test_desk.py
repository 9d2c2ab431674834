"""The desk: leases, order, repeats, known answers, undo; everything by what the store holds afterwards."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from exptilt.errors import ConfigError
from exptilt.people.desk import Marked, ranking_of
from exptilt.people.items import RIGHT, WRONG
from exptilt.preferences import Comparison
from exptilt.votes.vote_records import Rater, Vote

LEFT = Marked(outcome="first")


def give(desk, person, marked=LEFT):
    work = desk.work(person)
    assert desk.take(person, work.showing.nonce, marked) == "stored"
    return work


def test_two_people_get_different_work_and_a_lease_ends(make_desk, items, clock):
    desk = make_desk(items(2), lease_minutes=10)
    first, second = desk.work("anna"), desk.work("ben")
    assert first.item is not second.item
    assert desk.work("anna").showing.nonce == first.showing.nonce  # a reload is the same page
    assert desk.work("cleo") is None
    assert desk.next("cleo")[1].at_others == 2
    clock.now += 601
    assert desk.work("cleo").item is first.item
    # Anna's page is from before; her vote counts all the same.
    assert desk.take("anna", first.showing.nonce, LEFT) == "stored"
    assert [vote.rater.name for vote in desk.store.votes()] == ["anna"]


def test_wanted_votes_come_from_as_many_people_and_a_skip_is_none_of_them(make_desk, items):
    desk = make_desk(items(1), wanted=2)
    give(desk, "anna")
    assert desk.work("anna") is None
    give(desk, "ben", Marked(outcome="skip"))
    assert desk.work("ben") is None
    give(desk, "cleo", Marked(outcome="tie"))
    assert desk.work("dora") is None


def test_a_nonce_counts_once_and_belongs_to_one_person(make_desk, items):
    desk = make_desk(items(3))
    work = desk.work("anna")
    assert desk.take("ben", work.showing.nonce, LEFT) == "unknown"
    assert desk.take("anna", "made up", LEFT) == "unknown"
    assert desk.take("anna", work.showing.nonce, LEFT) == "stored"
    assert desk.take("anna", work.showing.nonce, Marked(outcome="second")) == "again"
    (vote,) = desk.store.votes()
    assert vote.outcome == "first"


def test_the_stored_order_says_which_answer_won(make_desk, items):
    desk = make_desk(items(30))
    shown_first = Counter()
    for _ in range(30):
        work = give(desk, "anna")
        shown_first[work.answers[0][0]] += 1
        vote = desk.store.votes()[-1]
        assert sorted(work.item.comparison.answers)[vote.order[0]] == work.answers[0]
    # Balanced exactly, whatever the hash: one of two neighbours is turned round.
    assert shown_first == {"z": 15, "y": 15}


def test_two_people_do_not_see_the_same_sides(make_desk, items):
    desk = make_desk(items(40), wanted=2)
    sides = {person: [give(desk, person).answers[0][0] for _ in range(40)] for person in ("anna", "ben")}
    same = np.mean([a == b for a, b in zip(sides["anna"], sides["ben"], strict=True)])
    assert 0.2 < same < 0.8


def test_a_repeat_is_asked_later_and_reversed_and_does_not_count_as_wanted(make_desk, items):
    desk = make_desk(items(40), repeats=0.25)
    seen: dict[str, tuple[int, tuple[str, ...]]] = {}
    repeats = []
    for number in range(200):
        work = desk.work("anna")
        if work is None:
            break
        key = work.item.comparison.id
        if work.showing.replicate:
            repeats.append(number - seen[key][0])
            assert work.answers == seen[key][1][::-1]
        else:
            seen[key] = (number, work.answers)
        give(desk, "anna")
    assert len(seen) == 40
    assert 4 <= len(repeats) <= 17  # 40 draws at 1/4: within four standard deviations
    assert min(repeats[:2]) > 10
    votes = desk.store.votes()
    assert sum(vote.replicate for vote in votes) == len(repeats)
    assert desk.index.counted.max() == 1


def test_an_undo_is_a_new_row_and_gives_the_same_comparison_again(make_desk, items):
    desk = make_desk(items(5))
    first = give(desk, "anna")
    desk.work("anna")  # the next one is open already
    assert desk.undo("anna")
    again = desk.work("anna")
    assert (again.item, again.showing.order) == (first.item, first.showing.order)
    assert again.showing.nonce != first.showing.nonce
    assert desk.take("anna", again.showing.nonce, Marked(outcome="tie")) == "stored"
    assert desk.take("anna", first.showing.nonce, LEFT) == "again"  # the page from before
    assert [vote.outcome for vote in desk.store.votes(superseded=True)] == ["first", "unscored", "tie"]
    assert [vote.outcome for vote in desk.store.votes()] == ["unscored", "tie"]
    assert desk.undo("anna")
    assert not desk.undo("anna")
    assert not desk.undo("ben")
    assert desk.index.counted.sum() == 0


def test_work_goes_on_where_it_ended(make_desk, items):
    desk = make_desk(items(6), wanted=2, repeats=0.5)
    done = [give(desk, "anna").item for _ in range(3)]
    open_page = desk.work("anna")
    later = make_desk(items(6), wanted=2, repeats=0.5)
    assert later.work("anna").showing == open_page.showing
    assert later.next("anna")[1].done == 3
    assert later.undo("anna")
    assert later.work("anna").item == done[-1]


def test_a_known_answer_comes_to_everybody_and_is_nobody_elses_work(make_desk, items):
    known = [
        replace(
            item,
            comparison=Comparison("Known " + item.comparison.prompt, item.comparison.answers),
            right=0,
            sources=(RIGHT, WRONG),
        )
        for item in items(2)
    ]
    desk = make_desk([*items(30), *known])
    for person in ("anna", "ben"):
        asked = [give(desk, person).item.right is not None for _ in range(15 if person == "anna" else 17)]
        assert sum(asked) in (1, 2)
    rest = []
    while desk.work("anna") is not None:
        rest.append(give(desk, "anna").item.right is not None)
    by_person = Counter(vote.rater.name for vote in desk.store.votes() if desk.item(vote.comparison).right is not None)
    assert by_person["anna"] == 2


def test_questions_follow_each_other_on_one_comparison(make_desk, items):
    desk = make_desk(items(2), questions=("Which is kinder?", "Which is shorter?"))
    given = [give(desk, "anna") for _ in range(4)]
    assert [work.showing.question for work in given] == ["Which is kinder?", "Which is shorter?"] * 2
    assert given[0].item is given[1].item is not given[2].item
    assert given[0].showing.order == given[1].showing.order
    assert {vote.question for vote in desk.store.votes()} == {"Which is kinder?", "Which is shorter?"}


def test_four_answers_are_ranked_with_ties(make_desk, items):
    desk = make_desk(items(1, answers=4))
    work = desk.work("anna")
    assert desk.take("anna", work.showing.nonce, LEFT) == "unknown"  # no answer of four is "left"
    assert desk.take("anna", work.showing.nonce, Marked(ranking=(1, 2, 3))) == "unknown"
    assert desk.take("anna", work.showing.nonce, Marked(ranking=ranking_of([4, 1, 4, 2]))) == "stored"
    (vote,) = desk.store.votes()
    assert vote.ranking == (3, 1, 3, 2)
    assert sorted(work.item.comparison.answers)[vote.order[1]] == work.answers[1]


def test_judges_votes_are_none_of_the_wanted(make_desk, items):
    desk = make_desk(items(1))
    item = desk.items[0].comparison
    desk.store.add(
        item, Vote(comparison=item.id, rater=Rater("judge", "gpt"), order=(0, 1), outcome="first", nonce="j")
    )
    assert desk.work("anna") is not None


def test_32_people_at_once_give_every_item_exactly_the_wanted_votes(make_desk, items):
    desk = make_desk(items(40), wanted=3)

    def person(number: int) -> int:
        given = 0
        while (work := desk.work(f"p{number}")) is not None:
            assert desk.take(f"p{number}", work.showing.nonce, LEFT) in ("stored", "again")
            assert desk.take(f"p{number}", work.showing.nonce, LEFT) == "again"
            given += 1
        return given

    with ThreadPoolExecutor(32) as pool:
        given = list(pool.map(person, range(32)))
    votes = desk.store.votes()
    assert sum(given) == len(votes) == 120
    assert set(Counter(vote.comparison for vote in votes).values()) == {3}
    assert len({(vote.comparison, vote.rater) for vote in votes}) == 120


def test_uncertain_comes_first_and_never_changes_its_order(make_desk, items):
    pairs = [replace(item, margin=float(n)) for n, item in enumerate(items(200))]
    desk = make_desk(pairs, next="uncertain")
    first = [give(desk, "anna").item.margin for _ in range(30)]
    # Weights .05^q over quantiles q of the margin: a mean of .28 of the range, beside .5 at random.
    assert 0.15 < np.mean(first) / 200 < 0.4
    order = [item.comparison.id for item in desk.items]
    # Margins that change later, and rows that come later, leave the order as it is.
    later = make_desk([replace(item, margin=1.0) for item in pairs], next="uncertain")
    assert [item.comparison.id for item in later.items] == order
    with pytest.raises(ConfigError, match="begun with --next uncertain"):
        make_desk(pairs, next="random")


def test_a_strategy_without_anything_to_go_by_is_refused(make_desk, items):
    for strategy, needed in (("uncertain", "margin"), ("disagree", "two votes")):
        with pytest.raises(ConfigError, match=needed):
            make_desk(items(3), next=strategy)


def test_ranks_have_no_gaps():
    assert ranking_of([7, 2, 7, 1]) == (3, 2, 3, 1)
