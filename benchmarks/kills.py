"""Promise 4 at full size: runs killed at random moments, many times each, must end equal to the run never stopped.

    python benchmarks/kills.py --kills 30

The suite does the same with two or three kills (tests/invariants/test_resume.py, test_faults.py); this script runs those
tests with more. Exit status 0: every run ended equal; the number of kills that hit is printed for each.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
TESTS = ("tests/invariants/test_resume.py", "tests/invariants/test_faults.py")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30, help="in each case")
    kills = parser.parse_args().kills
    command = [sys.executable, "-m", "pytest", "-q", "-rP", "-k", "killed", f"--timeout={60 * kills + 300}", *TESTS]
    return subprocess.run(command, cwd=ROOT, env=os.environ | {"EXPTILT_KILLS": str(kills)}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
