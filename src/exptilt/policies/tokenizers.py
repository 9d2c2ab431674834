"""Tokenizers trained on the user's own texts; equal texts always give equal tokenizers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from exptilt.data.encode.chat_templates import SCRATCH

BOS, EOS, PAD, UNKNOWN = "<bos>", "<eos>", "<pad>", "<unk>"


def train_tokenizer(texts: Iterable[str], vocab_size: int = 4096) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer: any text can be encoded, and decodes to itself.

    Encoding text puts BOS first, so that the first token of a text can be predicted; nothing else is added.
    Its chat template is `exptilt.data.encode.chat_templates.SCRATCH`.

    Args:
        texts: texts to learn merges from.
        vocab_size: number of tokens at most, the 256 bytes and 3 special tokens included.

    Raises:
        ValueError: if vocab_size is under 259.

    Example:
        >>> tokenizer = train_tokenizer(["low lower lowest"] * 3, vocab_size=264)
        >>> tokenizer.decode(tokenizer.encode("löwer!")), tokenizer.convert_ids_to_tokens(tokenizer.encode("low"))
        ('<bos>löwer!', ['<bos>', 'low'])
    """
    smallest = 256 + 3
    if vocab_size < smallest:
        raise ValueError(f"vocab_size must be >= {smallest} (256 bytes and 3 special tokens), got {vocab_size}")
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    return _wrap(core, chat_template=SCRATCH)


def train_word_tokenizer(texts: Iterable[str], vocab_size: int | None = None) -> PreTrainedTokenizerFast:
    """Make a tokenizer with one token per whitespace-separated word; words it does not know become `<unk>`.

    It suits test worlds with few words. Decoding joins words with single spaces. It has no chat template.

    Args:
        texts: texts that give the words.
        vocab_size: keep the most frequent words only, 4 special tokens included; ties go by alphabet. Default: all.

    Example:
        >>> tokenizer = train_word_tokenizer(["the film was good .", "the film was bad ."])
        >>> len(tokenizer), tokenizer.decode(tokenizer.encode("the film was superb ."))
        (10, '<bos> the film was <unk> .')
    """
    special = [PAD, BOS, EOS, UNKNOWN]
    counts = Counter(word for text in texts for word in text.split())
    words = sorted((word for word in counts if word not in special), key=lambda word: (-counts[word], word))
    if vocab_size is not None:
        if vocab_size <= len(special):
            raise ValueError(f"vocab_size must be > {len(special)} (the special tokens), got {vocab_size}")
        words = words[: vocab_size - len(special)]
    vocabulary = {word: number for number, word in enumerate([*special, *words])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.add_special_tokens(special)
    return _wrap(core, unk_token=UNKNOWN)


def _wrap(core: Tokenizer, **more: str) -> PreTrainedTokenizerFast:
    bos = (BOS, core.token_to_id(BOS))
    core.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[bos])
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=core,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        clean_up_tokenization_spaces=False,
        **more,
    )
