"""Every causal language model of transformers, tiny and with random weights: packed, padded, alone, or refused?

    python benchmarks/architectures.py [--only llama gpt2] [--output architectures.json]

Each kind is built in a forked process of its own (some take minutes, some crash) from the class's defaults made small, goes through
the self-check, and is then compared with its own forward on rows that the probe never saw, one row a call: the
largest difference of a token's log-probability in nats, packed or padded as exptilt would run it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import warnings
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from exptilt.data.groups import Completion, Group
from exptilt.errors import ExptiltError
from exptilt.policies.engine.self_check import _CHECKED, packable
from exptilt.policies.scoring import score
from exptilt.wording import in_one_line

LIMIT = 60
"""Seconds for one kind."""
SMALL: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 32,
    "d_model": 32,
    "n_embd": 32,
    "dim": 32,
    "embedding_size": 32,
    "word_embed_proj_dim": 32,
    "intermediate_size": 48,
    "ffn_dim": 48,
    "n_inner": 48,
    "d_ff": 48,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "ffn_hidden_size": 48,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "num_hidden_layers": 2,
    "n_layer": 2,
    "n_layers": 2,
    "num_layers": 2,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "num_attention_heads": 4,
    "n_head": 4,
    "n_heads": 4,
    "num_heads": 4,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "rotary_dim": 4,
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_num_heads": 8,
    "mamba_head_dim": 8,
    "mamba_n_groups": 1,
    "n_groups": 1,
    "n_mamba_heads": 2,
    "num_memory_blocks": 1,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "kv_lora_rank": 8,
    "q_lora_rank": 8,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "max_position_embeddings": 128,
    "n_positions": 128,
    "n_ctx": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
"""Names that configurations use, and small values; only what a class knows is set."""
UNSET = ("num_experts_per_tok", "head_dim", "num_key_value_heads", "num_attention_heads", "n_group", "topk_group")
"""Of these, what is set also where a class leaves them empty."""


def main() -> None:
    """Run every kind and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for kind in given.only or sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES):
        row = in_a_process(kind)
        rows.append(row)
        error = format(row["error"], ".1e") if "error" in row else ""
        print(f"{row['kind']:28} {row['outcome']:10} {error:<10} {row['why'][:150]}", flush=True)
    if given.output:
        given.output.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    print(dict(Counter(row["outcome"] for row in rows)))
    compared = [row for row in rows if "error" in row]
    if compared:
        worst = max(compared, key=lambda row: row["error"])
        print(f"largest difference: {worst['error']:.2g} nats ({worst['kind']}), {len(compared)} kinds compared")


def in_a_process(kind: str) -> dict[str, Any]:
    """What `measured` says, or why it could not."""
    fork = multiprocessing.get_context("fork")
    ours, theirs = fork.Pipe(duplex=False)
    process = fork.Process(target=_tell, args=(theirs, kind))
    process.start()
    theirs.close()
    try:
        if not ours.poll(LIMIT):
            return {"kind": kind, "outcome": "not built", "why": f"took more than {LIMIT} s"}
        found: dict[str, Any] = ours.recv()
        return found
    except EOFError:
        return {"kind": kind, "outcome": "not built", "why": "its process died"}
    finally:
        process.kill()
        process.join()


def _tell(pipe: Connection, kind: str) -> None:
    pipe.send(measured(kind))


def measured(kind: str) -> dict[str, Any]:
    """One kind: how exptilt runs it, and how far that is from its own forward."""
    warnings.simplefilter("ignore")
    try:
        model = tiny(kind)
    except Exception as error:
        return {"kind": kind, "outcome": "not built", "why": in_one_line(error)}
    try:
        packable(model)
        check = _CHECKED[model]
        outcome = "packed" if check.packed else "alone" if check.alone else "padded"
        rows = groups()
        with torch.no_grad():
            mine, own = score(model, rows).tokens(), own_forward(model, rows)
        return {"kind": kind, "outcome": outcome, "error": float((mine - own).abs().max()), "why": check.reason}
    except ExptiltError as error:
        return {"kind": kind, "outcome": "refused", "why": str(error)}
    except Exception as error:
        return {"kind": kind, "outcome": "failed", "why": f"{type(error).__name__}: {in_one_line(error)}"}


def tiny(kind: str) -> Any:
    """A model of this kind with weights large enough that every part of it matters."""
    config = AutoConfig.for_model(kind)
    for part in (config, config.get_text_config()):
        shrink(part)
    config.is_decoder = True
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


def shrink(config: Any) -> None:
    """Make every size that the class knows small, and cut lists of layers to the first two."""
    known = set(vars(config)) | set(getattr(config, "attribute_map", {}))
    for name, value in SMALL.items():
        try:
            before = getattr(config, name, None)
        except ValueError:  # some differ by layer
            continue
        if name in known and not isinstance(before, list) and (before is not None or name in UNSET):
            setattr(config, name, value)
    if "kv_lora_rank" in known:  # latent attention has as many heads of keys as of queries
        config.num_key_value_heads = SMALL["num_attention_heads"]
    for name, value in list(vars(config).items()):
        if isinstance(value, list) and name in ("layer_types", "mlp_layer_types", "layers_block_type"):
            setattr(config, name, some_of_each(value))


def some_of_each(kinds: list[Any]) -> list[Any]:
    """Two layers, of two kinds where there are two."""
    different = list(dict.fromkeys(kinds))
    return (different * 2)[:2] if different else kinds


def groups() -> list[Any]:
    """Rows the self-check has not seen: short and long, one token and twenty, several completions of one prompt."""
    draw = np.random.default_rng(5)

    def ids(length: int) -> Any:
        return draw.integers(3, SMALL["vocab_size"], length, dtype=np.int32)

    shapes = [(6, (5, 20)), (14, (3, 1, 6)), (40, (25, 2)), (2, (1, 1))]
    return [
        Group(
            id=str(prompt),
            prompt=ids(prompt),
            completions=tuple(Completion(ids(length), np.ones(length, dtype=np.bool_)) for length in lengths),
        )
        for prompt, lengths in shapes
    ]


def own_forward(model: Any, rows: list[Any]) -> Any:
    """(N,) log-probabilities by the model's own forward, one sequence a call."""
    found = []
    model.set_attn_implementation("sdpa" if model._supports_sdpa else "eager")
    for group in rows:
        for one in group.completions:
            ids = torch.from_numpy(np.concatenate([group.prompt, one.ids]).astype(np.int64))
            logits = model(input_ids=ids[None, :-1], use_cache=False).logits[0].double().log_softmax(-1)
            begin = len(group.prompt) - 1
            found.append(logits[begin:].gather(1, ids[begin + 1 :, None]).squeeze(1))
    return torch.cat(found).float()


if __name__ == "__main__":
    main()
