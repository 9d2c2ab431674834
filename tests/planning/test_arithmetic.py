"""Operations and bytes by hand, for a Llama of 2 blocks, width 8, feed-forward 16, vocabulary 10."""

import dataclasses

import pytest
import torch

from exptilt.planning.arithmetic import Load, Manner, Storage, forward_flops, memory_parts, step_flops
from exptilt.planning.model_size import Kept, ModelSize
from exptilt.policies.engine.head import CHUNK_ELEMENTS

BODY, HEAD, TOTAL = 2 * (4 * 8 * 8 + 3 * 8 * 16), 80, 1480
FULL = ModelSize(
    architecture="Llama", layers=2, width=8, vocabulary=10, attention=8, total=TOTAL, trained=TOTAL, body=BODY, head=HEAD,
    adapter=0, body_trained=True, head_trained=True,
)  # fmt: skip
LORA = dataclasses.replace(FULL, total=TOTAL + 544, trained=544, adapter=544, body_trained=False, head_trained=False)
LOAD = Load(groups=1, tokens=8, counted=6, pairs=32)
KEPT = Kept(fixed=0.0, base=100.0, block=1000.0, counted=True)
STORAGE = Storage(weights=torch.float32, products=torch.float32, gpu=False)


def test_operations_of_a_step_by_hand():
    forward = 2 * BODY * 8 + 4 * 2 * 8 * 32 + 2 * HEAD * 6
    assert forward_flops(FULL, LOAD) == forward == 23_488
    assert step_flops(FULL, LOAD, Manner()) == 6 * BODY * 8 + 6 * HEAD * 6 + 14 * 2 * 8 * 32


def test_frozen_weights_have_no_gradient_of_their_own():
    own = 6 * 544 * 8
    assert step_flops(LORA, LOAD, Manner()) == 4 * BODY * 8 + own + 4 * HEAD * 6 + 14 * 2 * 8 * 32


def test_what_is_scored_again_costs_again():
    plain, forward = step_flops(FULL, LOAD, Manner()), forward_flops(FULL, LOAD)
    assert step_flops(FULL, LOAD, Manner(coupled=True)) == plain + forward
    assert step_flops(FULL, LOAD, Manner(coupled=True, live_reference=True)) == plain + 2 * forward
    assert step_flops(FULL, LOAD, Manner(checkpointing=True)) == plain + forward - 2 * HEAD * 6


def parts(size=FULL, storage=STORAGE, tokens=1000, micro_batches=2, checkpointing=False):
    return memory_parts(size, KEPT, storage, tokens=tokens, micro_batches=micro_batches, checkpointing=checkpointing)


def test_bytes_of_full_training():
    found = parts()
    assert (found["weights"], found["gradients"], found["optimizer"]) == (4 * TOTAL, 4 * TOTAL, 8 * TOTAL)
    assert found["activations"] == pytest.approx(1000 * (100 + 2 * 1000) + 1000 * 3 * 1000 / 6)
    assert found["logits"] == 16 * CHUNK_ELEMENTS + 8 * 1000 * 8
    assert found["reference model"] == found["driver and libraries"] == found["gathered weights"] == 0


def test_bytes_of_an_adapter_on_bfloat16_and_on_four_bits():
    half = dataclasses.replace(STORAGE, weights=torch.bfloat16, products=torch.bfloat16)
    found = parts(LORA, half)
    assert (found["weights"], found["gradients"], found["optimizer"]) == (2 * TOTAL + 4 * 544, 4 * 544, 8 * 544)
    assert parts(LORA, dataclasses.replace(half, four_bits=True))["weights"] == pytest.approx(0.52 * TOTAL + 4 * 544)


def test_shards_divide_what_is_kept_and_gather_what_is_used():
    found = parts(storage=dataclasses.replace(STORAGE, products=torch.bfloat16, shards=4))
    assert (found["weights"], found["optimizer"]) == (TOTAL, 2 * TOTAL)
    rest = TOTAL - BODY
    assert found["gathered weights"] == 2 * (2 * BODY / 2 + rest) + 4 * BODY / 2
    assert parts(storage=dataclasses.replace(STORAGE, shards=4, offload=True))["weights"] == 0


def test_one_micro_batch_never_holds_a_whole_gradient_beside_all_activations():
    many = parts(tokens=1000)
    one = parts(tokens=1000, micro_batches=1)  # activations are the larger: of the gradient only the head's is there
    assert one == many | {"gradients": 4 * HEAD}
    few = parts(tokens=1, micro_batches=1)
    assert few["activations"] == 0
    assert few["gradients"] == 4 * TOTAL


def test_checkpointing_keeps_one_block_and_the_stream_between_them():
    found = parts(checkpointing=True)["activations"]
    assert found == pytest.approx(1000 * (100 + 1000 + 2 * 4 * 8) + 1000 * 3 * 1000 / 6)
