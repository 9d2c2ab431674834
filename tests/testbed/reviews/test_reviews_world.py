from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exptilt.testbed.reviews import FilmReviews, label_pairs, reward, valence_sum
from exptilt.testbed.reviews.grammar import with_articles
from exptilt.testbed.reviews.sentiment import MODIFIERS, VALENCE

WORLD = FilmReviews(seed=0)
CORPUS = WORLD.corpus(10_000, seed=1)
REWARDS = np.array([WORLD.reward(f"{opening} {continuation}") for opening, continuation in CORPUS])
LENGTHS = np.array([len(continuation.split()) for _, continuation in CORPUS])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the film opens with a wedding .", 0.0),
        ("the acting is superb .", 1.0),
        ("the acting is good .", 0.5),
        ("the plot is dreadful , and the jokes are dull .", -1.0 - 0.5),
        ("the plot is not good .", -0.25),
        ("the plot is never dull .", 0.25),
        ("there is hardly a terrible scene .", 0.5),
        ("it is a truly superb film .", 1.5),
        ("it is a rather weak film .", -0.25),
        ("the acting is not very good .", -0.5 * 1.5 * 0.5),
        ("not dull , but superb", 0.25 + 1.0),
        ("not , superb", 1.0),  # punctuation ends a modifier's reach
        ("not dull superb", 0.25 + 1.0),  # and so does another judging word
        ("not a b superb", -0.5),  # three words back is within reach,
        ("not a b c superb", 1.0),  # four is not
        ("the songs are free of padding", 0.25),
        ("the script lacks wit", -0.25),
        ("never not superb", 0.25),
        ("very very very very superb", 1.5**3),
        ("SUPERB <unk> zzz", 1.0),
        ("", 0.0),
    ],
)
def test_valences_derived_by_hand(text: str, expected: float) -> None:
    assert valence_sum(text) == pytest.approx(expected, abs=1e-12)
    assert reward(text) == pytest.approx(3 * math.tanh(expected / 3), abs=1e-12)


@given(st.lists(st.sampled_from(WORLD.vocabulary), max_size=60))
def test_any_word_salad_has_a_bounded_reward(words: list[str]) -> None:
    assert -3 <= WORLD.reward(" ".join(words)) <= 3


def test_rewards_of_reviews_are_centred_spread_and_not_saturated() -> None:
    assert abs(REWARDS.mean()) < 0.05
    assert 0.8 < REWARDS.std() < 1.2
    sums = np.array([valence_sum(f"{opening} {continuation}") for opening, continuation in CORPUS])
    assert (np.abs(sums) > 3).mean() < 0.02
    assert np.corrcoef(sums, REWARDS)[0, 1] > 0.99


def test_the_reward_does_not_pay_for_length() -> None:
    assert abs(np.corrcoef(REWARDS, LENGTHS)[0, 1]) < 0.05


def test_reviews_are_mixed() -> None:
    judged = [{VALENCE[word] > 0 for word in continuation.split() if word in VALENCE} for _, continuation in CORPUS]
    assert 0.4 < np.mean([len(signs) == 2 for signs in judged]) < 0.8


def test_every_word_is_in_the_vocabulary_and_the_vocabulary_is_used() -> None:
    seen = {word for opening, continuation in CORPUS for word in f"{opening} {continuation}".split()}
    assert seen == set(WORLD.vocabulary)
    assert WORLD.vocabulary == sorted(set(WORLD.vocabulary))
    assert 250 <= len(WORLD.vocabulary) <= 700
    assert set(VALENCE) | set(MODIFIERS) <= seen


def test_continuations_have_the_stated_form() -> None:
    assert LENGTHS.min() == 8
    assert LENGTHS.max() == 24
    assert all(continuation.endswith(" .") and continuation == continuation.lower() for _, continuation in CORPUS)


def test_articles_agree_with_the_next_word_everywhere() -> None:
    assert with_articles(["a", "honest", "an", "film", "a", "actor"]) == ["an", "honest", "a", "film", "an", "actor"]
    for opening, continuation in CORPUS:
        words = f"{opening} {continuation}".split()
        for article, after in itertools.pairwise(words):
            if article in ("a", "an"):
                assert (article == "an") == (after[0] in "aeiou" or after in ("honest", "hour")), f"{article} {after}"


def test_subjects_and_verbs_agree_everywhere() -> None:
    singular = {"plot", "script", "story", "acting", "dialogue", "music", "editing", "ending", "pacing", "score"}
    plural = {"jokes", "characters", "scenes", "costumes", "effects", "songs", "actors", "performances", "stunts"}
    for _, continuation in CORPUS:
        words = continuation.split()
        for before, noun, verb in zip(words, words[1:], words[2:], strict=False):
            if before == "the" and noun in singular:
                assert verb not in ("are", "do", "lack", "shine", "drag", "stumble"), continuation
            if before == "the" and noun in plural:
                assert verb not in ("is", "does", "lacks", "shines", "drags", "stumbles"), continuation


def test_openings_are_some_hundreds_of_two_to_eight_words() -> None:
    assert 300 <= len(set(WORLD.openings)) == len(WORLD.openings) <= 600
    assert {len(opening.split()) for opening in WORLD.openings} == set(range(2, 9))


def test_held_out_openings_are_never_trained_on() -> None:
    held_out = set(WORLD.prompts(1000, seed=0, held_out=True))
    training = set(WORLD.prompts(1000, seed=0, held_out=False))
    assert not held_out & training
    assert held_out | training == set(WORLD.openings)
    assert {opening for opening, _ in CORPUS} == training
    assert len(held_out) == round(0.25 * len(WORLD.openings))
    assert set(FilmReviews(seed=1).prompts(1000, seed=0, held_out=True)) != held_out


def test_prompts_use_each_opening_once_before_any_twice() -> None:
    size = len(set(WORLD.prompts(1000, seed=0, held_out=True)))
    prompts = WORLD.prompts(2 * size, seed=4, held_out=True)
    assert sorted(prompts[:size]) == sorted(prompts[size:])
    assert prompts[:size] != prompts[size:]
    assert WORLD.prompts(0, seed=4, held_out=True) == []


def test_the_world_is_deterministic() -> None:
    again = FilmReviews(seed=0)
    assert again.corpus(50, seed=1) == CORPUS[:50]
    assert again.corpus(50, seed=2) != CORPUS[:50]
    assert again.prompts(20, seed=3, held_out=False) == WORLD.prompts(20, seed=3, held_out=False)


def test_a_good_opening_makes_good_words_likelier() -> None:
    rng = np.random.default_rng(0)
    good, bad = (
        np.mean([valence_sum(WORLD.review(rng, opening)[1]) for _ in range(800)])
        for opening in ("this charming comedy is", "the clumsy remake is")
    )
    assert good > 0.15
    assert bad < -0.15


def test_labels_are_a_bradley_terry_coin() -> None:
    gap = np.repeat([-1.0, 0.0, 0.5, 2.0], 20_000)
    labels = label_pairs(gap, np.zeros_like(gap), 2.0, np.random.default_rng(0)).reshape(4, -1)
    # sigmoid(-2), 1/2, sigmoid(1), sigmoid(4); four standard errors of 20,000 coins are at most 0.0142
    assert labels.mean(axis=1) == pytest.approx([0.1192, 0.5, 0.7311, 0.9820], abs=0.0142)
    again = label_pairs(gap, np.zeros_like(gap), 2.0, np.random.default_rng(0))
    assert (again == labels.ravel()).all()


def test_labels_that_cannot_be_drawn_are_refused() -> None:
    with pytest.raises(ValueError, match="scale must be > 0 and finite, got 0"):
        label_pairs([1.0], [0.0], 0, np.random.default_rng(0))
    with pytest.raises(ValueError, match="rewards must be finite"):
        label_pairs([np.nan], [0.0], 1, np.random.default_rng(0))


def test_an_unknown_opening_is_refused() -> None:
    with pytest.raises(ValueError, match="'once upon a time' is no opening"):
        WORLD.review(np.random.default_rng(0), "once upon a time")
