"""The load of many rows: CPU seconds and peak memory of checks on text, and of tokenising, at two sizes in one run.

    python benchmarks/rows.py --rows 100000 1000000

Each size and stage is a process of its own. Memory that hardly grows with the rows is the promise (docs/log.md, "a million rows"):
the last line says how many bytes a row costs, and what ten million rows would. Its twin in the suite is
tests/data/memory/test_spill.py.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

WORDS = [
    f"{a}{b}" for a in ("ba", "ko", "li", "me", "su", "tra", "ven", "wo") for b in ("n", "ra", "st", "lo", "mi", "d")
]


def write(path: Path, count: int) -> None:
    rng = random.Random(0)

    def words(most: int) -> str:
        return " ".join(rng.choices(WORDS, k=rng.randint(5, most)))

    with path.open("w") as file:
        for number in range(count):
            row = {"prompt": f"{number} {words(15)}", "chosen": f" {words(40)}", "rejected": f" {words(40)}"}
            file.write(json.dumps(row) + "\n")


class OwnMemory:
    """The peak of memory that is no page of a file, in MB: pages of mapped files go when others need the room."""

    def __init__(self) -> None:
        self.peak = 0.0
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            status = Path("/proc/self/status").read_text()
            now = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon"))
            self.peak = max(self.peak, now / 1024)
            time.sleep(0.05)


def measure(path: str, stage: str) -> None:
    """In a process of its own: what preparing the rows costs, as one line of JSON."""
    from exptilt.data.prepared import prepare
    from exptilt.policies.tokenizers import train_tokenizer
    from exptilt.settings.data_settings import DataConfig

    tokenizer = train_tokenizer([" ".join(WORDS)], 400) if stage == "tokens" else None
    own = OwnMemory()
    rows = prepare(DataConfig(train=path, test_fraction=0.1), tokenizer, "pair", None)
    mine, others = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = mine.ru_utime + mine.ru_stime + others.ru_utime + others.ru_stime
    print(
        json.dumps(
            {
                "kept": rows.report.train.kept,
                "cpu_s": round(seconds, 1),
                "peak_mb": mine.ru_maxrss / 1024,
                "own_mb": own.peak,
            }
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    sizes = sorted(parser.parse_args().rows)
    for stage in ("text", "tokens"):
        peaks = []
        for count in sizes:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "rows.jsonl"
                write(path, count)
                command = [sys.executable, __file__, "--measure", str(path), stage]
                done = subprocess.run(command, capture_output=True, text=True, check=True, env=_environment(folder))
            result = json.loads(done.stdout.splitlines()[-1])
            peaks.append(result["own_mb"])
            print(
                f"{stage}: {count:,} rows: {result['cpu_s']} CPU s, peak {result['own_mb']:.0f} MB of its own, "
                f"{result['peak_mb']:.0f} MB with mapped files, {result['kept']:,} kept",
                flush=True,
            )
        grown = (peaks[-1] - peaks[0]) * 2**20 / (sizes[-1] - sizes[0])
        print(
            f"{stage}: {grown:.0f} bytes a row; at 10,000,000 rows {peaks[-1] + grown * (1e7 - sizes[-1]) / 2**20:.0f} MB of its own"
        )


def _environment(cache: str) -> dict[str, str]:
    import os

    return os.environ | {"EXPTILT_CACHE": cache}


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        measure(*sys.argv[2:4])
    else:
        main()
