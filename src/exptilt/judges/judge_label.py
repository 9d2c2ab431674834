"""What tables call a judge, and what it was made of."""

from __future__ import annotations

from collections.abc import Sequence

from exptilt.judges.model_families import model_names
from exptilt.judges.server_judge import ServerJudge
from exptilt.preferences import Judge


def judge_label(judge: Judge, all_of_them: Sequence[Judge]) -> str:
    """A judge's name, with its question where judges of one name are asked different ones, else with a number."""
    alike = [other for other in all_of_them if other.name == judge.name]
    if len(alike) == 1:
        return judge.name
    questions = [_question(other) for other in alike]
    if len(set(questions)) == len(alike):
        return f"{judge.name}: {_question(judge)}"
    return f"{judge.name} #{alike.index(judge) + 1}"


def names_of_judge(judge: Judge) -> frozenset[str]:
    """Everything that a judge's model is called and was made of; empty for what is no language model."""
    judge = getattr(judge, "judge", judge)  # one that remembers another's verdicts
    if isinstance(judge, ServerJudge):
        return model_names(judge.model)
    path = getattr(judge, "path", None)
    return frozenset() if path is None else model_names(str(path)) | frozenset(judge.identity.split()[1:2])


def _question(judge: Judge) -> str:
    template = getattr(getattr(judge, "judge", judge), "template", None)
    return "" if template is None else str(template.question)
