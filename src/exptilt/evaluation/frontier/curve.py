"""Reward against KL as curves that can be read in both directions, many resamples of the prompts at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from exptilt.evaluation.frontier.tilting import Tilt, strongest_tilt, tilt
from exptilt.evaluation.intervals import Floats

_FAR = 1e9
"""Nats; where an exact frontier's flat end is cut."""
SOLID_ESS = 10
SOLID_SHARE = 0.35
DRAWN_SHARE = 0.9


@dataclass(frozen=True, slots=True, eq=False)
class Curves:
    """S curves that rise from the reference's point (KL 0); both arrays (S, B), B points each, in rising order.

    Between points the reward is linear in sqrt(KL): near the reference a frontier rises like sqrt(2 Var(r) KL), so this
    follows it where a chord in KL would cut it off.
    """

    kl: Floats
    reward: Floats

    def reward_at(self, kl: Floats) -> Floats:
        """(S,) reward of curve s at kl[s] nats, NaN beyond its last point."""
        return _read(np.sqrt(self.kl), self.reward, np.sqrt(np.maximum(kl, 0)))

    def kl_at(self, reward: Floats) -> Floats:
        """(S,) KL in nats at which curve s has reward[s]: 0 below its first point, NaN above its last."""
        return np.asarray(_read(self.reward, np.sqrt(self.kl), np.maximum(reward, self.reward[:, 0])) ** 2)


@dataclass(frozen=True, eq=False, kw_only=True)
class TiltedSamples:
    """Weighted samples of the reference, tilted at every beta of a grid."""

    rewards: Floats
    """(X, M)."""
    log_base: Floats
    """(X, M) log weights that represent the reference, summing to one on each prompt; -log M for its own samples."""
    betas: Floats
    """(B,) falling."""
    exact: bool
    """True if `log_base` is the reference itself and not a sample of it."""

    @cached_property
    def tilts(self) -> Tilt:
        """The optimum on each prompt; arrays (X, B)."""
        return tilt(self.rewards, self.betas, self.log_base)

    @cached_property
    def start(self) -> Floats:
        """(X,) reward of the reference."""
        return np.asarray((np.exp(self.log_base) * self.rewards).sum(axis=1))

    @cached_property
    def _end(self) -> Tilt:
        return strongest_tilt(self.rewards, self.log_base)

    @cached_property
    def limit_kl(self) -> float:
        """Mean KL up to which the samples show anything."""
        return math.inf if self.exact else self._kl_where_concentrated(DRAWN_SHARE)

    @cached_property
    def solid_kl(self) -> float:
        """Mean KL up to which what they show can be trusted."""
        if self.exact:
            return math.inf
        few = np.median(np.concatenate([self.tilts.ess, self._end.ess], axis=1), axis=0) < SOLID_ESS
        kls = np.append(self.tilts.kl.mean(axis=0), self._end.kl.mean())
        end = float(kls[max(int(np.argmax(few)) - 1, 0)]) if few.any() else math.inf
        return min(self._kl_where_concentrated(SOLID_SHARE), end)

    def _kl_where_concentrated(self, share: float) -> float:
        """KL at which the weights' mean log M - H(w) reaches `share` of log M.

        A bounded reward runs out before: from its strongest tilt on the optimum is flat, and the unused rest is added.
        """
        wanted = share * math.log(self.rewards.shape[1])
        concentration = np.append(self.tilts.concentration.mean(axis=0), self._end.concentration.mean())
        kl = np.append(self.tilts.kl.mean(axis=0), self._end.kl.mean())
        above = np.nonzero(concentration > wanted)[0]
        if len(above) == 0:
            return float(kl[-1] + wanted - concentration[-1])
        right = int(above[0])
        if right == 0:
            return 0.0
        return float(np.interp(wanted, concentration[right - 1 : right + 1], kl[right - 1 : right + 1]))

    def curves(self, weights: Floats) -> Curves:
        """The frontier of each of S resamples as the samples show it, too low, from (S, X) prompt weights."""
        return self.whole(weights)

    def reward_at(self, weights: Floats, kl: Floats, times: float = 1.0) -> Floats:
        """(S,) optimal reward at kl[s], with `times` its change from M/2 to M samples added against its bias.

        Once removes a bias that falls like 1/M. Far out it falls more slowly, like a power of M above -1; twice is then
        about right for Gaussian rewards, and too much for bounded ones.
        """
        best, change = self._at(weights, [kl])
        return np.asarray(best + times * change)[:, 0]

    def rewards_at(self, weights: Floats, kls: Floats) -> Floats:
        """(S, 2 K) optimal rewards at each of K KLs, corrected once, and then twice."""
        best, change = self._at(weights, [np.full(len(weights), kl) for kl in kls.tolist()])
        return np.concatenate([best + change, best + 2 * change], axis=1)

    def kl_at(self, weights: Floats, reward: Floats, times: float = 1.0) -> Floats:
        """(S,) least KL with reward[s], corrected in the same way; never below 0."""
        least = self.curves(weights).kl_at(reward)
        if self.exact:
            return least
        halves = [half.whole(weights) for half in self._halves]
        more = [half.kl_at(np.minimum(reward, half.reward[:, -1])) for half in halves]
        return np.asarray(np.maximum(least - times * np.maximum(np.mean(more, axis=0) - least, 0), 0))

    def log_partition(self, beta: float, times: float = 1.0) -> Floats:
        """(X,) log Z at one beta, corrected in the same way."""
        parts = [self, *([] if self.exact else self._halves)]
        whole, *halves = (tilt(part.rewards, np.array([beta]), part.log_base).log_partition[:, 0] for part in parts)
        return np.asarray(whole + times * (whole - np.mean(halves, axis=0))) if halves else whole

    def upper(self, weights: Floats, kl: Floats) -> Floats:
        """(S,) optimal reward at kl[s] with twice its change from M/2 to M samples added as an allowance for bias."""
        best, change = self._at(weights, [kl])
        return np.asarray(best + 2 * np.maximum(change, 0))[:, 0]

    def _at(self, weights: Floats, kls: Sequence[Floats]) -> tuple[Floats, Floats]:
        """(S, K) rewards that the samples show, and by how much more than half of them; a half is read where it ends."""
        curves = self.curves(weights)
        best = np.stack([curves.reward_at(kl) for kl in kls], axis=1)
        if self.exact:
            return best, np.zeros_like(best)
        halves = [half.whole(weights) for half in self._halves]
        fewer = [[half.reward_at(np.minimum(kl, half.kl[:, -1])) for half in halves] for kl in kls]
        return best, best - np.stack([np.mean(pair, axis=0) for pair in fewer], axis=1)

    def whole(self, weights: Floats) -> Curves:
        """The frontier of each of S resamples as `curves`, from these samples alone."""
        return self._assemble(weights, self.start, self.tilts, self._end)

    @cached_property
    def top_reward(self) -> float:
        """Optimal reward at `limit_kl`, the most the samples can show."""
        once = np.ones((1, len(self.rewards)))
        return float(self.reward_at(once, np.array([min(self.limit_kl, _FAR)]))[0])

    @cached_property
    def _halves(self) -> tuple[TiltedSamples, TiltedSamples]:
        """One of every two neighbours by a coin, so that pooled policies are split as well, and patterns are not."""
        rows, num = self.rewards.shape
        coins = np.random.default_rng(0).integers(2, size=(rows, num // 2))
        places = 2 * np.arange(num // 2)
        return self._part(places + coins), self._part(places + 1 - coins)

    def _part(self, places: NDArray[np.int64]) -> TiltedSamples:
        base = np.take_along_axis(self.log_base, places, axis=1)
        base = base - np.logaddexp.reduce(base, axis=1, keepdims=True)
        rewards = np.take_along_axis(self.rewards, places, axis=1)
        return TiltedSamples(rewards=rewards, log_base=base, betas=self.betas, exact=False)

    def _assemble(self, weights: Floats, start: Floats, tilts: Tilt, end: Tilt) -> Curves:
        ones = np.ones((len(start), 1))
        flat = _FAR if self.exact else max(self.limit_kl, float(end.kl.mean()))
        kl = average(weights, np.concatenate([0 * ones, tilts.kl, end.kl], axis=1))
        reward = average(weights, np.concatenate([start[:, None], tilts.value, end.value, end.value], axis=1))
        kl = np.concatenate([kl, np.maximum(kl[:, -1:], flat)], axis=1)
        return Curves(np.maximum.accumulate(kl, axis=1), np.maximum.accumulate(reward, axis=1))


def average(weights: Floats, values: Floats) -> Floats:
    """(S,) or (S, ...) weighted means over prompts, from (S, X) weights and (X,) or (X, ...) values."""
    total = weights.sum(axis=1)
    sums = weights @ values
    return np.asarray(sums / total.reshape(-1, *[1] * (sums.ndim - 1)))


def _read(x: Floats, y: Floats, at: Floats) -> Floats:
    """(S,) y at x = at[s] by linear interpolation in row s; NaN outside the row."""
    rows, last = np.arange(len(x)), x.shape[1] - 1
    right = np.clip((x < at[:, None]).sum(axis=1), 1, last)
    x_left, x_right, y_left, y_right = x[rows, right - 1], x[rows, right], y[rows, right - 1], y[rows, right]
    width = x_right - x_left
    share = np.divide(at - x_left, width, out=np.zeros_like(width), where=width > 0)
    inside = (at >= x[:, 0]) & (at <= x[:, last])
    return np.where(inside, y_left + share * (y_right - y_left), np.nan)
