from __future__ import annotations

import os
import string
import sys
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from exptilt.data.read import hub, hub_files

sys.path.insert(0, str(Path(__file__).parent))  # for what test files share
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ALTERNATING = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('order') }}"
    "{% endif %}[{{ m['role'] }}]{{ m['content'] | trim }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
"""Refuses turns that do not alternate, and cuts white space."""
SPECIALS = ["<pad>", "<bos>", "<eos>", "<|im_start|>", "<|im_end|>"]
CORPUS = [
    "Human: what is the answer to this question? Assistant: the answer is that I do not know, sorry.",
    "the quick brown fox jumps over the lazy dog and the cat sat on the mat again and again",
    "good film, bad film, great story, dull story, I would see it again, I would not see it again",
] * 20


def byte_level(*, bos: bool = False, eos: bool = True, chat: str | None = None) -> PreTrainedTokenizerFast:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(vocab_size=420, special_tokens=SPECIALS, initial_alphabet=alphabet, show_progress=False),
    )
    if bos:
        core.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<bos>" if bos else None,
        eos_token="<eos>" if eos else None,
        extra_special_tokens=["<|im_start|>", "<|im_end|>"],
    )
    tokenizer.chat_template = chat
    return tokenizer


def metaspace() -> PreTrainedTokenizerFast:
    """As SentencePiece does it: a space before the first word."""
    core = Tokenizer(models.BPE(unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    core.decoder = decoders.Metaspace(prepend_scheme="first")
    specials = ["<unk>", "<bos>", "<eos>"]
    core.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=300, special_tokens=specials, show_progress=False))
    core.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", bos_token="<bos>", eos_token="<eos>")


def unigram() -> PreTrainedTokenizerFast:
    """As SentencePiece's own model: pieces with a probability, spaces as a visible mark."""
    core = Tokenizer(models.Unigram())
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    core.decoder = decoders.Metaspace(prepend_scheme="first")
    core.train_from_iterator(
        CORPUS,
        trainers.UnigramTrainer(
            vocab_size=200,
            special_tokens=["<unk>", "<bos>", "<eos>"],
            unk_token="<unk>",
            initial_alphabet=list(f"\n{string.printable[:94]}"),
            show_progress=False,
        ),
    )
    core.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", bos_token="<bos>", eos_token="<eos>")


def word_piece() -> PreTrainedTokenizerFast:
    """As BERT's: words in pieces; spaces and line ends are not kept."""
    core = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.WordPiece(cleanup=False)
    core.train_from_iterator(
        [*CORPUS, *(f"a{letter}" for letter in string.ascii_letters + string.digits)],
        trainers.WordPieceTrainer(
            vocab_size=400,
            special_tokens=["[UNK]", "[CLS]", "[SEP]"],
            initial_alphabet=list(string.printable[:94]),
            show_progress=False,
        ),
    )
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="[UNK]", bos_token="[CLS]", eos_token="[SEP]")


def word_level() -> PreTrainedTokenizerFast:
    vocab = {"[UNK]": 0, "[SEP]": 1, "good": 2, "film": 3}
    core = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.add_special_tokens([AddedToken("[SEP]", special=True)])
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="[UNK]", eos_token="[SEP]")


@pytest.fixture(scope="session")
def base_tokenizer() -> PreTrainedTokenizerFast:
    """No BOS, no chat template."""
    return byte_level()


@pytest.fixture(scope="session")
def bos_tokenizer() -> PreTrainedTokenizerFast:
    return byte_level(bos=True)


@pytest.fixture(scope="session")
def chat_tokenizer() -> PreTrainedTokenizerFast:
    return byte_level(bos=True, chat=CHATML)


@pytest.fixture(scope="session")
def metaspace_tokenizer() -> PreTrainedTokenizerFast:
    return metaspace()


@pytest.fixture(scope="session")
def word_tokenizer() -> PreTrainedTokenizerFast:
    return word_level()


@pytest.fixture(scope="session", params=[byte_level, unigram, word_piece], ids=["bytes", "unigram", "wordpiece"])
def any_tokenizer(request) -> PreTrainedTokenizerFast:
    """One of each kind."""
    return request.param()


@pytest.fixture(scope="session")
def all_tokenizers() -> list[PreTrainedTokenizerFast]:
    """Of every kind, with and without BOS, EOS and chat templates."""
    return [
        byte_level(),
        byte_level(bos=True),
        byte_level(eos=False),
        byte_level(bos=True, chat=CHATML),
        byte_level(chat=ALTERNATING),
        metaspace(),
        unigram(),
        word_piece(),
        word_level(),
    ]


@pytest.fixture(autouse=True)
def _another_process():
    """A data set of the hub is asked for once a process; every test is one of its own."""
    hub.data_set.cache_clear()
    hub_files.files_on_hub.cache_clear()


@pytest.fixture
def make_tokenizer():
    return byte_level


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data, which is not part of the repository."""
    root = Path(__file__).parents[2]
    folder = Path(os.environ.get("EXPTILT_DATA", root.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set EXPTILT_DATA to the folder")
    return folder
