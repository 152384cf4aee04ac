"""The cache of downloads, and a lock that two processes filling it at once share."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/gate`, else `~/.cache/gate`. Relative values are ignored, as the XDG specification asks."""
    root = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (root if root.is_absolute() else Path.home() / ".cache") / "gate"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold `path` for this process. The kernel lets go of it when the process dies, whatever kills it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
