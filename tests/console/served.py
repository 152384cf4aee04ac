"""`gate console` as a process of its own."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def consoled(bootstrap: str, prefix: str, *options: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run it until the end of the block, which may kill it; return its URL."""
    command = [sys.executable, "-m", "gate", "console", "--bootstrap", bootstrap, "--prefix", prefix, "--http", "0"]
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip(), process
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                assert process.wait(30) == 0
        finally:
            process.kill()
