"""Rows of a manifest as every kind of objective reads them; what cannot be read is named with its row."""

from __future__ import annotations

import json

import pytest

from exptilt.data.masks.manifest import MaskRow, Refused, read_held_out, read_images, read_rows
from exptilt.errors import DataError
from exptilt.kinds import COMPLETION, LIST, PAIR, UNPAIRED
from exptilt.labels import Desirable, Preferred, Ranked


@pytest.fixture
def read(tmp_path):
    """`read(kind, row, ...)`: rows of a manifest, as names of masks and labels, or the words of a refusal."""

    def made(kind, *rows, reader=read_rows):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps({"image": "i.png"} | row) + "\n" for row in rows))
        return [
            f"{one.where} {one.error.detail}"
            if isinstance(one, Refused)
            else ([mask.name for mask in one.masks], one.label)
            for one in reader(str(path), kind)
        ]

    return made


SIDES = {"chosen": "a.png", "rejected": "b.png"}


@pytest.mark.parametrize(
    ("kind", "row", "expected"),
    [
        (PAIR, SIDES, [(["a.png", "b.png"], Preferred(1.0))]),
        (PAIR, SIDES | {"p_chosen": 0.3}, [(["a.png", "b.png"], Preferred(0.3))]),
        (COMPLETION, SIDES, [(["a.png"], None)]),
        (COMPLETION, SIDES | {"p_chosen": 0.3}, [(["b.png"], None)]),
        (COMPLETION, {"mask": "m.png", "target": "t.png"}, [(["m.png"], None)]),
        (COMPLETION, {"target": "t.png"}, [(["t.png"], None)]),
        (COMPLETION, {"masks": ["a.png", "b.png"], "ranks": [2, 1]}, [(["b.png"], None)]),
        (UNPAIRED, SIDES, [(["a.png"], Desirable(True)), (["b.png"], Desirable(False))]),
        (UNPAIRED, SIDES | {"p_chosen": 0.3}, [(["b.png"], Desirable(True)), (["a.png"], Desirable(False))]),
        (UNPAIRED, {"mask": "m.png", "label": "bad"}, [(["m.png"], Desirable(False))]),
        (UNPAIRED, {"mask": "m.png", "label": 1}, [(["m.png"], Desirable(True))]),
        (LIST, {"masks": ["a.png", "b.png", "c.png"]}, [(["a.png", "b.png", "c.png"], Ranked((1, 2, 3)))]),
        (LIST, {"masks": ["a.png", "b.png"], "ranks": [1, 1]}, [(["a.png", "b.png"], Ranked((1, 1)))]),
        (LIST, SIDES | {"p_chosen": 0.3}, [(["b.png", "a.png"], Ranked((1, 2)))]),
        (LIST, SIDES | {"p_chosen": 0.5}, [(["a.png", "b.png"], Ranked((1, 1)))]),
    ],
)
def test_a_row_is_read_as_the_loss_takes_it(read, kind, row, expected):
    assert read(kind, row) == expected


@pytest.mark.parametrize(
    ("kind", "row", "words"),
    [
        (PAIR, {"masks": ["a.png", "b.png"]}, "a ranking of masks; losses on pairs need"),
        (PAIR, {"chosen": "a.png"}, "the row has no 'rejected'"),
        (PAIR, SIDES | {"p_chosen": 1.2}, "p_chosen must be a number from 0 to 1, got 1.2"),
        (PAIR, SIDES | {"weight": True}, "weight must be a number"),
        (PAIR, SIDES | {"chosen": 3}, "'chosen' must be the path of a file, got 3"),
        (UNPAIRED, SIDES | {"p_chosen": 0.5}, "a tie, which marks neither mask"),
        (UNPAIRED, {"mask": "m.png"}, "label must be true (good) or false (bad), got None"),
        (COMPLETION, {"mask": "m.png", "label": False}, "the mask is marked as bad"),
        (LIST, {"masks": ["a.png"]}, "a list of two or more"),
        (LIST, {"masks": ["a.png", 4]}, "masks must be paths of files"),
        (LIST, {"masks": ["a.png", "b.png"], "ranks": [1]}, "ranks must be 2 whole numbers"),
    ],
)
def test_a_row_that_cannot_be_read_is_named(read, kind, row, words):
    _, refused = read(
        kind, SIDES | {"masks": ["a.png", "b.png"], "mask": "m.png", "label": True} if kind is not PAIR else SIDES, row
    )[-2:]
    assert refused.startswith("rows.jsonl:2 ")
    assert words in refused


def test_held_out_images_may_have_nothing_but_true_masks(read, tmp_path):
    true = [{"target": "t.png"}, {"mask": "m.png"}, {"mask": "coarse.png", "target": "t.png"}]
    assert [names for names, _ in read(PAIR, *true, reader=read_held_out)] == [["t.png"], ["m.png"], ["coarse.png"]]
    found = read_held_out(str(tmp_path / "rows.jsonl"), PAIR)
    assert [row.target.name for row in found if isinstance(row, MaskRow)] == ["t.png", "m.png", "t.png"]
    mixed = read(PAIR, SIDES, {"target": "t.png"}, reader=read_held_out)
    assert mixed[1].startswith("rows.jsonl:2 the row has no 'chosen'")


def test_images_alone_are_enough_for_candidates(tmp_path):
    (tmp_path / "images").mkdir()
    for name in ("a.png", "b.tif", "notes.txt"):
        (tmp_path / "images" / name).write_bytes(b"")
    assert [row.image.name for row in read_images(str(tmp_path / "images")) if isinstance(row, MaskRow)] == [
        "a.png",
        "b.tif",
    ]
    with pytest.raises(DataError, match="no manifest"):
        read_images(str(tmp_path / "none"))
