"""The rule by constructed numbers, and the check on tiny models that know the text, other text, or nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from exptilt.data.groups import Completion, Group
from exptilt.data.prepared import Prepared
from exptilt.labels import Desirable, Preferred, Ranked
from exptilt.policies.models import load_model
from exptilt.policies.scoring import score
from exptilt.policies.tokenizers import train_tokenizer
from exptilt.runs.checks.familiarity import check_familiarity, check_reference, chosen_groups, compare
from exptilt.settings.model_settings import ModelConfig, SmallModel

WORDS = ("red", "blue", "green", "tall", "short", "wet", "dry", "old", "new", "warm")
SEEN = [f"{word} is it, said the {other}" for word in WORDS for other in WORDS[:3]]
UNSEEN = [f"9{number * 7919} == {number}+{number * 31}; #" for number in range(30)]


def of(chosen, own, chosen_tokens=10, own_tokens=10, vocabulary=50_000):
    count = len(chosen)
    return compare(chosen, [chosen_tokens] * count, own, [own_tokens] * count, vocabulary=vocabulary)


def test_means_are_sums_over_sums():
    found = compare([-10.0, -90.0], [10, 30], [-4.0, -16.0], [8, 32], vocabulary=1000)
    assert found.chosen.value == pytest.approx(-100 / 40)
    assert found.own.value == pytest.approx(-20 / 40)
    assert found.gap.value == pytest.approx(2.0)
    assert found.gap.n == 2


def test_one_nat_per_token_is_the_border():
    assert of([-31.2, -30.8] * 4, [-20.0] * 8).is_far  # alike, they would have no interval
    assert not of([-29.0] * 8, [-20.0] * 8).is_far
    assert not of([-10.0] * 8, [-31.0] * 8).is_far


def test_a_gap_whose_interval_holds_zero_is_not_far():
    found = of([-150.0, *[-20.0] * 7], [-20.0] * 8)
    assert found.gap.value > 1
    assert found.gap.low <= 0
    assert not found.is_far


def test_text_as_unlikely_as_a_guess_is_unknown_though_own_samples_are_no_likelier():
    guess = -10 * math.log(50_000)
    found = of([guess] * 8, [guess] * 8)
    assert (found.is_far, found.is_untrained) == (False, True)
    assert found.finding().code == "unfamiliar"
    assert not of([0.8 * guess] * 8, [0.8 * guess] * 8).is_untrained


def test_the_finding_has_both_numbers_the_rule_and_the_fix():
    far = of([-39.0, -41.0] * 4, [-20.0] * 8)
    finding = far.finding()
    assert (finding.code, finding.severity, finding.count) == ("unfamiliar", "warning", 8)
    # SE = 0.1 / sqrt(7) = 0.038, three of them each way; the own samples are all alike, so nothing is known of their spread.
    assert "chosen text -4.000 [-4.113, -3.887]" in finding.message
    assert "nats per token and its own samples -2.000 [unknown]" in finding.message
    assert "more than 1 nat per token apart" in finding.message
    assert "`sft:` in the recipe" in finding.fix
    cured = far.finding(sft_first=True)
    assert (cured.code, cured.severity) == ("familiarity", "info")
    assert "the supervised phase of this run is the cure" in cured.message
    assert of([-21.0] * 8, [-20.0] * 8).finding().code == "familiarity"


def group(name, prompt, *completions, **extra):
    parts = tuple(Completion(np.array(ids, np.int32), np.ones(len(ids), bool)) for ids in completions)
    return Group(id=name, prompt=np.array(prompt, np.int32), completions=parts, **extra)


def test_the_preferred_completion_of_every_kind_of_row_is_taken_and_each_prompt_once():
    groups = [
        group("pair", [1], [11], [12]),
        group("turned", [2], [21], [22], label=Preferred(p_chosen=0.2)),
        group("ranked", [3], [31], [32], [33], label=Ranked((2, 1, 3))),
        group("bad", [4], [41], label=Desirable(False)),
        group("good", [5], [51]),
        group("again", [1], [13], [14]),
        group("no prompt", [], [61], [62]),
        group("long", [7] * 30, [71], [72]),
        group("long reply", [8], list(range(80, 120)), [72]),
    ]
    found = chosen_groups(groups, room=8, context=32)
    assert len(found.pop().completions[0].ids) == 40
    assert {one.id: one.completions[0].ids.tolist() for one in found} == {
        "pair": [11],
        "turned": [22],
        "ranked": [32],
        "good": [51],
    }


def test_rows_are_taken_from_all_of_the_data():
    found = chosen_groups([group(str(n), [n], [1], [2]) for n in range(640)], room=8, context=None)
    assert [one.id for one in found] == [str(n) for n in range(0, 640, 20)]
    found = chosen_groups([group(str(n), [n], [1], [2]) for n in range(96)], room=8, context=None)
    assert (len(found), found[-1].id) == (32, "93")


def rows(tokenizer, texts):
    made = []
    for number, text in enumerate(texts):
        ids = [*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id]
        made.append(group(f"row {number}", tokenizer.encode(f"Say {number}:"), ids))
    return made


@pytest.fixture(scope="module")
def world():
    """A tokenizer, a random model and one trained on some text only."""
    torch.set_num_threads(1)
    tokenizer = train_tokenizer(SEEN + UNSEEN, 300)
    small = SmallModel(hidden_size=32, num_layers=1, num_heads=2, max_positions=128)
    fresh, taught = (load_model(ModelConfig(config=small), tokenizer, seed=1) for _ in range(2))
    optimizer = torch.optim.Adam(taught.parameters(), lr=1e-2)
    groups = rows(tokenizer, SEEN)
    for _ in range(60):
        optimizer.zero_grad()
        scored = score(taught, groups)
        (-scored.sum().sum() / scored.lengths.sum()).backward()
        optimizer.step()
    return tokenizer, fresh, taught


def test_a_model_knows_what_it_was_taught_and_nothing_else(world):
    tokenizer, fresh, taught = world
    known = check_familiarity(taught, tokenizer, rows(tokenizer, SEEN))
    assert (known.code, known.severity) == ("familiarity", "info")
    assert "no sign that such text is new to it" in known.message
    other = check_familiarity(taught, tokenizer, rows(tokenizer, UNSEEN))
    assert (other.code, other.count) == ("unfamiliar", 30)
    assert "more than 1 nat per token apart" in other.message
    blank = check_familiarity(fresh, tokenizer, rows(tokenizer, SEEN))
    assert blank.code == "unfamiliar"
    assert "a guess among all 300 tokens gives -5.704" in blank.message
    assert check_familiarity(taught, tokenizer, rows(tokenizer, SEEN)) == known


def test_too_few_prompts_give_no_verdict(world):
    tokenizer, fresh, _ = world
    found = check_familiarity(fresh, tokenizer, rows(tokenizer, SEEN[:7]))
    assert (found.code, found.count) == ("familiarity", 7)
    assert "was not checked: 7 prompts" in found.message


def test_only_the_part_of_a_reply_is_scored_that_samples_have_too(world):
    tokenizer, _, taught = world
    groups = rows(tokenizer, SEEN)
    odd = tokenizer.encode(UNSEEN[0], add_special_tokens=False) * 20
    longer = []
    for one in groups:
        ids = [*one.completions[0].ids[:-1]]
        ids = (ids * 32)[:32]
        longer.append(group(one.id, one.prompt, [*ids, *odd]))
    assert (
        check_familiarity(taught, tokenizer, longer).message
        == check_familiarity(
            taught, tokenizer, [group(one.id, one.prompt, one.completions[0].ids[:32]) for one in longer]
        ).message
    )


def test_held_out_rows_are_taken_where_there_are_enough(world):
    tokenizer, _, taught = world
    seen, unseen = rows(tokenizer, SEEN), rows(tokenizer, UNSEEN)

    def verdict(train, test):
        return check_reference(taught, tokenizer, Prepared(train=train, test=test, report=None)).code

    assert verdict(seen, unseen + unseen) == "unfamiliar"
    assert verdict(seen, unseen[:10]) == "familiarity"
