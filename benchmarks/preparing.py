"""The wall time of tokenising many rows with a pool of workers, as a ratio of one process, in one run.

    python benchmarks/preparing.py --rows 100000

Each measurement is a process of its own; the measured time is that of `prepare`, reading and checking included. One
process alone uses one core (TOKENIZERS_PARALLELISM=false). The groups of both must be equal, byte for byte. The ratio says
something only where the machine has as many idle cores as workers; `cpu_s` is that of the process and of its workers, and for
one process it should then be near `wall_s`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rows import WORDS


def write(path: Path, count: int, words: int) -> None:
    """Pairs whose sides have about so many words each, as answers of assistants have."""
    rng = random.Random(0)
    with path.open("w") as file:
        for number in range(count):
            sides = (" ".join(rng.choices(WORDS, k=rng.randint(words // 2, 3 * words // 2))) for _ in range(3))
            prompt, chosen, rejected = sides
            row = {"prompt": f"{number} {prompt}", "chosen": f" {chosen}", "rejected": f" {rejected}"}
            file.write(json.dumps(row) + "\n")


def measure(path: str, workers: int) -> None:
    """In a process of its own: the time that preparing takes, and a digest of the groups, as one line of JSON."""
    from hashlib import blake2b

    from exptilt.data.prepared import prepare
    from exptilt.policies.tokenizers import train_tokenizer
    from exptilt.settings.data_settings import DataConfig

    tokenizer = train_tokenizer([" ".join(WORDS)], 400)
    start = time.perf_counter()
    rows = prepare(DataConfig(train=path, workers=workers), tokenizer, "pair", None)
    wall = time.perf_counter() - start
    mine, others = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    digest = blake2b(json.dumps(rows.report.as_dict()).encode())
    for group in rows.train:
        digest.update(group.id.encode() + group.prompt.tobytes())
        for part in group.completions:
            digest.update(part.ids.tobytes() + part.counted.tobytes())
    cpu = [round(one.ru_utime + one.ru_stime, 2) for one in (mine, others)]
    result = {"wall_s": round(wall, 2), "cpu_s": cpu, "peak_mb": round(mine.ru_maxrss / 1024)}
    print(json.dumps({**result, "digest": digest.hexdigest()}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--words", type=int, default=60, help="of each text")
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        write(path, given.rows, given.words)
        results = []
        for workers in (1, given.workers):
            environment = os.environ | {"EXPTILT_CACHE": f"{folder}/{workers}", "TOKENIZERS_PARALLELISM": "false"}
            command = [sys.executable, __file__, "--measure", str(path), str(workers)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
            results.append(json.loads(done.stdout.splitlines()[-1]))
            print(
                {"workers": workers} | {key: value for key, value in results[-1].items() if key != "digest"}, flush=True
            )
    if results[0]["digest"] != results[1]["digest"]:
        raise SystemExit("the groups differ")
    ratio = results[1]["wall_s"] / results[0]["wall_s"]
    print(f"{given.rows:,} rows: {given.workers} workers take {ratio:.2f} of the wall time of one process")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        measure(sys.argv[2], int(sys.argv[3]))
    else:
        main()
