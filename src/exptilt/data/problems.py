"""What can be wrong with data, and which setting decides about it."""

from __future__ import annotations

from typing import Literal, NamedTuple

from exptilt.errors import DataError
from exptilt.run_folder.data_record import Finding

Severity = Literal["error", "warning", "info"]
MAX_EXAMPLES = 5


class Problem(NamedTuple):
    """One entry of the catalogue."""

    message: str
    setting: str | None = None
    """The field of `DataConfig` that decides about it; None where nothing has to be decided."""
    severity: Severity = "warning"
    """How serious it is where no setting decides."""
    fix: str = ""


_REPAIR = "repair the row"
_CUT = "raise data.max_tokens if the model can hold more"
CATALOGUE: dict[str, Problem] = {
    # one row cannot be read
    "invalid_json": Problem("the line is not valid JSON", "on_invalid", fix=_REPAIR),
    "invalid_utf8": Problem("the line is not valid UTF-8", "on_invalid", fix="write the file as UTF-8"),
    "not_an_object": Problem("the row is not an object with named columns", "on_invalid", fix=_REPAIR),
    "missing_column": Problem("a column the format needs is missing or null", "on_invalid", fix=_REPAIR),
    "missing_prompt": Problem(
        "the row has no prompt, and other rows of the source have one", "on_invalid", fix=_REPAIR
    ),
    "wrong_type": Problem("a value has the wrong type", "on_invalid", fix=_REPAIR),
    "bad_value": Problem("a value is out of range", "on_invalid", fix=_REPAIR),
    "bad_roles": Problem("the turns are in an order no chat has", "on_invalid", fix=_REPAIR),
    "not_a_transcript": Problem("the text is no Human/Assistant transcript", "on_invalid", fix=_REPAIR),
    "no_shared_prompt": Problem(
        "the two sides share no leading turns, so there is no prompt", "on_invalid", fix=_REPAIR
    ),
    "prompt_mismatch": Problem("the prompt is not among the turns the two sides share", "on_invalid", fix=_REPAIR),
    "not_text": Problem(
        "the row has a picture, a video or a sound, and only text can be trained on here",
        "on_invalid",
        fix="take the column out of the file if the text stands without it",
    ),
    "prompt_only": Problem(
        "the row is a prompt without a completion, so there is nothing to train on",
        "on_invalid",
        fix="draw completions with `exptilt sample`, or name their column: data.columns={completion: NAME}",
    ),
    "unjudged": Problem("a judgement failed, so there is no preference", "on_invalid", fix="judge the row again"),
    "alone": Problem("a prompt has only one completion to compare", "on_invalid", fix="leave the row out"),
    "template_refused": Problem(
        "the chat template cannot render the turns",
        "on_invalid",
        fix="repair the row, or name another template in data.chat_template",
    ),
    "template_not_prefix": Problem(
        "the rendered prompt is not a prefix of prompt and completion rendered together",
        "on_invalid",
        fix="every turn must look the same whatever follows it",
    ),
    "content_lost": Problem(
        "the chat template leaves out something that the row says",
        "on_lost",
        fix="repair the row, name another template in data.chat_template, or set data.fold_system=true for a system turn",
    ),
    "drawn_ids": Problem(
        "token ids of the row are trained on; its text alone would become other tokens", severity="info"
    ),
    "foreign_ids": Problem(
        "token ids of the row do not read as its text with this tokenizer, so the text is encoded instead",
        fix="draw and train with one tokenizer and one chat template, or leave out the columns of ids in data.ignore_columns",
    ),
    # one example is not worth training on as it stands
    "empty": Problem("a completion is empty or only white space", "on_empty", fix=_REPAIR),
    "empty_prompt": Problem("the prompt is blank, and other rows of the source ask something", "on_empty", fix=_REPAIR),
    "identical": Problem("the completions of a row are identical", "on_identical", fix=_REPAIR),
    "tie": Problem("neither completion is preferred", "on_tie", fix="train with ties kept, or leave them out"),
    "duplicate": Problem("the row repeats an earlier one", "on_duplicate", fix="remove the copies"),
    "conflict": Problem(
        "the same prompt and completions occur with opposite labels", "on_conflict", fix="settle the label"
    ),
    "leak": Problem("a training row has a prompt that is also in the test set", "on_leak", fix="split by prompt"),
    "prompt_too_long": Problem("the prompt leaves no room for a completion", "on_too_long", fix=_CUT),
    "too_long": Problem("prompt and completion together are longer than max_tokens", "on_too_long", fix=_CUT),
    "missing_end": Problem(
        "the completion has no end token, so the model does not learn to stop",
        "on_missing_end",
        fix="use a chat template that ends each assistant turn with a special token, or a tokenizer with an EOS token",
    ),
    # the source as a whole
    "unread_column": Problem(
        "a column that says something is not read", severity="error", fix="or read it by data.columns"
    ),
    "label_base": Problem(
        "verdicts in numbers may count from 0 or from 1",
        severity="error",
        fix="set data.labels to 0/1 (0 is the first), 1/0 (1 is the first) or 1/2 (1 is the first, 2 the second, 0 a tie)",
    ),
    "unformed_batch": Problem("the objective cannot be formed on a batch of these rows", severity="error"),
    # left out because of what was asked for; nobody has to decide again
    "does_not_fit": Problem("the row does not fit even when cut, and was left out", fix=_CUT),
    "undesirable": Problem("a completion rated undesirable is nothing to imitate, and was left out", severity="info"),
    "unlabelled": Problem("a tie says neither desirable nor undesirable, and was left out"),
    "zero_weight": Problem("the row has weight 0, which trains nothing, and was left out", severity="info"),
    "over_limit": Problem("the row is beyond data.test_limit, and was left out", severity="info"),
    "filtered": Problem("the row has not the values of data.where, and was left out", severity="info"),
    "not_sampled": Problem("the row is beyond the weight of its source, and was left out", severity="info"),
    "joined": Problem("the row was joined with an earlier row of the same prompt", severity="info"),
    "small_margin": Problem("the margin is below data.min_margin, and the pair was left out", severity="info"),
    "over_prompt_limit": Problem(
        "the prompt has more examples than data.max_per_prompt, and the rest was left out", severity="info"
    ),
    "displacing": Problem(
        "the pair is among those likeliest to displace (data.drop_highest_ches), and was left out", severity="info"
    ),
    "nothing_counted": Problem("no token of a completion would be trained on, and the row was left out"),
    # worth knowing
    "prefix": Problem("one completion is the beginning of the other", fix="check whether one side was cut off"),
    "nearly_identical": Problem(
        "the two sides differ in almost nothing, so there is little to learn from them", fix="leave the pair out"
    ),
    "marker_in_text": Problem(
        "a completion holds a turn marker of a transcript (Human: or Assistant:), which the model would learn to write",
        fix="cut the completion before the marker, or give turns as messages",
    ),
    "prompt_repeated": Problem("a completion begins with its own prompt", fix="remove the prompt from the completion"),
    "same_role_twice": Problem("two turns in a row have the same role", fix="some chat templates refuse this"),
    "unlikely_chosen": Problem("p_chosen is below 0.5, so the rejected side is the likelier one", severity="info"),
    "negative_margin": Problem("the margin is negative, so the source scores the rejected side higher"),
    "all_tied": Problem(
        "all completions of a ranking share one rank, so there is nothing to learn from it", fix="leave the row out"
    ),
    "large_margin": Problem(
        "the margins are large beside the log-odds of a preference",
        fix="set loss.margin_scale so that they are about 1, or to 0 to leave them out",
    ),
    "duplicate_prompt": Problem("the prompt occurs in an earlier row as well", severity="info"),
    "bos_in_text": Problem("the text already begins with the BOS token; no second one was added", severity="info"),
    "special_token_in_text": Problem(
        "the text holds the spelling of a special token, which the tokenizer reads as that token",
        fix="remove it from the text unless it is meant",
    ),
    "template_in_text": Problem(
        "the text holds the mark of a chat template",
        fix="it may have been rendered for another model; give turns as messages, so that this model's template is used",
    ),
    "text_beside_template": Problem(
        "the row is plain text and is trained on as it stands, but the model has a chat template",
        fix="data.template=chat puts text through the template; data.template=messages says that text is meant as it stands",
    ),
    "template_args_unread": Problem(
        "the row has arguments for the chat template that nothing reads",
        fix="see the names it reads, or leave them out",
    ),
    "empty_think": Problem(
        "an empty think block counts, so the model learns to answer without thinking",
        fix="data.template_args={enable_thinking: false} puts it into the prompt where the template can; or give reasoning",
    ),
    "unknown_tokens": Problem("the tokenizer knows no token for part of the text", fix="use another tokenizer"),
    "boundary": Problem(
        "the prompt's tokens are not the first tokens of prompt and completion together",
        severity="info",
        fix="data.boundary says what is done; often the prompt ends in a space that belongs to the completion",
    ),
    "boundary_merged": Problem(
        "the row could not be split at the prompt's end and was merged instead", severity="info"
    ),
    "first_token_unscored": Problem(
        "there is no prompt and no BOS token, so the first token cannot be scored", fix="give the tokenizer a BOS token"
    ),
    "length_bias": Problem(
        "the longer completion is preferred much more, or much less, often than not",
        fix="set loss=ld_dpo, in which tokens beyond the shorter completion's length count less",
    ),
    "markup_bias": Problem(
        "the side with more markup is preferred much more, or much less, often than not",
        fix="give pairs that differ in markup less `weight` (a column of the rows)",
    ),
    "label_balance": Problem("how many completions are desirable", severity="info"),
    "one_label": Problem("all completions have the same label", fix="KTO and BCO need both labels"),
    "sorted_labels": Problem(
        "the rows are sorted by label", severity="info", fix="data.limit would take one label first; shuffle the file"
    ),
    "other_format": Problem("another format reads more of the columns", severity="info"),
    "soft_labels": Problem("the labels are probabilities", severity="info"),
    "suggestion": Problem("settings that suit this much data", severity="info"),
    "few": Problem(
        "there are very few examples to train on", fix="lower train.epochs to 3 or less, or collect more rows"
    ),
    "batches": Problem("how full micro-batches are", severity="info"),
    "over_budget": Problem(
        "examples are longer than the token budget alone",
        fix="each is a micro-batch of its own; see that it fits into memory, or lower data.max_tokens",
    ),
    "unfamiliar": Problem(
        "the reference never saw such text",
        fix="run a supervised phase first (`sft:` in the recipe), so that the reference is a model that writes such text",
    ),
    "familiarity": Problem("how likely the reference finds the chosen text", severity="info"),
    "ches": Problem(
        "how alike the reference finds the two sides of a pair (CHES)",
        severity="info",
        fix="the pairs named score highest: training on them moves probability to completions in neither column",
    ),
}
"""Every problem by its code. The order is the order of reports."""


class RowError(DataError):
    """One row cannot be used; what happens to it is up to the setting of its problem."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


def finding_of(code: str, message: str, count: int) -> Finding:
    """A finding about the data as a whole, which no setting decides about."""
    problem = CATALOGUE[code]
    return Finding(code=code, severity=problem.severity, count=count, examples=(), message=message, fix=problem.fix)
