"""`xt.pair`: preferences from samples, by a reward or by which model spoke; or from votes."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from exptilt.calls.public_call import public_call
from exptilt.calls.recipe_keywords import RecipeKeywords
from exptilt.disk import require_free, write_lines
from exptilt.errors import ConfigError, DataError
from exptilt.settings.pair_settings import PairRequest
from exptilt.settings.reward_settings import LengthConfig

_NOWHERE = "nothing-is-written"


@public_call
def pair(
    samples: Any = None,
    *,
    reward: Any = None,
    votes: Any = None,
    label: str | None = None,
    scale: float | None = None,
    pairs: str | None = None,
    rows: str | None = None,
    threshold: float | None = None,
    min_margin: float | None = None,
    on_tie: str | None = None,
    seed: int | None = None,
    output: str | Path | None = None,
    quiet: bool = False,
) -> list[dict[str, Any]]:
    """Make preferences of samples; the rows can be given to `xt.train` as they are.

    Args:
        samples: what `xt.sample` returns, a folder or file of samples; or a list of several of these, of one prompt of
            which all completions are compared. May be left out with votes.
        reward: an object of a reward (`exptilt.preferences.Reward`), a function of a list of answers that gives as many
            numbers, or the section `reward`: `{"kind": "length"}`, `{"kind": "model", "path": "folder"}`, ...
        votes: a store of votes such as "votes.db", or the section `votes`.
        label: reward (default), coin, soft or source; see `exptilt pair --help`.
        scale: multiplies differences of rewards for coin and soft, > 0.
        pairs: best_worst (default), all, adjacent, first_rest, neighbours or across.
        rows: preference, ranking or rating.
        threshold: of rows="rating": completions with a reward above it are desirable.
        min_margin: pairs whose rewards differ less are left out.
        on_tie: drop or keep.
        seed: of the coin.
        output: a .jsonl file to write as well; one that is there is not replaced.
        quiet: print nothing of what was left out.

    Returns:
        Rows with the columns `prompt`, `chosen`, `rejected`, `p_chosen`, ... or those of rankings or ratings.

    Raises:
        ExptiltError: samples, reward or votes cannot be used, or nothing is preferred; the message says why, in one line.

    Example:
        >>> import exptilt as xt
        >>> drawn = [{"prompt": "2 + 2 =", "completion": text} for text in (" 4", " four, I think")]
        >>> xt.pair(drawn, reward={"kind": "length", "unit": "characters"}, quiet=True)[0]["chosen"]
        ' four, I think'
        >>> xt.pair(drawn, reward=lambda answers: [-len(one.text) for one in answers], quiet=True)[0]["chosen"]
        ' 4'
    """
    keywords = RecipeKeywords("xt.pair")
    if output is not None:
        require_free(Path(output))
    own = None if reward is None or isinstance(reward, Mapping | str) or hasattr(reward, "kind") else _own(reward)
    with tempfile.TemporaryDirectory() as folder:
        places = [_place(part, Path(folder), number) for number, part in enumerate(_parts(samples))]
        keywords.put("samples", places or None)
        keywords.section("votes", votes, bare="store")
        keywords.section("reward", {"kind": "length"} if own is not None else reward, bare="kind")
        settings = {"label": label, "scale": scale, "pairs": pairs, "rows": rows, "threshold": threshold}
        for name, value in (settings | {"min_margin": min_margin, "on_tie": on_tie, "seed": seed}).items():
            keywords.put(name, value)
        keywords.put("output", _NOWHERE if output is None else str(output))
        request: PairRequest = keywords.build(PairRequest)
        return _paired(request if own is None else _with_reward(request, own), output, quiet=quiet)


def _with_reward(request: PairRequest, own: Any) -> PairRequest:
    assert isinstance(request.reward, LengthConfig)  # noqa: S101 - it held the place of the object
    return replace(request, reward=own)


def _paired(request: PairRequest, output: str | Path | None, *, quiet: bool) -> list[dict[str, Any]]:
    from exptilt.processes.surroundings import left_as_found
    from exptilt.runs.paired_rows import paired_rows

    with ExitStack() as stack:
        stack.enter_context(left_as_found())
        found = paired_rows(request)
    if not quiet:
        for reason, count in found.left_out.items():
            print(f"left out: {count:,} with {reason}")
        for note in found.notes:
            print(f"note: {note}")
    if not found.rows:
        raise DataError("xt.pair: nothing is preferred")
    if output is not None:
        write_lines(Path(output), found.rows)
    return found.rows


def _parts(samples: Any) -> list[Any]:
    """Samples as a list of sources."""
    if samples is None:
        return []
    if isinstance(samples, str | PathLike):
        return [samples]
    if isinstance(samples, Sequence) and samples:
        return [samples] if isinstance(samples[0], Mapping) else list(samples)
    raise ConfigError("xt.pair: samples: give what xt.sample returned, a folder of samples, or a list of these")


def _place(part: Any, folder: Path, number: int) -> str:
    """Where samples are: a folder or file of theirs, or a file written for them."""
    if isinstance(part, str | PathLike):
        return fspath(part)
    if not isinstance(part, Sequence):
        raise ConfigError(f"xt.pair: samples: a {type(part).__name__} is no samples; give what xt.sample returned")
    from exptilt.sampling.sample_rows import prompt_id

    path, counts = folder / f"samples-{number + 1}.jsonl", dict[str, int]()
    with path.open("w", encoding="utf-8") as file:
        for at, row in enumerate(part, start=1):
            if not isinstance(row, Mapping) or not {"prompt", "completion"} <= row.keys():
                raise DataError(f"xt.pair: samples: row {at} is no mapping with a prompt and a completion")
            name = str(row.get("prompt_id") or prompt_id(row["prompt"], row.get("template_args")))
            index = counts[name] = counts.get(name, -1) + 1
            file.write(json.dumps({"prompt_id": name, "sample_index": index, "ended": True, **row}) + "\n")
    return str(path)


def _own(reward: Any) -> Any:
    """A reward of yours as one that `paired_rows` calls."""
    if isinstance(reward, type) or not callable(reward):
        raise ConfigError(
            f"xt.pair: reward: {reward!r:.60} cannot be called; give a function of answers, a reward, or a section such as "
            "{'kind': 'length'}"
        )
    if all(hasattr(reward, name) for name in ("name", "identity", "scale")):
        return reward
    from exptilt.rewards.function_reward import FunctionReward

    return FunctionReward(reward)
