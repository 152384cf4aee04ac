"""Secrets that a command is given: by a variable, or as @FILE. A command line can be read by everybody on the host."""

import os
from pathlib import Path
from typing import Final

from gate.cli.client import say
from gate.errors import GateError
from gate.files import NotAFileError, open_regular

LONGEST: Final = 64 << 10  # bytes


def secret(option: str, variable: str, given: str | None) -> str | None:
    """Return the secret of an option that may also come by a variable. Raises GateError for a file that is none."""
    if given is None or given == os.environ.get(variable):
        return given
    if given.startswith("@"):
        return _read(Path(given[1:]), option)
    say(f"{option} on the command line is seen by everybody on this host (ps): set {variable}, or give {option} @FILE")
    return given


def _read(path: Path, option: str) -> str:
    try:
        with open_regular(path) as file:
            data = file.read(LONGEST + 1)
        if len(data) > LONGEST:
            raise GateError(f"{option}: {path} is larger than {LONGEST >> 10} KiB, hence no secret")
        return data.decode().rstrip("\r\n")
    except NotAFileError:
        raise GateError(f"{option}: {path} is no regular file", hint="write the secret into a file") from None
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8"
        raise GateError(f"{option}: {path} can't be read: {why}", hint="@ is followed by a file's path") from error
