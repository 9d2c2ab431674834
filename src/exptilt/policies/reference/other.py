"""Another model as the reference, which passes the gate of the trained model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from exptilt.errors import ModelError
from exptilt.policies.models import check_vocabulary, load_model, load_tokenizer
from exptilt.settings.model_settings import ModelConfig


def load_reference(settings: ModelConfig, path: str, tokenizer: Any = None) -> Any:
    """Load the model that `reference.model` names, frozen and on its device; an adapter comes with its base.

    Args:
        settings: settings of the trained model; its precision and permissions hold for the reference too.
        path: folder or hub id.
        tokenizer: tokenizer of the trained model, whose token ids the reference scores; default, the one `settings` name.

    Raises:
        ModelError: `load_model` refuses the model, or the reference was trained with other tokens.
    """
    if tokenizer is None and (settings.tokenizer or settings.path):
        tokenizer = load_tokenizer(settings)
    reference_settings = replace(
        settings, path=path, revision=None, config=None, tokenizer=None, quantize="none", resize_embeddings=False
    )
    if tokenizer is not None:
        _require_same_tokens(reference_settings, tokenizer)
    try:
        model: Any = load_model(reference_settings)
    except ModelError as error:
        raise ModelError(f"reference.model: {error}") from None
    if tokenizer is not None:
        check_vocabulary(model, tokenizer, f"reference.model={path}")
    return model.requires_grad_(False)


def _require_same_tokens(settings: ModelConfig, tokenizer: Any) -> None:
    """Require that every token of the trained model has the same id in the reference's tokenizer, if it has one.

    Raises:
        ModelError: a token differs; the message names it.
    """
    try:
        other = load_tokenizer(settings)
    except ModelError:
        return  # weights without a tokenizer beside them; the size of the vocabulary is looked at later
    mine: Mapping[str, int] = tokenizer.get_vocab()
    theirs: Mapping[str, int] = other.get_vocab()
    differ = sorted((at, token) for token, at in mine.items() if theirs.get(token, at) != at)
    lacking = sorted((at, token) for token, at in mine.items() if token not in theirs)
    # Tokens that were added for training may be missing in the reference, whose embeddings then decide.
    if not differ and len(lacking) <= len(tokenizer.added_tokens_decoder):
        return
    at, token = (differ or lacking)[0]
    what = f"is {theirs[token]} there" if token in theirs else "does not exist there"
    raise ModelError(
        f"reference.model={settings.path} has another tokenizer: {token!r} is token {at} here and {what} "
        f"({len(differ) + len(lacking)} of {len(mine)} differ); the same ids would be other text. "
        "Take a reference of the same family"
    )
