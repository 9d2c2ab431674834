"""Keys that are converted one by one: by a rule of their own, or by the table of other tools' words."""

from __future__ import annotations

from exptilt.converters.draft import Draft
from exptilt.converters.key_rules import RULES
from exptilt.converters.rule_kinds import OFF, Rule, flag, free, to
from exptilt.settings.other_tools import WORDS, word_for


def convert_single_keys(draft: Draft) -> None:
    """Decide the fate of every key that no rule for several keys has taken; an unknown key is refused by name."""
    for key in draft.open_keys():
        value = draft.source[key]
        rule = RULES.get(key) or _rule_of_word(key)
        if value is None:
            draft.as_default("not set", key)
        elif rule is None and key.startswith("no_") and key[3:] in RULES:
            draft.as_default("off", key)
        elif rule is not None:
            rule(draft, key, value)
        elif value in OFF:
            draft.as_default("off, and unknown here", key)
        else:
            draft.refuse("unknown here; whether a run differs for it is not known", key)


def _rule_of_word(key: str) -> Rule | None:
    if key.lower() not in WORDS:
        return None
    word = word_for(key)
    if word is None or not word.ours or word.ours.startswith("exptilt"):
        return None if word is None else free(word.note or word.ours)
    ours, equals, value = word.ours.partition("=")
    return flag(ours, value, word.note) if equals else to(ours, because=word.note)
