"""Switches that turn one loss of TRL into another, and what TRL's losses set that ours leave open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from exptilt.converters.draft import Draft

_DIVERGENCES = {"forward_kl": "forward_kl", "js_divergence": "js", "alpha_divergence": "alpha"}
SWITCHES = ("reference_free", "ld_alpha", "use_weighting", "dpo_use_weighting", "f_divergence_type")
"""Keys that turn TRL's sigmoid loss into another."""


@dataclass(frozen=True)
class LossVariant:
    """A loss by our name, with the settings that its variant fixes and the keys of the source that say them."""

    name: str
    settings: Mapping[str, tuple[Any, list[str]]] = field(default_factory=dict)
    factor: float = 1.0
    """Weight that makes its value that of the source's loss."""
    reads: tuple[str, ...] = ()
    """Keys that are settled with it."""


def variant_of(draft: Draft, name: str, naming: Sequence[str]) -> LossVariant:
    """The loss that a name means together with the switches beside it."""
    on = [key for key in SWITCHES if _is_on(draft, key)]
    draft.as_default("off here as well", *(key for key in SWITCHES if key in draft.source and key not in on))
    if name != "dpo" or len(on) > 1:
        where = f"together with {on[0]}" if name == "dpo" and on else f"with {name}"
        draft.refuse(f"has no counterpart {where}", *(on if name != "dpo" else on[1:]))
    _divergence_number(draft, on)
    if name == "dpo" and on:
        return _switched(draft, on[0])
    return _fixed(draft, name, list(naming))


def _is_on(draft: Draft, key: str) -> bool:
    value = draft.get(key)
    if key == "f_divergence_type":
        return value is not None and divergence(value) != "reverse_kl"
    return value is not None if key == "ld_alpha" else bool(value)


def divergence(value: Any) -> str:
    """TRL's name of a divergence, also where it is a member of its enumeration."""
    return str(getattr(value, "value", value)).rpartition(".")[2].lower()


def _divergence_number(draft: Draft, on: Sequence[str]) -> None:
    keys = [key for key in ("f_alpha_divergence_coef", "f_divergence_params") if key in draft.source]
    if "f_divergence_type" not in on or divergence(draft.get("f_divergence_type")) != "alpha_divergence":
        draft.no_effect("only the alpha divergence has a number", *keys)


def _switched(draft: Draft, key: str) -> LossVariant:
    """What TRL's sigmoid loss becomes by one of its switches."""
    if key == "reference_free":  # a reference for which all completions are alike
        return LossVariant("cpo", {"nll_weight": (0.0, [key])})
    if key == "ld_alpha":
        return LossVariant("ld_dpo", {"alpha": (draft.number(key), [key])})
    if key in ("use_weighting", "dpo_use_weighting"):
        return LossVariant("wpo", {"cap": (False, [key])})
    name = divergence(draft.get(key))
    if name not in _DIVERGENCES:
        draft.refuse(f"f_dpo has no divergence {name!r}", key)
        return LossVariant("dpo")
    settings: dict[str, tuple[Any, list[str]]] = {"divergence": (_DIVERGENCES[name], [key])}
    if name == "alpha_divergence":  # there the number is what 1 - alpha is in the paper
        params = draft.get("f_divergence_params") or {}
        number = params.get("alpha_divergence_coef", draft.get("f_alpha_divergence_coef", default=0.5))
        said = [one for one in ("f_alpha_divergence_coef", "f_divergence_params") if draft.has(one)]
        settings["alpha"] = (1 - float(number), said or [key])
    return LossVariant("f_dpo", settings)


def _fixed(draft: Draft, name: str, naming: list[str]) -> LossVariant:
    """Settings of our loss without which it is not TRL's."""
    by_trl = not draft.has("stage", "pref_loss", "finetuning_type")  # LLaMA-Factory has an ORPO of its own
    smoothing = draft.get("label_smoothing", "dpo_label_smoothing")
    if name == "aot_unpaired":
        return LossVariant("aot", {"paired": (False, naming)})
    if name == "slic":  # CPO's hinge, max(0, 1 - beta * difference)
        beta = draft.number("beta", default=0.1)
        said = [key for key in ("beta",) if draft.has(key)] or naming
        settings = {"delta": (1 / beta, said), "lam": (0.0, naming)}
        return LossVariant("slic", settings, factor=beta, reads=("beta",))
    if name == "robust_dpo":
        share = draft.number("label_smoothing", "dpo_label_smoothing", default=0.0)
        return LossVariant(name, {"label_smoothing": (share, _said_smoothing(draft) or naming)})
    if name == "exo" and not smoothing:
        draft.as_default("TRL takes 0.001 then, which is the default here", *_said_smoothing(draft))
        return LossVariant(name, reads=("label_smoothing", "dpo_label_smoothing"))
    fixed: Mapping[str, Mapping[str, Any]] = {
        "ipo": {"length_normalized": True},
        "bco": {"threshold": "zero"},
        "nll": {"normalization": "token"},
        "orpo": {"normalization": "token", "nll_over": "all"} if by_trl else {},
        "apo_zero_unpaired": {"balanced": False},
    }
    return LossVariant(name, {ours: (value, naming) for ours, value in fixed.get(name, {}).items()})


def _said_smoothing(draft: Draft) -> list[str]:
    return [key for key in ("label_smoothing", "dpo_label_smoothing") if draft.has(key)]
