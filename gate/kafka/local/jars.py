"""The jars of Apache Kafka: fetched from Maven Central once, checked against `jars.lock` at every start.

The lock holds the SHA-256 and the Maven coordinate of every jar of the broker's runtime, so that what runs is what was
reviewed, whichever tool or mirror delivered it.
"""

import hashlib
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from xml.sax.saxutils import escape

from gate.errors import GateError
from gate.kafka.local.cache import locked

KAFKA_VERSION = "4.4.0"
FETCH_TIMEOUT = 900  # seconds for all jars together; 45 MB on a slow line

Progress = Callable[[str], None]
Fetch = Callable[[tuple["Jar", ...], Path, Progress], None]


@dataclass(frozen=True, slots=True)
class Jar:
    """One line of the lock."""

    sha256: str
    group: str
    artifact: str
    version: str

    @property
    def name(self) -> str:
        """The file's name in a Maven repository."""
        return f"{self.artifact}-{self.version}.jar"

    def is_at(self, path: Path) -> bool:
        """Whether `path` holds this jar, to the last byte."""
        try:
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest() == self.sha256
        except OSError:
            return False


class FetchError(Exception):
    """One way to fetch did not work; there may be another."""


@cache
def lock() -> tuple[Jar, ...]:
    """Every jar that the broker needs."""
    lines = resources.files("gate.kafka.local").joinpath("jars.lock").read_text("utf-8").splitlines()
    return tuple(Jar(sha256, *coordinate.split(":")) for sha256, coordinate in (line.split() for line in lines))


def lock_id() -> str:
    """Eight hex digits that name this set of jars."""
    return hashlib.sha256("".join(jar.sha256 for jar in lock()).encode()).hexdigest()[:8]


def provide(folder: Path, on_progress: Progress, fetchers: Iterable[tuple[str, Fetch]] | None = None) -> list[Path]:
    """Return the class path, in a fixed order; fetch into `folder` what is missing there or damaged."""
    paths = [folder / jar.name for jar in lock()]
    if _missing(folder):
        with locked(folder.with_suffix(".lock")):
            if missing := _missing(folder):  # another process may have been quicker
                folder.mkdir(parents=True, exist_ok=True)
                _fill(folder, missing, on_progress, _fetchers() if fetchers is None else fetchers)
    return paths


def _missing(folder: Path) -> tuple[Jar, ...]:
    return tuple(jar for jar in lock() if not jar.is_at(folder / jar.name))


def _fill(folder: Path, missing: tuple[Jar, ...], on_progress: Progress, fetchers: Iterable[tuple[str, Fetch]]) -> None:
    failures = []
    for tool, fetch in fetchers:
        on_progress(f"fetching Apache Kafka {KAFKA_VERSION} from Maven Central with {tool}: {len(missing)} jars")
        with _scratch(folder) as scratch:
            try:
                fetch(missing, scratch, on_progress)
            except FetchError as error:
                failures.append(f"{tool}: {error}")
                continue
            for jar in missing:
                fetched = scratch / jar.name
                if not jar.is_at(fetched):
                    raise GateError(
                        f"{jar.name} as fetched with {tool} is not the jar this version of the gate was built for",
                        hint=f"expected SHA-256 {jar.sha256}\nis a mirror altering downloads, or a copy in "
                        "~/.m2/repository damaged? delete that one",
                    )
                fetched.replace(folder / jar.name)
            return
    reasons = "; ".join(failures) or "neither mvn nor jgo is installed"
    raise GateError(
        f"Apache Kafka {KAFKA_VERSION} could not be fetched: {reasons}",
        hint="install Maven (Debian: apt-get install maven) or `pip install 'kafka-admission-gate[broker]'`, and check "
        "the network; or use a broker of your own with --bootstrap",
    )


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """Yield an empty folder beside `folder`, so that a jar gets there by one rename. The lock makes it ours alone."""
    scratch = folder.with_name("fetching")
    shutil.rmtree(scratch, ignore_errors=True)  # of a process that was killed
    scratch.mkdir(parents=True)
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _fetchers() -> Iterator[tuple[str, Fetch]]:
    if mvn := shutil.which("mvn"):
        yield "mvn", lambda jars, folder, progress: _fetch_with_mvn(mvn, jars, folder, progress)
    try:
        import jgo.maven  # noqa: F401, PLC0415 - an optional extra
    except ImportError:
        return
    yield "jgo", _fetch_with_jgo


def _fetch_with_mvn(mvn: str, jars: tuple[Jar, ...], folder: Path, on_progress: Progress) -> None:
    pom = folder / "pom.xml"
    pom.write_text(_pom(jars), "utf-8")
    command = [mvn, "--batch-mode", "--file", str(pom), "dependency:copy-dependencies", f"-DoutputDirectory={folder}"]
    try:
        process = subprocess.Popen(  # noqa: S603
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        )
    except OSError as error:
        raise FetchError(str(error)) from error
    deadline = threading.Timer(FETCH_TIMEOUT, process.kill)
    deadline.start()
    try:
        said, complaint = "", ""
        with process:
            for line in process.stdout or ():
                said = line.strip() or said
                complaint = complaint or line.partition("[ERROR]")[2].strip()
                if fetched := re.search(r"Downloaded from .*/([^/ ]+\.jar) ", line):
                    on_progress(f"fetched {fetched[1]}")
    finally:
        deadline.cancel()
    if process.returncode:
        raise FetchError(complaint or said or f"exit code {process.returncode}")


def _pom(jars: Iterable[Jar]) -> str:
    """Return a project that depends on exactly these jars: what they depend on is in the lock already."""
    dependencies = "".join(
        f"<dependency><groupId>{escape(jar.group)}</groupId><artifactId>{escape(jar.artifact)}</artifactId>"
        f"<version>{escape(jar.version)}</version><exclusions><exclusion><groupId>*</groupId>"
        "<artifactId>*</artifactId></exclusion></exclusions></dependency>"
        for jar in jars
    )
    return (
        '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>'
        "<groupId>gate</groupId><artifactId>local-broker</artifactId><version>1</version><packaging>pom</packaging>"
        f"<dependencies>{dependencies}</dependencies></project>\n"
    )


def _fetch_with_jgo(jars: tuple[Jar, ...], folder: Path, on_progress: Progress) -> None:
    from jgo.maven import MavenContext  # noqa: PLC0415 - an optional extra

    # A repository of its own: an interrupted download of jgo stays in place and would be taken for the whole jar
    context = MavenContext(repo_cache=folder / "repository", timeout=30)
    for count, jar in enumerate(jars, start=1):
        on_progress(f"fetching {jar.name} ({count} of {len(jars)})")
        try:
            found = context.project(jar.group, jar.artifact).at_version(jar.version).artifact().resolve()
        except Exception as error:  # jgo raises what its HTTP library raises, and RuntimeError
            raise FetchError(f"{jar.name}: {error}") from error
        found.replace(folder / jar.name)
