"""Matches by the names a command line gives: files of answers, run folders, columns of one file."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from exptilt.errors import ConfigError
from exptilt.evaluation.judged.matches import Match
from exptilt.judges.answer_files import PolicyAnswers, paired_answers, read_answers
from exptilt.judges.model_families import writer_names


def named_matches(
    policies: Sequence[str], against: str | None, common: bool
) -> tuple[list[Match], dict[str, frozenset[str]]]:
    """The matches, and what is known of who wrote the answers, by policy.

    Args:
        policies: files of answers or run folders.
        against: a file, a run folder, `reference` or `chosen` (columns of each policy's own file), or None: all pairs.
        common: compare on the prompts that both sides have.

    Raises:
        ConfigError: no opponent, or a policy named twice.
        DataError: answers that cannot be read, or that do not meet.
    """
    if against is None and len(policies) < 2:
        raise ConfigError("name an opponent with --against, or several policies to compare all pairs of them")
    twice = [where for where in policies if policies.count(where) > 1]
    if twice:
        raise ConfigError(f"{twice[0]}: named twice")
    answers = [read_answers(where) for where in policies]
    if len({one.name for one in answers}) < len(answers):
        answers = [PolicyAnswers(where, one.prompts, one.answers) for where, one in zip(policies, answers, strict=True)]
    writers = {one.name: writer_names(where) for where, one in zip(policies, answers, strict=True)}
    if against is None:
        chosen = list(combinations(answers, 2))
    elif against in ("reference", "chosen"):
        others = [read_answers(where, against, f"{against}") for where in policies]
        chosen = list(zip(answers, others, strict=True))
    else:
        opponent = read_answers(against)
        if opponent.name in writers:
            opponent = PolicyAnswers(against, opponent.prompts, opponent.answers)
        writers[opponent.name] = writer_names(against)
        chosen = [(one, opponent) for one in answers]
    matches = [Match(one.name, other.name, *paired_answers(one, other, common=common)) for one, other in chosen]
    return matches, writers
