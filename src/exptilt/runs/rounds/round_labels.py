"""Completions of a round to the rows it trains on: by a reward, by a judge, or by people's votes."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

from exptilt.errors import DataError, Waiting
from exptilt.judges.named_judges import JudgeOptions, named_judges
from exptilt.judges.remembered_judge import RememberedJudge
from exptilt.judges.server_judge import ServerJudge
from exptilt.preferences import Comparison
from exptilt.rewards.reward_by_name import reward_by_name
from exptilt.run_folder.round_files import RoundFiles
from exptilt.runs.paired_rows import PairedRows, paired_rows
from exptilt.sampling.sample_rows import SampleRow, read_samples
from exptilt.settings.pair_settings import PairRequest, VotesConfig
from exptilt.settings.rounds_settings import RoundJudge, RoundsConfig
from exptilt.votes.vote_store import VoteStore
from exptilt.wording import counted


@dataclass(frozen=True)
class RoundLabels:
    """Labels the completions of one round."""

    settings: RoundsConfig
    files: RoundFiles
    seed: int

    def rows(self) -> PairedRows:
        """The rows of the round.

        Raises:
            Waiting: people have not voted on enough comparisons.
            ExptiltError: reward or judge cannot be used, or nothing is preferred.
        """
        settings = self.settings
        if settings.labelled_by == "reward":
            paired = paired_rows(self._by_reward())
        else:
            comparisons = comparisons_of(self.files.samples, settings.compared)
            if not comparisons:
                raise DataError(
                    f"all completions of a prompt are the same, so there is nothing to compare: {self.files.samples}"
                )
            with VoteStore(self.files.votes) as store:
                if settings.judge is not None:
                    ask_judge(settings.judge, comparisons, store, self.seed)
                else:
                    store.add_sources((one, ()) for one in comparisons)  # so that the page needs nothing but the store
                    enough, page = (
                        (settings.wanted, settings.least_labelled),
                        f"exptilt label {store.name} --store {store.name}",
                    )
                    require_votes(comparisons, store, self.files.number, enough, page)
            paired = in_one_order(paired_rows(self._by_votes()))
        if not paired.rows:
            raise DataError(f"no completion is preferred to another, so there is nothing to train on{_why(paired)}")
        return paired

    def _by_reward(self) -> PairRequest:
        settings = self.settings
        return PairRequest(
            samples=(str(self.files.samples),),
            output=str(self.files.rows),
            reward=settings.reward,
            label="reward" if settings.decide == "greater" else settings.decide,
            scale=settings.scale,
            pairs=settings.compared,  # type: ignore[arg-type]  # the settings allow those of rewards only
            min_margin=settings.min_margin,
            on_tie=settings.on_tie,
            seed=self.seed,
        )

    def _by_votes(self) -> PairRequest:
        settings = self.settings
        votes = VotesConfig(
            store=str(self.files.votes),
            on_dispute=settings.on_dispute,
            raters=("people",) if settings.judge is None else ("judges",),
            wanted=settings.wanted if settings.judge is None else 1,
        )
        return PairRequest(
            samples=(str(self.files.samples),),
            output=str(self.files.rows),
            votes=votes,
            rows="preference",
            on_tie=settings.on_tie,
        )


def require_votes(
    comparisons: Sequence[Comparison], store: VoteStore, number: int, enough: tuple[int, float], page: str
) -> None:
    """Go on only once enough of a round's comparisons have the votes of people.

    Args:
        comparisons: of the round.
        store: of votes.
        number: of the round.
        enough: votes that a comparison needs, and the share of the comparisons that need them.
        page: the command that opens the page on which people vote.

    Raises:
        Waiting: they have not.
    """
    wanted, share = enough
    raters: dict[str, set[str]] = {one.id: set() for one in comparisons}
    for vote in store.votes():
        if vote.rater.kind == "person" and vote.comparison in raters:
            raters[vote.comparison].add(vote.rater.name)
    done = sum(len(names) >= wanted for names in raters.values())
    needed = math.ceil(share * len(comparisons))
    if done < needed:
        raise Waiting(
            f"round {number} waits for people: {done:,} of {counted(needed, 'comparison')} have "
            f"{counted(wanted, 'vote')} in {store.name}; open the page with `{page}`, and then give the same command again"
        )


def comparisons_of(samples: Path, pairs: str) -> list[Comparison]:
    """The comparisons that a judge or people are asked about, in the order of the samples; each two texts once.

    Args:
        samples: folder of a round's completions.
        pairs: neighbours: the first with the second, the third with the fourth; all: each with each; first_rest: the first
            with every other.
    """
    by_prompt: dict[str, list[SampleRow]] = {}
    for row in read_samples(samples):
        by_prompt.setdefault(row.prompt_id, []).append(row)
    comparisons: dict[str, Comparison] = {}
    for rows in by_prompt.values():
        texts = [row.completion for row in sorted(rows, key=lambda row: row.sample_index)]
        for first, second in positions_compared(pairs, len(texts)):
            if texts[first] != texts[second]:
                comparison = Comparison(rows[0].prompt, (texts[first], texts[second]))
                comparisons.setdefault(comparison.id, comparison)
    return list(comparisons.values())


def positions_compared(pairs: str, count: int) -> list[tuple[int, int]]:
    """Positions of the completions that are compared before anybody has said how good they are.

    Example:
        >>> positions_compared("neighbours", 5), positions_compared("first_rest", 3), len(positions_compared("all", 4))
        ([(0, 1), (2, 3)], [(0, 1), (0, 2)], 6)
    """
    if pairs == "all":
        return list(combinations(range(count), 2))
    if pairs == "first_rest":
        return [(0, other) for other in range(1, count)]
    return [(at, at + 1) for at in range(0, count - 1, 2)]


def ask_judge(settings: RoundJudge, comparisons: Sequence[Comparison], store: VoteStore, seed: int) -> None:
    """Ask a judge about all comparisons it has not judged yet; its votes are in the store when this returns.

    Raises:
        ConfigError: there is no such judge.
    """
    questions = () if settings.question is None else (settings.question,)
    options = JudgeOptions(template=settings.template, questions=questions, seed=seed)
    judge = named_judges([settings.by], store, options, reward_by_name)[0]
    if not isinstance(judge, ServerJudge | RememberedJudge):  # these keep their own votes
        judge = RememberedJudge(judge, store)
    for _ in judge(comparisons):
        pass


def in_one_order(paired: PairedRows) -> PairedRows:
    """The rows in an order that does not depend on who voted when, so that training does not either."""
    rows = sorted(paired.rows, key=lambda row: json.dumps(row, sort_keys=True))
    return replace(paired, rows=rows)


def _why(paired: PairedRows) -> str:
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in paired.left_out.items())
    return f" (left out: {reasons})" if reasons else ""
