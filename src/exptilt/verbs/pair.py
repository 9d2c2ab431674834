"""`exptilt pair`: samples and a label source to a file of preferences, rankings or ratings."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exptilt.disk import write_lines
from exptilt.errors import ConfigError, DataError
from exptilt.preferences import Answer
from exptilt.rewards.preferred_pairs import PairRule, PreferredPair, ranks_of
from exptilt.rewards.reward_from_choice import build_reward
from exptilt.rewards.scored_answers import require_spread, rewards_of
from exptilt.sampling.sample_rows import SampleRow, read_samples
from exptilt.settings.pair_settings import PairRequest
from exptilt.wording import counted


@dataclass(frozen=True)
class _Pool:
    """All completions of one prompt, with the position of the samples that each is from."""

    rows: tuple[SampleRow, ...]
    sides: tuple[int, ...]


def pair(request: PairRequest) -> Path:
    """Write the rows that the request asks for, and say what was left out.

    Returns:
        The file.

    Raises:
        ExptiltError: samples or reward cannot be used, nothing is preferred, or the file is there already.
    """
    output = Path(request.output).expanduser()
    if output.exists():
        raise ConfigError(f"{output}: is there already and is not replaced; name another output")
    pools = _pools(request.samples)
    left_out: Counter[str] = Counter()
    if request.label == "source":
        rows = _by_source(pools, left_out)
    else:
        rows = _by_reward(request, pools, left_out)
    written = list(rows)
    for reason, count in left_out.items():
        print(f"left out: {count:,} with {reason}")
    if not written:
        raise DataError(f"{request.samples[0]}: nothing is preferred, so no file was written")
    output.parent.mkdir(parents=True, exist_ok=True)
    write_lines(output, written)
    print(f"{counted(len(written), 'row')} of {counted(len(pools), 'prompt')}: {output}")
    return output


def _pools(names: Sequence[str]) -> list[_Pool]:
    found: dict[str, list[tuple[SampleRow, int]]] = {}
    for side, name in enumerate(names):
        for row in sorted(read_samples(Path(name).expanduser()), key=lambda row: row.sample_index):
            found.setdefault(row.prompt_id, []).append((row, side))
    if not found:
        raise DataError(f"{names[0]}: holds no samples")
    return [_Pool(tuple(row for row, _ in pool), tuple(side for _, side in pool)) for pool in found.values()]


def _by_reward(request: PairRequest, pools: Sequence[_Pool], left_out: Counter[str]) -> Iterator[dict[str, Any]]:
    if request.reward is None:
        raise ConfigError("reward is missing")
    reward = build_reward(request.reward)
    rewards = rewards_of(reward, [_answer(row) for pool in pools for row in pool.rows])
    if hasattr(reward, "close"):
        reward.close()
    if request.rows != "rating":
        require_spread(reward, rewards)
    if np.isnan(rewards).any():
        left_out["no score (completions)"] = int(np.isnan(rewards).sum())
    ends = np.cumsum([len(pool.rows) for pool in pools])
    each = np.split(rewards, ends[:-1])
    if request.rows == "preference":
        yield from _preferences(request, pools, each, left_out)
        return
    for pool, own in zip(pools, each, strict=True):
        scored = [place for place in range(len(own)) if not np.isnan(own[place])]
        if request.rows == "rating":
            for place in scored:
                yield _rating(pool.rows[place], float(own[place]), float(own[place]) > float(request.threshold or 0))
        elif len({pool.rows[place].completion for place in scored}) < 2:
            left_out["fewer than two different completions (prompts)"] += 1
        else:
            yield _ranking([pool.rows[place] for place in scored], own[scored])


def _preferences(
    request: PairRequest, pools: Sequence[_Pool], rewards: Sequence[NDArray[np.float64]], left_out: Counter[str]
) -> Iterator[dict[str, Any]]:
    if request.label == "source":
        raise ConfigError("label=source needs no reward")
    rule = PairRule(
        which=request.pairs,
        label=request.label,
        scale=request.scale,
        min_margin=request.min_margin,
        keep_ties=request.on_tie == "keep",
    )
    rng = np.random.default_rng(request.seed)
    for pool, own in zip(pools, rewards, strict=True):
        for preferred in rule.pairs(own, rng, left_out, pool.sides):
            yield from _different(pool, preferred, left_out)


def _by_source(pools: Sequence[_Pool], left_out: Counter[str]) -> Iterator[dict[str, Any]]:
    for pool in pools:
        first, second = ([place for place in range(len(pool.rows)) if pool.sides[place] == side] for side in (0, 1))
        alone = abs(len(first) - len(second))
        if alone:
            left_out["no completion of the other samples beside them (completions)"] += alone
        for chosen, rejected in zip(first, second, strict=False):
            yield from _different(pool, PreferredPair(chosen, rejected, None), left_out)


def _different(pool: _Pool, preferred: PreferredPair, left_out: Counter[str]) -> Iterator[dict[str, Any]]:
    """The row of a preference, unless both sides say the same."""
    chosen, rejected = pool.rows[preferred.chosen], pool.rows[preferred.rejected]
    if chosen.completion == rejected.completion:
        left_out["the same text on both sides"] += 1
        return
    row = {
        **_asked(chosen),
        "chosen": _said(chosen),
        "rejected": _said(rejected),
        "p_chosen": preferred.p_chosen,
        "margin": preferred.margin,
    }
    if chosen.completion_ids is not None and rejected.completion_ids is not None:
        row |= {
            "prompt_ids": chosen.prompt_ids,
            "chosen_ids": chosen.completion_ids,
            "rejected_ids": rejected.completion_ids,
        }
    yield {name: value for name, value in row.items() if value is not None}


def _ranking(rows: Sequence[SampleRow], rewards: NDArray[np.float64]) -> dict[str, Any]:
    completions = [_said(row) for row in rows]
    return {**_asked(rows[0]), "completions": completions, "ranks": ranks_of(rewards), "scores": rewards.tolist()}


def _rating(row: SampleRow, reward: float, desirable: bool) -> dict[str, Any]:
    return {**_asked(row), "completion": _said(row), "label": desirable, "score": reward}


def _asked(row: SampleRow) -> dict[str, Any]:
    prompt = row.prompt if isinstance(row.prompt, str) else [dict(turn) for turn in row.prompt]
    return {"prompt": prompt, **({"chat_template_kwargs": row.template_args} if row.template_args else {})}


def _said(row: SampleRow) -> Any:
    return row.completion if isinstance(row.prompt, str) else [{"role": "assistant", "content": row.completion}]


def _answer(row: SampleRow) -> Answer:
    columns = json.loads(row.line())
    ids = None if row.completion_ids is None else np.array(row.completion_ids, dtype=np.int32)
    return Answer(prompt=row.prompt, text=row.completion, ids=ids, columns=columns)
