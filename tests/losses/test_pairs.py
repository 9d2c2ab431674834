"""Every loss on pairs against its formula: value and gradient in float64, and at extreme inputs in float32 and bfloat16."""

from __future__ import annotations

from functools import cached_property
from typing import Any, get_args

import pytest
import torch
from mpmath import mp, mpf

from exptilt import losses as L

S = mp.fsum


def sp(x):
    return mp.log1p(mp.exp(x))


def sg(x):
    return 1 / (1 + mp.exp(-x))


def mean(tokens):
    return S(tokens) / len(tokens)


def D(number: float):
    """A hyper-parameter as the float the loss holds."""
    return mpf(number)


class P:
    """One pair with the names the formulas use."""

    def __init__(self, t, i):
        self.t, self.i = t, i

    def tokens(self, name):
        return self.t[name][self.i]

    w = cached_property(lambda self: S(self.tokens("w")))
    l = cached_property(lambda self: S(self.tokens("l")))  # noqa: E741
    rw = cached_property(lambda self: S(self.tokens("rw")))
    rl = cached_property(lambda self: S(self.tokens("rl")))
    lw = cached_property(lambda self: self.w - self.rw)
    ll = cached_property(lambda self: self.l - self.rl)
    h = cached_property(lambda self: self.lw - self.ll)
    nw = property(lambda self: len(self.tokens("w")))
    nl = property(lambda self: len(self.tokens("l")))
    aw = property(lambda self: self.w / self.nw)
    al = property(lambda self: self.l / self.nl)


def each(function):
    """Per-pair formula of a pair (and of its frozen copy)."""
    return lambda t, frozen: [function(P(t, i), P(frozen, i)) for i in range(len(t["w"]))]


def bernoulli_kl(p, f, eps, beta):
    q = sg(beta * p.h)
    return q * mp.log(q / (1 - eps)) + (1 - q) * mp.log((1 - q) / eps)


def f_dpo(slope):
    return each(lambda p, f: sp(-D(0.1) * (slope(mp.exp(p.lw)) - slope(mp.exp(p.ll)))))


def bco(t, frozen):
    fixed = [P(frozen, i) for i in range(len(t["w"]))]
    delta = D(0.01) * mean([p.lw for p in fixed] + [p.ll for p in fixed])
    return each(lambda p, f: sp(delta - D(0.01) * p.lw) + sp(D(0.01) * p.ll - delta))(t, frozen)


def ld_dpo(discount_reference, a=0.5, beta=0.1):
    def one(p, f):
        m = min(p.nw, p.nl)

        def hat(name, discounted=True):
            ts = p.tokens(name)
            return S(ts[:m]) + (D(a) if discounted else 1) * S(ts[m:])

        d = discount_reference
        return sp(-D(beta) * (hat("w") - hat("rw", d) - hat("l") + hat("rl", d)))

    return each(one)


def beta_dpo(t, frozen):
    gaps = [P(frozen, i).h for i in range(len(t["w"]))]
    m = (1 - D(0.9)) * mean(gaps)
    beta = max(D(0.1) * (1 + D(0.6) * (mean(gaps) - m)), D(1e-3))
    return each(lambda p, f: sp(-beta * p.h))(t, frozen)


def wpo(cap):
    def one(p, f):
        w = mp.exp(mean([a - b for a, b in zip(f.tokens("w"), f.tokens("qw"), strict=True)])
                   + mean([a - b for a, b in zip(f.tokens("l"), f.tokens("ql"), strict=True)]))  # fmt: skip
        return (min(w, 1) if cap else w) * sp(-D(0.01) * p.h)

    return each(one)


def aot(first, second):
    def batch(t, frozen):
        ps = [P(t, i) for i in range(len(t["w"]))]
        a, b = [first(p) for p in ps], [second(p) for p in ps]
        order = sorted(range(len(ps)), key=lambda i: a[i])
        out = [None] * len(ps)
        for rank, i in enumerate(order):
            out[i] = sp(-D(0.01) * (a[i] - sorted(b)[rank]))
        return out

    return batch


def token_nll(t):
    ps = [P(t, i) for i in range(len(t["w"]))]
    return [-p.w * len(ps) / S([q.nw for q in ps]) for p in ps]


def cpo(t, frozen):
    return [n + c for n, c in zip(token_nll(t), each(lambda p, f: sp(-D(0.1) * (p.w - p.l)))(t, frozen), strict=True)]


def logit(a):
    return a - mp.log(1 - mp.exp(a))


def lse_anchor(p, f):
    return mp.log(mp.exp(-(p.aw + p.rw / p.nw)) + mp.exp(p.al + p.rl / p.nl))


def disco(p, f):
    z = D(0.05) * p.h
    g = sg(z / D(0.05))
    return (1 - g) * sp(-z) + g * mp.exp(-z)


def cal(p, beta):
    return (p.lw - 1 / (2 * D(beta))) ** 2 + (p.ll + 1 / (2 * D(beta))) ** 2


def soft_targets(p, f):
    pw, pl = (D(0.9), D(0.7), D(1.0))[p.i], (D(0.25), D(0.4), D(0.0))[p.i]
    return ((p.lw - (pw - mpf(1) / 2) / D(0.05)) ** 2 + (p.ll - (pl - mpf(1) / 2) / D(0.05)) ** 2) / 2


def arpo(scale=0.9, rate=0.4):
    def share(p):
        return min(D(scale) * mp.exp(D(rate) * abs(p.aw - p.al)) - 1, 1)

    def batch(t, frozen):
        contrast = each(lambda p, f: sp(-D(0.1) * (p.w - share(p) * p.l)))(t, frozen)
        return [n + c for n, c in zip(token_nll(t), contrast, strict=True)]

    return batch


def rebel(p, f):
    gap = (D(0.9), D(0.7), D(1.0))[p.i] - (D(0.25), D(0.4), D(0.0))[p.i]
    return (D(0.5) * (p.lw - p.ll) - gap) ** 2


def chi_po(limit=None):
    def one(p, f):
        gap = D(0.1) * ((p.lw + mp.exp(p.lw)) - (p.ll + mp.exp(p.ll)))
        return sp(-gap if limit is None else -max(-2 * D(limit), min(2 * D(limit), gap)))

    return each(one)


def dr_dpo(t, frozen):
    kept = mean([sg(D(0.1) * P(t, i).h) ** (1 / D(0.7)) for i in range(len(t["w"]))])
    return [-D(0.7) * mp.log(kept)] * len(t["w"])


SCORES = {
    "chosen_score": torch.tensor([0.9, 0.7, 1.0], dtype=torch.float64),
    "rejected_score": torch.tensor([0.25, 0.4, 0.0], dtype=torch.float64),
}
MARGINS = {"margin": torch.tensor([0.5, 2.0, 1.25], dtype=torch.float64)}
FROM_POLICY = {"chosen_is_policy": torch.tensor([True, False, True])}


def margin(p):
    return (D(0.5), D(2.0), D(1.25))[p.i]


def z(p, beta=0.1):
    return D(beta) * p.h


def kl_gap(p):
    return S(p.tokens("dl")) - S(p.tokens("dw"))


# fmt: off
CASES: list[tuple[Any, Any, dict[str, Any]]] = [
    (L.DPO(), each(lambda p, f: sp(-z(p))), {}),
    (L.DPO(label_smoothing=0.1), each(lambda p, f: (1 - D(0.1)) * sp(-z(p)) + D(0.1) * sp(z(p))), {}),
    (L.RobustDPO(), each(lambda p, f: ((1 - D(0.1)) * sp(-z(p)) - D(0.1) * sp(z(p))) / (1 - 2 * D(0.1))), {}),
    (L.IPO(), each(lambda p, f: (p.h - 1 / (2 * D(0.1))) ** 2), {}),
    (L.IPO(length_normalized=True), each(lambda p, f: (p.lw / p.nw - p.ll / p.nl - 1 / (2 * D(0.1))) ** 2), {}),
    (L.Hinge(), each(lambda p, f: max(0, 1 - z(p))), {}),
    (L.Hinge(beta=0.5, margin=0.3), each(lambda p, f: max(0, D(0.3) - z(p, 0.5))), {}),
    (L.FDPO(divergence="reverse_kl"), f_dpo(mp.log), {}),
    (L.FDPO(divergence="forward_kl"), f_dpo(lambda u: -1 / u), {}),
    (L.FDPO(), f_dpo(lambda u: mp.log(2 * u / (1 + u))), {}),
    (L.FDPO(divergence="alpha", alpha=0.3), f_dpo(lambda u: (1 - u ** -D(0.3)) / D(0.3)), {}),
    (L.EXO(), each(lambda p, f: bernoulli_kl(p, f, D(1e-3), D(0.5))), {}),
    (L.EXO(beta=0.1, label_smoothing=0.2), each(lambda p, f: bernoulli_kl(p, f, D(0.2), D(0.1))), {}),
    (L.NCA(), each(lambda p, f: sp(-D(0.01) * p.lw) + sp(D(0.01) * p.lw) / 2 + sp(D(0.01) * p.ll) / 2), {}),
    (L.BCO(), bco, {}),
    (L.BCO(threshold="zero"), each(lambda p, f: sp(-D(0.01) * p.lw) + sp(D(0.01) * p.ll)), {}),
    (L.SPPO(beta=0.05), each(soft_targets), SCORES),
    (L.SPPOHard(), each(lambda p, f: cal(p, 1e-3)), {}),
    (L.CalDPO(), each(lambda p, f: sp(-p.h) + cal(p, 1e-3)), {}),
    (L.CalDPO(beta=0.1, weight=0.5), each(lambda p, f: sp(-p.h) + cal(p, 0.1) / 2), {}),
    (L.CalHingeDPO(alpha=2.0, tau=0.05), each(lambda p, f: sp(-z(p)) + 2 * max(0, D(0.05) - D(0.1) * p.lw)), {}),
    (L.BDPO(), each(lambda p, f: sp(-D(0.1) * (p.lw - mp.log(mp.exp(p.ll) / 2 + mpf(1) / 2)))), {}),
    (L.DPOP(), each(lambda p, f: sp(-D(0.3) * (p.h - 50 * max(0, -p.lw)))), {}),
    (L.RDPO(alpha=0.05), each(lambda p, f: sp(-(z(p) + D(0.05) * (p.nw - p.nl)))), {}),
    (L.LengthNormalizedDPO(), each(lambda p, f: sp(-5 * (p.lw / p.nw - p.ll / p.nl))), {}),
    (L.LDDPO(), ld_dpo(True), {}),
    (L.LDDPO(alpha=0.3), ld_dpo(True, a=0.3), {}),
    (L.LDDPO(discount_reference=False), ld_dpo(False), {}),
    (L.ODPO(), each(lambda p, f: sp(-(z(p) - mp.log(margin(p))))), MARGINS),
    (L.ODPO(alpha=0.5, scale="identity"), each(lambda p, f: sp(-(z(p) - margin(p) / 2))), MARGINS),
    (L.TDPO1(), each(lambda p, f: sp(-D(0.1) * (p.h - kl_gap(p)))), {}),
    (L.TDPO2(), each(lambda p, f: sp(-D(0.1) * (p.h - (S(p.tokens("dl")) - S(f.tokens("dw"))) / 2))), {}),
    (L.BetaDPO(filter=0.0), beta_dpo, {}),
    (L.WPO(), wpo(True), {}),
    (L.WPO(cap=False), wpo(False), {}),
    (L.AOT(), aot(lambda p: p.w - p.l, lambda p: p.rw - p.rl), {}),
    (L.AOT(paired=False), aot(lambda p: p.lw, lambda p: p.ll), {}),
    (L.APOZero(), each(lambda p, f: 1 - sg(D(0.1) * p.lw) + sg(D(0.1) * p.ll)), {}),
    (L.APODown(), each(lambda p, f: sg(D(0.1) * p.lw) + 1 - sg(z(p))), {}),
    (L.DiscoPOP(), each(disco), {}),
    (L.XPO(alpha=0.01), each(lambda p, f: sp(-z(p)) + D(0.01) * (p.w if p.i == 1 else p.l)), FROM_POLICY),
    (L.SimPO(), each(lambda p, f: sp(-(2 * (p.aw - p.al) - 1))), {}),
    (L.AlphaPO(), each(lambda p, f: sp(-(D(2.5) * (mp.exp(-p.al / 4) - mp.exp(-p.aw / 4)) * 4 - D(0.1)))), {}),
    (L.CPO(), cpo, {}),
    (L.CPO(normalization="sequence"), each(lambda p, f: sp(-D(0.1) * (p.w - p.l)) - p.aw), {}),
    (L.ORPO(), each(lambda p, f: -p.aw + D(0.1) * sp(-(logit(p.aw) - logit(p.al)))), {}),
    (L.SLiC(), each(lambda p, f: max(0, 1 - p.w + p.l) - D(0.1) * p.w), {}),
    (L.Unlikelihood(), each(lambda p, f: -p.w + p.l / 2), {}),
    (L.Unlikelihood(level="token"), each(lambda p, f: -p.w - S([mp.log(1 - mp.exp(x)) for x in p.tokens("l")]) / 2), {}),
    (L.NLL(), each(lambda p, f: -p.aw), {}),
    (L.NLL(normalization="sum"), each(lambda p, f: -p.w), {}),
    (L.NLL(normalization="token"), lambda t, f: token_nll(t), {}),
    (L.HingeAnchor(tau=0.9), each(lambda p, f: max(0, D(0.9) - p.aw) + max(0, p.al + D(0.9))), {}),
    (L.ReferenceHingeAnchor(tau=0.2, level="sum"), each(lambda p, f: max(0, D(0.2) - p.lw) + max(0, p.ll + D(0.2))), {}),
    (L.LogSumExpAnchor(), each(lse_anchor), {}),
    (L.LinearAnchor(level="sum"), each(lambda p, f: -(p.w + p.rw) + p.l + p.rl), {}),
    (L.CalAnchor(beta=0.1, level="sum"), each(lambda p, f: cal(p, 0.1)), {}),
    (L.MDPOAnchor(), each(lambda p, f: sp(-D(0.1) * p.lw)), {}),
    (L.ARPO(), arpo(), {}),
    (L.ARPO(scale=0.5, rate=0.1), arpo(0.5, 0.1), {}),
    (L.REBEL(beta=0.5), each(rebel), SCORES),
    (L.ChiPO(), chi_po(), {}),
    (L.ChiPO(max_reward=0.01), chi_po(0.01), {}),
    (L.DrDPO(temperature=0.7), dr_dpo, {}),
    (L.Mixture(), each(lambda p, f: sp(-z(p)) - p.aw), {}),
    (L.MPO(beta=0.01), lambda t, f: [D(0.8) * sp(-D(0.01) * P(t, i).h) + D(0.2) * b - P(t, i).aw for i, b in enumerate(bco(t, f))], {}),
]
# fmt: on
NAMES = [f"{case[0].name}-{place}" for place, case in enumerate(CASES)]


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize(("loss", "formula", "inputs"), CASES, ids=NAMES)
def test_value_and_gradient_equal_the_formula_to_1e_12(loss, formula, inputs, seed, same_as, draw):
    same_as(loss, formula, draw(seed, w=[3, 2, 4], l=[2, 4, 3]), inputs)


def test_the_table_holds_every_loss_on_pairs():
    # SamPO's formula depends on its draw; test_draws.py checks it.
    tested = {case[0].name for case in CASES} | {"sampo"}
    assert tested == {cls.name for cls in get_args(L.AnyLoss) if cls.kind == "pair"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(("loss", "formula", "inputs"), CASES, ids=NAMES)
def test_log_ratios_of_1e4_and_means_of_minus_200(loss, formula, inputs, dtype, extreme):
    """50 tokens whose log-ratios are -200, 1 or 200 each, so sums reach +-10^4; every number is exact in bfloat16."""
    chosen, bases = (-200.0, 1.0, 200.0), (-1.0, -2.0, -4.0)
    for shift in range(3):
        tokens: dict[str, Any] = {}
        for side, ratios in (("w", chosen), ("l", chosen[shift:] + chosen[:shift])):
            tokens[side] = [[b + min(ratio, 0.0)] * 50 for b, ratio in zip(bases, ratios, strict=True)]
            tokens["r" + side] = [[b - max(ratio, 0.0)] * 50 for b, ratio in zip(bases, ratios, strict=True)]
            tokens["d" + side] = [[0.5] * 50] * 3
            tokens["q" + side] = [[-1.0] * 50] * 3
        extreme(loss, formula, tokens, inputs, dtype)
