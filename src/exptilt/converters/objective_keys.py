"""The objective of another tool's configuration: several keys that say one thing together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from exptilt.converters.draft import Draft
from exptilt.settings.objectives import entries
from exptilt.settings.other_tools import LOSS_TYPES

_BETAS = ("beta", "rl_beta", "pref_beta", "dpo_beta", "kto_beta")
_SMOOTHING = ("label_smoothing", "dpo_label_smoothing", "label_smoothing_factor")
_SFT_TERMS = ("rpo_alpha", "pref_ftx", "nll_loss_coef")
_BY_CLASS = {
    "CPOTrainer": "cpo",
    "ORPOTrainer": "orpo",
    "KTOTrainer": "kto",
    "BCOTrainer": "bco_unpaired",
    "SFTTrainer": "sft",
    "RewardTrainer": "bradley_terry",
    "DPOTrainer": "dpo",
}
_ELSEWHERE = {"ppo", "grpo", "gdpo", "ebft", "online_dpo", "rloo", "pt", "nash_md", "xpo"}
"""Objectives that need own samples or no preferences at all."""
_FURTHER: Mapping[str, Mapping[str, str]] = {
    "bradley_terry": {"center_rewards_coefficient": "centering"},
    "simpo": {"simpo_gamma": "gamma", "cpo_alpha": ""},
    "cpo": {"cpo_alpha": "nll_weight"},
    "orpo": {"orpo_alpha": "lam", "beta": "lam", "pref_beta": "lam"},
    "kto": {
        "desirable_weight": "desirable_weight",
        "kto_desirable_weight": "desirable_weight",
        "kto_chosen_weight": "desirable_weight",
        "undesirable_weight": "undesirable_weight",
        "kto_undesirable_weight": "undesirable_weight",
        "kto_rejected_weight": "undesirable_weight",
    },
    "ld_dpo": {"ld_alpha": "alpha"},
}
"""Keys of the sources that become settings of one loss; an empty name is a term that this loss does not have."""


def convert_objective(draft: Draft) -> None:
    """Set `loss` from the method, its type and its numbers."""
    names = _names(draft)
    if names is None:
        return
    unknown = [name for name in names if name in _ELSEWHERE or name not in _known()]
    if unknown:
        draft.refuse(f"no objective here is {unknown[0]!r}", "loss_type", "rl", "pref_loss", "stage", "dpo_loss_type")
        return
    if len(names) == 1 and not draft.has(*_SFT_TERMS):
        draft.use("loss.name", names[0], *_naming(draft))
        for ours, (value, keys) in _settings(draft, names[0]).items():
            draft.use(f"loss.{ours}", value, *keys)
    else:
        _use_mixture(draft, names)
    _remark(draft, names[0])


def _known() -> set[str]:
    return {entry.name for entry in entries()} | {"bradley_terry"}


def _naming(draft: Draft) -> list[str]:
    keys = ("loss_type", "dpo_loss_type", "rl", "pref_loss", "stage", "trainer")
    return [key for key in keys if key in draft.source and key not in draft.fates]


def _names(draft: Draft) -> list[str] | None:
    """The losses that the source means, by our names; None where it says nothing of an objective."""
    stage = draft.get("stage")
    if stage in ("sft", "rm"):
        draft.no_effect("belongs to stage dpo", *(key for key in ("pref_loss", "pref_beta") if key in draft.source))
        return ["sft" if stage == "sft" else "bradley_terry"]
    rl, trainer = draft.get("rl"), _BY_CLASS.get(str(draft.get("trainer")))
    if stage == "kto" or rl == "kto" or trainer == "kto":
        return ["kto"]
    said = draft.get("loss_type", "dpo_loss_type") or (draft.get("pref_loss") if stage == "dpo" else None)
    method = {"dpo": "dpo"}.get(str(rl), rl) or trainer or (stage if stage not in (None, "dpo") else None)
    if said is None or (trainer == "sft" and said == "nll"):
        return [str(method)] if method else (["dpo"] if draft.has(*_BETAS) or stage == "dpo" else None)
    if method in ("orpo", "bco_unpaired", "sft", "bradley_terry"):
        return [str(method)]
    types = [said] if isinstance(said, str) else list(said)
    return [_of_type(str(name), str(method)) for name in types]


def _of_type(name: str, method: str) -> str:
    if method == "cpo":
        return {"sigmoid": "cpo", "simpo": "simpo", "alphapo": "alphapo"}.get(name, name)
    if name == "aot_pair":
        return "aot"
    return LOSS_TYPES.get(name, name)


def _settings(draft: Draft, name: str, *, alone: bool = True) -> dict[str, tuple[Any, list[str]]]:
    """Settings of one loss, each with the keys that say it."""
    found: dict[str, tuple[Any, list[str]]] = {}
    for theirs, ours in _FURTHER.get(name, {}).items():
        if draft.has(theirs) and ours:
            found[ours] = (float(draft.get(theirs)), [theirs])
        elif draft.has(theirs) and draft.get(theirs):
            draft.refuse(f"{name} has no such term here; a mixture can add one", theirs)
        elif draft.has(theirs):
            draft.as_default("off here as well", theirs)
    if name == "ipo":
        found["length_normalized"] = (True, _naming(draft))  # the mean per token, as those tools take it
    if name == "aot" and draft.get("loss_type") == "aot_unpaired":
        found["paired"] = (False, ["loss_type"])
    return found | _shared(draft, name, alone=alone)


def _shared(draft: Draft, name: str, *, alone: bool) -> dict[str, tuple[Any, list[str]]]:
    """Strength and label smoothing, which many losses have; alone: a loss without them refuses them."""
    found: dict[str, tuple[Any, list[str]]] = {}
    fields = {setting.name for entry in entries() if entry.name == name for setting in entry.settings}
    for keys, ours in ((_BETAS, "beta"), (_SMOOTHING, "label_smoothing")):
        said = [key for key in keys if draft.has(key) and key not in _FURTHER.get(name, {})]
        if said and ours in fields:
            found[ours] = (float(draft.get(*said)), said)
        elif said and alone and draft.get(*said) and name != "bradley_terry":
            draft.refuse(f"{name} has no {ours} here", *said)
        elif said and alone:
            draft.no_effect(f"{name} has no {ours}", *said)
    return found


def _use_mixture(draft: Draft, names: Sequence[str]) -> None:
    """Several types, or one with a weighted likelihood term, as one mixture."""
    weights = draft.get("loss_weights", "dpo_loss_weights") or [1.0] * len(names)
    draft.use("loss.name", "mixture", *_naming(draft))
    terms: list[dict[str, Any]] = []
    for name, weight in zip(names, weights, strict=False):
        name = "nll" if name == "sft" else name  # in a mixture of pairs
        settings = _settings(draft, name, alone=False)
        terms.append(
            {"loss": {"name": name, **{ours: value for ours, (value, _) in settings.items()}}, "weight": float(weight)}
        )
        draft.use("loss.terms", terms, *(key for _, keys in settings.values() for key in keys))
    likelihood = next((key for key in _SFT_TERMS if draft.has(key)), None)
    if likelihood is not None:
        normalization = "sequence" if likelihood == "pref_ftx" else "token"
        term = {"name": "nll", "normalization": normalization}
        terms.append({"loss": term, "weight": float(draft.get(likelihood))})
        draft.use("loss.terms", terms, likelihood)
    draft.use("loss.terms", terms, *(key for key in ("loss_weights", "dpo_loss_weights") if draft.has(key)))


def _remark(draft: Draft, name: str) -> None:
    if name == "ipo":
        draft.remarks.append(
            "ipo: those tools average log-probabilities over tokens; the paper's sums are length_normalized: false"
        )
    if name == "orpo":
        draft.remarks.append("orpo: those tools also count the prompt's tokens in the likelihood term")
    if name == "kto":
        draft.remarks.append("kto: the reference point is taken over the whole batch, not over one device's part")
