"""A contender as a process: its CPU time, its memory, standing still and going on."""

import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from gate.kafka.local import bound

_CPU_CLOCK = 2  # CPUCLOCK_SCHED: user and system time of all threads, those that ended included (linux/posix-timers.h)
_STOP_SECONDS = 15
_TAIL = 12  # lines of the log that a failure shows


class FailedError(Exception):
    """A run that can't be counted: what happened, to which contender."""


class Process:
    """A running contender. It dies with this process, however that ends. Use as a context manager."""

    def __init__(self, name: str, command: Sequence[str], log: Path) -> None:
        self.name = name
        self._log = log
        self._process = bound.spawn(list(command), cwd=Path.cwd(), output=log)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.thaw()
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def check(self) -> None:
        """Raise FailedError if it has ended."""
        code = self._process.poll()
        if code is not None:
            raise self.failed(f"ended with exit code {code}")

    def failed(self, what: str) -> FailedError:
        lines = self._log.read_text("utf-8", errors="replace").splitlines()[-_TAIL:]
        return FailedError("\n".join([f"{self.name}: {what}; its log ends with:", *("  " + line for line in lines)]))

    def cpu(self) -> int:
        """Return the CPU time it has used, ns."""
        # how glibc's clock_getcpuclockid(3) makes the id, which Python does not expose
        return time.clock_gettime_ns((~self._process.pid << 3) | _CPU_CLOCK)

    def freeze(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)

    def memory(self) -> tuple[int, int]:
        """Return the bytes resident now, and at the most so far."""
        status = Path(f"/proc/{self._process.pid}/status").read_text("ascii")
        now, most = (int(status.split(f"{field}:")[1].split()[0]) * 1024 for field in ("VmRSS", "VmHWM"))
        return now, most
