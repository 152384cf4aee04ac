"""Run all benchmarks: `python -m bench`. Each prints its table and adds to build/bench.json."""

import subprocess
import sys

MODULES = ("bench.decision",)

if __name__ == "__main__":
    # Each in its own process, so that none measures what another left behind.
    sys.exit(max(subprocess.run([sys.executable, "-m", name], check=False).returncode for name in MODULES))
