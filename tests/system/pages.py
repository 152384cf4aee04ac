"""What the tests of the pages share: their blocks of code, and a shell that runs them as a reader would."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
KEEPS_RUNNING = "it keeps running"


def blocks(page: str) -> list[tuple[str, str]]:
    """Return language and text of each block of code of a page."""
    return FENCE.findall((ROOT / page).read_text())


class Shell:
    """Runs the blocks of a page in one folder."""

    def __init__(self, folder: Path, bootstrap: str, ports: dict[str, str] | None = None, **variables: str) -> None:
        self.folder = folder
        self.ports = ports or {}
        self.output = ""
        self.running: list[tuple[str, Path, subprocess.Popen[bytes]]] = []
        outer = {name: value for name, value in os.environ.items() if not name.startswith("GATE_")}
        self.environment = outer | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "GATE_BOOTSTRAP": bootstrap,
            "COLUMNS": "200",
            **variables,
        }

    def run(self, script: str) -> None:
        for port, free in self.ports.items():
            script = script.replace(port, free)
        log = self.folder / f"output-{len(self.running)}-{time.monotonic_ns()}"
        with log.open("wb") as file:
            shell = subprocess.Popen(
                ["bash", "-euc", script],
                cwd=self.folder,
                env=self.environment,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        self.running.append((script, log, shell))
        if KEEPS_RUNNING in script:
            if "gate broker" in script:
                self.wait_for("broker", lambda line: line.startswith("bootstrap:"))
            return
        with suppress(subprocess.TimeoutExpired):
            shell.wait(60)
        assert shell.returncode == 0, f"{script}\n{self.outputs}"

    @property
    def outputs(self) -> str:
        return "\n".join(log.read_text() for _, log, _ in self.running)

    def wait_for(self, what: str, found: Callable[[str], bool]) -> None:
        """Return when a line of the output is found."""
        deadline = time.monotonic() + 60
        while not any(map(found, self.outputs.splitlines())):
            self.check()
            assert time.monotonic() < deadline, f"no {what} in:\n{self.outputs}"
            time.sleep(0.05)

    def check(self) -> None:
        """Fail as soon as something has ended that is meant to keep running."""
        for script, log, shell in self.running:
            assert KEEPS_RUNNING not in script or shell.poll() is None, f"ended:\n{script}\n{log.read_text()}"

    def stop(self) -> list[str]:
        """End all that runs, the newest first, as Ctrl-C would; return what ended badly."""
        wrong = []
        for script, log, shell in reversed(self.running):
            if KEEPS_RUNNING in script and shell.poll() is None:
                os.killpg(shell.pid, signal.SIGINT)
                if shell.wait(40) not in {0, 130}:
                    wrong.append(f"exit code {shell.returncode}:\n{script}\n{log.read_text()}")
            with suppress(ProcessLookupError):
                os.killpg(shell.pid, signal.SIGKILL)  # what a block has put into the background
            shell.wait()
        return wrong
