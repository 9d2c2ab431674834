"""The DPO paper's controlled sentiment on real text, in small: IMDb reviews, and a classifier's probability as reward.

excerpts of whole sentences -> tokenizer and reference from scratch -> prefixes of 2 to 8 tokens, answered by the reference
-> preferred where TF-IDF + logistic regression, trained on the reviews' labels, sees the likelier positive review

Deviations from the paper: the model is small and trained from scratch, reviews are cut to excerpts that end with a
sentence, prefixes end with a word, characters outside ASCII are left out.
Source: Rafailov et al. (2023), https://arxiv.org/abs/2305.18290, section 6 and appendix C.1.
"""

from __future__ import annotations

import gzip
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from exptilt.data.encode.tokens import encode_prompts
from exptilt.disk import write_folder
from exptilt.errors import ConfigError, DataError
from exptilt.policies.models import load_tokenizer
from exptilt.policies.tokenizers import train_tokenizer
from exptilt.rewards.text_classifier import TextClassifier
from exptilt.run_folder.file_names import STUDY_FACTS
from exptilt.run_folder.folder import RunFolder
from exptilt.run_folder.study_record import StudyFacts
from exptilt.sampling.sampling_law import SamplingLaw
from exptilt.settings.grid_settings import ImdbTask
from exptilt.settings.model_settings import ModelConfig
from exptilt.settings.reward_settings import ClassifierConfig
from exptilt.settings.training_settings import TrainConfig
from exptilt.studies.labels_by_reward import Bench, Labeller, pair_files, train_reference

_SENTENCE = re.compile(r"(?<=[.!?])\s+")
PREFIX = (2, 8)
"""Tokens in a prompt, both ends included."""


def prepare_imdb(task: ImdbTask, folder: Path, seed: int, law: SamplingLaw, num_prompts: int) -> Bench:
    """Train classifier and reference, and label the reference's samples; existing files are kept."""
    return _Imdb(task, folder, seed).bench(law, num_prompts)


class Review(NamedTuple):
    """One review."""

    text: str
    label: int


@dataclass(frozen=True)
class _Imdb:
    """The steps of the task; each leaves files that the next one reads."""

    task: ImdbTask
    folder: Path
    seed: int

    def bench(self, law: SamplingLaw, num_prompts: int) -> Bench:
        train, test = (read_reviews(self._source(split), self.task.num_reviews) for split in ("train", "test"))
        classifier = self._classifier(train)
        words = self.folder / "tokenizer"
        excerpts = [part for review in train for part in cut(review.text, self.task.words)[: self.task.excerpts]]
        if not words.exists():
            write_folder(words, train_tokenizer(excerpts, self.task.model.vocab_size).save_pretrained)
        tokenizer = load_tokenizer(ModelConfig(tokenizer=str(words)))
        rng = np.random.default_rng((self.seed, 1))
        rows = ({"prompt": prompt, "completion": rest} for prompt, rest in split(tokenizer, excerpts, rng))
        length = TrainConfig(epochs=self.task.sft_epochs, save_every=100_000)
        reference = train_reference(self.folder, self.seed, rows, words, self.task.model, length)

        def reward(prompts: Sequence[str], completions: Sequence[str]) -> Any:
            texts = [prompt + completion for prompt, completion in zip(prompts, completions, strict=True)]
            return classifier.probabilities(texts)

        training = self._prefixes(tokenizer, train, 2, self.task.num_prompts)
        others = self._prefixes(tokenizer, test, 3, 4 * num_prompts + self.task.num_prompts)
        known = set(training)
        held_out = [prompt for prompt in others if prompt not in known]
        if len(held_out) < num_prompts:
            raise DataError(f"only {len(held_out)} held-out prefixes for measure.num_prompts={num_prompts}")
        labeller = Labeller(reference, reward, self.task.labels, law)
        for name, prompts, coin in (("train", training, 0), ("test", held_out[:num_prompts], 1)):
            path, count = self.folder / f"preferences-{name}.jsonl", self.task.samples_per_prompt
            labeller.write(path, prompts, count, self.seed + 2 + coin, np.array([self.seed, coin]))
        facts = self._facts(
            classifier, test, [part for review in test for part in cut(review.text, self.task.words)[:1]]
        )
        asked = encode_prompts(tokenizer, held_out[:num_prompts])
        true_reward = ClassifierConfig(path=str(self.folder / "classifier.npz"), reads="whole")
        return Bench(reference, pair_files(self.folder), asked, reward, "p(positive)", facts, true_reward)

    def _source(self, split: str) -> Path:
        root = self.task.data or os.environ.get("EXPTILT_DATA")
        if root is None:
            raise ConfigError(
                "task.data: name the folder that holds sentiment/imdb.train.jsonl.gz, or set EXPTILT_DATA"
            )
        return Path(root) / "sentiment" / f"imdb.{split}.jsonl.gz"

    def _classifier(self, train: Sequence[Review]) -> TextClassifier:
        path = self.folder / "classifier.npz"
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            TextClassifier.fit([review.text for review in train], [review.label for review in train]).save(path)
        return TextClassifier.load(path)

    def _prefixes(self, tokenizer: Any, reviews: Sequence[Review], stream: int, num: int) -> list[str]:
        """Distinct prefixes of reviews in a seeded order."""
        rng = np.random.default_rng((self.seed, stream))
        order = rng.permutation(len(reviews))
        first = (part for index in order for part in cut(reviews[index].text, self.task.words)[:1])
        prefixes = dict.fromkeys(prompt for prompt, _ in split(tokenizer, first, rng))
        return list(prefixes)[:num]

    def _facts(self, classifier: TextClassifier, test: Sequence[Review], excerpts: Sequence[str]) -> dict[str, Any]:
        folder = RunFolder(self.folder)
        known = folder.record(StudyFacts, STUDY_FACTS)
        if known is None:
            labelled = [(part, review.label) for review in test for part in cut(review.text, self.task.words)[:1]]
            facts = {
                "classifier terms": len(classifier.terms),
                "classifier accuracy, held-out reviews": classifier.accuracy(*zip(*test, strict=True)),
                "classifier accuracy, their first excerpts": classifier.accuracy(*zip(*labelled, strict=True)),
                "held-out reviews": len(test),
            }
            known = StudyFacts(facts=facts)
            folder.write(STUDY_FACTS, known)
        return known.facts


def read_reviews(path: Path, limit: int | None) -> list[Review]:
    """Reviews of one split in plain ASCII, the first `limit` of a fixed shuffle so that both labels are there."""
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            rows = [json.loads(line) for line in file]
    except FileNotFoundError:
        raise DataError(f"{path}: is not there; task.data or EXPTILT_DATA must name the folder above it") from None
    order = np.random.default_rng(0).permutation(len(rows))[:limit]
    return [Review(_ascii_text(rows[index]["text"]), int(rows[index]["label"])) for index in order]


def cut(text: str, words: int) -> list[str]:
    """Cut a text into excerpts of whole sentences with at most `words` words, in order; longer sentences are left out.

    Example:
        >>> cut("I saw it. It was good! And then a very very long sentence came. The end.", words=5)
        ['I saw it.', 'It was good!', 'The end.']
    """
    parts: list[list[str]] = []
    fresh = True
    for sentence in _SENTENCE.split(text):
        sentence_words = sentence.split()
        if len(sentence_words) > words:
            fresh = True
        elif not fresh and len(parts[-1]) + len(sentence_words) <= words:
            parts[-1] += sentence_words
        elif sentence_words:
            parts.append(sentence_words)
            fresh = False
    return [" ".join(part) for part in parts]


def split(tokenizer: Any, excerpts: Iterable[str], rng: np.random.Generator) -> Iterator[tuple[str, str]]:
    """Split each excerpt into (prefix, rest) between two words, after 2 to 8 tokens; too short ones are left out."""
    for text in excerpts:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        pieces = tokenizer.convert_ids_to_tokens(ids)
        places = [
            position
            for position in range(PREFIX[0], PREFIX[1] + 1)
            if position < len(ids) and pieces[position].startswith("Ġ")
        ]
        if places:
            position = int(rng.choice(places))
            yield tokenizer.decode(ids[:position]), tokenizer.decode(ids[position:])


def _ascii_text(text: str) -> str:
    bare = text.replace("<br />", " ").encode("ascii", "ignore").decode()
    return " ".join(bare.split())
