"""Opening files that a user has named, and nothing that could keep its reader waiting."""

import os
import stat
from pathlib import Path
from typing import BinaryIO


class NotAFileError(OSError):
    """A pipe, a socket or a device: whoever reads it may wait for ever."""


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading. Raises OSError; NotAFileError for what is no file, IsADirectoryError for a folder."""
    if path.is_dir():
        raise IsADirectoryError(path)
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # or a pipe without a writer holds us here
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    raise NotAFileError(path)
