"""Fuzz the loaders for a while: `python tests/data/fuzz.py 40` runs the properties of test_fuzz*.py for 40 minutes.

Every round draws new cases. A failure ends it with the smallest case; mend it and keep that case as a test.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

TIMES = "20"
"""Times as many examples per round as in the suite."""


def main(minutes: float) -> int:
    """Run rounds until the time is up; the exit status of the first that fails, else 0."""
    end = time.monotonic() + 60 * minutes
    tests = sorted(str(path) for path in Path(__file__).parent.glob("test_fuzz*.py"))
    command = [sys.executable, "-m", "pytest", "-q", "-x", "--timeout=0", "-p", "no:cacheprovider", *tests]
    rounds = 0
    while time.monotonic() < end:
        status = subprocess.run(command, env={**os.environ, "EXPTILT_FUZZ": TIMES}, check=False).returncode
        if status:
            return status
        rounds += 1
        print(f"{rounds} rounds without a failure", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(float(sys.argv[1]) if len(sys.argv) > 1 else 10))
