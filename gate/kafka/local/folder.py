"""The folder in which one broker lives: its configuration, its log and its data."""

import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path
from typing import IO, Self

from gate.errors import GateError
from gate.kafka.local.config import DATA

_PREFIX = "gate-broker-"
_NODE = "node-"


class BrokerFolder:
    """A folder held by this process: a temporary one goes when it is closed, a given one stays."""

    def __init__(self, path: Path, lock: IO[str], *, temporary: bool) -> None:
        self.path = path
        self._lock = lock
        self.temporary = temporary

    @classmethod
    def open(cls, path: Path | None) -> Self:
        """Open `path`, or a new temporary folder. Raises GateError if it can't be written or another broker has it."""
        if path is None:
            _remove_abandoned()
            path, temporary = Path(tempfile.mkdtemp(prefix=_PREFIX)), True
        else:
            path, temporary = path.absolute(), False
        try:
            path.mkdir(parents=True, exist_ok=True)
            lock = _lock(path)
        except OSError as error:
            raise GateError(
                f"{path} can't hold a broker's data: {error.strerror}", hint="name another folder"
            ) from error
        if lock is None:
            raise GateError(f"another broker is running in {path}", hint="stop it, or name another folder")
        return cls(path, lock, temporary=temporary)

    def node(self, number: int) -> Path:
        """Return the folder of one of several nodes."""
        folder = self.path / f"{_NODE}{number}"
        folder.mkdir(exist_ok=True)
        return folder

    def check_layout(self, nodes: int) -> None:
        """Raise GateError if the folder holds the data of another number of nodes."""
        held = len(list(self.path.glob(f"{_NODE}*"))) or int((self.path / DATA).exists())
        if held not in {0, nodes}:
            raise GateError(
                f"{self.path} holds the data of {held} node{'s' if held > 1 else ''}, not of {nodes}",
                hint=f"start it with --nodes {held}, or name another folder",
            )

    def close(self) -> None:
        """Let go of the folder."""
        if self.temporary:
            shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()


def _lock(path: Path) -> IO[str] | None:
    lock = path.joinpath(".lock").open("a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    return lock


def _remove_abandoned() -> None:
    """Remove temporary folders whose process was killed before it could."""
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):  # another user's, or just now removed by another process
            if path.stat().st_uid == os.getuid() and (lock := _lock(path)):
                shutil.rmtree(path, ignore_errors=True)
                lock.close()
