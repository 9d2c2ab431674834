"""What every test stands on: no network, one thread, a cache of its own; tiny models, rows and runs."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from exptilt.data.groups import Completion, Credit, Group
from exptilt.kinds import ROLLOUT, Kind, kind_of
from exptilt.labels import Desirable, Preferred, Ranked
from exptilt.policies.scorer import ScorerFunction
from exptilt.policies.scoring import score, score_all
from exptilt.runs.run_recipe import run_recipe
from exptilt.settings.load import dump, load
from exptilt.settings.recipe import Recipe
from exptilt.settings.training_settings import OptimConfig, TrainConfig
from exptilt.training.objective import Objective
from exptilt.training.optim import build_optimizer, build_schedule
from exptilt.training.run import Run
from exptilt.types import LogProbs

torch.set_num_threads(1)

VOCABULARY = 23


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Real data sets, which are in no repository; the tests that need them are skipped where they are not."""
    folder = Path(os.environ.get("EXPTILT_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.exists():
        pytest.skip(f"no real data at {folder}; set EXPTILT_DATA")
    return folder


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("EXPTILT_CACHE", str(tmp_path / "cache"))
    yield
    torch.set_num_threads(1)


def tiny(kind: str = "llama", seed: int = 0, dtype: torch.dtype = torch.float64, **settings: Any) -> Any:
    """One layer, width 8, weights large enough that every part of it matters."""
    shape = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2}
    rest = {"max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = AutoConfig.for_model(kind, vocab_size=VOCABULARY, **{**shape, **rest, **settings})
    if kind == "gpt2" and "resid_pdrop" not in settings:
        config.resid_pdrop = config.embd_pdrop = config.attn_pdrop = 0.0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.3)
    return model.to(dtype).eval()


@pytest.fixture
def tiny_model() -> Callable[..., Any]:
    """`tiny_model(kind, seed=0, dtype=float64, **config)`."""
    return tiny


def draw(kind: Kind | str, num: int = 8, seed: int = 0, *, soft: bool = False, longest: int = 7) -> list[Group]:
    """Rows of unequal lengths and weights, with the label of the kind and every column some loss asks for."""
    wanted = kind_of(kind)
    rng = np.random.default_rng([seed, num])

    def ids(most: int) -> Any:
        return rng.integers(3, VOCABULARY, int(rng.integers(1, most + 1)), dtype=np.int32)

    def completion() -> Completion:
        tokens = ids(longest)
        counted = rng.random(len(tokens)) < 0.8
        counted[0] = True
        return Completion(tokens, counted)

    def drawn(part: Completion) -> dict[str, Any]:
        """What a rollout knows of each token."""
        if wanted != ROLLOUT:
            return {}
        of_tokens = [rng.normal(-1.0, 0.3, len(part.ids)).astype(np.float32) for _ in range(4)]
        return {"behaviour": of_tokens[0], "credit": Credit(*of_tokens[1:])}

    def group(number: int, count: int) -> Group:
        prompt = np.concatenate([[1], ids(5)]).astype(np.int32)
        completions = [completion() for _ in range(count)]
        preferred = Preferred(
            p_chosen=float(rng.choice([0.0, 0.5, 0.75, 1.0])) if soft else 1.0, margin=float(rng.uniform(0.5, 2.0))
        )
        scores = rng.uniform(0.05, 0.95, max(count, 2)).tolist()
        labels = [preferred, Ranked(tuple(int(rank) + 1 for rank in rng.permutation(count))), Desirable(number % 3 > 0)]
        of_policy = [number % 3 > 0, number % 3 == 0]  # of a pair the policy was sampled for one side
        return Group(
            id=f"rows.jsonl:{number + 1}",
            prompt=prompt,
            completions=tuple(
                replace(part, score=scores[at], version=0 if (of_policy * 2)[at] else None, **drawn(part))
                for at, part in enumerate(completions)
            ),
            label=next((label for label in labels if type(label) is wanted.label), None),
            weight=1 + 0.25 * number,
        )

    return [group(number, wanted.num_completions or 3) for number in range(num)]


@pytest.fixture
def draw_rows() -> Callable[..., list[Group]]:
    """`draw_rows(kind, num=8, seed=0, soft=False)`."""
    return draw


class Listed:
    """Batches given as a list of steps."""

    def __init__(self, steps: Sequence[Sequence[Sequence[Group]]]) -> None:
        self.steps = steps

    @property
    def num_steps(self) -> int:
        return len(self.steps)

    def step(self, step: int) -> Sequence[Sequence[Group]]:
        return self.steps[step % len(self.steps)]


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Run]:
    """`make_run(loss, steps, model=..., optim=..., settings=..., **other fields of Run)`; the start is the reference."""

    def make(
        loss: Any,
        steps: Sequence[Sequence[Sequence[Group]]],
        model: Any = None,
        optim: OptimConfig | None = None,
        settings: TrainConfig | None = None,
        **other: Any,
    ) -> Run:
        model = tiny(dtype=torch.float32) if model is None else model
        optim = optim or OptimConfig(learning_rate=1e-2, warmup_ratio=0.0)
        rows = {group.id: group for step in steps for groups in step for group in groups}
        known = dict(zip(rows, score_all(model, list(rows.values())), strict=True)) if loss.needs_reference else {}

        def reference(groups: Sequence[Group]) -> LogProbs:
            return LogProbs.cat([known[group.id] for group in groups])

        optimizer = build_optimizer(optim, model)
        run = Run(
            model=model,
            objective=Objective(loss),
            policy=ScorerFunction(lambda groups: score(model, groups, byproducts=loss.byproducts)),
            reference=ScorerFunction(reference) if known else None,
            batches=Listed(steps),
            optimizer=optimizer,
            schedule=build_schedule(optim, optimizer, len(steps)),
            settings=settings or TrainConfig(),
            max_grad_norm=optim.max_grad_norm,
            num_steps=len(steps),
            folder=tmp_path / "run",
            identity={"data rows": "same"},
        )
        run.folder.mkdir(exist_ok=True)
        return replace(run, **other)

    return make


WORDS = ("red", "blue", "green", "good", "bad", "tall", "short", "wet", "dry", "old")
SETTINGS = [
    "model.config={hidden_size: 16, num_layers: 1, num_heads: 2, max_positions: 64, vocab_size: 300}",
    "batch.size=8",
    "optim.learning_rate=1e-3",
    "evaluate={num_prompts: 2, num_samples: 1, max_new_tokens: 6}",
]


def rows(count: int = 30, topic: str = "it") -> list[dict[str, Any]]:
    return [
        {
            "prompt": f"Question {number}: is {topic} {WORDS[number % len(WORDS)]}?",
            "chosen": f" Yes, {topic} is {WORDS[number % len(WORDS)]}.",
            "rejected": f" No, never {WORDS[(number + 3) % len(WORDS)]} at all.",
        }
        for number in range(count)
    ]


@pytest.fixture
def pairs() -> Callable[..., list[dict[str, Any]]]:
    """`pairs(count=30, topic="it")`: preference rows, all prompts distinct."""
    return rows


def write_jsonl(path: Path, content: Sequence[Mapping[str, Any] | str]) -> Path:
    lines = (row if isinstance(row, str) else json.dumps(row) for row in content)
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture
def write_rows(tmp_path: Path) -> Callable[..., Path]:
    """`write_rows(name, rows)`: a JSON-lines file in the test's folder; a row that is text stands as it is."""
    return lambda name, content: write_jsonl(tmp_path / name, content)


def tiny_recipe(folder: Path, data: Path, *overrides: str) -> Recipe:
    keys = [f"output={folder}", f"data.train={data}", "data.test_fraction=0.3", *SETTINGS, *overrides]
    return load(Recipe, None, keys)


@pytest.fixture
def make_recipe(tmp_path: Path, write_rows: Callable[..., Path]) -> Callable[..., Recipe]:
    """`make_recipe("key=value", ...)`: a tiny run on thirty rows in the folder `run`."""
    data = write_rows("pairs.jsonl", rows())
    return lambda *overrides: tiny_recipe(tmp_path / "run", data, *overrides)


@pytest.fixture(scope="session")
def _trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recipe]:
    home = tmp_path_factory.mktemp("finished")
    with mock.patch.dict(os.environ, {"EXPTILT_CACHE": str(home / "cache")}):
        recipe = tiny_recipe(home / "run", write_jsonl(home / "pairs.jsonl", rows()), "sft={train: {epochs: 2}}")
        run_recipe(recipe, page=False)
        yield recipe


@pytest.fixture
def finished(_trained: Recipe, tmp_path: Path) -> Recipe:
    """The recipe of a finished run, supervised phase and all, in a folder of the test's own."""
    shutil.copytree(_trained.folder, tmp_path / "finished")
    recipe = replace(_trained, output=str(tmp_path / "finished"))
    (recipe.folder / "config.yaml").write_text(dump(recipe))
    return recipe
