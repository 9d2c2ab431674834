"""The steps of a round for language models."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from exptilt.data.groups import Completion, Group
from exptilt.disk import write_lines
from exptilt.errors import CheckpointError, ConfigError, DataError, Stopped, Waiting
from exptilt.evaluation.intervals import Resampling, mean
from exptilt.policies.device import model_on_device
from exptilt.policies.models import load_model, load_tokenizer
from exptilt.policies.scoring import score_all
from exptilt.reports.page import write_report
from exptilt.run_folder.estimate_record import Estimate
from exptilt.run_folder.lock import claimed
from exptilt.run_folder.round_files import RoundFiles
from exptilt.run_folder.run_record import RoundRecord, SampledPolicy
from exptilt.runs.paired_rows import paired_rows
from exptilt.runs.rounds.round_labels import RoundLabels
from exptilt.runs.rounds.round_recipe import policy_of, prompt_data, recipe_of_round, rounds_of, seed_of
from exptilt.runs.rounds.round_work import refused_reward, work_of
from exptilt.runs.run_recipe import run_recipe
from exptilt.sampling.drawn_folder import draw_into
from exptilt.sampling.prompts_to_sample import AskedPrompt, prompts_of
from exptilt.sampling.sample_request import SampleRequest
from exptilt.sampling.sample_rows import SampleRow, read_samples
from exptilt.sampling.sampling_law import SamplingLaw
from exptilt.settings.declaration import as_dict
from exptilt.settings.pair_settings import PairRequest
from exptilt.settings.recipe import Recipe
from exptilt.types import LogProbs
from exptilt.wording import counted


@dataclass(frozen=True)
class TextRounds:
    """Rounds of a language model; see `RoundSteps`."""

    recipe: Recipe
    record: Callable[[int], RoundRecord]
    """What is known of a round."""
    note: Callable[[RoundRecord], None]
    """Writes what is known of a round."""
    note_end: Callable[[SampledPolicy], None]
    """Writes what is known of the last model."""
    console: Console
    page: bool = True
    """Whether every run writes its report."""

    def work(self) -> list[str]:
        """What the rounds will do, and which rows have no prompt.

        Raises:
            ConfigError: the reward cannot be used.
        """
        rounds = rounds_of(self.recipe)
        asked, left_out = prompts_of(prompt_data(self.recipe))
        refusal = refused_reward(rounds)
        if refusal:
            raise ConfigError(f"rounds.reward: {refusal}")
        reasons = [f"left out: {counted(count, 'row')} with {reason}" for reason, count in left_out.items()]
        return [*work_of(rounds, self.recipe, len(asked)), *reasons]

    def begin(self) -> None:
        """Train the supervised phase, where the recipe has one."""
        if self.recipe.sft is not None:
            self._train(self.recipe.sft_recipe(), "in the supervised phase")

    def sample(self, number: int) -> None:
        """Draw the completions of a round."""
        files = self._files(number)
        if files.rows.exists():
            return
        asked = self._asked(number)
        digest = _digest_of(asked)
        known = self.record(number)
        if known.prompts not in (None, digest):
            raise CheckpointError(
                f"{files.samples}: round {number} began with other prompts than these; put the old prompts back, or remove "
                "this folder to draw again"
            )
        self.note(known.updated(prompts=digest))
        self._draw(number, asked)
        self.note(known.updated(prompts=digest, status="sampled", start=self._measured(number)))

    def label(self, number: int) -> None:
        """Write the rows of a round."""
        files, known = self._files(number), self.record(number)
        if files.rows.exists():
            return
        try:
            paired = RoundLabels(rounds_of(self.recipe), files, seed_of(self.recipe, number)).rows()
        except Waiting:
            self.note(known.updated(status="waiting"))
            raise
        except DataError as error:
            raise DataError(f"round {number}: {error}") from error
        start = known.start
        if paired.rewards:
            start = start.updated(reward=_mean_reward(paired.rewards, self._resampling))
        for reason, count in paired.left_out.items():
            self.console.print(f"round {number}: left out: {count:,} with {reason}", highlight=False)
        # The account first: once the rows are there, the round is labelled and is not looked at again.
        self.note(
            known.updated(
                status="labelled",
                start=start,
                num_comparisons=paired.num_asked if rounds_of(self.recipe).labelled_by != "reward" else None,
                num_rows=len(paired.rows),
                left_out=dict(paired.left_out),
            )
        )
        write_lines(files.rows, paired.rows)

    def train(self, number: int) -> None:
        """Train on the rows of a round."""
        self._train(recipe_of_round(self.recipe, number), f"in round {number}")
        self.note(self.record(number).updated(status="trained", run=self._files(number).run.name))

    def finish(self, num_rounds: int) -> None:
        """Sample the last model as the next round would, and measure it; its reward too, where a reward labels."""
        following, reward = num_rounds + 1, rounds_of(self.recipe).reward
        self._draw(following, self._asked(following))
        after = self._measured(following)
        if reward is not None:
            files = self._files(following)
            request = PairRequest(
                samples=(str(files.samples),), output=str(files.rows), reward=reward, rows="rating", threshold=0.0
            )
            after = after.updated(reward=_mean_reward(paired_rows(request).rewards, self._resampling))
        self.note_end(after)

    def report(self) -> Path:
        """Write the page of all rounds."""
        return write_report([self.recipe.folder])

    def _train(self, recipe: Recipe, where: str) -> None:
        """Train one run to its end.

        Raises:
            Stopped: it was asked to stop before.
        """
        outcome = run_recipe(recipe, self.console, page=self.page)
        if not outcome.finished:
            raise Stopped(f"stopped {where} at step {outcome.step}; give the same command again to go on")

    def _files(self, number: int) -> RoundFiles:
        return RoundFiles(self.recipe.folder, number)

    @property
    def _resampling(self) -> Resampling:
        return Resampling(level=self.recipe.evaluate.level)

    def _asked(self, number: int) -> list[AskedPrompt]:
        """The prompts that a round answers."""
        asked, each = prompts_of(prompt_data(self.recipe)).prompts, rounds_of(self.recipe).prompts_per_round
        if each is None or each >= len(asked):
            return asked
        return [asked[at % len(asked)] for at in range((number - 1) * each, number * each)]

    def _draw(self, number: int, asked: Sequence[AskedPrompt]) -> None:
        rounds, files = rounds_of(self.recipe), self._files(number)
        request = SampleRequest(
            output=str(files.samples),
            data=prompt_data(self.recipe),
            model=policy_of(self.recipe, number),
            num_samples=rounds.num_samples,
            law=SamplingLaw(**as_dict(rounds.law)),
            seed=seed_of(self.recipe, number),
            batch_size=rounds.samples_at_once,
        )
        with claimed(files.samples, "samples", {}):
            draw_into(files.samples, request, asked, self.console)

    def _measured(self, number: int) -> SampledPolicy:
        """Length and KL of the samples that a round has drawn."""
        rows = list(read_samples(self._files(number).samples))
        owners = [row.prompt_id for row in rows]
        known: dict[str, Any] = {
            "num_prompts": len(set(owners)),
            "num_samples": len(rows),
            "length": mean([float(len(row.completion_ids or ())) for row in rows], owners, self._resampling),
            "ended": mean([float(row.ended) for row in rows], owners, self._resampling),
        }
        kl = self._kl_from_the_first(number, rows)
        return SampledPolicy(**known | ({} if kl is None else {"kl": kl}))

    def _kl_from_the_first(self, number: int, rows: Sequence[SampleRow]) -> Estimate | None:
        """KL from the model of round 1, on as many prompts as an evaluation takes; None where the law is bent."""
        most = self.recipe.evaluate.num_prompts
        if number == 1 or not most or not SamplingLaw(**as_dict(rounds_of(self.recipe).law)).is_plain:
            return None
        prompts = set(list(dict.fromkeys(row.prompt_id for row in rows))[:most])
        chosen = [row for row in rows if row.prompt_id in prompts]
        first = policy_of(self.recipe, 1)
        model = model_on_device(load_model(first, load_tokenizer(first)))
        of_first = LogProbs.cat(score_all(model, [_group(row) for row in chosen])).sum().double().numpy()
        own = np.array([sum(row.logps or ()) for row in chosen])
        return mean((own - of_first).tolist(), [row.prompt_id for row in chosen], self._resampling)


def _group(row: SampleRow) -> Group:
    ids = np.array(row.completion_ids, dtype=np.int32)
    completion = Completion(ids=ids, counted=np.ones(len(ids), dtype=np.bool_))
    return Group(
        id=f"{row.prompt_id}:{row.sample_index}",
        prompt=np.array(row.prompt_ids, dtype=np.int32),
        completions=(completion,),
    )


def _mean_reward(rewards: Sequence[Any], resampling: Resampling) -> Estimate:
    """Mean of the scored completions, with an interval over prompts."""
    owners = np.repeat(np.arange(len(rewards)), [len(own) for own in rewards])
    values = np.concatenate(rewards)
    scored = ~np.isnan(values)
    if not scored.any():
        raise DataError(f"the reward scored none of {counted(len(values), 'completion')}")
    return mean(values[scored], owners[scored], resampling)


def _digest_of(asked: Sequence[AskedPrompt]) -> str:
    content = json.dumps([[one.id, one.answer] for one in asked])
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:32]
