"""`--keep FOLDER` of long runs: logs and the brokers' data are kept in a folder of their own."""

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def add_keep(parser: argparse.ArgumentParser) -> None:
    """Add the option."""
    parser.add_argument(
        "--keep", type=Path, metavar="FOLDER", help="keep all logs and the brokers' data there; it must not be there"
    )


@contextmanager
def kept(parser: argparse.ArgumentParser, folder: Path | None, prefix: str) -> Iterator[Path]:
    """Make the folder that is to be kept, or one that goes at the end. Ends the program where it can't be made."""
    if folder is None:
        with tempfile.TemporaryDirectory(prefix=prefix) as temporary:
            yield Path(temporary)
        return
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        why = "is there already" if isinstance(error, FileExistsError) else f"can't be made: {error.strerror}"
        parser.error(f"--keep {folder}: it {why}; name a folder that is not there yet")
    yield folder
