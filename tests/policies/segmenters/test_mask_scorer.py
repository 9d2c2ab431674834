"""Masks under a segmenter: the identities that make the losses of texts right for pixels."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from exptilt.data.groups import Completion, Group
from exptilt.labels import Desirable, Preferred
from exptilt.losses import DPO, KTO, NLL, LogSumExpAnchor
from exptilt.losses.anchors import LinearAnchor
from exptilt.losses.mixture import Mixture, Term
from exptilt.policies.segmenters.mask_scorer import CountedPixels, MaskScorer, MaskTable, with_distribution
from exptilt.policies.segmenters.segmenter import Segmenter
from exptilt.policies.segmenters.unet import UNet, UNetConfig
from exptilt.training.objective import Objective
from exptilt.types import LogProbs, Pair

CLASSES = 3


def row(seed, *, size=8, masks=2, ignore=0.0, identical=False):
    random = np.random.default_rng(seed)
    valid = random.random(size * size) >= ignore
    first = random.integers(0, CLASSES, size * size)
    completions = tuple(
        Completion(
            np.where(random.random(size * size) < 0.2, random.integers(0, CLASSES, size * size), first).astype(
                np.int32
            ),
            valid,
        )
        for _ in range(1 if identical else masks)
    )
    return Group(
        id=f"r:{seed}",
        prompt=random.random((1, size, size)).astype(np.float32),
        completions=completions * (2 if identical else 1),
        label=Preferred(1.0),
    )


def segmenter(seed=0, *, network=None):
    torch.manual_seed(seed)
    return Segmenter(network or UNet(UNetConfig(channels=1, classes=CLASSES, width=4, levels=2)))


class Batched(nn.Module):
    """A network whose normalisation has running statistics, and which drops out."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(8, CLASSES, 1)
        )

    def forward(self, images):
        return self.layers(images)


def by_hand(model, group, mask):
    """Sum of log-probabilities over valid pixels of one mask, in float64, one forward pass for it alone."""
    logits = model.network(torch.from_numpy(group.prompt)[None]).double()
    logps = torch.log_softmax(logits, 1)[0].flatten(1)
    return [logps[int(label), at].item() for at, label in enumerate(mask.ids) if mask.counted[at]]


def test_pixels_are_units():
    model, group = segmenter(), row(1, ignore=0.2)
    with torch.no_grad():
        logps = MaskScorer(model, CountedPixels("all", "sum"))([group])
        expected = [by_hand(model, group, mask) for mask in group.completions]
    assert logps.lengths.tolist() == [len(one) for one in expected]
    assert logps.sum().tolist() == pytest.approx([math.fsum(one) for one in expected], abs=1e-4)


@pytest.mark.parametrize("reduce", ["sum", "mean"])
def test_only_differing_pixels_count_and_terms_on_likelihoods_see_all(reduce):
    model, group = segmenter(), row(2, ignore=0.1)
    with torch.no_grad():
        logps = MaskScorer(model, CountedPixels("differing", reduce))([group])
        first, second = (by_hand(model, group, mask) for mask in group.completions)
    valid = group.completions[0].counted
    differs = (group.completions[0].ids != group.completions[1].ids)[valid]
    assert 0 < differs.sum() < len(differs)
    total = math.fsum if reduce == "sum" else (lambda values: math.fsum(values) / len(list(values)))
    own = [total([value for value, there in zip(side, differs, strict=True) if there]) for side in (first, second)]
    assert logps.sum().tolist() == pytest.approx(own, abs=1e-4)
    assert logps.everywhere().sum().tolist() == pytest.approx([total(first), total(second)], abs=1e-4)


def test_agreement_cancels_in_every_margin_of_sums():
    model, other, group = segmenter(0), segmenter(1), row(3)
    margins = []
    for units in ("all", "differing"):
        with torch.no_grad():
            policy, reference = (MaskScorer(one, CountedPixels(units, "sum"))([group]).sum() for one in (model, other))
        margins.append(((policy[0] - policy[1]) - (reference[0] - reference[1])).item())
    assert margins[0] == pytest.approx(margins[1], abs=1e-4)


def test_identical_masks_have_no_gradient_on_agreement_pixels():
    model, group = segmenter(), row(4)
    logits = torch.randn(1, CLASSES, 8, 8, requires_grad=True)
    scorer = MaskScorer(Segmenter(nn.Identity(), lambda _: logits), CountedPixels())
    scorer.model.network.register_parameter("nothing", nn.Parameter(torch.zeros(1)))
    chosen, rejected = scorer([group]).sides()
    DPO(beta=1.0)(Pair(chosen, rejected), Pair(chosen.detach(), rejected.detach())).loss.sum().backward()
    differs = torch.from_numpy(group.completions[0].ids != group.completions[1].ids).view(8, 8)
    moved = logits.grad[0].abs().sum(0) > 0
    assert torch.equal(moved, differs)
    assert model.training is False


def test_few_differing_pixels_of_a_large_image_keep_their_digits():
    """64 of 1024 x 1024 pixels: sums over all pixels in float32 lose the margin, sums over the differing ones do not."""
    size = 1024
    random = np.random.default_rng(0)
    masks = [random.integers(0, 2, size * size).astype(np.int32)]
    masks.append(masks[0].copy())
    masks[1][random.choice(size * size, 64, replace=False)] ^= 1
    group = Group(
        id="large",
        prompt=np.zeros((1, size, size), np.float32),
        completions=tuple(Completion(ids, np.ones(size * size, bool)) for ids in masks),
    )
    margins = {}
    for dtype in (torch.float32, torch.float64):
        sums = []
        for seed in (0, 1):
            logits = torch.randn(1, 2, size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
            own = torch.log_softmax(logits.to(dtype), 1)
            scorer = MaskScorer(_fixed(own), CountedPixels("differing", "mean"))
            sums.append(scorer([group]).sum().double())
        margins[dtype] = ((sums[0][0] - sums[0][1]) - (sums[1][0] - sums[1][1])).item()
    assert margins[torch.float32] == pytest.approx(margins[torch.float64], abs=1e-6)


def _fixed(log_probabilities):
    model = segmenter()
    model.log_probabilities = lambda images: log_probabilities
    return model


def test_what_one_mask_ignores_earns_no_margin():
    """Valid pixels are one set for a row: two equal masks have equal log-probabilities whatever is ignored."""
    model, group = segmenter(), row(5, ignore=0.5, identical=True)
    with torch.no_grad():
        logps = MaskScorer(model, CountedPixels("all", "sum"))([group]).sum()
    assert logps[0] == logps[1]


@pytest.mark.parametrize("network", [None, Batched])
def test_step_zero_is_zero(network):
    """Also with batch normalisation and dropout, after `train()` was called and with another batch composition."""
    model = segmenter(network=network() if network else None)
    reference = MaskScorer(copy.deepcopy(model))
    groups = [row(seed) for seed in range(4)]
    table = MaskTable.of(reference, groups, source="start", at_once=1)
    before = copy.deepcopy(model.state_dict())
    model.train()
    policy = MaskScorer(model)(groups)
    output = Objective(DPO(beta=1.0))(groups, policy, table(groups))
    assert output.sums.means()["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert output.sums.means()["rewards/margins"] == pytest.approx(0, abs=1e-6)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_order_of_pixels_makes_no_difference():
    model, group = segmenter(), row(6)
    order = np.random.default_rng(0).permutation(64)
    logits = torch.randn(1, CLASSES, 8, 8)
    moved = logits.flatten(2)[:, :, torch.from_numpy(order)].view(1, CLASSES, 8, 8)
    turned = Group(
        id="t",
        prompt=group.prompt,
        completions=tuple(Completion(one.ids[order], one.counted[order]) for one in group.completions),
    )
    first = MaskScorer(_fixed(torch.log_softmax(logits, 1)))([group]).sum()
    second = MaskScorer(_fixed(torch.log_softmax(moved, 1)))([turned]).sum()
    assert first.tolist() == pytest.approx(second.tolist(), abs=1e-6)
    assert model.device.type == "cpu"


def sides(*totals):
    return [
        LogProbs.from_sums(torch.tensor(total, dtype=torch.float64), torch.ones(len(total), dtype=torch.int64))
        for total in totals
    ]


def test_the_linear_anchor_is_dpo_with_a_negative_label_smoothing():
    """DPO + a/beta-weighted linear term = cDPO with smoothing -a/beta, up to a constant: gradients agree to 1e-12."""
    beta, alpha = 1.0, 0.1
    chosen = torch.tensor([-3.0, -0.5, -7.0], dtype=torch.float64, requires_grad=True)
    rejected = torch.tensor([-2.5, -4.0, -6.5], dtype=torch.float64, requires_grad=True)
    ref = Pair(*sides([-3.2, -1.0, -6.0], [-2.0, -3.0, -6.6]))
    ones = torch.ones(3, dtype=torch.int64)
    policy = Pair(LogProbs.from_sums(chosen, ones), LogProbs.from_sums(rejected, ones))
    anchored = DPO(beta=beta)(policy, ref).loss + alpha * LinearAnchor(level="sum")(policy, ref).loss
    h = beta * ((chosen - rejected) - (ref.chosen.sum() - ref.rejected.sum()))
    eps = -alpha / beta
    smoothed = -(1 - eps) * torch.nn.functional.logsigmoid(h) - eps * torch.nn.functional.logsigmoid(-h)
    first = torch.autograd.grad(anchored.sum(), (chosen, rejected))
    second = torch.autograd.grad(smoothed.sum(), (chosen, rejected))
    for one, other in zip(first, second, strict=True):
        assert one.tolist() == pytest.approx(other.tolist(), abs=1e-12)


def test_log_sum_exp_of_sums_has_the_gradient_of_nll_at_image_scale():
    chosen = torch.tensor([-40000.0], dtype=torch.float64, requires_grad=True)
    rejected = torch.tensor([-41000.0], dtype=torch.float64, requires_grad=True)
    ones = torch.ones(1, dtype=torch.int64)
    policy = Pair(LogProbs.from_sums(chosen, ones), LogProbs.from_sums(rejected, ones))
    reference = Pair(*sides([-40500.0], [-40600.0]))
    anchor = LogSumExpAnchor(level="sum")(policy, reference).loss
    gradient = torch.autograd.grad(anchor.sum(), (chosen, rejected))
    assert [float(one) for one in gradient] == [-1.0, 0.0]


def test_a_mixture_gives_each_term_its_units():
    model, group = segmenter(), row(7)
    loss = Mixture(terms=(Term(loss=DPO(beta=1.0)), Term(loss=NLL(), weight=2.0)))
    policy = MaskScorer(model)([group])
    table = MaskTable.of(MaskScorer(model), [group], source="start")
    value = Objective(loss)([group], policy, table([group])).sums.means()["loss"]
    whole = policy.everywhere().sum()[0].item()
    assert value == pytest.approx(math.log(2) - 2 * whole, abs=1e-5)
    assert policy.sum()[0].item() != pytest.approx(whole, abs=1e-3)


def test_rows_that_differ_in_what_they_ignore_have_log_probabilities_of_their_own():
    model, whole = segmenter(), row(8)
    ignoring = np.arange(64) % 2 == 0
    part = Group(
        id="part",
        prompt=whole.prompt,
        completions=tuple(Completion(one.ids, ignoring) for one in whole.completions),
        label=whole.label,
    )
    table = MaskTable.of(MaskScorer(model), [whole, part], source="start")
    with torch.no_grad():
        for group in (whole, part):
            expected = MaskScorer(model)([group])
            assert table([group]).everywhere().sum().tolist() == pytest.approx(
                expected.everywhere().sum().tolist(), abs=1e-6
            )


def marks(count):
    """Single masks, good and bad in turn, each of an image of its own and some pixels ignored."""
    rows = [row(seed, ignore=0.2) for seed in range(count)]
    return [
        Group(id=one.id, prompt=one.prompt, completions=one.completions[:1], label=Desirable(at % 2 == 0))
        for at, one in enumerate(rows)
    ]


@pytest.mark.parametrize("reduce", ["sum", "mean"])
def test_the_reference_point_of_kto_is_the_exact_kl_of_the_batch(reduce):
    """z0 by hand, from softmaxes in float64; what draws of masks would estimate; and no gradient through it."""
    start, moved, groups = segmenter(0), segmenter(1), [with_distribution(one) for one in marks(4)]
    pixels = CountedPixels("differing", reduce)
    table = MaskTable.of(MaskScorer(start, pixels, start), groups, source="start")
    policy = MaskScorer(moved, pixels, start)
    scored = policy(groups)
    assert table(groups).sum()[1::2].tolist() == [0] * 4
    divergences, ratios = [], []
    for group in groups:
        valid = torch.from_numpy(group.completions[0].counted)
        logs = [
            torch.log_softmax(one.network(torch.from_numpy(group.prompt)[None]).double(), 1)[0].flatten(1)[:, valid]
            for one in (moved, start)
        ]
        total = (lambda values: values.sum().item()) if reduce == "sum" else (lambda values: values.mean().item())
        divergences.append(total((logs[0].exp() * (logs[0] - logs[1])).sum(0)))
        ids = torch.from_numpy(group.completions[0].ids).long()[valid]
        ratios.append(total((logs[0] - logs[1]).gather(0, ids[None])[0]))
    assert scored.sum()[1::2].tolist() == pytest.approx(divergences, rel=1e-4)
    kto, z0 = KTO(beta=0.5), np.mean(divergences)
    sign = np.array([1, -1, 1, -1])
    expected = np.mean(1 / (1 + np.exp(0.5 * sign * (np.array(ratios) - z0))))
    output = Objective(kto)(groups, scored, table(groups))
    assert output.sums.means()["loss"] == pytest.approx(expected, rel=1e-4)
    output.loss.backward()
    gradient = [weights.grad.clone() for weights in moved.parameters()]
    moved.zero_grad()
    fixed = torch.tensor(z0)
    with_graph = MaskScorer(moved, pixels)(
        [Group(id="x", prompt=g.prompt, completions=g.completions[:1]) for g in groups]
    )
    ratio = with_graph.sum() - table(groups).sum()[0::2]
    (torch.from_numpy(sign) * 0.5 * (fixed - ratio)).sigmoid().sum().backward()
    for one, weights in zip(gradient, moved.parameters(), strict=True):
        assert torch.allclose(one, weights.grad, atol=1e-5, rtol=1e-3)


def test_which_mask_of_a_row_ignores_a_pixel_makes_no_difference():
    """Ignore symmetry: the ignore sets of both are united, and exchanged sides have exactly the opposite margin."""
    from exptilt.data.masks.manifest import MaskRow
    from exptilt.data.masks.mask_set import Pixels, group_of

    random, model, other = np.random.default_rng(0), segmenter(0), segmenter(1)
    image = random.random((1, 8, 8)).astype(np.float32)
    first, second = random.integers(0, CLASSES, (2, 8, 8)).astype(np.int32)
    hidden = random.random((8, 8)) < 0.3
    ignoring_first, ignoring_second = np.where(hidden, -1, first), np.where(hidden, -1, second)

    def margin(chosen, rejected):
        group = group_of(MaskRow("r", None, (None, None), None), Pixels(image, np.stack([chosen, rejected]), None))
        with torch.no_grad():
            policy, reference = (MaskScorer(one)([group]).sum() for one in (model, other))
        return ((policy[0] - policy[1]) - (reference[0] - reference[1])).item()

    both = margin(ignoring_first, ignoring_second)
    assert margin(ignoring_first, second) == margin(first, ignoring_second) == both
    assert margin(second, ignoring_first) == -both
    assert margin(first, second) != both
