"""The table of row formats, in the order they are tried: the first that fits the columns is taken."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from exptilt.data.formats import (
    gathered,
    hh,
    judged,
    listed,
    multiple_choice,
    pairs,
    ranked,
    renamed,
    single,
    token_ids,
)
from exptilt.data.formats.column_names import meaning_of
from exptilt.data.formats.fields import COMPLETIONS, PROMPTS
from exptilt.data.formats.row_context import CONTEXT
from exptilt.data.formats.structured_text import structure_in
from exptilt.data.records import Record
from exptilt.wording import SURE, nearest

Row = Mapping[str, Any]
ALWAYS = frozenset({"id", *CONTEXT})
"""Columns read whatever the format."""
_PAIR = ("p_chosen", "margin", "section", *(name for names in pairs.SCORES for name in names))


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """One row format."""

    name: str
    shape: str
    """Its columns, for messages to people."""
    fits: Callable[[Row], bool]
    """Whether a row that holds one value of every column of the source is of this format."""
    record: Callable[[Row, str], Record | tuple[Record, ...]]
    """Make a record, or several, of a row and its id; raises `RowError`."""
    columns: frozenset[str]
    """Every column it reads."""
    beside: frozenset[str] = frozenset()
    """Columns of the published data set that say nothing a row needs, whatever their names say."""
    imitates: bool = False
    """Whether its rows are completions to imitate."""
    gather: Callable[[Row], str] | None = None
    """Rows with the same key become one row `{"rows": [...]}`; None: every row stands alone."""

    @property
    def is_asked_for(self) -> bool:
        """Tell whether the format is only taken if `data.format` names it, because another format has its columns too."""
        return self.fits is _never


def _has(*columns: str) -> Callable[[Row], bool]:
    return lambda row: row.keys() >= set(columns)


def _never(row: Row) -> bool:
    """Reject every row: a format that shares its columns with another format must be asked for."""
    return False


def _transcripts(row: Row) -> bool:
    sides = (row.get("chosen"), row.get("rejected"))
    return "prompt" not in row and all(hh.is_transcript(side) for side in sides)


def _after_a_dialogue(row: Row) -> bool:
    others = {"prompt", "question", "query", "input", "instruction"}
    return _has("chosen", "rejected")(row) and not others & row.keys() and bool(row.keys() & set(pairs.DIALOGUES))


def _conversation(row: Row) -> bool:
    """Accept turns under a name in use for them; `conversation` may also name something else."""
    return "messages" in row or "conversations" in row or _list_of(row, "conversation", dict)


def _list_of(row: Row, column: str, kind: type) -> bool:
    value = row.get(column)
    if isinstance(value, str):
        value = structure_in(value)
    return isinstance(value, list) and bool(value) and isinstance(value[0], kind)


def _lists_of_texts(row: Row) -> bool:
    """One or several chosen and several rejected texts, or the other way round."""
    are_lists = [_list_of(row, side, str) for side in ("chosen", "rejected")]
    are_texts = [isinstance(row.get(side), str) for side in ("chosen", "rejected")]
    return "prompt" in row and any(are_lists) and all(map(any, zip(are_lists, are_texts, strict=True)))


def _two_outputs(row: Row) -> bool:
    verdicts = judged.VERDICTS if "rejected" not in row else judged.VERDICTS[:-1]
    return any(row.keys() >= set(names) for names in judged.SIDES) and any(name in row for name in verdicts)


def _alpaca_pair(row: Row) -> bool:
    return "instruction" in row and (_has("chosen", "rejected")(row) or _list_of(row, "output", str))


def _orca(row: Row) -> bool:
    asked = "question" in row or "query" in row or ("input" in row and "instruction" not in row)
    return _has("chosen", "rejected")(row) and "prompt" not in row and asked


def _rejected_response(row: Row) -> bool:
    rejected = "rejected_response" in row or "rejected_messages" in row
    return rejected and ("messages" in row or ("response" in row and bool(row.keys() & set(PROMPTS))))


def _one_completion(row: Row) -> bool:
    return bool(row.keys() & set(PROMPTS)) and bool(row.keys() & set(COMPLETIONS))


def _rated(row: Row) -> bool:
    asked = bool(row.keys() & {*PROMPTS, "input"}) or not isinstance(row.get("completion"), str)
    return asked and bool(row.keys() & set(COMPLETIONS)) and bool(row.keys() & set(single.LABELS))


def _prompt_alone(row: Row) -> bool:
    """Accept a prompt beside columns that say nothing a row needs; one that may be a misspelled completion says something."""
    others = row.keys() - {*ALWAYS, "input", *PROMPTS, *single.ANSWERS}
    says = (meaning_of(name, row[name]) or nearest(name, ("chosen", "rejected", *COMPLETIONS), SURE) for name in others)
    return bool(row.keys() & set(PROMPTS)) and not any(says)


def _adapter(
    name: str,
    columns: str,
    record: Callable[[Row, str], Record | tuple[Record, ...]],
    fits: Callable[[Row], bool] | None = None,
    optional: tuple[str, ...] = (),
    gather: Callable[[Row], str] | None = None,
    beside: str = "",
    imitates: bool = False,
) -> Adapter:
    """Make an adapter that by default fits if all of `columns` are there."""
    named = columns.split()
    return Adapter(
        name=name,
        shape=", ".join(named),
        fits=fits or _has(*named),
        record=record,
        columns=frozenset({*named, *optional}),
        beside=frozenset(beside.split()),
        imitates=imitates,
        gather=gather,
    )


_TWO = ("input", *PROMPTS, *(name for names in judged.SIDES for name in names))
_SHOWN = ("input", "context", *PROMPTS, *COMPLETIONS, *token_ids.OF_ONE)
_DISTILABEL = (
    "rationale rationales labelling_prompt raw_labelling_response generations generation_prompt new_generations "
    "raw_generation_responses original_chosen original_rejected original_response ratings"
)
ADAPTERS: tuple[Adapter, ...] = (
    _adapter("hh", "chosen rejected", pairs.transcripts, _transcripts, _PAIR),
    _adapter("triple", "prompt gold chosen rejected", ranked.triple, None, ("reference",)),
    _adapter("best_of", "prompt chosen rejected", listed.best_of, _lists_of_texts, ("section", "subset", "id"),
             beside="num_correct num_rejected"),
    _adapter("on_policy", "prompt all_generated_responses all_rm_scores", listed.on_policy, _never,
             beside="chosen rejected"),
    _adapter("orca", "question chosen rejected", renamed.orca, _orca, ("query", "input", "status", "rating", *_PAIR),
             beside=_DISTILABEL),
    _adapter("alpaca_pair", "instruction chosen rejected", renamed.alpaca_pair, _alpaca_pair,
             ("input", "output", *_PAIR), beside=_DISTILABEL),
    _adapter("sharegpt", "conversations chosen rejected", pairs.sharegpt, _after_a_dialogue,
             (*pairs.DIALOGUES, *_PAIR)),
    _adapter("preference", "prompt chosen rejected", pairs.preference, _has("chosen", "rejected"),
             ("messages", "both_desirable", *token_ids.OF_PAIR, *_PAIR),
             beside=f"all_generated_responses all_rm_scores conversation turns {_DISTILABEL}"),
    _adapter("argilla", "instruction chosen_response rejected_response", renamed.argilla, None,
             ("input", "context", *_PAIR)),
    _adapter("stackexchange", "question response_j response_k", renamed.stackexchange, None, _PAIR),
    _adapter("openai", "input preferred_output non_preferred_output", renamed.openai,
             lambda row: "input" in row and ("preferred_output" in row or "preferred_completion" in row),
             ("preferred_completion", "non_preferred_completion", *_PAIR)),
    _adapter("rejected_response", "messages rejected_response", renamed.rejected_response, _rejected_response,
             ("rejected_messages", "response", "input", "context", *PROMPTS, *_PAIR)),
    _adapter("shp", "history human_ref_A human_ref_B labels", judged.shp, None, ("score_ratio",),
             beside="score_A score_B"),
    _adapter("pku_helpful", "prompt response_0 response_1 better_response_id", judged.pku_helpful),
    _adapter("pku_harmless", "prompt response_0 response_1 safer_response_id", judged.pku_harmless),
    _adapter("pku_safe", "prompt response_0 response_1 is_response_0_safe is_response_1_safe", judged.pku_safe),
    _adapter("helpsteer2", "prompt response_1 response_2 preference_strength", judged.helpsteer2, beside=
             "preference_statement preference_elaboration three_most_similar_preferences all_preferences_unprocessed"),
    _adapter("helpsteer3", "context response1 response2 overall_preference", judged.helpsteer3,
             beside="individual_preference"),
    _adapter("arena_texts", "prompt response_a response_b winner_model_a winner_model_b winner_tie",
             judged.arena_texts),
    _adapter("arena", "conversation_a conversation_b winner", judged.arena, beside="judge full_conversation turn"),
    _adapter("votes", "instruction response1 response2 annotators", judged.votes,
             lambda row: "response1" in row and ("annotators" in row or "annotator1" in row),
             (*_TWO, "annotator1", "annotator2", "annotator3")),
    _adapter("prometheus", "orig_instruction orig_response_A orig_response_B orig_preference", judged.prometheus, None, (),
             beside="orig_feedback instruction input output response"),
    _adapter("judgement", "instruction output_1 output_2 preference", judged.judgement, _two_outputs,
             (*_TWO, *judged.VERDICTS, "margin")),
    _adapter("webgpt", "question answer_0 answer_1 score_0 score_1", judged.webgpt),
    _adapter("tldr_comparison", "info summaries choice", judged.tldr_comparison, None, ("extra",)),
    _adapter("tldr_axis", "info summary", gathered.axis, None, (), gathered.axis_key),
    _adapter("helpsteer_ratings", "prompt response helpfulness correctness coherence complexity verbosity",
             gathered.helpsteer_ratings, None, (), gathered.helpsteer_key),
    _adapter("prometheus_ratings", "orig_instruction orig_response orig_score", gathered.prometheus_ratings, None,
             ("orig_criteria",), gathered.prometheus_key,
             "orig_feedback instruction input output response "
             + " ".join(f"orig_score{n}_description" for n in range(1, 6))),
    _adapter("oasst", "message_tree_id message_id parent_id role text rank", gathered.tree,
             _has("message_tree_id", "message_id", "role", "text"), (), gathered.tree_key, "labels"),
    _adapter("ultrafeedback", "instruction completions", listed.ultrafeedback,
             lambda row: "instruction" in row and _list_of(row, "completions", dict)),
    _adapter("comparisons", "question answers pair_labels", listed.compared, _has("answers", "pair_labels"),
             ("prompt",)),
    _adapter("copeland", "question answers pair_labels", listed.copeland, _never, ("prompt",)),
    _adapter("answers", "prompt answers", listed.answers, lambda row: _list_of(row, "answers", dict),
             ("question",), beside="turns"),
    _adapter("generations", "instruction generations ratings", listed.generations, _has("generations", "ratings"),
             ("input", "context", *PROMPTS), beside="rationales rationale labelling_prompt raw_labelling_response"),
    _adapter("ranking", "prompt completions ranks", ranked.ranking,
             lambda row: _has("prompt", "completions")(row) and ("ranks" in row or "scores" in row), ("scores", *token_ids.OF_LIST)),
    _adapter("multiple_choice", "question choices answer", multiple_choice.multiple_choice,
             multiple_choice.fits_multiple_choice, (*multiple_choice.ASKED, *multiple_choice.OPTIONS, *multiple_choice.ANSWERS,
             *multiple_choice.SECTIONS, "section")),
    _adapter("stepwise", "prompt completions labels", single.stepwise),
    _adapter("rating", "prompt completion label", single.rating, _rated, (*_SHOWN, *single.LABELS, *single.SCORES)),
    _adapter("rated_messages", "messages label", single.rated_messages,
             lambda row: _conversation(row) and bool(row.keys() & set(single.LABELS)),
             ("prompt", *single.CONVERSATIONS, *single.LABELS, *single.SCORES)),
    _adapter("messages", "messages", single.messages, _conversation,
             ("prompt", *single.CONVERSATIONS, *single.ANSWERS), imitates=True),
    _adapter("rated_text", "text label", single.rated_text, _never, single.SCORES),
    _adapter("alpaca", "instruction output", single.demonstration,
             lambda row: "instruction" in row and _one_completion(row), _SHOWN, imitates=True),
    _adapter("question", "question answer", single.demonstration,
             lambda row: bool(row.keys() & {"question", "query"}) and _one_completion(row), _SHOWN, imitates=True),
    _adapter("demonstration", "prompt completion", single.demonstration, _one_completion, _SHOWN, imitates=True),
    _adapter("text", "text", single.plain_text, imitates=True),
    _adapter("prompt_only", "prompt", single.prompt_only, _prompt_alone, ("input", *PROMPTS, *single.ANSWERS)),
)  # fmt: skip
"""All formats in the order of trial: the first that fits is taken."""
