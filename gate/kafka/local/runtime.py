"""The runtime that brokers of this machine share: Java, the jars, a formatted log and an archive of loaded classes."""

import contextlib
import os
import secrets
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from gate.errors import GateError
from gate.kafka.local import config, jars, jvm
from gate.kafka.local.cache import cache_folder, locked

_CHECKPOINT = Path("__cluster_metadata-0", "00000000000000000000-0000000000.checkpoint")
_NEW_ARCHIVE = "classes.jsa"
_FOR_A_QUICK_START = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
# bin/kafka-run-class.sh; a serial collector stops a broker of 1 GB for 80 ms every few seconds
_AS_KAFKA_DOES = (
    "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20", "-XX:InitiatingHeapOccupancyPercent=35",
    "-XX:+ExplicitGCInvokesConcurrent",
)  # fmt: skip
_FORMAT_TIMEOUT = 120  # seconds; it takes one


@dataclass(frozen=True, slots=True)
class Runtime:
    """Everything needed to start brokers. Its files are in the cache and outlive the process."""

    java: jvm.Java
    class_path: str
    cache: Path

    @classmethod
    def provide(cls, on_progress: jars.Progress) -> Self:
        """Find Java and the jars, fetch what is missing. Raises GateError."""
        java = jvm.find()
        cache = cache_folder() / f"kafka-{jars.KAFKA_VERSION}-{jars.lock_id()}"
        try:
            paths = jars.provide(cache / "jars", on_progress)
        except OSError as error:
            raise GateError(f"{cache}: {error.strerror}", hint="XDG_CACHE_HOME names another place for it") from error
        return cls(java, os.pathsep.join(map(str, paths)), cache)

    def format(self, data: Path, number: int = 1, cluster: str | None = None) -> str:
        """Make `data` the log directory of node `number`, or leave it if it is one; return the cluster's id.

        A new `cluster` if none is given. Formatting by Kafka's own tool costs the start of a JVM; its result, apart
        from the ids, is the same each time. So it is done once, and copied.
        """
        meta = data / "meta.properties"
        if meta.exists():
            lines = dict(line.partition("=")[::2] for line in meta.read_text("utf-8").splitlines())
            return lines.get("cluster.id", "").strip()
        template = self.cache / "bootstrap.checkpoint"
        if not template.exists():
            with locked(self.cache / "format.lock"):
                if not template.exists():
                    self._format_template(template)
        checkpoint = data / _CHECKPOINT
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(template, checkpoint)
        cluster = cluster or config.new_id()
        meta.write_text(config.identity(cluster, number), "utf-8")  # last: it is what says that it is formatted
        return cluster

    def _format_template(self, template: Path) -> None:
        with tempfile.TemporaryDirectory(dir=self.cache, prefix="format-") as scratch:
            folder = Path(scratch)
            site = config.Site(1, 1024, 1025)
            folder.joinpath("server.properties").write_text(config.server_properties(site, [site], {}), "utf-8")
            tool = [*self._java(), "kafka.tools.StorageTool", "format"]
            tool += ["-t", config.new_id(), "-c", "server.properties"]
            try:
                subprocess.run(tool, cwd=folder, check=True, capture_output=True, text=True, timeout=_FORMAT_TIMEOUT)  # noqa: S603
            except subprocess.CalledProcessError as error:
                raise GateError("Kafka's storage tool failed", hint=(error.stderr or error.stdout).strip()) from error
            folder.joinpath(config.DATA, _CHECKPOINT).replace(template)

    def command(self, heap: str, *flags: str, optimize: bool) -> list[str]:
        """Return the command line of a broker that runs in its own folder."""
        return [
            *self._java(optimize=optimize),
            f"-Xmx{heap}",
            *([f"-Xms{heap}"] if optimize else ()),
            "-XX:+ExitOnOutOfMemoryError",
            "-Xlog:disable",
            "-Xlog:all=error:stderr",  # writing an archive warns of each class that can't be in it
            "-Dlog4j2.configurationFile=log4j2.properties",
            *flags,
            "kafka.Kafka",
            "server.properties",
        ]

    def _java(self, *, optimize: bool = False) -> list[str]:
        options = _AS_KAFKA_DOES if optimize else _FOR_A_QUICK_START
        return [str(self.java.executable), *options, "-cp", self.class_path]

    @property
    def archive(self) -> Path:
        """The class-data archive of this Java and these jars; halves the start once the first clean stop made it."""
        return self.cache / f"classes-{self.java.build}.jsa"

    def archive_flag(self) -> str:
        """Return the option that uses the archive, or that writes one to the broker's folder when it stops."""
        if self.archive.exists():
            return f"-XX:SharedArchiveFile={self.archive}"
        return f"-XX:ArchiveClassesAtExit={_NEW_ARCHIVE}"

    def keep_archive(self, folder: Path) -> None:
        """Move the archive that a stopped broker may have written in `folder` to where the next start looks for it."""
        new = folder / _NEW_ARCHIVE
        scratch = self.archive.with_suffix(f".{secrets.token_hex(4)}")
        if new.exists():
            with contextlib.suppress(OSError):  # a full or read-only cache costs a second at the next start, no more
                shutil.copyfile(new, scratch)
                scratch.replace(self.archive)
            new.unlink()
