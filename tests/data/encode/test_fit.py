from __future__ import annotations

import numpy as np
import pytest

from exptilt.data.encode.fit import fit
from exptilt.data.encode.tokens import Encoded
from exptilt.data.groups import Completion
from exptilt.data.stage_account import Decisions
from exptilt.settings.data_settings import DataConfig


def part(*ids, counted=None):
    mask = np.ones(len(ids), dtype=bool) if counted is None else np.array(counted)
    return Completion(ids=np.array(ids, dtype=np.int32), counted=mask)


def pair(prompt, *sides, num_leading=1):
    return Encoded(np.array(prompt, dtype=np.int32), tuple(part(*side) for side in sides), num_leading)


def fitted(encoded, max_tokens, **policies):
    decisions = Decisions(DataConfig(train="x", **policies).decisions)
    result, account = fit(encoded, "f:1", max_tokens, decisions)
    assert (result is None) == bool(account.left_out)
    code = next(iter(account.left_out), None)
    return code or result, {finding.code: str(finding) for finding in account.findings(decisions)}


def ids_of(encoded):
    return encoded.prompt.tolist(), [completion.ids.tolist() for completion in encoded.completions]


LONG = pair([1, 10, 11, 12], [20, 21, 2], [30, 31, 32, 33, 2])


def test_what_fits_is_left_alone():
    result, found = fitted(LONG, 9)
    assert result is LONG
    assert found == {}


def test_too_long_is_refused_by_default_with_both_lengths():
    result, found = fitted(LONG, 8)
    assert result == "too_long"
    assert found["too_long"].startswith("f:1: 4 tokens of prompt and 5 of completion, and max_tokens is 8;")
    assert "set data.on_too_long to drop, trim_prompt_start or trim_completion_end" in found["too_long"]


def test_a_prompt_that_fills_the_context_is_its_own_finding():
    result, found = fitted(LONG, 4)
    assert result == "prompt_too_long"
    assert found["prompt_too_long"].startswith("f:1: the prompt alone has 4 tokens and max_tokens is 4;")


def test_trimming_the_prompt_keeps_bos_and_the_words_nearest_the_reply():
    result, _ = fitted(LONG, 7, on_too_long="trim_prompt_start")
    assert ids_of(result) == ([1, 12], [[20, 21, 2], [30, 31, 32, 33, 2]])


def test_trimming_the_ends_cuts_all_sides_at_one_length_and_trains_no_end_token_there():
    result, _ = fitted(LONG, 8, on_too_long="trim_completion_end")
    assert ids_of(result) == ([1, 10, 11, 12], [[20, 21, 2], [30, 31, 32, 33]])


@pytest.mark.parametrize(("policy", "max_tokens"), [("trim_prompt_start", 6), ("trim_completion_end", 4)])
def test_what_no_trim_makes_fit_is_left_out_and_counted(policy, max_tokens):
    result, found = fitted(LONG, max_tokens, on_too_long=policy)
    assert result == "does_not_fit"
    assert f"{policy} cannot make it fit" in found["does_not_fit"]


def test_sides_that_a_cut_makes_equal_are_identical():
    same_start = pair([1], [5, 6, 7, 2], [5, 6, 8, 2])
    assert fitted(same_start, 3, on_too_long="trim_completion_end")[0] == "identical"
    kept, found = fitted(same_start, 3, on_too_long="trim_completion_end", on_identical="keep")
    assert ids_of(kept) == ([1], [[5, 6], [5, 6]])
    assert set(found) == {"too_long", "identical"}


def test_a_completion_of_which_nothing_counts_is_left_out():
    encoded = Encoded(np.array([1], dtype=np.int32), (part(5, 6, counted=[False, False]),), 1)
    assert fitted(encoded, None)[0] == "nothing_counted"


def test_the_end_of_a_completion_of_several_turns_is_cut_between_turns():
    # Counted: 20 21 2 and 31 32 2; the header of the user's turn between them (28 29) and what it says do not count.
    ids, counted = [20, 21, 2, 28, 29, 30, 31, 32, 2], [True] * 3 + [False] * 3 + [True] * 3
    several = Encoded(np.array([1, 10], dtype=np.int32), (part(*ids, counted=counted),), 1)
    for max_tokens, expected in ((10, ids[:3]), (8, ids[:3]), (6, ids[:3]), (5, ids[:3]), (4, ids[:2])):
        result, _ = fitted(several, max_tokens, on_too_long="trim_completion_end")
        assert ids_of(result) == ([1, 10], [expected])
        assert result.completions[0].counted.all()


def test_a_prompt_of_turns_is_never_cut_between_tokens():
    asked = []

    def fewer(max_tokens):
        asked.append(max_tokens)
        return pair([1, 12], [20, 21, 2])

    decisions = Decisions(DataConfig(train="x", on_too_long="trim_prompt_start").decisions)
    assert ids_of(fit(LONG, "f:1", 8, decisions, fewer)[0]) == ([1, 12], [[20, 21, 2]])
    assert asked == [8]
    left_out = fit(LONG, "f:1", 8, decisions, lambda _: None)
    assert (left_out[0], left_out[1].left_out) == (None, {"does_not_fit": 1})
