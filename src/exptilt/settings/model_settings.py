"""Settings of models: where weights start, which adapter is trained, what the policy is measured against."""

from __future__ import annotations

from typing import Literal

from exptilt.settings.declaration import config


@config
class SmallModel:
    """An architecture to train from scratch.

    Example:
        >>> SmallModel(hidden_size=64, num_layers=2, num_heads=4, max_positions=128).num_layers
        2
    """

    architecture: Literal["llama", "gpt2"] = "llama"
    """Which family of transformers."""
    hidden_size: int = 128
    """Width of the residual stream."""
    num_layers: int = 3
    """Number of blocks."""
    num_heads: int = 4
    """Attention heads; must divide hidden_size."""
    num_key_value_heads: int | None = None
    """Heads of keys and values, fewer for grouped attention; divides num_heads. Not for gpt2. Default: num_heads."""
    intermediate_size: int | None = None
    """Width inside a block's feed-forward part. Default: 4 * hidden_size for gpt2, 8/3 * hidden_size for llama."""
    max_positions: int = 256
    """Longest sequence, tokens."""
    vocab_size: int = 4096
    """Size of the byte-level tokenizer that is trained on the training text where none is given, >= 259."""
    tie_embeddings: bool = True
    """Whether input and output embeddings are one matrix."""
    initializer_range: float = 0.02
    """Standard deviation of the initial weights."""

    def __post_init__(self) -> None:
        least = {"hidden_size": 1, "num_layers": 1, "num_heads": 1, "max_positions": 1, "vocab_size": 259}
        for name, smallest in least.items():
            if getattr(self, name) < smallest:
                raise ValueError(f"{name} must be >= {smallest}, got {getattr(self, name)}")
        if self.hidden_size % self.num_heads:
            raise ValueError(f"hidden_size must be a multiple of num_heads = {self.num_heads}, got {self.hidden_size}")
        if self.architecture == "llama" and self.hidden_size // self.num_heads % 2:
            raise ValueError(
                f"hidden_size / num_heads must be even for llama, got {self.hidden_size // self.num_heads}"
            )
        if self.num_key_value_heads is not None:
            if self.architecture != "llama":
                raise ValueError("num_key_value_heads is only for llama")
            if self.num_key_value_heads < 1 or self.num_heads % self.num_key_value_heads:
                raise ValueError(
                    f"num_key_value_heads must divide num_heads = {self.num_heads}, got {self.num_key_value_heads}"
                )
        if self.intermediate_size is not None and self.intermediate_size < 1:
            raise ValueError(f"intermediate_size must be >= 1, got {self.intermediate_size}")
        if self.initializer_range <= 0:
            raise ValueError(f"initializer_range must be > 0, got {self.initializer_range}")


@config
class ModelConfig:
    """Which model to start from: `path`, or `config` to train one from scratch.

    Example:
        >>> ModelConfig(path="Qwen/Qwen2.5-0.5B", quantize="nf4").dtype
        'auto'
    """

    path: str | None = None
    """A folder saved by transformers or peft, or a hub id such as Qwen/Qwen2.5-0.5B."""
    revision: str | None = None
    """Branch, tag or commit of a hub id. Default: the main branch."""
    config: SmallModel | None = None
    """A small architecture with random weights, instead of `path`."""
    tokenizer: str | None = None
    """Folder or hub id of the tokenizer. Default: the same as `path`."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of the weights; auto: float32 while they are trained, else and when saved the checkpoint's own."""
    quantize: Literal["none", "nf4"] = "none"
    """nf4 keeps the frozen weights under an adapter in 4 bits (QLoRA); needs the extra exptilt[qlora]."""
    ignore_unexpected: bool = False
    """Train on although the folder holds weights that the model does not have, such as the head of a reward model."""
    trust_remote_code: bool = False
    """Run the Python code that a model's folder or hub id brings along; read it first."""
    resize_embeddings: bool = False
    """Add rows to the embeddings for tokens that only the tokenizer has; each starts as the mean of the others."""
    dropout: float | None = 0.0
    """Every dropout rate of the model, in [0, 1); null keeps the model's own."""

    def __post_init__(self) -> None:
        if self.path is not None and self.config is not None:
            raise ValueError("give either path or config, not both")
        if self.quantize != "none" and self.path is None:
            raise ValueError("quantize needs path: weights from scratch cannot be trained in 4 bits")
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")


@config
class AdapterConfig:
    """Train small matrices beside the frozen weights; the model without them is the reference, at no cost.

    Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", arXiv 2106.09685.

    Example:
        >>> AdapterConfig(rank=16, targets=("q_proj", "v_proj")).alpha is None
        True
    """

    path: str | None = None
    """Go on from this adapter (a PEFT folder); as it is at the start it is then part of the reference."""
    rank: int = 16
    """Rank of each update, >= 1; ignored with path."""
    alpha: float | None = None
    """The update is scaled by alpha / rank. Default: 2 * rank."""
    dropout: float = 0.0
    """Dropout on the input of each update, in [0, 1)."""
    targets: tuple[str, ...] = ("all-linear",)
    """Names of the layers to adapt, e.g. [q_proj, v_proj]; all-linear is every linear layer but the head."""
    modules_to_save: tuple[str, ...] = ()
    """Layers trained in full beside the adapter and saved with it, e.g. [lm_head, embed_tokens]."""
    dora: bool = False
    """Train magnitudes and directions apart (DoRA); slower, often better at low rank."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank must be >= 1, got {self.rank}")
        if self.alpha is not None and not self.alpha > 0:
            raise ValueError(f"alpha must be > 0, got {self.alpha}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")
        if not self.targets:
            raise ValueError("targets must name at least one layer")


@config
class ReferenceConfig:
    """What the policy is measured against.

    Example:
        >>> ReferenceConfig(move_every=512).mix
        0.6
    """

    model: str | None = None
    """Folder or hub id of another reference; by default the weights the run starts from."""
    cache: bool = True
    """Keep the reference's log-probabilities on disk (EXPTILT_CACHE), by content, for later runs."""
    move_every: int = 0
    """TR-DPO: move the reference toward the policy every so many steps (512 in the paper); 0 keeps it where it is."""
    mix: float = 0.6
    """TR-DPO: how far a move goes, in (0, 1]; 1 copies the policy."""

    def __post_init__(self) -> None:
        if self.move_every < 0:
            raise ValueError(f"move_every must be >= 0, got {self.move_every}")
        if not 0 < self.mix <= 1:
            raise ValueError(f"mix must be in (0, 1], got {self.mix}")
