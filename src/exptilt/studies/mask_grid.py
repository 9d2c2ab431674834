"""A study of masks: runs from one segmenter, placed on the reward-KL plane beside the best that independent pixels can reach.

segmenter and pairs -> runs/NAME (ordinary run folders) -> points/NAME.json (KL and expected reward of every image)
-> optimum.json (the curve of every image) -> frontier.json

Nothing is sampled: KL and expected reward of a segmenter are sums over pixels, so only images make an interval.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from rich.console import Console

from exptilt.data.masks.mask_checks import prepare_masks, refused_masks
from exptilt.data.masks.mask_set import MaskSet, Palette
from exptilt.errors import ConfigError, DataError, Stopped
from exptilt.evaluation.frontier.factorised import FactorisedOptimum, factorised_kl
from exptilt.evaluation.intervals import Floats, Resampling, mean, paired_difference
from exptilt.evaluation.masks.mask_evaluation import predicted
from exptilt.evaluation.variance_components import variance_components
from exptilt.kinds import COMPLETION
from exptilt.policies.segmenters.segmenter import Segmenter
from exptilt.policies.segmenters.segmenter_files import channels_of, load_segmenter
from exptilt.rewards.expected_overlap import MaskReward, mask_reward
from exptilt.run_folder.estimate_record import Estimate
from exptilt.run_folder.file_names import STUDY_OPTIMUM, STUDY_POINTS
from exptilt.run_folder.folder import RunFolder
from exptilt.run_folder.frontier_record import Frontier, Optimum, Point, SeedSpread
from exptilt.run_folder.mask_study_record import MaskOptimumSolved, MaskPolicyMeasured
from exptilt.runs.mask_run import run_masks
from exptilt.runs.mask_session import mask_loss
from exptilt.settings.grid_settings import GridRun
from exptilt.settings.mask_grid_settings import MaskGridRecipe
from exptilt.settings.mask_settings import SegmenterConfig
from exptilt.studies.other_rewards import band


@dataclass(frozen=True)
class MeasuredImage:
    """An image on which segmenters are measured."""

    image: Any
    """(C, H, W)."""
    valid: Any
    """(H, W) bool, pixels whose true class is known."""
    true: Any
    """(N,) true classes of the valid pixels."""
    reference: Floats
    """(K, N) log-probabilities of the reference."""


@dataclass(frozen=True)
class MaskGrid:
    """One study of masks in one process."""

    recipe: MaskGridRecipe

    @property
    def _folder(self) -> RunFolder:
        return RunFolder(self.recipe.folder)

    @cached_property
    def reward(self) -> MaskReward:
        """What masks are worth."""
        return mask_reward(self.recipe.measure.reward, self.recipe.measure.weights)

    @cached_property
    def images(self) -> list[MeasuredImage]:
        """Held-out images with a true mask, each once.

        Raises:
            DataError: there are fewer than two, or weights do not fit the classes.
        """
        self._check_weights()
        segmenter = self._segmenter(self.recipe.segmenter)
        images: dict[bytes, MeasuredImage] = {}
        rows = self._held_out(channels_of(segmenter))
        for at in range(len(rows)):
            pixels = rows.pixels(at)
            key = pixels.image.tobytes()
            if pixels.target is None or key in images or not (pixels.target >= 0).any():
                continue
            valid = pixels.target >= 0
            reference = _log_probabilities(segmenter, pixels.image, valid)
            images[key] = MeasuredImage(pixels.image, valid, pixels.target[valid], reference)
            if len(images) == self.recipe.measure.images:
                break
        if len(images) < 2:
            raise DataError(
                f"data: {len(images)} held-out images have a true mask, and a frontier needs two or more: give rows a `target`"
            )
        return list(images.values())

    def train(self, entry: GridRun, console: Console) -> None:
        """Train one run unless it is finished, and measure its end.

        Raises:
            Stopped: somebody asked to stop; the same command goes on.
        """
        outcome = run_masks(self.recipe.recipe(entry), console)
        if not outcome.finished:
            raise Stopped(f"stopped in {entry.title} at step {outcome.step}; give the same command again to go on")
        self._measured(entry)

    def content(self, command: str, progress: Callable[[int], None] = lambda done: None) -> Frontier:
        """The content of frontier.json."""
        optimum = self._optimum(progress)
        points = [self._point(entry, optimum) for entry in self.recipe.runs]
        kl, rewards = optimum.drawn()
        values, low, high = band(rewards)
        size = float(np.mean([len(image.true) for image in self.images]))
        return Frontier(
            reward_name=self.reward.name,
            each="mask",
            prompts="images",
            optimum=Optimum(
                exact_for="any policy" if self.reward.additive else "any policy whose pixels are independent",
                kl=tuple(kl.tolist()),
                reward=tuple(np.maximum.accumulate(values).tolist()),
                low=low,
                high=high,
            ),
            reference_reward=mean(optimum.start, self._numbers, self._resampling),
            num_prompts=len(self.images),
            points=tuple(points),
            spreads=self._spreads(),
            command=command,
            facts={
                "optimum": "closed form" if self.reward.additive else "mean field: the best independent pixels",
                "pixels of a mask, mean": size,
            },
        )

    def _point(self, entry: GridRun, optimum: FactorisedOptimum) -> Point:
        measured, loss = self._measured(entry), entry.method.loss
        kl, reward = np.asarray(measured.kl), np.asarray(measured.reward)
        stands = optimum.position(kl, reward)
        return Point(
            name=entry.title,
            method="imitation" if loss.kind.imitates else type(loss).__name__,
            beta=getattr(loss, "beta", None),
            steps=measured.steps,
            run=entry.slug,
            seed=entry.seed,
            objective=entry.method.title,
            kl=mean(kl, self._numbers, self._resampling),
            reward=mean(reward, self._numbers, self._resampling),
            gain=paired_difference(reward, optimum.start, self._numbers, self._resampling),
            fraction=stands.reward_fraction,
            kl_fraction=stands.kl_fraction,
            gap=_negated(stands.excess),
            above_optimum=stands.excess,
            solid=stands.solid,
            notes=stands.notes,
        )

    def _measured(self, entry: GridRun) -> MaskPolicyMeasured:
        """One run's end on every image, read from its file or computed now."""
        folder, name = RunFolder(self.recipe.folder / STUDY_POINTS), f"{entry.slug}.json"
        run = RunFolder(self.recipe.recipe(entry).folder)
        segmenter = self._segmenter(SegmenterConfig(path=str(run.model)))
        digest = self._digest(segmenter.fingerprint())
        known = folder.record(MaskPolicyMeasured, name)
        if known is not None and known.measured_with == digest:
            return known
        kl, reward = [], []
        for image in self.images:
            policy = _log_probabilities(segmenter, image.image, image.valid)
            kl.append(factorised_kl(policy, image.reference))
            reward.append(self.reward.moments(np.exp(policy), image.true)[0])
        measured = MaskPolicyMeasured(
            measured_with=digest,
            kl=tuple(kl),
            reward=tuple(reward),
            kl_per_pixel=tuple(one / len(image.true) for one, image in zip(kl, self.images, strict=True)),
            steps=run.run.steps,
        )
        folder.write(name, measured)
        return measured

    def _optimum(self, progress: Callable[[int], None]) -> FactorisedOptimum:
        """The curve of every image, read from its file or solved now."""
        digest = self._digest(self.recipe.measure.betas)
        known = self._folder.record(MaskOptimumSolved, STUDY_OPTIMUM)
        if known is not None and known.measured_with == digest:
            columns = {name: np.asarray(getattr(known, name)) for name in ("betas", "kl", "reward")}
            return FactorisedOptimum(**columns, resampling=self._resampling)
        try:
            solved = FactorisedOptimum.solve(
                [image.reference for image in self.images],
                [partial(self.reward.moments, true=image.true) for image in self.images],
                [image.true for image in self.images],
                num_betas=self.recipe.measure.betas,
                resampling=self._resampling,
                progress=progress,
            )
        except ValueError as error:
            raise DataError(f"data: no frontier can be drawn: {error}") from None
        record = MaskOptimumSolved(
            measured_with=digest,
            betas=tuple(solved.betas.tolist()),
            kl=tuple(tuple(row) for row in solved.kl.tolist()),
            reward=tuple(tuple(row) for row in solved.reward.tolist()),
        )
        self._folder.write(STUDY_OPTIMUM, record)
        return solved

    def _spreads(self) -> tuple[SeedSpread, ...]:
        """Both kinds of spread of every objective that was trained with several seeds."""
        if len(self.recipe.seeds) < 2:
            return ()
        spreads = []
        for method in self.recipe.methods:
            runs = [self._measured(entry) for entry in self.recipe.runs if entry.method is method]
            spreads.append(
                SeedSpread(
                    objective=method.title,
                    seeds=tuple(self.recipe.seeds),
                    reward=variance_components([run.reward for run in runs], self.recipe.level),
                    kl=variance_components([run.kl for run in runs], self.recipe.level),
                )
            )
        return tuple(spreads)

    def _held_out(self, channels: int) -> MaskSet:
        """Held-out rows, of the kind that the first objective takes."""
        kind = mask_loss(self.recipe.recipe(self.recipe.runs[0])).kind if self.recipe.runs else COMPLETION
        return refused_masks(prepare_masks(self.recipe.data, kind, self.recipe.data.channels or channels)).test

    def _segmenter(self, settings: SegmenterConfig) -> Segmenter:
        segmenter = load_segmenter(settings, self._classes)
        return segmenter.cuda() if torch.cuda.is_available() else segmenter

    @cached_property
    def _classes(self) -> int:
        data = self.recipe.data
        return len(Palette.of(data.classes, data.ignore, data.foreground).names)

    def _check_weights(self) -> None:
        measure, given = self.recipe.measure, len(self.recipe.measure.weights)
        wanted = self._classes - (measure.reward != "accuracy")
        if given not in (0, wanted):
            raise ConfigError(
                f"measure.weights: {measure.reward} of {self._classes} classes takes {wanted}, got {given}"
            )

    @cached_property
    def _resampling(self) -> Resampling:
        return Resampling(level=self.recipe.level)

    @property
    def _numbers(self) -> Any:
        return np.arange(len(self.images))

    @cached_property
    def _seen(self) -> str:
        """Digest of the images, the reference's distributions and the reward."""
        digest = hashlib.blake2b(repr(self.reward).encode(), digest_size=16)
        for image in self.images:
            for array in (image.image, image.valid, image.true, image.reference):
                digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def _digest(self, what: object) -> str:
        return hashlib.blake2b(f"{self._seen} {what}".encode(), digest_size=16).hexdigest()


def _negated(excess: Estimate | None) -> Estimate | None:
    """What a policy misses: at the beta whose optimum has its KL, J* - J is the difference of rewards."""
    if excess is None or excess.value is None:
        return None
    low, high = excess.interval or (None, None)
    ends = {"low": None if high is None else -high, "high": None if low is None else -low}
    return excess.model_copy(update={"value": -excess.value, **ends})


def _log_probabilities(segmenter: Segmenter, image: Any, valid: Any) -> Floats:
    """(K, N) of the valid pixels, in float64; of float32 they sum to one within 1e-7, and here to rounding."""
    logs = predicted(segmenter, [image])[0].double()
    return np.asarray(torch.log_softmax(logs, 0).numpy()[:, valid])
