"""Baselines that are prompted instead of trained: an instruction and examples from the training rows before each prompt."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from exptilt.data.records import Preference, Prompt, Ranking, Rating, Record, Text, as_turns, words_of
from exptilt.errors import DataError
from exptilt.sampling.prompts_to_sample import readable_rows
from exptilt.sampling.sample_rows import prompt_id
from exptilt.studies.judged_grid_settings import PromptedConfig


def examples_of(settings: PromptedConfig, judged: set[str], seed: int) -> list[tuple[Text, Text]]:
    """Prompts with a good answer each, drawn by a hash of their content, one set for all prompts.

    Args:
        settings: how many examples, and where from.
        judged: ids of all prompts that are judged; none of them may be an example.
        seed: of the draw.

    Raises:
        DataError: fewer rows than examples.
    """
    if settings.examples is None:
        return []
    answers: dict[str, tuple[Text, Text]] = {}
    for record in readable_rows(settings.examples).records:
        answer, name = good_answer(record), prompt_id(record.prompt, record.template_args)
        if answer is not None and words_of(answer).strip() and name not in judged:
            answers.setdefault(name, (record.prompt, answer))
    if len(answers) < settings.shots:
        raise DataError(
            f"{settings.examples.train}: {settings.shots} examples are asked for, and {len(answers)} rows have an answer and "
            "a prompt that is not judged"
        )
    drawn = sorted(answers, key=lambda name: hashlib.sha256(f"{seed} {name}".encode()).digest())
    return [answers[name] for name in drawn[: settings.shots]]


def good_answer(record: Record) -> Text | None:
    """The chosen completion, the one to imitate, the best ranked, one rated as desirable, or the right answer.

    Example:
        >>> good_answer(Preference(id="a:1", prompt="2 + 2?", chosen="4", rejected="5"))
        '4'
    """
    if isinstance(record, Preference):
        return record.chosen if record.p_chosen >= 0.5 else record.rejected
    if isinstance(record, Ranking):
        return record.completions[record.ranks.index(min(record.ranks))]
    if isinstance(record, Rating):
        return record.completion if record.desirable else None
    return record.answer if isinstance(record, Prompt) else record.completion


def row_answers(records: Sequence[Record]) -> Mapping[str, str]:
    """The rows' own answer by prompt; of several rows with one prompt the first counts."""
    answers: dict[str, str] = {}
    for record in records:
        answer = good_answer(record)
        if answer is not None and words_of(answer).strip():
            answers.setdefault(prompt_id(record.prompt, record.template_args), words_of(answer))
    return answers


def with_examples(prompt: Text, examples: Sequence[tuple[Text, Text]], settings: PromptedConfig) -> Text:
    """One prompt with instruction and examples before it.

    Raises:
        DataError: a prompt of text beside examples of turns.

    Example:
        >>> asked = PromptedConfig(instruction="Add.", separator=" ## ")
        >>> with_examples("2+3=", [("1+1=", "2")], asked)
        'Add. ## 1+1= 2 ## 2+3='
        >>> with_examples(({"role": "user", "content": "2+3"},), [("1+1", "2")], asked)[0]
        {'role': 'system', 'content': 'Add.'}
    """
    if isinstance(prompt, str):
        if any(not isinstance(text, str) for example in examples for text in example):
            raise DataError("prompted.examples: they are turns and the prompts are text; give both in one form")
        parts = [settings.instruction] if settings.instruction else []
        parts += [_joined(str(question), str(answer)) for question, answer in examples]
        return settings.separator.join([*parts, prompt])
    turns = [
        turn for question, answer in examples for turn in (*as_turns(question, "user"), *as_turns(answer, "assistant"))
    ]
    told, rest = settings.instruction, list(prompt)
    if rest and rest[0].get("role") == "system":  # templates take one system turn
        told = "\n\n".join(part for part in (told, str(rest.pop(0)["content"])) if part)
    system = [{"role": "system", "content": told}] if told else []
    return (*system, *(turn for turn in turns if turn.get("role") != "system"), *rest)


def until_separator(answer: str, settings: PromptedConfig | None, prompt: Text) -> str:
    """A text answer up to where the model begins another example of its own.

    Example:
        >>> until_separator(" 5 ## 7+7= 14", PromptedConfig(separator=" ## "), "2+3=")
        ' 5'
    """
    if settings is None or not isinstance(prompt, str):
        return answer
    return answer.partition(settings.separator.rstrip())[0]


def _joined(question: str, answer: str) -> str:
    spaced = question[-1:].isspace() or answer[:1].isspace() or not question
    return question + ("" if spaced else " ") + answer
