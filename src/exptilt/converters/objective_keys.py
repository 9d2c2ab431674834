"""The objective of another tool's configuration: several keys that say one thing together.

TRL's losses are those of its version 1.16, value by value (tests/peers); Axolotl and LLaMA-Factory call TRL, except where a rule says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from exptilt.converters.draft import Draft
from exptilt.converters.loss_variants import SWITCHES, LossVariant, variant_of
from exptilt.errors import ConfigError
from exptilt.settings.objectives import entries
from exptilt.settings.other_tools import LOSS_TYPES
from exptilt.wording import counted

_BETAS = ("beta", "rl_beta", "pref_beta", "dpo_beta", "kto_beta")
_SMOOTHING = ("label_smoothing", "dpo_label_smoothing")
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
_ORPO = {"orpo_alpha": "lam", "beta": "lam", "pref_beta": "lam"}
_KTO = {
    "desirable_weight": "desirable_weight",
    "kto_desirable_weight": "desirable_weight",
    "kto_chosen_weight": "desirable_weight",
    "undesirable_weight": "undesirable_weight",
    "kto_undesirable_weight": "undesirable_weight",
    "kto_rejected_weight": "undesirable_weight",
}
_FURTHER: Mapping[str, Mapping[str, str]] = {
    "bradley_terry": {"center_rewards_coefficient": "centering"},
    "simpo": {"simpo_gamma": "gamma"},
    "alphapo": {"simpo_gamma": "gamma", "alpha": "alpha"},
    "cpo": {"cpo_alpha": "nll_weight"},
    "orpo": _ORPO,
    "kto": _KTO,
    "ld_dpo": {"ld_alpha": "alpha"},
    "discopop": {"discopop_tau": "tau"},
}
"""Keys of the sources that become settings of one loss."""
_USUAL_BETA = 0.1
"""Of TRL's every trainer, and so of the tools that call it."""


def convert_objective(draft: Draft) -> None:
    """Set `loss` from the method, its type and its numbers."""
    names = _names(draft)
    if names is None:
        return
    losses = [variant_of(draft, name, _naming(draft)) for name in names]
    unknown = [loss.name for loss in losses if loss.name in _ELSEWHERE or loss.name not in _known()]
    if unknown:
        draft.refuse(f"no objective here is {unknown[0]!r}", "loss_type", "rl", "pref_loss", "stage", "dpo_loss_type")
        return
    extra = _likelihood_terms(draft, losses)
    if len(losses) == 1 and not extra and losses[0].factor == 1 and not _only_a_term(losses[0]):
        draft.use("loss.name", losses[0].name, *_naming(draft))
        for ours, (value, keys) in _settings(draft, losses[0]).items():
            draft.use(f"loss.{ours}", value, *keys)
    else:
        _use_mixture(draft, losses, extra)
    _remark(draft, losses[0].name)


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
    said = draft.get("loss_type", "dpo_loss_type") or (draft.get("pref_loss") if stage == "dpo" else None)
    said = said[0] if isinstance(said, list | tuple) and len(said) == 1 else said
    if stage == "kto" or rl == "kto" or trainer == "kto":
        return ["apo_zero_unpaired" if said == "apo_zero_unpaired" else "kto"]
    method = {"dpo": "dpo"}.get(str(rl), rl) or trainer or (stage if stage not in (None, "dpo") else None)
    if said is None or (trainer == "sft" and said in ("nll", "chunked_nll")):
        return [str(method)] if method else (["dpo"] if draft.has(*_BETAS, *SWITCHES) or stage == "dpo" else None)
    if method in ("orpo", "bco_unpaired", "bradley_terry") or (method == "sft" and trainer != "sft"):
        return [str(method)]
    types = [said] if isinstance(said, str) else list(said)
    if method == "cpo":
        return [_of_cpo(draft, str(name)) for name in types]
    return [_of_type(str(name), str(method)) for name in types]


def _of_cpo(draft: Draft, name: str) -> str:
    """CPO's losses; TRL turns SimPO into AlphaPO and back by the number alpha."""
    if name in ("simpo", "alphapo"):
        return "alphapo" if draft.number("alpha", default=0.0) else "simpo"
    return {"sigmoid": "cpo", "hinge": "slic", "ipo": "ipo without a reference"}.get(name, name)


def _of_type(name: str, method: str) -> str:
    if method == "sft":
        return f"{name} for fine-tuning"
    return {"sft": "nll", "aot_unpaired": "aot_unpaired"}.get(name) or LOSS_TYPES.get(name, name)


def _only_a_term(loss: LossVariant) -> bool:
    """Whether a loss stands in a mixture only."""
    return loss.name == "nll"


def _settings(draft: Draft, loss: LossVariant, *, alone: bool = True) -> dict[str, tuple[Any, list[str]]]:
    """Settings of one loss, each with the keys that say it."""
    found = dict(loss.settings)
    for theirs, ours in _FURTHER.get(loss.name, {}).items():
        if draft.has(theirs) and ours not in found:
            found[ours] = (draft.number(theirs), [theirs])
    return found | _shared(draft, loss, found, alone=alone)


def _shared(
    draft: Draft, loss: LossVariant, given: Mapping[str, Any], *, alone: bool
) -> dict[str, tuple[Any, list[str]]]:
    """Strength and label smoothing, which many losses have; alone: a loss without them refuses them."""
    found: dict[str, tuple[Any, list[str]]] = {}
    name = loss.name
    fields = {setting.name: setting.default for entry in entries() if entry.name == name for setting in entry.settings}
    for keys, ours in ((_BETAS, "beta"), (_SMOOTHING, "label_smoothing")):
        said = [key for key in keys if draft.has(key) and key not in _FURTHER.get(name, {}) and key not in loss.reads]
        if ours in given:
            continue
        if said and ours in fields:
            found[ours] = (draft.number(*said), said)
        elif said and alone and draft.get(*said) and name not in ("bradley_terry", "sft"):
            draft.refuse(f"{name} has no {ours} here", *said)
        elif said and alone:
            draft.no_effect(f"{name} has no {ours}", *said)
    unsaid_beta = "beta" in fields and "beta" not in found and "beta" not in given
    if unsaid_beta and fields["beta"] != _USUAL_BETA:
        found["beta"] = (_USUAL_BETA, _naming(draft))
    return found


def _likelihood_terms(draft: Draft, losses: Sequence[LossVariant]) -> list[dict[str, Any]]:
    """Terms of the chosen completions' likelihood that are added to the losses."""
    terms = []
    for key in (*_SFT_TERMS, "cpo_alpha"):
        if not draft.has(key) or (key == "cpo_alpha" and losses[0].name not in ("simpo", "alphapo", "slic")):
            continue
        if key == "cpo_alpha" and draft.get("loss_type") == "alphapo":
            draft.no_effect("loss_type alphapo has no such term there", key)
            continue
        weight = draft.number(key)
        if not weight:
            draft.as_default("no such term here as well", key)
            continue
        normalization = "sequence" if key == "pref_ftx" else "token"
        terms.append({"loss": {"name": "nll", "normalization": normalization}, "weight": weight})
        draft.use("loss.terms", terms, key)
    return terms


def _use_mixture(draft: Draft, losses: Sequence[LossVariant], extra: Sequence[Mapping[str, Any]]) -> None:
    """Several types, or one with a weighted likelihood term, as one mixture."""
    weights = _weights(draft, len(losses))
    naming = _naming(draft)
    draft.use("loss.name", "mixture", *naming)
    terms: list[Any] = []
    for loss, weight in zip(losses, weights, strict=True):
        settings = _settings(draft, loss, alone=False)
        written = {"name": loss.name, **{ours: value for ours, (value, _) in settings.items()}}
        terms.append({"loss": written, "weight": weight * loss.factor})
        said = dict.fromkeys(key for _, keys in settings.values() for key in keys if key not in naming)
        draft.use("loss.terms", terms, *said)
    terms += extra
    spoken = ("loss_weights", "dpo_loss_weights", *_SFT_TERMS)
    draft.use("loss.terms", terms, *(key for key in spoken if draft.has(key) and key not in draft.fates))


def _weights(draft: Draft, count: int) -> list[float]:
    given = draft.get("loss_weights", "dpo_loss_weights") or [1.0] * count
    if len(given) != count:
        raise ConfigError(f"loss_weights: {counted(len(given), 'weight')} for {counted(count, 'loss', 'losses')}")
    try:
        return [float(weight) for weight in given]
    except (TypeError, ValueError):
        raise ConfigError(f"loss_weights: {given!r} are no numbers") from None


_REMARKS = {
    "ipo": "ipo: those tools average log-probabilities over tokens; the paper's sums are length_normalized: false",
    "orpo": "orpo: TRL counts the prompt's tokens in the likelihood term (nll_over: all); the paper does not",
    "kto": "kto: the reference point is taken over the whole batch, not over one device's part, with other mismatched rows",
    "bco": "bco: TRL 1.16 has no running mean of rewards; that of the paper is threshold: running_mean",
    "wpo": "wpo: TRL does not cap a pair's weight; the paper's cap is cap: true",
}


def _remark(draft: Draft, name: str) -> None:
    if name in _REMARKS:
        draft.remarks.append(_REMARKS[name])
