"""Several hundred files of preferences: every layout that people export, each with every fault that people make."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

Row = dict[str, Any]
NUM_ROWS = 4


def user(text: str) -> Row:
    return {"role": "user", "content": text}


def bot(text: str) -> Row:
    return {"role": "assistant", "content": text}


LAYOUTS: dict[str, Callable[[int], Row]] = {
    "text": lambda n: {"prompt": f"Q{n}?", "chosen": f" good {n}", "rejected": f" bad {n}"},
    "no prompt": lambda n: {"chosen": f"good {n}", "rejected": f"bad {n}"},
    "replies": lambda n: {"prompt": [user(f"Q{n}?")], "chosen": [bot(f"good {n}")], "rejected": [bot(f"bad {n}")]},
    "whole": lambda n: {"chosen": [user(f"Q{n}?"), bot(f"good {n}")], "rejected": [user(f"Q{n}?"), bot(f"bad {n}")]},
    "one whole": lambda n: {"chosen": [user(f"Q{n}?"), bot(f"good {n}")], "rejected": [bot(f"bad {n}")]},
    "partly": lambda n: {
        "prompt": [user("Hi"), bot("Ho"), user(f"Q{n}?")],
        "chosen": [user(f"Q{n}?"), bot(f"good {n}")],
        "rejected": [user(f"Q{n}?"), bot(f"bad {n}")],
    },
    "hh": lambda n: {
        "chosen": f"\n\nHuman: Q{n}?\n\nAssistant: good {n}",
        "rejected": f"\n\nHuman: Q{n}?\n\nAssistant: bad {n}",
    },
    "sharegpt": lambda n: {
        "conversations": [{"from": "human", "value": f"Q{n}?"}],
        "chosen": {"from": "gpt", "value": f"good {n}"},
        "rejected": {"from": "gpt", "value": f"bad {n}"},
    },
    "alpaca": lambda n: {"instruction": "Answer.", "input": f"Q{n}?", "chosen": f"good {n}", "rejected": f"bad {n}"},
    "openai": lambda n: {
        "input": {"messages": [user(f"Q{n}?")]},
        "preferred_output": [bot(f"good {n}")],
        "non_preferred_output": [bot(f"bad {n}")],
    },
    "swift": lambda n: {"query": f"Q{n}?", "response": f"good {n}", "rejected_response": f"bad {n}"},
    "judged": lambda n: {"question": f"Q{n}?", "response_A": f"good {n}", "response_B": f"bad {n}", "label": "A>B"},
    "kto": lambda n: {"instruction": f"Q{n}?", "input": "", "output": f"good {n}", "kto_tag": bool(n % 2)},
    "safe": lambda n: {"prompt": f"Q{n}?", "response": f"good {n}", "is_safe": bool(n % 2)},
    "shown": lambda n: {"messages": [user(f"Q{n}?"), bot(f"good {n}")]},
    "capybara": lambda n: {"conversation": [{"input": f"Q{n}?", "output": f"good {n}"}]},
    "ranking": lambda n: {"prompt": f"Q{n}?", "completions": [f"good {n}", f"bad {n}", f"so {n}"], "ranks": [1, 3, 2]},
    "compared": lambda n: {
        "question": f"Q{n}?",
        "answers": [f"good {n}", f"bad {n}", f"so {n}"],
        "pair_labels": [{"i": 0, "j": 1, "label": "i"}, {"i": 1, "j": 2, "label": "j"}],
    },
    "attributes": lambda n: {
        "prompt": f"Q{n // 2}?", "response": f"good {n}", "helpfulness": n % 4, "correctness": 1, "coherence": 2,
        "complexity": 0, "verbosity": 0,
    },
}  # fmt: skip


def _sides(row: Row) -> list[str]:
    names = ("chosen", "preferred_output", "response", "output", "messages", "response_A", "completions", "answers")
    return [name for name in names if name in row][:1]


def _set(column: str, value: Any) -> Callable[[Row], Any]:
    return lambda row: row.update({column: value})


def _side(change: Callable[[Any], Any]) -> Callable[[Row], Any]:
    def changed(row: Row) -> None:
        for name in _sides(row):
            row[name] = change(row[name])

    return changed


def _user_last(side: Any) -> Any:
    return [*side, user("thanks")] if isinstance(side, list) and side and isinstance(side[0], dict) else side


def _system_late(side: Any) -> Any:
    late = {"role": "system", "content": "S"}
    return [late, *side] if isinstance(side, list) and side and isinstance(side[0], dict) else side


def _as(spell: Callable[[Any], str]) -> Callable[[Row], Any]:
    def spelled(row: Row) -> None:
        row.update({name: spell(value) for name, value in row.items() if isinstance(value, list)})

    return spelled


FAULTS: dict[str, Callable[[Row], Any]] = {  # done to the third row
    "none": lambda row: None,
    "column gone": lambda row: row.pop(next(iter(row))),
    "column null": lambda row: row.update({next(iter(row)): None}),
    "side gone": lambda row: [row.pop(name) for name in _sides(row)],
    "blank side": _side(lambda side: " "),
    "number for a side": _side(lambda side: 7),
    "user last": _side(_user_last),
    "system late": _side(_system_late),
    "system": _set("system", "Be brief."),
    "system and prompt": _set("system_prompt", "Be brief."),
    "history": _set("history", [["Before?", "Yes."]]),
    "broken history": _set("history", [["Before?"]]),
    "weight 0": _set("weight", 0),
    "weight below 0": _set("weight", -1),
    "tools": _set("tools", [{"type": "function", "function": {"name": "f"}}]),
    "broken tools": _set("tools", "[{"),
    "image": _set("images", ["a.png"]),
    "reason": _set("rejected_reason", "too long"),
    "label": _set("label_of_the_reply", 0),
    "about": _set("model_name", "m"),
    "JSON text": _as(json.dumps),
    "Python text": _as(repr),
    "surrogate": _side(lambda side: "\ud800" if isinstance(side, str) else side),
}
SETTINGS = ([], ["data.on_invalid=drop", "data.on_empty=drop"])


def files() -> Iterator[tuple[str, str, list[str]]]:
    """Name, content and overrides of every file."""
    for at, (layout, make) in enumerate(LAYOUTS.items()):
        for also_at, (fault, change) in enumerate(FAULTS.items()):
            rows = [make(number) for number in range(NUM_ROWS)]
            if fault == "weight 0" and len(layout) % 2:  # in every row
                rows = [{**row, "weight": 0} for row in rows]
            rows[2] = copy.deepcopy(rows[2])
            change(rows[2])
            lines = [json.dumps(row) for row in rows]
            for settings in SETTINGS[: 1 + (at + also_at) % 2]:
                yield f"{layout}, {fault}, {len(settings)}", "\n".join(lines), settings
        twice = json.dumps(make(9))[:-1] + ', "id": 1, "id": 2}'
        yield f"{layout}, a key twice, 0", "\n".join([*(json.dumps(make(number)) for number in range(4)), twice]), []
        again = [make(0), *(make(number) for number in range(4))]
        yield f"{layout}, a row twice, 0", "\n".join(map(json.dumps, again)), []
