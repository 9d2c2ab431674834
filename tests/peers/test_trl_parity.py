"""Values and gradients of the catalogue against TRL's own code (1.16) on the same batch, to 1e-6.

TRL tokenizes, collates, runs the model and forms its objective; exptilt scores the token ids of TRL's batch, packed, and forms its
own. The gradient is that of every parameter of the model. Log-probabilities are in float64; `test_float32_layer` leaves TRL's own.

Known deviations of TRL, and what it is compared with here:

    sigmoid              label_smoothing is ignored              DPO(label_smoothing=0)
    ipo                  token means; the equation has sums      IPO(length_normalized=True)
    bco_pair             no threshold                            BCO(threshold="zero")
    sppo_hard            certain labels, no factor 1/2           SPPOHard, or twice SPPO at probabilities 1 and 0
    alpha_divergence     its coefficient is 1 - alpha            FDPO(alpha=1 - coefficient)
    use_weighting        the weight of a pair is not capped      WPO(cap=False)
    sft, CPO's NLL       token mean over the batch               normalization="token"
    apo_zero_unpaired    mean over all rows                      APOZeroUnpaired(balanced=False)
    ORPO's NLL           token mean, counts the prompt too       ORPO(normalization="token", nll_over="all")
    TPO's NLL            token mean over the batch               normalization="token"
    SimPO's smoothing    the margin stays with the chosen side   the difference, written out in `smoothed_simpo`
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from exptilt.losses import (
    AOT,
    BCO,
    CPO,
    DPO,
    EXO,
    FDPO,
    IPO,
    KTO,
    LDDPO,
    NCA,
    NLL,
    ORPO,
    SPPO,
    TPO,
    WPO,
    AlphaPO,
    APODown,
    APOZero,
    APOZeroUnpaired,
    DiscoPOP,
    Hinge,
    LengthNormalizedDPO,
    Mixture,
    RobustDPO,
    SimPO,
    SLiC,
    SPPOHard,
    Term,
    with_soft_labels,
)
from exptilt.training.objective import Objective as TrainingObjective
from exptilt.types import LogProbs, Pair, PairLoss

pytest.importorskip("trl", reason="the comparison with TRL's own code needs it: pip install 'exptilt[peers]'")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer
    from trl.experimental.cpo import CPOConfig, CPOTrainer
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer
    from trl.experimental.tpo import TPOConfig, TPOTrainer

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")
TOLERANCE = 1e-6
REAL = 1e-3
"""A deviation moves the value by more than this."""
Objective = Callable[[Pair, Pair], PairLoss]
TRAINERS = {
    "dpo": (DPOTrainer, DPOConfig),
    "kto": (KTOTrainer, KTOConfig),
    "cpo": (CPOTrainer, CPOConfig),
    "orpo": (ORPOTrainer, ORPOConfig),
    "tpo": (TPOTrainer, TPOConfig),
}


def smoothed(loss: Any, eps: float = 0.1) -> Objective:
    """Label smoothing as a label that is a probability."""

    def objective(policy: Pair, reference: Pair) -> PairLoss:
        p_chosen = torch.full((len(policy.chosen),), 1 - eps, dtype=torch.float64)
        return with_soft_labels(loss, policy, reference, p_chosen)

    return objective


def smoothed_simpo(policy: Pair, reference: Pair) -> PairLoss:
    """TRL's smoothing of SimPO: a flipped label turns the sign of margin minus gamma, and not of the margin only."""
    out = SimPO(beta=2.0, gamma=1.0)(policy)
    flipped = out.loss + 2.0 * (policy.chosen.mean() - policy.rejected.mean()) - 1.0
    return out._replace(loss=0.9 * out.loss + 0.1 * flipped)


def certain_sppo(policy: Pair, reference: Pair) -> PairLoss:
    """SPPO where the chosen completion always wins."""
    won = torch.ones(len(policy.chosen))
    return SPPO(beta=0.1)(policy, reference, chosen_score=won, rejected_score=1 - won)


def twice_certain_sppo(policy: Pair, reference: Pair) -> PairLoss:
    out = certain_sppo(policy, reference)
    return out._replace(loss=2 * out.loss)


def uniform_ipo(policy: Pair, reference: Pair) -> PairLoss:
    """IPO on token means against a reference for which all completions are alike."""
    alike = Pair(*(LogProbs.from_sums(torch.zeros(len(side)), side.lengths) for side in policy))
    return IPO(length_normalized=True)(policy, alike)


def total(*terms: tuple[float, Any]) -> Mixture:
    return Mixture(terms=tuple(Term(weight=weight, loss=loss) for weight, loss in terms))


TOKEN_NLL = NLL(normalization="token")
ALPHA = {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.7}
PAIRS: dict[str, tuple[dict[str, Any], Objective]] = {
    "sigmoid": ({"loss_type": ["sigmoid"]}, DPO()),
    "sigmoid, not smoothed": ({"loss_type": ["sigmoid"], "label_smoothing": 0.1}, DPO()),
    "hinge": ({"loss_type": ["hinge"], "beta": 1.0}, Hinge(beta=1.0)),
    "ipo": ({"loss_type": ["ipo"]}, IPO(length_normalized=True)),
    "exo_pair": ({"loss_type": ["exo_pair"], "beta": 0.5, "label_smoothing": 1e-3}, EXO()),
    "nca_pair": ({"loss_type": ["nca_pair"]}, NCA(beta=0.1)),
    "robust": ({"loss_type": ["robust"], "label_smoothing": 0.1}, RobustDPO()),
    "bco_pair": ({"loss_type": ["bco_pair"]}, BCO(beta=0.1, threshold="zero")),
    "sppo_hard": ({"loss_type": ["sppo_hard"]}, SPPOHard(beta=0.1)),
    "sppo_hard, as SPPO": ({"loss_type": ["sppo_hard"]}, twice_certain_sppo),
    "aot": ({"loss_type": ["aot"]}, AOT(beta=0.1)),
    "aot, smoothed": ({"loss_type": ["aot"], "label_smoothing": 0.1}, smoothed(AOT(beta=0.1))),
    "aot_unpaired": ({"loss_type": ["aot_unpaired"]}, AOT(beta=0.1, paired=False)),
    "apo_zero": ({"loss_type": ["apo_zero"]}, APOZero()),
    "apo_down": ({"loss_type": ["apo_down"]}, APODown()),
    "discopop": ({"loss_type": ["discopop"]}, DiscoPOP(beta=0.1)),
    "sft": ({"loss_type": ["sft"]}, TOKEN_NLL),
    "sigmoid_norm": ({"loss_type": ["sigmoid_norm"], "beta": 5.0}, LengthNormalizedDPO()),
    "reverse_kl": ({"f_divergence_type": "reverse_kl"}, FDPO(divergence="reverse_kl")),
    "forward_kl": ({"f_divergence_type": "forward_kl"}, FDPO(divergence="forward_kl")),
    "js_divergence": ({"f_divergence_type": "js_divergence"}, FDPO(divergence="js")),
    "alpha_divergence": (ALPHA, FDPO(divergence="alpha", alpha=0.3)),
    "ld_alpha": ({"ld_alpha": 0.3}, LDDPO(alpha=0.3)),
    "use_weighting": ({"use_weighting": True}, WPO(beta=0.1, cap=False)),
    "three at once": (
        {"loss_type": ["sigmoid", "bco_pair", "sft"], "loss_weights": [0.8, 0.2, 1.0]},
        total((0.8, DPO()), (0.2, BCO(beta=0.1, threshold="zero")), (1.0, TOKEN_NLL)),
    ),
}


@pytest.fixture
def dpo_batch(world, rows, groups_of, make_trainer) -> Callable[[str], tuple[Any, Any, Any]]:
    def make(case: str) -> tuple[Any, Any, Any]:
        trainer, inputs = make_trainer(TRAINERS["dpo"], world, rows, **{"beta": 0.1, **PAIRS[case][0]})
        columns = (inputs[name] for name in ("input_ids", "attention_mask", "completion_mask"))
        return trainer, inputs, groups_of(*columns, 2)

    return make


@pytest.mark.parametrize("case", PAIRS)
def test_pairs(case, world, dpo_batch, exact, ours, answer, differences) -> None:
    trainer, inputs, groups = dpo_batch(case)
    # Its alpha-divergence knows no float64.
    dtype = torch.float32 if PAIRS[case][0] is ALPHA else torch.float64
    trainer.ref_model = exact(trainer.ref_model, dtype)
    theirs = answer(trainer._compute_loss(exact(trainer.model, dtype), inputs, False), trainer.model)

    side = ours(world)
    objective = PAIRS[case][1](*side.pairs(groups)).loss.mean()
    assert max(differences(side.answer(objective), theirs)) < TOLERANCE


@pytest.mark.parametrize("case", ["sigmoid", "sft", "use_weighting"])
def test_float32_layer(case, world, dpo_batch, ours, answer, differences) -> None:
    trainer, inputs, groups = dpo_batch(case)
    theirs = answer(trainer._compute_loss(trainer.model, inputs, False), trainer.model)

    side = ours(world)
    objective = PAIRS[case][1](*side.pairs(groups)).loss.mean()
    assert max(differences(side.answer(objective), theirs)) < TOLERANCE


@pytest.mark.parametrize(
    ("case", "paper"),
    [
        ("sigmoid, not smoothed", DPO(label_smoothing=0.1)),
        ("ipo", IPO()),
        ("bco_pair", BCO(beta=0.1)),
        ("sppo_hard", certain_sppo),
        ("alpha_divergence", FDPO(divergence="alpha", alpha=0.7)),
        ("use_weighting", WPO(beta=0.1)),
        ("sft", NLL()),
    ],
)
def test_deviations_are_real(case, paper, world, dpo_batch, ours) -> None:
    """Fails once TRL follows the paper, or the batch no longer shows it."""
    trainer, inputs, groups = dpo_batch(case)
    theirs = trainer._compute_loss(trainer.model, inputs, False)
    assert abs(paper(*ours(world).pairs(groups)).loss.mean() / theirs - 1) > REAL


KTO_WEIGHTS = {"desirable_weight": 1.3, "undesirable_weight": 0.7}
UNPAIRED: dict[str, tuple[dict[str, Any], Any, bool]] = {
    "kto": ({}, KTO(), False),
    "kto, z0 = 0": ({}, KTO(), True),
    "kto, weighted": (KTO_WEIGHTS, KTO(**KTO_WEIGHTS), False),
    "apo_zero_unpaired": ({"loss_type": "apo_zero_unpaired"}, APOZeroUnpaired(balanced=False), False),
}


@pytest.mark.parametrize("case", UNPAIRED)
def test_unpaired(case, world, rows, ours, exact, answer, groups_of, differences, make_trainer) -> None:
    settings, loss, exchanged = UNPAIRED[case]
    world = world.exchanged() if exchanged else world
    labelled = [
        {"prompt": row["prompt"], "completion": row["chosen" if place % 3 else "rejected"], "label": place % 3 > 0}
        for place, row in enumerate(rows)
    ]
    trainer, inputs = make_trainer(TRAINERS["kto"], world, labelled, **settings)
    trainer.ref_model = exact(trainer.ref_model, torch.float64)
    theirs = answer(trainer._compute_loss(exact(trainer.model, torch.float64), inputs, False), trainer.model)

    def groups(prefix: str) -> Any:
        return groups_of(*(inputs[prefix + name] for name in ("input_ids", "attention_mask", "completion_mask")), 1)

    side = ours(world)
    more: dict[str, LogProbs] = {}
    if loss.inputs:
        more = dict(zip(loss.inputs, side.logps(groups("KL_")), strict=True))
        point = float(KTO.reference_point(*more.values()))
        assert point == pytest.approx(trainer._metrics["train"]["kl"][-1], rel=TOLERANCE)
        assert (point == 0) == exchanged
    policy, reference = side.logps(groups(""))
    objective = loss(policy, reference, inputs["label"], **more).loss.mean()
    assert max(differences(side.answer(objective), theirs)) < TOLERANCE


REFERENCE_FREE: dict[str, tuple[dict[str, Any], Objective]] = {
    "cpo": ({"cpo_alpha": 1.0}, CPO()),
    "cpo, weighted NLL": ({"cpo_alpha": 0.3}, CPO(nll_weight=0.3)),
    "cpo, smoothed": ({"cpo_alpha": 0.0, "label_smoothing": 0.1}, smoothed(CPO(nll_weight=0.0))),
    "cpo hinge": ({"loss_type": "hinge", "beta": 0.5}, total((0.5, SLiC(delta=2.0, lam=0.0)), (1.0, TOKEN_NLL))),
    "cpo ipo": ({"loss_type": "ipo", "cpo_alpha": 0.0}, uniform_ipo),
    "simpo": ({"loss_type": "simpo", "beta": 2.0, "simpo_gamma": 1.0, "cpo_alpha": 0.0}, SimPO()),
    "simpo, smoothed": (
        {"loss_type": "simpo", "beta": 2.0, "simpo_gamma": 1.0, "cpo_alpha": 0.0, "label_smoothing": 0.1},
        smoothed_simpo,
    ),
    "simpo with NLL": (
        {"loss_type": "simpo", "beta": 2.0, "simpo_gamma": 1.0},
        total((1.0, SimPO()), (1.0, TOKEN_NLL)),
    ),
    "alphapo": ({"loss_type": "alphapo", "beta": 2.5, "simpo_gamma": 0.1, "alpha": 0.25}, AlphaPO()),
}


@pytest.fixture
def free_batch(world, rows, make_trainer) -> Callable[..., Any]:
    def make(kind: str, **settings: Any) -> tuple[Any, Any, tuple[Tensor, Tensor, Tensor]]:
        trainer, inputs = make_trainer(TRAINERS[kind], world, rows, **{"beta": 0.1, **settings})
        stacked = trainer.concatenated_inputs(inputs, padding_value=world.tokenizer.pad_token_id)
        ids, attended, labels = (stacked[f"concatenated_{name}"] for name in ("input_ids", "attention_mask", "labels"))
        return trainer, inputs, (ids, attended, labels != -100)

    return make


@pytest.mark.parametrize("case", REFERENCE_FREE)
def test_reference_free(case, world, free_batch, ours, answer, groups_of, differences) -> None:
    settings, loss = REFERENCE_FREE[case]
    trainer, inputs, columns = free_batch("cpo", **settings)
    theirs = answer(trainer.get_batch_loss_metrics(trainer.model, inputs)[0], trainer.model)

    side = ours(world)
    objective = loss(*side.pairs(groups_of(*columns, 2))).loss.mean()
    assert max(differences(side.answer(objective), theirs)) < TOLERANCE


def test_orpo(world, rows, free_batch, ours, answer, groups_of, differences) -> None:
    """Through the objective of training, which scores the prompt where it stands in the packed row."""
    trainer, inputs, columns = free_batch("orpo")
    theirs = answer(trainer.get_batch_loss_metrics(trainer.model, inputs)[0], trainer.model)

    side, objective = ours(world), TrainingObjective(ORPO(normalization="token", nll_over="all"))
    groups = objective.prepare(groups_of(*columns, 2))
    out = objective(groups, side.logps(groups)[0], None)
    assert max(differences(side.answer(out.loss / out.weight), theirs)) < TOLERANCE

    policy, _ = side.pairs(groups_of(*columns, 2))
    assert abs(ORPO(normalization="token")(policy).loss.mean().item() / theirs.value - 1) > REAL


def test_orpo_without_the_prompt(world, free_batch, ours, answer, groups_of, differences) -> None:
    """TRL's own odds ratio, beside torch's cross-entropy of the chosen tokens alone: the paper's formula."""
    trainer, inputs, columns = free_batch("orpo")
    chosen, rejected, *_ = trainer.concatenated_forward(trainer.model, inputs)
    ids, _, counted = (column[: len(chosen)] for column in columns)
    logits = trainer.model(ids, attention_mask=columns[1][: len(ids)]).logits
    labels = torch.where(counted, ids, -100)
    nll = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1).double(), labels[:, 1:].flatten())
    theirs = answer(nll - trainer.odds_ratio_loss(chosen.double(), rejected.double())[0].mean(), trainer.model)

    side = ours(world)
    policy, _ = side.pairs(groups_of(*columns, 2))
    assert max(differences(side.answer(ORPO(normalization="token")(policy).loss.mean()), theirs)) < TOLERANCE


TRIPLES = {
    "tpo": ({"loss_type": "sigmoid", "tpo_alpha": 0.7}, TPO(beta=0.1, alpha=0.7, normalization="token")),
    "tpo-l": (
        {"loss_type": "tpo-l", "tpo_alpha": 1.0, "tpo_l_gamma": 0.3},
        TPO(beta=0.1, gamma=0.3, length_normalized=True, normalization="token"),
    ),
}


@pytest.mark.parametrize("case", TRIPLES)
def test_triples(case, world, rows, ours, answer, groups_of, differences, make_trainer) -> None:
    """A gold answer beside each pair: the rejected answer of the next row, so that lengths differ."""
    settings, loss = TRIPLES[case]
    golden = [{**row, "reference": other["rejected"]} for row, other in zip(rows, rows[1:] + rows[:1], strict=True)]
    trainer, inputs = make_trainer(TRAINERS["tpo"], world, golden, beta=0.1, **settings)
    theirs = answer(trainer._compute_loss(trainer.model, inputs, return_outputs=False), trainer.model)

    side = ours(world)
    groups = groups_of(inputs["input_ids"], inputs["attention_mask"], inputs["completion_mask"], 3)
    policy, _ = side.logps(groups)
    sizes, ranks = torch.full((len(rows),), 3), torch.tensor([2, 3, 1] * len(rows))
    objective = loss(policy, None, sizes, ranks).loss.mean()
    assert max(differences(side.answer(objective), theirs)) < TOLERANCE
