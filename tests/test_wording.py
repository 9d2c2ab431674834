from __future__ import annotations

import pytest

from exptilt.settings.training_settings import OptimConfig
from exptilt.wording import SURE, counted, did_you_mean, in_one_line, nearest


@pytest.mark.parametrize(
    ("name", "known", "expected"),
    [
        ("maxsteps", ["max_steps", "max_tokens"], "max_steps"),
        ("H100-80gb", ["H100-80GB", "H200"], "H100-80GB"),  # ratio 1 once case does not count
        ("dpo", ["kto", "ipo"], "ipo"),  # ratio 2/3
        ("dpo", ["kto", "nca"], None),  # ratio 1/3
        ("anything", [], None),
    ],
)
def test_the_nearest_name_is_the_likeliest_spelling_or_none(name, known, expected):
    assert nearest(name, known) == expected


def test_advice_that_changes_what_is_read_needs_a_surer_likeness():
    assert nearest("chosen_score", ["chosen"]) == "chosen"  # 2 * 6 / 18
    assert nearest("chosen_score", ["chosen"], SURE) is None
    assert nearest("choosen", ["chosen"], SURE) == "chosen"


@pytest.mark.parametrize("letter", range(len("learning_rate")))
def test_every_single_lost_letter_is_understood(letter):
    typo = "learning_rate"[:letter] + "learning_rate"[letter + 1 :]
    assert did_you_mean(typo, OptimConfig.__dataclass_fields__) == "; did you mean 'learning_rate'?"


def test_where_nothing_is_near_all_known_names_are_listed_in_their_order():
    assert did_you_mean("x", ["b", "a"]) == " (known: b, a)"
    assert did_you_mean("x", []) == ""


def test_counted_nouns():
    assert [counted(n, "row") for n in (0, 1, 2, 1234567)] == ["0 rows", "1 row", "2 rows", "1,234,567 rows"]
    assert counted(2, "batch", "batches") == "2 batches"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("  bad value.\n\tmore"), "bad value. more"),
        (ValueError(""), "ValueError"),
        (OSError(" \n "), "OSError"),
        (RuntimeError("...and so on..."), "...and so on"),
    ],
)
def test_a_foreign_error_is_one_line_without_its_full_stop(error, line):
    assert in_one_line(error) == line


def test_a_foreign_error_says_what_did_not_fit_what_and_keeps_both_its_ends():
    shape = (
        "size mismatch for a.{}: copying a param with shape torch.Size([2, 3]) from checkpoint, "
        "the shape in current model is torch.Size([4, 3])."
    )
    text = "Error(s) in loading state_dict for Model:\n" + "\n\t".join(shape.format(at) for at in range(9))
    assert (
        in_one_line(RuntimeError(text)) == "9 tensors do not fit, first a.0 is (2, 3) in the file, (4, 3) in the model"
    )
    long = in_one_line("begins " + "x" * 999 + " ends")
    assert len(long) <= 240
    assert long.startswith("begins ")
    assert long.endswith(" ends")
