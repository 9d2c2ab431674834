"""Rounds of preferences between masks, all anchors and rivals: on procedural blobs, or on nuclei; and speed beside a plain implementation.

    python benchmarks/masks.py blobs --seeds 5
    python benchmarks/masks.py nuclei --data ../shared/data/segmentation/nuclei_128.npz --seeds 3 --images 160
    python benchmarks/masks.py speed --epochs 4

The start is a U-Net trained on coarse labels (true masks grown by so many pixels): wrong in one systematic way, which candidates span.
Everything is kept in `--output`, and what is in results.jsonl is not made again: give the same command after an interruption. A table over
seeds is printed (mean and standard deviation of Dice after the last round, the images' interval, the gain over the start), and then what
the docs claim of blobs, each with yes or no.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console

from exptilt.data.masks.image_files import write_mask
from exptilt.runs.mask_run import run_masks
from exptilt.settings.load import load
from exptilt.settings.mask_settings import MaskRecipe
from exptilt.studies.mask_methods import METHODS, compare_methods
from exptilt.testbed.blobs import blobs, thickened

_AVERAGED = ("dice", "dice_low", "dice_high", "dice_at_best", "nll", "ece", "kl")


def written(folder: Path, name: str, images, masks, grown: int) -> Path:
    """Images with true and with coarse masks, and their manifest."""
    coarse, rows = thickened(masks, grown), []
    for at in range(len(images)):
        stem = f"{name}{at:04d}"
        Image.fromarray(images[at]).save(folder / f"{stem}.png")
        write_mask(folder / f"{stem}-true.png", masks[at])
        write_mask(folder / f"{stem}-coarse.png", coarse[at])
        rows.append({"image": f"{stem}.png", "mask": f"{stem}-coarse.png", "target": f"{stem}-true.png"})
    manifest = folder / f"{name}.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return manifest


def supervised(folder: Path, manifest: Path, width: int, steps: int, seed: int) -> Path:
    """A U-Net trained on coarse masks."""
    recipe = load(
        MaskRecipe,
        None,
        [
            f"segmenter={{config: {{channels: 1, width: {width}, levels: 3}}}}",
            f"data.train={manifest}",
            f"output={folder / 'start'}",
            f"seed={seed}",
            "loss={name: sft, normalization: sequence}",
            "optim.learning_rate=2e-3",
            "train.epochs=1000",
            f"train.max_steps={steps}",
            "train.log_every=100000",
            "train.save_every=100000",
        ],
    )
    run_masks(recipe, Console(quiet=True))
    return folder / "start"


def rounds_from(start: Path, manifests: list[Path], output: Path, rounds: int, epochs: float, seed: int) -> MaskRecipe:
    """Rounds of a simulated annotator, two comparisons of each image."""
    return load(
        MaskRecipe,
        None,
        [
            f"segmenter.path={start}",
            f"data.train={manifests[0]}",
            f"data.test={manifests[1]}",
            f"output={output}",
            f"seed={seed}",
            f"rounds={{num_rounds: {rounds}, annotator: {{temperature: 0.02}}}}",
            f"train.epochs={epochs}",
            "train.log_every=10000",
            "train.save_every=10000",
            "train.keep_checkpoints=1",
        ],
    )


def parts_of(given, seed: int) -> list:
    """(images, true masks) to train on and to measure on."""
    if given.world == "blobs":
        images, masks = blobs(given.images + given.held_out, 32, seed)
        return [(images[part], masks[part]) for part in (slice(0, given.images), slice(given.images, None))]
    content = np.load(given.data)
    masks = np.unpackbits(content["mask_packed"], axis=1).reshape(-1, 128, 128).astype(np.int32)
    fluorescent = content["kind"] == "fluorescence"
    train = np.flatnonzero(fluorescent & ~content["is_test"])
    test = np.flatnonzero(fluorescent & content["is_test"])
    train = np.random.default_rng(seed).permutation(train)[: given.images]
    return [(content["image"][at], masks[at]) for at in (train, test[: given.held_out])]


def study_of(given, seed: int) -> MaskRecipe:
    """Files and start of one seed, made once."""
    folder = given.output / f"seed-{seed}"
    manifests = [folder / f"{name}.jsonl" for name in ("train", "test")]
    if not manifests[1].exists():
        folder.mkdir(parents=True, exist_ok=True)
        for name, part in zip(("train", "test"), parts_of(given, seed), strict=True):
            written(folder, name, *part, given.grown)
    start = supervised(folder, manifests[0], given.width, given.steps, seed)
    return rounds_from(start, manifests, folder / "study", given.rounds, given.epochs, seed)


def results(given, methods) -> Iterator[dict]:
    """One line for each seed and method, from results.jsonl or made now."""
    file = given.output / "results.jsonl"
    known = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    done = {(line["seed"], line["name"]): line for line in known}
    for seed in range(given.seeds):
        study = None
        for method in methods:
            if (seed, method.name) not in done:
                study = study or study_of(given, seed)
                began = time.process_time()
                for one in compare_methods(study, [method]):
                    line = line_of(seed, one) | {
                        "cpu_seconds": 0.0 if one.name == "start" else time.process_time() - began
                    }
                    if (seed, one.name) not in done:
                        done[seed, one.name] = line
                        with file.open("a") as stream:
                            stream.write(json.dumps(line) + "\n")
            line = done[seed, method.name]
            print(
                f"{seed} {method.name:24s} Dice {line['dice']:.3f} [{line['dice_low']:.3f}, {line['dice_high']:.3f}]",
                flush=True,
            )
            yield line
        yield done[seed, "start"]


def line_of(seed: int, found) -> dict:
    """What is kept of one segmenter."""
    line = {"seed": seed, "name": found.name, "ece": found.ece}
    for key in ("dice", "dice_at_best", "boundary", "nll", "kl"):
        one = getattr(found, key)
        line |= {key: one.value, f"{key}_low": one.low, f"{key}_high": one.high}
    return line


def table(lines: list[dict]) -> dict[str, np.ndarray]:
    """Print means over seeds; Dice of each method by seed."""
    names = ["start", *dict.fromkeys(line["name"] for line in lines if line["name"] != "start")]
    by_name = {name: [line for line in lines if line["name"] == name] for name in names}
    dice = {name: np.array([line["dice"] for line in some]) for name, some in by_name.items()}
    seeds = len(dice["start"])
    print(
        f"\n| method | Dice, {seeds} seed(s) | images, 95 % | gain over the start | at the best threshold | NLL | ECE | KL, nats a pixel |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name, some in by_name.items():
        mean = {key: np.mean([line[key] for line in some]) for key in _AVERAGED}
        gain, sd = dice[name] - dice["start"], f" ± {dice[name].std(ddof=1):.3f}" if seeds > 1 else ""
        of_gain = f"{gain.min():+.3f} to {gain.max():+.3f}" if seeds > 1 else f"{gain[0]:+.3f}"
        print(
            f"| {name} | {mean['dice']:.3f}{sd} | {mean['dice_low']:.3f} to {mean['dice_high']:.3f} | {of_gain} | "
            f"{mean['dice_at_best']:.3f} | {mean['nll']:.3f} | {mean['ece']:.3f} | {mean['kl']:.3f} |"
        )
    print(f"\n{sum(line['cpu_seconds'] for line in lines):.0f} CPU s")
    return dice


def claims(dice: dict[str, np.ndarray]) -> None:
    """What is claimed of blobs, over every seed."""
    start, wanted = dice["start"], ("DPO + NLL", "DPO + log-sum-exp", "DPO + reference hinge")
    for name in wanted:
        if name in dice:
            print(f"{name} gains more than .1 with every seed: {'yes' if (dice[name] > start + 0.1).all() else 'NO'}")
            if "imitation of winners" in dice:
                above = bool((dice[name] > dice["imitation of winners"]).all())
                print(f"{name} is above imitation of winners with every seed: {'yes' if above else 'NO'}")
    if "coin-flip labels" in dice:
        gain = dice["coin-flip labels"] - start
        error = gain.std(ddof=1) / np.sqrt(len(gain)) if len(gain) > 1 else float("nan")
        print(
            f"coin-flip labels gain {gain.mean():+.3f} (standard error over seeds {error:.3f}): nothing is claimed above 0"
        )


def main() -> None:
    if sys.argv[1:2] == ["speed"]:
        import mask_speed  # beside this file

        mask_speed.main(sys.argv[2:])
        return
    parser = argparse.ArgumentParser()
    parser.add_argument("world", choices=["blobs", "nuclei", "speed"])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--held-out", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--epochs", type=float, default=6.0)
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--grown", type=int, default=2)
    parser.add_argument("--methods", nargs="*", help="begin of the names; default, all")
    given = parser.parse_args()
    given.output = given.output or Path("runs") / f"masks-{given.world}"
    given.output.mkdir(parents=True, exist_ok=True)
    settings, stated = (
        given.output / "settings.json",
        {key: str(value) for key, value in vars(given).items() if key not in ("seeds", "methods", "output", "data")},
    )
    if settings.exists() and json.loads(settings.read_text()) != stated:
        sys.exit(f"{given.output}: holds results of other settings; give another --output")
    settings.write_text(json.dumps(stated))
    chosen = given.methods
    methods = [one for one in METHODS if not chosen or any(one.name.startswith(name) for name in chosen)]
    dice = table(list(results(given, methods)))
    if given.world == "blobs":
        claims(dice)


if __name__ == "__main__":
    main()
