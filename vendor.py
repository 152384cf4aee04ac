"""The scripts of others that the console serves: fetched from npm, and checked against their checksums.

`python vendor.py` fetches the versions of `gate/console/static/vendored.json` by `npm pack`, and writes them beside it
with their licences; `python vendor.py --check` only checks what is there, and needs no network. For another version,
change it there, drop its checksums, run this, and look at what has changed.
"""

import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any, Final

STATIC: Final = Path(__file__).parent / "gate" / "console" / "static"
MANIFEST: Final = STATIC / "vendored.json"


def main(arguments: list[str]) -> int:
    """Fetch, or with `--check` only check. Returns the exit code."""
    packages: dict[str, Any] = json.loads(MANIFEST.read_text())
    if arguments != ["--check"]:
        for name, package in packages.items():
            fetch(name, package)
        MANIFEST.write_text(json.dumps(packages, indent=2) + "\n")
    wrong = faults(packages)
    print("\n".join(wrong) or f"{len(packages)} packages are as their checksums say")  # noqa: T201
    return 1 if wrong else 0


def fetch(name: str, package: dict[str, Any]) -> None:
    """Write the files of a package; checksums that are not given are filled in."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["npm", "pack", "--silent", "--ignore-scripts", f"{name}@{package['version']}"]
        subprocess.run(  # noqa: S603 - from the manifest
            command, cwd=folder, check=True, stdout=subprocess.DEVNULL
        )
        (packed,) = Path(folder).glob("*.tgz")
        with tarfile.open(packed) as archive:
            for file, entry in package["files"].items():
                member = archive.extractfile(f"package/{entry['from']}")
                assert member is not None, f"{name} has no {entry['from']}"
                content = member.read()
                entry.setdefault("sha256", hashlib.sha256(content).hexdigest())
                (STATIC / file).write_bytes(content)


def faults(packages: dict[str, Any]) -> list[str]:
    """Return what is not as the manifest says."""
    found = []
    for name, package in packages.items():
        for file, entry in package["files"].items():
            path = STATIC / file
            if not path.exists():
                found.append(f"{file} of {name} is missing: python vendor.py")
            elif hashlib.sha256(path.read_bytes()).hexdigest() != entry.get("sha256"):
                found.append(f"{file} of {name} {package['version']} has another checksum: python vendor.py")
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
