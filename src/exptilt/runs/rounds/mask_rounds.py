"""The steps of a round for segmenters: candidates near the segmenter's own masks, labels, training."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from exptilt.data.masks.manifest import MaskRow, read_images
from exptilt.data.masks.mask_checks import prepare_held_out, prepare_images
from exptilt.data.masks.mask_set import Palette
from exptilt.disk import write_lines
from exptilt.errors import CheckpointError, DataError, Stopped, Waiting
from exptilt.people.image_items import image_rows
from exptilt.reports.mask_page import write_mask_report
from exptilt.run_folder.folder import RunFolder
from exptilt.run_folder.round_files import RoundFiles
from exptilt.run_folder.run_record import RoundRecord
from exptilt.runs.mask_candidates import ITEMS, draw_candidates, require_weights, simulated_rows
from exptilt.runs.mask_measuring import measure_masks
from exptilt.runs.mask_rivals import rivals_of_rounds
from exptilt.runs.mask_run import run_masks
from exptilt.runs.mask_session import channels_of_recipe, mask_loss
from exptilt.runs.paired_rows import paired_rows
from exptilt.runs.rounds.round_labels import in_one_order, require_votes
from exptilt.runs.run_start import Outcome
from exptilt.settings.mask_rounds_settings import MaskRoundsConfig
from exptilt.settings.mask_settings import MaskRecipe, MaskRequest, SegmenterConfig
from exptilt.settings.pair_settings import PairRequest, VotesConfig
from exptilt.votes.vote_store import VoteStore
from exptilt.wording import counted


@dataclass(frozen=True)
class MaskRounds:
    """Rounds of a segmenter; see `RoundSteps`."""

    recipe: MaskRecipe
    record: Callable[[int], RoundRecord]
    """What is known of a round."""
    note: Callable[[RoundRecord], None]
    """Writes what is known of a round."""
    console: Console
    run_rounds: Callable[..., Outcome]
    """Runs the rounds of a rival."""
    page: bool = True
    """Whether every run writes its report."""

    def work(self) -> list[str]:
        """What the rounds will do.

        Raises:
            ConfigError: the annotator weighs other classes than there are.
            DataError: an image or a true mask cannot be used; a line for each.
        """
        require_weights(rounds_of_masks(self.recipe).annotator, _palette(self.recipe))
        report = images_of_rounds(self.recipe)
        if report.errors:
            raise DataError("\n".join(str(finding) for finding in report.errors))
        return mask_work_of(self.recipe, report.train.kept or 0)

    def begin(self) -> None:
        """Nothing: the segmenter that the first round begins with is there."""

    def sample(self, number: int) -> None:
        """Draw the candidates of a round."""
        files = self._files(number)
        if files.rows.exists():
            return
        digest, known = self._digest(), self.record(number)
        if known.prompts not in (None, digest):
            raise CheckpointError(
                f"{files.samples}: round {number} began with other images than these; put the old images back, or remove "
                "this folder to draw again"
            )
        if known.prompts is None or not (files.samples / ITEMS).exists():
            self.note(known.updated(prompts=digest))
            left_out = draw_candidates(self._request(number))
            self.note(known.updated(prompts=digest, status="sampled", left_out=dict(left_out)))

    def label(self, number: int) -> None:
        """Write the rows of a round, by the simulated annotator or by people's votes."""
        files, known = self._files(number), self.record(number)
        if files.rows.exists():
            return
        left_out = Counter(known.left_out)
        try:
            rows, asked = self._rows(files, left_out)
        except Waiting:
            self.note(known.updated(status="waiting"))
            raise
        if not rows:
            raise DataError(f"round {number}: no mask is preferred to another, so there is nothing to train on")
        # The account first: once the rows are there, the round is labelled and is not looked at again.
        self.note(known.updated(status="labelled", num_comparisons=asked, num_rows=len(rows), left_out=dict(left_out)))
        write_lines(files.rows, rows)

    def train(self, number: int) -> None:
        """Train on the rows of a round."""
        outcome = run_masks(mask_recipe_of_round(self.recipe, number), self.console, page=self.page)
        if not outcome.finished:
            raise Stopped(f"stopped in round {number} at step {outcome.step}; give the same command again to go on")
        self.note(self.record(number).updated(status="trained", run=self._files(number).run.name))

    def finish(self, num_rounds: int) -> None:
        """Measure the last segmenter beside the very first, and beside rivals that went through rounds of their own."""
        recipe = self.recipe
        if recipe.data.test is None:
            return
        rivals: dict[str, Path] = {}
        for name, rival in (rivals_of_rounds(recipe) if recipe.evaluate.rivals else {}).items():
            self.console.print(f"rival: {name}", highlight=False)
            run = run_masks if rival.rounds is None else self.run_rounds
            outcome = run(rival, Console(quiet=True), page=False)
            if not outcome.finished:
                raise Stopped(f"stopped in the rival {name!r}; give the same command again to go on")
            rivals[name] = outcome.folder.model
        kind = mask_loss(recipe).kind
        test = prepare_held_out(recipe.data, kind, channels_of_recipe(recipe))
        measure_masks(recipe, RunFolder(recipe.folder), self._files(num_rounds).model, test, rivals)

    def report(self) -> Path:
        """Write the page of all rounds."""
        return write_mask_report(self.recipe.folder)

    def _files(self, number: int) -> RoundFiles:
        return RoundFiles(self.recipe.folder, number)

    def _request(self, number: int) -> MaskRequest:
        rounds, data = rounds_of_masks(self.recipe), self.recipe.data
        return MaskRequest(
            segmenter=_begun_with(self.recipe, number),
            images=rounds.images or data.train,
            output=str(self._files(number).samples),
            classes=data.classes,
            ignore=data.ignore,
            foreground=data.foreground,
            channels=data.channels,
            num_masks=rounds.num_masks,
            num_pairs=rounds.num_pairs,
            law=rounds.law,
            annotator=rounds.annotator,
            limit=data.limit,
            round=number,
            seed=self.recipe.seed,
        )

    def _rows(self, files: RoundFiles, left_out: Counter[str]) -> tuple[list[dict[str, Any]], int | None]:
        """Rows of a manifest beside the folder of candidates, and how many comparisons people were asked about."""
        rounds = rounds_of_masks(self.recipe)
        if rounds.annotator is not None:
            rows = list(simulated_rows(files.samples, rounds.annotator, _palette(self.recipe), self.recipe.seed))
            asked = None
        else:
            rows, asked = self._voted(files, rounds, left_out)
        return [_beside(row, files.samples.name) for row in rows], asked

    def _voted(
        self, files: RoundFiles, rounds: MaskRoundsConfig, left_out: Counter[str]
    ) -> tuple[list[dict[str, Any]], int | None]:
        items = files.samples / ITEMS
        comparisons = [row.comparison for row in image_rows(str(items), Counter())]
        with VoteStore(files.votes) as store:
            page = f"exptilt label {items} --store {store.name}"
            require_votes(comparisons, store, files.number, (rounds.wanted, rounds.least_labelled), page)
        votes = VotesConfig(
            store=str(files.votes), on_dispute=rounds.on_dispute, raters=("people",), wanted=rounds.wanted
        )
        request = PairRequest(output=str(files.rows), votes=votes, rows="preference", on_tie=rounds.on_tie)
        paired = in_one_order(paired_rows(request))
        left_out.update(paired.left_out)
        return paired.rows, paired.num_asked

    def _digest(self) -> str:
        """Of the content of all images and true masks."""
        rounds = rounds_of_masks(self.recipe)
        content = hashlib.sha256()
        for row in read_images(rounds.images or self.recipe.data.train, self.recipe.data.limit):
            paths = [] if not isinstance(row, MaskRow) else [row.image, *([row.target] if row.target else [])]
            digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
            content.update(json.dumps(digests).encode())
        return content.hexdigest()[:32]


def rounds_of_masks(recipe: MaskRecipe) -> MaskRoundsConfig:
    """The settings of the rounds of a recipe that has them."""
    if recipe.rounds is None:
        raise ValueError("this recipe has no rounds")
    return recipe.rounds


def mask_recipe_of_round(recipe: MaskRecipe, number: int) -> MaskRecipe:
    """One round as an ordinary run: from the segmenter of the round before, which is its reference, too."""
    files, data = RoundFiles(recipe.folder, number), recipe.data
    rows: dict[str, Any] = {
        "train": str(files.rows),
        "limit": None,
        "on_identical": "drop",
        "on_duplicate": "drop",
        "on_conflict": "keep",
    }
    resume = "auto" if recipe.train.resume == "never" else recipe.train.resume
    return replace(
        recipe,
        segmenter=_begun_with(recipe, number),
        output=str(files.run),
        seed=(recipe.seed + number - 1) % 2**32,
        rounds=None,
        data=replace(data, **rows),
        train=replace(recipe.train, resume=resume),
        evaluate=replace(recipe.evaluate, rivals=False),
    )


def images_of_rounds(recipe: MaskRecipe) -> Any:
    """The account of the images that candidates are made of, every file read."""
    rounds = rounds_of_masks(recipe)
    images = read_images(rounds.images or recipe.data.train, recipe.data.limit)
    return prepare_images(images, recipe.data, channels_of_recipe(recipe), with_targets=rounds.annotator is not None)


def mask_work_of(recipe: MaskRecipe, num_images: int) -> list[str]:
    """What all rounds will do, in lines for a person.

    Args:
        recipe: of the run.
        num_images: images that there are.
    """
    rounds = rounds_of_masks(recipe)
    by = (
        f"people compare ({counted(rounds.wanted, 'vote')} each)"
        if rounds.annotator is None
        else f"a simulated annotator ({rounds.annotator.overlap}, temperature {rounds.annotator.temperature:g}) compares"
    )
    return [
        f"{counted(rounds.num_rounds, 'round')}, one after the other. In each:",
        f"  sample  {counted(num_images * rounds.num_masks, 'mask')}, {rounds.num_masks} of {counted(num_images, 'image')}, "
        "the segmenter's own among them",
        f"  label   {by} at most {counted(num_images * rounds.num_pairs, 'pair')}",
        f"  train   {recipe.loss.name} on them, against the segmenter that the round begins with",
    ]


def _begun_with(recipe: MaskRecipe, number: int) -> SegmenterConfig:
    """The segmenter that a round begins with: the recipe's own, or that of the round before."""
    if number == 1:
        return recipe.segmenter
    return replace(recipe.segmenter, path=str(RoundFiles(recipe.folder, number - 1).model), revision=None)


def _palette(recipe: MaskRecipe) -> Palette:
    return Palette.of(recipe.data.classes, recipe.data.ignore, recipe.data.foreground)


def _beside(row: dict[str, Any], folder: str) -> dict[str, Any]:
    """A row with the paths of its masks, and of a copied image, from one folder above."""
    moved = {
        key: value if Path(value).is_absolute() else f"{folder}/{value}"
        for key, value in row.items()
        if key in ("image", "chosen", "rejected", "target")
    }
    return row | moved
