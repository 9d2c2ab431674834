"""Pairs of masks per CPU second and memory, beside a plain implementation with four forward passes; both in processes of their own.

    python benchmarks/masks.py speed --epochs 4 --size 128 --width 16

The plain implementation is the common one: for each pair a forward pass of the policy for each mask and one of a frozen copy for each,
over all pixels. In units of a forward pass that is 2 x 3 + 2 = 8 for each pair and epoch; with one pass for both masks and the reference
scored once it is 3 E + 1 for E epochs, so the bound is 8 E / (3 E + 1). Both read the same PNG files, shuffle, clip and take the same
AdamW steps; ours also checks rows, writes checkpoints and metrics, which is in its time. The last epochs' losses are printed: they agree.
"""

from __future__ import annotations

import argparse
import copy
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.console import Console

from exptilt.data.masks.image_files import write_mask
from exptilt.policies.segmenters.segmenter_files import load_segmenter
from exptilt.processes.world import World
from exptilt.run_folder.folder import RunFolder
from exptilt.runs.mask_session import open_masks
from exptilt.settings.load import load
from exptilt.settings.mask_settings import MaskRecipe
from exptilt.testbed.blobs import blobs, thickened


def written(folder: Path, images: int, size: int) -> Path:
    """Pairs of a true and a coarse mask."""
    pictures, masks = blobs(images, size, 0)
    coarse, rows = thickened(masks, 1), []
    for at in range(images):
        Image.fromarray(pictures[at]).save(folder / f"{at}.png")
        write_mask(folder / f"{at}-a.png", masks[at])
        write_mask(folder / f"{at}-b.png", coarse[at])
        rows.append({"image": f"{at}.png", "chosen": f"{at}-a.png", "rejected": f"{at}-b.png"})
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "pairs.jsonl"


def recipe_of(given, folder: Path) -> MaskRecipe:
    """The recipe that both follow."""
    return load(
        MaskRecipe,
        None,
        [
            f"segmenter={{config: {{channels: 1, width: {given.width}, levels: {given.levels}}}}}",
            f"data={{train: {folder / 'pairs.jsonl'}, max_difference: 1.0}}",
            f"output={folder / 'run'}",
            "loss={name: dpo, beta: 1.0}",
            f"train={{epochs: {given.epochs}, log_every: 1000000, save_every: 1000000}}",
            f"batch={{size: {given.batch}, images: {given.at_once or given.batch}}}",
        ],
    )


def ours(given, folder: Path) -> float:
    """Train by exptilt; the loss of the last step."""
    recipe = recipe_of(given, folder)
    run = RunFolder(recipe.folder)
    recipe.folder.mkdir()
    return open_masks(recipe, run, Console(quiet=True), World.alone()).train().step


def plain(given, folder: Path) -> float:
    """Train by four passes a pair."""
    recipe = recipe_of(given, folder)
    policy = load_segmenter(recipe.segmenter, 2, 0).network
    reference = copy.deepcopy(policy).eval().requires_grad_(False)
    rows = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]

    def array(name):
        return torch.from_numpy(np.asarray(Image.open(folder / name)))

    images = torch.stack([array(row["image"]) for row in rows])
    chosen = torch.stack([array(row["chosen"]) for row in rows])
    rejected = torch.stack([array(row["rejected"]) for row in rows])
    optimizer = torch.optim.AdamW(policy.parameters(), lr=5e-4)
    random, steps = np.random.default_rng(0), 0

    def score(model, x, masks):
        logps = torch.log_softmax(model(x), 1)
        return logps.gather(1, masks[:, None].long())[:, 0].flatten(1)

    for _ in range(int(given.epochs)):
        order = random.permutation(len(rows))
        for at in range(0, len(rows), given.batch):
            some = torch.from_numpy(order[at : at + given.batch])
            x = images[some, None].float() / 255
            good, bad = chosen[some], rejected[some]
            policy_good, policy_bad = score(policy, x, good), score(policy, x, bad)
            with torch.no_grad():
                reference_good, reference_bad = score(reference, x, good), score(reference, x, bad)
            differs = (good != bad).flatten(1)
            margin = ((policy_good - policy_bad) - (reference_good - reference_bad)) * differs
            loss = -torch.nn.functional.logsigmoid(margin.sum(1) / differs.sum(1)).mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
            optimizer.step()
            steps += 1
    return steps


def measured(given, folder: Path) -> None:
    """Print what one implementation needs, after everything is imported."""
    torch.set_num_threads(1)
    before, began = peak(), time.process_time()
    steps = {"ours": ours, "plain": plain}[given.only](given, folder)
    print(json.dumps({"seconds": time.process_time() - began, "bytes": peak() - before, "steps": steps}))


def peak() -> int:
    """Most bytes this process had in memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def compare(given) -> None:
    """Run both, alternately, and print the ratios of the medians."""
    found: dict[str, list[dict[str, float]]] = {"ours": [], "plain": []}
    for repeat in range(given.repeats):
        for name, results in found.items():
            with tempfile.TemporaryDirectory() as folder:
                written(Path(folder), given.images, given.size)
                command = [sys.executable, __file__, "--only", name, "--folder", folder, *given.rest]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                results.append(json.loads(done.stdout.splitlines()[-1]))
                print(repeat, name, results[-1], flush=True)
    seconds, size = (
        {name: float(np.median([one[key] for one in results])) for name, results in found.items()}
        for key in ("seconds", "bytes")
    )
    bound = 8 * given.epochs / (3 * given.epochs + 1)
    ratio = seconds["plain"] / seconds["ours"]
    pairs = given.images * given.epochs
    print(
        f"{given.images} images of {given.size} x {given.size}, width {given.width}, batches of {given.batch}, {given.epochs} epochs\n"
        f"pairs a CPU second: {pairs / seconds['ours']:.2f} against {pairs / seconds['plain']:.2f}: {ratio:.2f} times, "
        f"{ratio / bound:.0%} of the bound {bound:.2f}\n"
        f"memory above the start: {size['ours'] / 2**20:.0f} against {size['plain'] / 2**20:.0f} MiB: {size['ours'] / size['plain']:.0%}"
    )


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--levels", type=int, default=3)
    parser.add_argument("--batch", type=int, default=12)
    parser.add_argument("--at-once", type=int, default=0, help="images of one forward pass of ours; default, the batch")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", choices=["ours", "plain"])
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args(arguments)
    if given.only:
        measured(given, given.folder)
        return
    given.rest = [
        f"--{name.replace('_', '-')}={getattr(given, name)}"
        for name in ("images", "size", "width", "levels", "batch", "at_once", "epochs")
    ]
    compare(given)


if __name__ == "__main__":
    main(sys.argv[1:])
