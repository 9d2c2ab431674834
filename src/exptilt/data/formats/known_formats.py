"""The table of row formats, in the order they are tried: the first that fits the columns is taken."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from exptilt.data.formats import gathered, hh, judged, listed, pairs, ranked, renamed, single
from exptilt.data.records import Record

Row = Mapping[str, Any]
ALWAYS = frozenset({"id", "prompt", "weight", "system", "system_prompt", "tools", "chat_template_kwargs"})
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
    gather: Callable[[Row], str] | None = None
    """Rows with the same key become one row `{"rows": [...]}`; None: every row stands alone."""

    @property
    def is_asked_for(self) -> bool:
        """Whether it is only taken where `data.format` names it, as another format has its columns too."""
        return self.fits is _never


def _has(*columns: str) -> Callable[[Row], bool]:
    return lambda row: row.keys() >= set(columns)


def _never(row: Row) -> bool:
    """Of formats whose columns another format has too: they must be asked for."""
    return False


def _transcripts(row: Row) -> bool:
    sides = (row.get("chosen"), row.get("rejected"))
    return "prompt" not in row and all(hh.is_transcript(side) for side in sides)


def _one_turn_each(row: Row) -> bool:
    if not row.keys() >= {"chosen", "rejected"} or "prompt" in row:
        return False
    return "conversations" in row or ("messages" in row and isinstance(row["chosen"], Mapping))


def _conversation(row: Row) -> bool:
    return "messages" in row or "conversations" in row


def _list_of(row: Row, column: str, kind: type) -> bool:
    value = row.get(column)
    return isinstance(value, list) and bool(value) and isinstance(value[0], kind)


def _two_outputs(row: Row) -> bool:
    firsts = ("output_1", "response_1", "response1")
    return any(name in row for name in firsts) and any(name in row for name in ("preference", "label", "winner"))


def _alpaca_pair(row: Row) -> bool:
    return "instruction" in row and (_has("chosen", "rejected")(row) or _list_of(row, "output", str))


def _adapter(
    name: str,
    columns: str,
    record: Callable[[Row, str], Record | tuple[Record, ...]],
    fits: Callable[[Row], bool] | None = None,
    optional: tuple[str, ...] = (),
    gather: Callable[[Row], str] | None = None,
) -> Adapter:
    """An adapter that fits where all of `columns` are there, if nothing else is said."""
    named = columns.split()
    return Adapter(
        name=name,
        shape=", ".join(named),
        fits=fits or _has(*named),
        record=record,
        columns=frozenset({*named, *optional}),
        gather=gather,
    )


_TWO = ("prompt", "input", "response_1", "response_2", "response1", "response2", "output_1", "output_2")
ADAPTERS: tuple[Adapter, ...] = (
    _adapter("hh", "chosen rejected", pairs.transcripts, _transcripts, _PAIR),
    _adapter("best_of", "prompt chosen rejected", listed.best_of,
             lambda row: "prompt" in row and _list_of(row, "chosen", str) and _list_of(row, "rejected", str)),
    _adapter("sharegpt", "conversations chosen rejected", pairs.sharegpt, _one_turn_each, ("messages", *_PAIR)),
    _adapter("on_policy", "prompt all_generated_responses all_rm_scores", listed.on_policy, _never),
    _adapter("orca", "question chosen rejected", renamed.orca,
             lambda row: _has("chosen", "rejected")(row) and "prompt" not in row
             and ("question" in row or ("input" in row and "instruction" not in row)),
             ("input", "status", "rating", *_PAIR)),
    _adapter("alpaca_pair", "instruction chosen rejected", renamed.alpaca_pair, _alpaca_pair,
             ("input", "output", *_PAIR)),
    _adapter("preference", "prompt chosen rejected", pairs.preference, _has("chosen", "rejected"), _PAIR),
    _adapter("argilla", "instruction chosen_response rejected_response", renamed.argilla, None, _PAIR),
    _adapter("stackexchange", "question response_j response_k", renamed.stackexchange, None, _PAIR),
    _adapter("openai", "input preferred_output non_preferred_output", renamed.openai,
             lambda row: "input" in row and ("preferred_output" in row or "preferred_completion" in row),
             ("preferred_completion", "non_preferred_completion", *_PAIR)),
    _adapter("rejected_response", "messages rejected_response", renamed.rejected_response, None, _PAIR),
    _adapter("shp", "history human_ref_A human_ref_B labels", judged.shp, None, ("score_ratio",)),
    _adapter("pku_helpful", "prompt response_0 response_1 better_response_id", judged.pku_helpful),
    _adapter("pku_harmless", "prompt response_0 response_1 safer_response_id", judged.pku_harmless),
    _adapter("pku_safe", "prompt response_0 response_1 is_response_0_safe is_response_1_safe", judged.pku_safe),
    _adapter("helpsteer2", "prompt response_1 response_2 preference_strength", judged.helpsteer2),
    _adapter("helpsteer3", "context response1 response2 overall_preference", judged.helpsteer3),
    _adapter("arena_texts", "prompt response_a response_b winner_model_a winner_model_b winner_tie",
             judged.arena_texts),
    _adapter("arena", "conversation_a conversation_b winner", judged.arena),
    _adapter("votes", "instruction response1 response2 annotators", judged.votes,
             lambda row: "response1" in row and ("annotators" in row or "annotator1" in row),
             (*_TWO, "annotator1", "annotator2", "annotator3")),
    _adapter("judgement", "instruction output_1 output_2 preference", judged.judgement, _two_outputs,
             (*_TWO, "label", "winner", "margin")),
    _adapter("webgpt", "question answer_0 answer_1 score_0 score_1", judged.webgpt),
    _adapter("tldr_comparison", "info summaries choice", judged.tldr_comparison, None, ("extra",)),
    _adapter("tldr_axis", "info summary", gathered.axis, None, (), gathered.axis_key),
    _adapter("helpsteer_ratings", "prompt response helpfulness correctness coherence complexity verbosity",
             gathered.helpsteer_ratings, None, (), gathered.helpsteer_key),
    _adapter("oasst", "message_tree_id message_id parent_id role text rank", gathered.tree,
             _has("message_tree_id", "message_id", "role", "text"), (), gathered.tree_key),
    _adapter("ultrafeedback", "instruction completions", listed.ultrafeedback,
             lambda row: "instruction" in row and _list_of(row, "completions", dict)),
    _adapter("comparisons", "question answers pair_labels", listed.compared, _has("answers", "pair_labels"),
             ("prompt",)),
    _adapter("copeland", "question answers pair_labels", listed.copeland, _never, ("prompt",)),
    _adapter("answers", "prompt answers", listed.answers, lambda row: _list_of(row, "answers", dict), ("question",)),
    _adapter("generations", "instruction generations ratings", listed.generations, _has("generations", "ratings"),
             ("prompt", "input")),
    _adapter("ranking", "prompt completions ranks", ranked.ranking,
             lambda row: _has("prompt", "completions")(row) and ("ranks" in row or "scores" in row), ("scores",)),
    _adapter("stepwise", "prompt completions labels", single.stepwise),
    _adapter("rating", "prompt completion label", single.rating, None, single.SCORES),
    _adapter("rated_messages", "messages label", single.rated_messages,
             lambda row: _conversation(row) and ("label" in row or "kto_tag" in row),
             ("conversations", "kto_tag", *single.SCORES)),
    _adapter("demonstration", "prompt completion", single.demonstration),
    _adapter("messages", "messages", single.messages, _conversation, ("conversations",)),
    _adapter("rated_text", "text label", single.rated_text, _never, single.SCORES),
    _adapter("text", "text", single.plain_text),
    _adapter("alpaca", "instruction output", single.alpaca, None, ("input",)),
    _adapter("question", "question answer", single.question),
    _adapter("prompt_only", "prompt", single.prompt_only, lambda row: "prompt" in row and row.keys() <= ALWAYS),
)  # fmt: skip
"""In the order they are tried: the first that fits is taken."""
