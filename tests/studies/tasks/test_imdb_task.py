"""The study on real reviews, in small; skipped where the data are not."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from exptilt.errors import ConfigError, DataError
from exptilt.losses import DPO
from exptilt.policies.models import load_tokenizer
from exptilt.policies.tokenizers import train_tokenizer
from exptilt.rewards.text_classifier import TextClassifier
from exptilt.settings.grid_settings import GridRecipe, ImdbTask, LabelConfig, MeasureConfig, Method
from exptilt.settings.model_settings import ModelConfig, SmallModel
from exptilt.studies.grid import law_of
from exptilt.studies.labels_by_reward import Labeller
from exptilt.studies.tasks.imdb_task import PREFIX, cut, read_reviews, split
from exptilt.verbs.frontier import Grid

DATA = Path(os.environ.get("EXPTILT_DATA", Path(__file__).parents[4] / "shared" / "data"))
REVIEWS = DATA / "sentiment" / "imdb.train.jsonl.gz"
needs_reviews = pytest.mark.skipif(not REVIEWS.is_file(), reason=f"no {REVIEWS}: set EXPTILT_DATA to the data folder")
TASK = ImdbTask(
    name="imdb",
    data=str(DATA),
    num_reviews=300,
    excerpts=1,
    words=16,
    sft_epochs=1.0,
    num_prompts=12,
    model=SmallModel(hidden_size=16, num_layers=1, num_heads=2, max_positions=64, vocab_size=400),
)


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("EXPTILT_CACHE", str(tmp_path_factory.mktemp("cache")))
    torch.set_num_threads(1)
    recipe = GridRecipe(
        output=str(tmp_path_factory.mktemp("imdb")),
        task=TASK,
        methods=[Method(loss=DPO())],
        measure=MeasureConfig(num_prompts=5, num_samples=2, pool=8, max_new_tokens=8),
    )
    made = Grid(recipe)
    _ = made.bench
    yield made
    patch.undo()


@needs_reviews
def test_preferences_are_all_pairs_of_the_references_answers_and_the_higher_reward_is_preferred(grid):
    rows = [json.loads(line) for line in (grid.recipe.folder / "preferences-train.jsonl").read_text().splitlines()]
    assert len(rows) == 12 * 6
    classifier = TextClassifier.load(grid.recipe.folder / "classifier.npz")
    chosen, rejected = (
        classifier.probabilities([row["prompt"] + row[side] for row in rows]) for side in ("chosen", "rejected")
    )
    assert (chosen >= rejected).all()
    assert (chosen > rejected).any()


@needs_reviews
def test_prompts_have_two_to_eight_tokens_and_held_out_ones_are_new(grid):
    tokenizer = load_tokenizer(grid.bench.reference)
    asked = [tokenizer.decode(ids.tolist(), skip_special_tokens=True) for ids in grid.bench.prompts]
    assert len(asked) == 5
    lengths = [len(ids) - 1 for ids in grid.bench.prompts]  # BOS is no part of a prefix
    assert all(PREFIX[0] <= length <= PREFIX[1] for length in lengths)
    lines = (grid.recipe.folder / "preferences-train.jsonl").read_text().splitlines()
    trained = {json.loads(line)["prompt"] for line in lines}
    assert not trained & set(asked)


@needs_reviews
def test_the_classifier_learns_from_a_few_hundred_reviews_and_says_how_well(grid):
    facts = grid.bench.facts
    assert 0.65 < facts["classifier accuracy, held-out reviews"] <= 1
    assert facts["held-out reviews"] == 300
    rewards = np.asarray(grid.bench.reward(["This film"], [" is wonderful, superb and perfect."]))
    worse = np.asarray(grid.bench.reward(["This film"], [" is awful, boring and the worst."]))
    assert 0 < worse[0] < rewards[0] < 1


@needs_reviews
def test_a_policy_is_measured_against_its_reference(grid):
    found = grid.yardstick.measure(grid.yardstick.reference, 2, stream=1)
    assert found.kl == (0.0,) * 10
    assert all(0 < reward < 1 for reward in found.reward)
    assert grid.pool.rewards.shape == (5, 8)


@needs_reviews
def test_reviews_are_plain_text_of_both_labels():
    reviews = read_reviews(REVIEWS, 100)
    assert {review.label for review in reviews} == {0, 1}
    assert not any("<br" in review.text or not review.text.isascii() for review in reviews)


def test_a_prefix_ends_with_a_word_and_the_whole_is_kept():
    texts = ["the film was surprisingly good, and the end was better than the beginning."] * 40 + ["short"]
    tokenizer = train_tokenizer(texts, 300)
    found = list(split(tokenizer, texts, np.random.default_rng(0)))
    assert len(found) == 40
    assert {prompt + rest for prompt, rest in found} == {texts[0]}
    assert all(rest.startswith(" ") for _, rest in found)
    assert len({prompt for prompt, _ in found}) > 1


def test_long_sentences_are_left_out_and_short_ones_joined():
    assert cut("One two. Three four five. Six seven eight nine.", words=5) == [
        "One two. Three four five.",
        "Six seven eight nine.",
    ]
    assert cut("a b c d e f. g.", words=3) == ["g."]


def test_missing_data_is_said(tmp_path, monkeypatch):
    monkeypatch.delenv("EXPTILT_DATA", raising=False)
    with pytest.raises(DataError, match="is not there"):
        read_reviews(tmp_path / "none.gz", None)
    recipe = GridRecipe(output=str(tmp_path), task=ImdbTask(name="imdb"), methods=[Method(loss=DPO())])
    with pytest.raises(ConfigError, match="EXPTILT_DATA"):
        _ = Grid(recipe).bench


def test_noisy_labels_follow_the_coin_and_deterministic_ones_the_reward():
    law = law_of(GridRecipe(output="x", task=ImdbTask(name="imdb"), methods=[Method(loss=DPO())]).measure)
    scores = np.array([0.0, 1.0] * 2000)
    for by, expected in (("deterministic", 1.0), ("bradley_terry", 1 / (1 + np.exp(-2.0)))):
        labeller = Labeller(ModelConfig(path="x"), lambda prompts, said: scores, LabelConfig(by=by, scale=2.0), law)
        rows = list(labeller._rows(["p"], [f"{score:g}" for score in scores], scores, np.random.default_rng(0)))
        assert len(rows) == 2000
        assert np.mean([row["chosen"] == "1" for row in rows]) == pytest.approx(expected, abs=0.02)
