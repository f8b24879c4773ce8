"""Write the goldens of the command line anew: `python tests/unit/golden/regenerate.py`.

A golden is what users see: writing it anew is a decision that the change is meant, never a way to
get the tests to pass. Look at `git diff tests/assets/golden` before the commit. `--demo RUNS` also
packs the run folders of a finished demo (`make demo`), which all tables and laws are made from.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main() -> int:
    """Pack a demo where one is named, then let the tests write what they would compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--demo", type=Path, help="folder of a finished demo's runs")
    parser.add_argument("-k", default="", help="only the tests that pytest's -k chooses")
    given = parser.parse_args()
    if given.demo:
        sys.path.insert(0, str(HERE))
        from demo_runs import pack

        pack(given.demo)
    words = [sys.executable, "-m", "pytest", str(HERE), *(["-k", given.k] if given.k else [])]
    environment = os.environ | {"GOLDEN_WRITE": "1"}
    return subprocess.run(words, env=environment, cwd=HERE.parents[2]).returncode


if __name__ == "__main__":
    sys.exit(main())
