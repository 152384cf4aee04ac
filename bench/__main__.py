"""Run all benchmarks: `python -m bench [--quick]`. Each prints its table and adds to build/bench.json.

Quick: few rounds of small loads, under four minutes; the pages of docs/ stay as they are. Exit code 1 if anything
failed; the rest was measured all the same.

`python -m bench --pauses [--quick] [--faults KIND,KIND]` measures nothing but how long faults of three brokers last,
`python -m bench --mesh [--quick] [--only NAME,NAME]` nothing but limits that processes share by calls.
"""

import argparse
import subprocess
import sys

from bench.results import FILE

# module -> what makes it quick
MODULES = {
    "bench.decision": ["--rounds", "3", "--decisions", "200000"],
    "bench.pipeline": ["--quick"],
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--pauses", action="store_true", help="of three brokers; what follows is for bench.pauses")
    parser.add_argument("--mesh", action="store_true", help="of limits by calls; what follows is for bench.mesh")
    given, more = parser.parse_known_args()
    quick = given.quick
    for part in ("pauses", "mesh"):
        if getattr(given, part):
            command = [sys.executable, "-m", f"bench.{part}", *(["--quick"] if quick else ()), *more]
            return subprocess.run(command, check=False).returncode
    if more:
        parser.error(f"unknown: {' '.join(more)}")
    FILE.unlink(missing_ok=True)  # a figure of an earlier run must not stand in for one that failed
    code = 0
    for name, options in MODULES.items():
        # Each in its own process, so that none measures what another left behind.
        answer = subprocess.run([sys.executable, "-m", name, *(options if quick else ())], check=False)
        if answer.returncode:
            print(f"{name} failed with exit code {answer.returncode}", file=sys.stderr)
            code = 1
    return code


if __name__ == "__main__":
    sys.exit(main())
