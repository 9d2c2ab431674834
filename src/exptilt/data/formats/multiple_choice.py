"""Questions with options of which one is right, under the columns that benchmarks have for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from exptilt.data.formats.fields import content, first_of, items, need, section_of
from exptilt.data.formats.structured_text import structure_in
from exptilt.data.problems import RowError
from exptilt.data.records import Ranking

Row = Mapping[str, Any]
ASKED = ("question", "question_stem", "ctx", "prompt")
OPTIONS = ("choices", "options", "endings")
ANSWERS = ("answerKey", "answer_index", "answer", "label")
SECTIONS = ("subject", "category", "subset")


def fits_multiple_choice(row: Row) -> bool:
    """Whether there are a question, options and the answer; a plain answer in words is something else."""
    return all(any(name in row for name in names) for names in (ASKED, OPTIONS, ANSWERS))


def multiple_choice(row: Row, row_id: str) -> Ranking:
    """MMLU, ARC, CommonsenseQA, HellaSwag and their like: options, and which one is right; the others are alike.

    The right one is named by its place from 0, by a letter from A, by its own label where options have labels, or by its
    text. The section is `section`, `subject`, `category` or `subset`.
    """
    options, labels = _options(first_of(row, *OPTIONS))
    right = _place(first_of(row, *ANSWERS), options, labels)
    named = next((row[name] for name in SECTIONS if isinstance(row.get(name), str)), None)
    return Ranking(
        id=row_id,
        prompt=content(first_of(row, *ASKED), "question"),
        completions=tuple(content(option, f"option {at + 1}") for at, option in enumerate(options)),
        ranks=tuple(1 if at == right else 2 for at in range(len(options))),
        section=section_of(row) or section_of({"section": named}),
    )


def _options(value: Any) -> tuple[Sequence[Any], Sequence[str]]:
    """Texts, and their labels where they have any: a list of texts, or of objects, or `{text: [...], label: [...]}`."""
    spelled = structure_in(value) if isinstance(value, str) else None
    value = value if spelled is None else spelled
    if isinstance(value, Mapping):
        texts, labels = (items(need(value, name), f"choices.{name}", 2) for name in ("text", "label"))
        if len(texts) != len(labels):
            raise RowError("wrong_type", f"there are {len(texts)} options and {len(labels)} labels")
        return texts, [str(label) for label in labels]
    options = items(value, "choices", 2)
    if all(isinstance(option, Mapping) and {"text", "label"} <= option.keys() for option in options):
        return [option["text"] for option in options], [str(option["label"]) for option in options]
    return options, []


def _place(answer: Any, options: Sequence[Any], labels: Sequence[str]) -> int:
    """The place of the right option."""
    word = str(answer).strip()
    if word in labels:
        return list(labels).index(word)
    if isinstance(answer, bool) or list(options).count(answer) > 1:
        raise RowError("bad_value", f"the answer {word[:40]!r} does not name one option")
    if answer in options:
        return list(options).index(answer)
    place = int(word) if word.isdecimal() else ord(word.upper()) - ord("A") if len(word) == 1 and word.isalpha() else -1
    if not 0 <= place < len(options):
        raise RowError("bad_value", f"the answer {word[:40]!r} names none of {len(options)} options")
    return place
