"""What must stand beside a preference objective on masks: rivals that learn from the same comparisons, as recipes of their own.

imitation of winners    the better mask of every row, imitated
one bias a class        the recipe's own loss, but only the bias of each class is trained: what a shifted threshold alone would do
labels by a coin        the recipe itself, on rows whose labels say nothing: what candidates alone would do
true masks              the ceiling, where images have true masks
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from exptilt.data.masks.manifest import MaskRow, read_images
from exptilt.data.masks.mask_set import MaskSet
from exptilt.disk import refusals, write_lines
from exptilt.labels import Desirable, Preferred, Ranked
from exptilt.run_folder.file_names import RIVALS
from exptilt.run_folder.mask_evaluation_record import TRUTH
from exptilt.settings.loss_choice import LossChoice
from exptilt.settings.mask_settings import MaskRecipe

IMITATION, BIAS, COIN = "imitation of winners", "one bias a class", "labels by a coin"
_FOLDERS = {IMITATION: "imitation", BIAS: "bias", COIN: "coin", TRUTH: "truth"}


def rivals_of_run(recipe: MaskRecipe, rows: MaskSet) -> dict[str, MaskRecipe]:
    """Rivals of one run, on the rows that it was trained on; their manifests are written.

    Args:
        recipe: of the run, whose folder they go into.
        rows: it was trained on.
    """
    folder = recipe.folder / RIVALS
    with refusals(folder):
        folder.mkdir(exist_ok=True)
    manifest = {name: folder / f"{_FOLDERS[name]}.jsonl" for name in (IMITATION, BIAS, COIN)}
    are_pairs = all(isinstance(row.label, Preferred) for row in rows.rows)  # a winner of two pairs counts twice
    write_lines(manifest[IMITATION], _filled(rows.rows, _as_it_is if are_pairs else _winner))
    write_lines(manifest[BIAS], _filled(rows.rows, _as_it_is))
    write_lines(manifest[COIN], _filled(rows.rows, lambda row: _by_coin(row, recipe.seed)))
    rivals = {
        IMITATION: replace(
            _rival(recipe, IMITATION, manifest[IMITATION]), loss=LossChoice.of("nll") if are_pairs else _IMITATED
        ),
        BIAS: with_bias_alone(_rival(recipe, BIAS, manifest[BIAS])),
        COIN: _rival(recipe, COIN, manifest[COIN]),
    }
    true = _truth(recipe, [(row.image, row.target) for row in rows.rows if row.target is not None], len(rows))
    return rivals | true


def rivals_of_rounds(recipe: MaskRecipe) -> dict[str, MaskRecipe]:
    """Rivals of all rounds, each with candidates of its own in every round and as many comparisons; true masks need no rounds."""
    if recipe.rounds is None or recipe.rounds.annotator is None:
        raise ValueError("rivals of rounds need a simulated annotator")
    rounds = recipe.rounds
    coin = replace(rounds, annotator=replace(recipe.rounds.annotator, flip=0.5))
    rivals = {
        IMITATION: replace(_rival(recipe, IMITATION), loss=LossChoice.of("nll")),
        BIAS: with_bias_alone(_rival(recipe, BIAS)),
        COIN: replace(_rival(recipe, COIN), rounds=coin),
    }
    images = [
        row for row in read_images(rounds.images or recipe.data.train, recipe.data.limit) if isinstance(row, MaskRow)
    ]
    true = [(row.image, row.target) for row in images if row.target is not None]
    with refusals(recipe.folder / RIVALS):
        (recipe.folder / RIVALS).mkdir(exist_ok=True)
    return rivals | _truth(recipe, true, len(true) * rounds.num_pairs * rounds.num_rounds)


_RATE_OF_BIASES = 0.05
"""Logits that a bias moves in a step of Adam; at the rate of a network's weights it would stay where it is."""
_IMITATED = LossChoice.of("sft", normalization="sequence")


def _rival(recipe: MaskRecipe, name: str, manifest: Path | None = None) -> MaskRecipe:
    """The recipe without held-out rows and without rivals; on the rows of a manifest, which were checked before."""
    data = replace(recipe.data, test=None, test_fraction=0.0)
    if manifest is not None:
        anyhow: dict[str, Any] = {
            "on_conflict": "keep",
            "on_duplicate": "drop",
            "on_identical": "drop",
            "max_difference": 1.0,
        }
        data = replace(data, train=str(manifest), limit=None, **anyhow)
    quiet = replace(recipe.train, best=None, patience=0, eval_every=0, report_to=(), callbacks=(), resume="auto")
    return replace(
        recipe,
        output=str(recipe.folder / RIVALS / _FOLDERS[name]),
        data=data,
        train=quiet,
        evaluate=replace(recipe.evaluate, rivals=False),
    )


def with_bias_alone(recipe: MaskRecipe) -> MaskRecipe:
    """The recipe with only the bias of each class trained, by steps large enough for so few numbers to arrive."""
    rate = max(recipe.optim.learning_rate, _RATE_OF_BIASES)
    return replace(
        recipe, segmenter=replace(recipe.segmenter, trains="bias"), optim=replace(recipe.optim, learning_rate=rate)
    )


def _truth(recipe: MaskRecipe, true: list[tuple[Path, Path]], num_rows: int) -> dict[str, MaskRecipe]:
    """True masks for as many steps as there are comparisons; nothing where no image has one."""
    unique = dict(true)
    if not unique:
        return {}
    manifest = recipe.folder / RIVALS / f"{_FOLDERS[TRUTH]}.jsonl"
    write_lines(manifest, ({"image": _full(image), "mask": _full(mask)} for image, mask in unique.items()))
    rival = _rival(recipe, TRUTH, manifest)
    train = replace(rival.train, epochs=rival.train.epochs * num_rows / len(unique))
    return {TRUTH: replace(rival, loss=_IMITATED, rounds=None, train=train)}


Written = Callable[[MaskRow], Mapping[str, Any]]


def _filled(rows: Iterable[MaskRow], written: Written) -> Iterable[dict[str, Any]]:
    for row in rows:
        about = {"image": _full(row.image), "weight": row.weight}
        yield about | ({} if row.annotator is None else {"annotator": row.annotator}) | dict(written(row))


def _winner(row: MaskRow) -> dict[str, Any]:
    """The best mask of a row; a mask that is marked bad has weight 0."""
    if isinstance(row.label, Desirable):
        return {"mask": _full(row.masks[0])} | ({} if row.label.desirable else {"weight": 0.0})
    if isinstance(row.label, Ranked):
        ranks = row.label.ranks
        return {"mask": _full(row.masks[min(range(len(ranks)), key=ranks.__getitem__)])}
    return {"mask": _full(row.masks[0])}


def _as_it_is(row: MaskRow) -> dict[str, Any]:
    if isinstance(row.label, Preferred):
        return {
            "chosen": _full(row.masks[0]),
            "rejected": _full(row.masks[1]),
            "p_chosen": row.label.p_chosen,
        }
    if isinstance(row.label, Ranked):
        return {"masks": [_full(mask) for mask in row.masks], "ranks": list(row.label.ranks)}
    if isinstance(row.label, Desirable):
        return {"mask": _full(row.masks[0]), "label": row.label.desirable}
    return {"mask": _full(row.masks[0])}


def _by_coin(row: MaskRow, seed: int) -> dict[str, Any]:
    """The row with a label that says nothing: turned round or not by a hash of the row."""
    made = _as_it_is(row)
    digest = int(hashlib.sha256(f"{seed} {row.where} {[mask.name for mask in row.masks]}".encode()).hexdigest()[:8], 16)
    if not digest % 2:
        return made
    if "chosen" in made:
        return made | {"p_chosen": 1 - made["p_chosen"]}
    if "ranks" in made:
        highest = max(made["ranks"]) + 1
        return made | {"ranks": [highest - rank for rank in made["ranks"]]}
    return made | ({"label": not made["label"]} if "label" in made else {})


def _full(path: Path) -> str:
    return str(path.resolve())
