"""Run a program that dies with its parent. Executed as a script between the two; see `spawn`."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import Future
from pathlib import Path

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def spawn(command: list[str], *, cwd: Path, output: Path) -> subprocess.Popen[bytes]:
    """Start `command`, its output appended to a file. It gets SIGKILL when this process ends, however it ends.

    It has a session of its own, so that a Ctrl-C in the terminal reaches this process alone, which then stops it.
    """
    started: Future[subprocess.Popen[bytes]] = Future()

    def run() -> None:
        # The kernel's "parent" is the thread that forked: this one stays as long as the child
        try:
            with output.open("ab") as log:
                process = subprocess.Popen(  # noqa: S603
                    [sys.executable, "-I", "-S", __file__, str(os.getpid()), *command],
                    cwd=cwd,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
        except BaseException as error:  # noqa: BLE001 - raised again by the caller
            started.set_exception(error)
            return
        started.set_result(process)
        process.wait()

    threading.Thread(target=run, name=f"parent of {Path(command[0]).name}", daemon=True).start()
    return started.result()


def main(parent: str, *command: str) -> None:
    """Become `command`, bound to the life of the process `parent`."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == int(parent):  # else it died before the line above
        os.execv(command[0], command)  # noqa: S606


if __name__ == "__main__":
    main(*sys.argv[1:])
