from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from exptilt.errors import ModelError
from exptilt.policies.engine import tiles
from exptilt.policies.engine.attention import segments_attention
from exptilt.policies.engine.flex import attend_with_flex
from exptilt.policies.engine.packing import pack
from exptilt.policies.engine.spans import Asked
from exptilt.policies.engine.tiles import Stretch, attend_in_tiles, stretches_of

HEADS, KEY_HEADS, WIDTH = 4, 2, 6


def visible(groups, window):
    """The dense (T, T) rule: own prompt and own completion, nothing later, nothing beyond the window."""
    owners = []
    for place, group in enumerate(groups):
        owners += [(place, -1, position) for position in range(len(group.prompt))]
        for number, completion in enumerate(group.completions):
            owners += [(place, number, len(group.prompt) + position) for position in range(len(completion.ids) - 1)]
    return torch.tensor(
        [[q[0] == k[0] and k[1] in (-1, q[1]) and 0 <= q[2] - k[2] < (window or 10**6) for k in owners] for q in owners]
    )


def dense(query, key, value, mask, scaling, softcap, sinks):
    repeats = HEADS // KEY_HEADS
    scores = query @ key.repeat_interleave(repeats, 1).transpose(-1, -2) * scaling
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.masked_fill(~mask, float("-inf")).exp()
    total = scores.sum(-1, keepdim=True)
    if sinks is not None:
        total = total + sinks.exp()[None, :, None, None]
    return (scores / total) @ value.repeat_interleave(repeats, 1)


@pytest.mark.parametrize("window", [None, 1, 4, 30, 45])
@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("sinks", [False, True])
@pytest.mark.parametrize("long", [False, True])
def test_equals_dense_attention_with_gradients(groups, make_group, window, softcap, sinks, long, monkeypatch) -> None:
    if long:  # sequences of many tiles
        groups = [make_group(40, 30, 1, 25), make_group(3, 50), make_group(1, 2), make_group(20, 40, 4)]
        monkeypatch.setattr(tiles, "_TILE", 16)
    packed = pack(groups)
    generator = torch.Generator().manual_seed(0)

    def draw(heads, width=WIDTH):
        tensor = torch.randn(1, heads, packed.input_ids.numel(), width, generator=generator, dtype=torch.float64)
        return tensor.requires_grad_()

    inputs = [draw(HEADS), draw(KEY_HEADS), draw(KEY_HEADS, WIDTH - 1)]
    s_aux = torch.randn(HEADS, generator=generator, dtype=torch.float64).requires_grad_() if sinks else None
    upstream = draw(HEADS, WIDTH - 1)
    options = {"scaling": 0.7, "sliding_window": window, "softcap": softcap, "s_aux": s_aux}
    output, _ = segments_attention(torch.nn.Module(), *inputs, None, segments=packed.segments, **options)
    expected = dense(*inputs, visible(groups, window), 0.7, softcap, s_aux)
    torch.testing.assert_close(output.transpose(1, 2), expected, rtol=1e-9, atol=1e-9)
    asked = [*inputs, s_aux] if sinks else inputs
    found = torch.autograd.grad((output.transpose(1, 2) * upstream).sum(), asked)
    wanted = torch.autograd.grad((expected * upstream).sum(), asked)
    for gradient, true in zip(found, wanted, strict=True):
        torch.testing.assert_close(gradient, true, rtol=1e-9, atol=1e-9)


def test_dropout_keeps_its_share_and_backward_drops_what_forward_did(make_group, monkeypatch) -> None:
    monkeypatch.setattr(tiles, "_TILE", 16)
    packed = pack([make_group(4, 20, 3), make_group(1, 2)])
    size = packed.input_ids.numel()
    generator = torch.Generator().manual_seed(0)
    inputs = [
        torch.randn(1, heads, size, 2, generator=generator, dtype=torch.float64).requires_grad_()
        for heads in (HEADS, KEY_HEADS, KEY_HEADS)
    ]

    def attend(*rows):
        torch.manual_seed(1)
        return segments_attention(torch.nn.Module(), *rows, None, segments=packed.segments, dropout=0.3)[0]

    assert torch.autograd.gradcheck(attend, inputs)
    plain = segments_attention(torch.nn.Module(), *inputs, None, segments=packed.segments)[0]
    assert not torch.allclose(attend(*inputs), plain)
    # The first query sees one key, which is dropped, or kept and divided by 0.7.
    torch.manual_seed(0)
    kept = [
        segments_attention(torch.nn.Module(), *inputs, None, segments=packed.segments, dropout=0.3)[0][0, 0, :, 0]
        for _ in range(500)
    ]
    shares = torch.stack(kept).detach() / plain[0, 0, :, 0].detach()
    assert set(shares.mul(0.7).round(decimals=6).flatten().tolist()) == {0.0, 1.0}
    assert float((shares != 0).double().mean()) == pytest.approx(0.7, abs=4 * (0.21 / 2000) ** 0.5)


@pytest.fixture
def drawn(groups):
    """A packed row, and queries, keys, values and an upstream gradient for it."""
    packed = pack(groups)
    generator = torch.Generator().manual_seed(0)
    rows = [
        torch.randn(1, packed.input_ids.numel(), heads, WIDTH, generator=generator, dtype=torch.float64).transpose(1, 2)
        for heads in (HEADS, KEY_HEADS, KEY_HEADS, HEADS)
    ]
    return packed, [row.requires_grad_() for row in rows[:3]], rows[3]


@pytest.mark.parametrize("tile", [2, 7, 192])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_tiles_equal_dense_attention_with_gradients(dtype, tile, groups, drawn, monkeypatch) -> None:
    monkeypatch.setattr(tiles, "_TILE", tile)
    packed, inputs, upstream = drawn
    expected = dense(*inputs, visible(groups, None), 0.7, None, None)
    wanted = torch.autograd.grad((expected * upstream).sum(), inputs)
    given = [tensor.detach().to(dtype).requires_grad_() for tensor in inputs]
    output = attend_in_tiles(*given, stretches_of(packed.segments.spans), Asked(0.7))
    assert output.dtype == dtype
    tolerance = {torch.float64: 1e-9, torch.float32: 1e-5, torch.bfloat16: 0.05}[dtype]
    torch.testing.assert_close(output.double(), expected, rtol=tolerance, atol=tolerance)
    found = torch.autograd.grad((output * upstream).sum(), given)
    for gradient, true in zip(found, wanted, strict=True):
        torch.testing.assert_close(gradient.double(), true, rtol=2 * tolerance, atol=2 * tolerance)


def places(packed) -> list[tuple[int, int, int, int]]:
    return [(one.begin, one.end, one.prompt, one.lead) for one in packed.segments.stretches()]


def test_stretches_cover_the_row_and_tiles_cover_stretches(make_group, monkeypatch) -> None:
    monkeypatch.setattr(tiles, "_TOGETHER", 1)
    packed = pack([make_group(4, 3, 6, 1, 2), make_group(5, 1, 2)])
    assert places(packed) == [(0, 6, 0, 0), (6, 11, 0, 4), (11, 12, 0, 4), (12, 17, 12, 0), (17, 18, 12, 5)]
    cut = list(Stretch(500, 900, 100, 50).tiles(heads=4))
    assert [(tile.place, tile.keys) for tile in cut] == [
        (slice(500, 634), slice(0, 184)),
        (slice(634, 768), slice(0, 318)),
        (slice(768, 900), slice(0, 450)),
    ]
    assert next(Stretch(0, 8000, 0, 0).tiles(heads=32))[:2] == (slice(0, 62), slice(0, 62))


def test_a_window_leaves_out_the_keys_that_no_query_of_a_tile_sees() -> None:
    cut = list(Stretch(500, 900, 100, 50, window=100).tiles(heads=4))
    # the first query of the second tile is the 185th of its sequence and sees the 86th to the 185th
    assert [(tile.keys, tile.behind) for tile in cut] == [
        (slice(0, 184), 50),
        (slice(85, 318), 1),
        (slice(219, 450), 1),
    ]


def test_short_sequences_are_worked_on_together_while_their_keys_lie_in_one_piece(make_group, monkeypatch) -> None:
    monkeypatch.setattr(tiles, "_TOGETHER", 12)
    rows = [make_group(4, 3, 6, 1), make_group(2, 3, 2), make_group(9, 5, 4, 7, 8), make_group(1, 2)]
    # 11 tokens with the first prompt; the next group has 5; a prompt that is too long, its completions by two; the rest
    assert places(pack(rows)) == [
        (0, 11, 0, 0),
        (11, 16, 11, 0),
        (16, 29, 16, 0),
        (29, 38, 16, 9),
        (38, 45, 16, 9),
        (45, 47, 45, 0),
    ]


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize(
    ("window", "softcap", "sinks"), [(None, None, False), (4, None, False), (None, 1.5, False), (4, 1.5, True)]
)
def test_flex_rules_equal_dense_attention(window, softcap, sinks, groups) -> None:
    """Without a GPU the rules run uncompiled, in the forward pass."""
    packed = pack(groups, multiple=128)
    real = sum(len(group.prompt) + sum(len(one.ids) - 1 for one in group.completions) for group in groups)
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, heads, 256, 8, generator=generator) for heads in (HEADS, KEY_HEADS, KEY_HEADS))
    s_aux = torch.randn(HEADS, generator=generator) if sinks else None
    output = attend_with_flex(query, key, value, packed.segments.flex, Asked(0.7, window, softcap, s_aux))
    expected = dense(*(t[:, :, :real] for t in (query, key, value)), visible(groups, window), 0.7, softcap, s_aux)
    assert packed.input_ids.numel() == 256 > real
    assert output.isfinite().all()
    torch.testing.assert_close(output[:, :, :real], expected, rtol=1e-5, atol=1e-5)


def test_without_segments_soft_capped_attention_is_causal_and_heeds_a_mask() -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(2, heads, 5, WIDTH, generator=generator) for heads in (HEADS, KEY_HEADS, KEY_HEADS)
    )
    causal = torch.ones(5, 5).tril().bool()
    options = {"scaling": 0.5, "softcap": 2.0}
    plain, _ = segments_attention(torch.nn.Module(), query, key, value, None, **options)
    torch.testing.assert_close(plain.transpose(1, 2), dense(query, key, value, causal, 0.5, 2.0, None))
    last, _ = segments_attention(torch.nn.Module(), query[:, :, -1:], key, value, None, **options)
    torch.testing.assert_close(last, plain[:, -1:])
    padded = causal & (torch.arange(5) > 0)
    padded[0, 0] = True
    masked, _ = segments_attention(torch.nn.Module(), query, key, value, padded[None, None], **options)
    torch.testing.assert_close(masked.transpose(1, 2), dense(query, key, value, padded, 0.5, 2.0, None))


@pytest.mark.parametrize("options", [{}, {"dropout": 0.1}, {"softcap": 2.0}, {"sliding_window": 3}, {"s_aux": "sinks"}])
def test_memory_is_counted_on_fake_tensors_whatever_a_layer_asks(options, groups) -> None:
    packed = pack(groups)
    with FakeTensorMode():
        rows = torch.randn(1, HEADS, packed.input_ids.numel(), WIDTH, requires_grad=True)
        given = {name: torch.zeros(HEADS) if value == "sinks" else value for name, value in options.items()}
        output, _ = segments_attention(torch.nn.Module(), rows, rows, rows, None, segments=packed.segments, **given)
        output.sum().backward()
    assert rows.grad.shape == rows.shape


def test_position_bias_is_refused(groups) -> None:
    rows = torch.zeros(1, HEADS, 3, WIDTH)
    with pytest.raises(ModelError, match="Module adds a position bias"):
        segments_attention(
            torch.nn.Module(), rows, rows, rows, None, segments=pack(groups).segments, position_bias=torch.zeros(1)
        )
