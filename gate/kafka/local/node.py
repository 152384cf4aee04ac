"""One node of a local Kafka: a JVM in a folder, that is started, stopped, killed and paused as often as one likes."""

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gate.errors import GateError
from gate.kafka.local import bound, config, probe
from gate.kafka.local.config import Site
from gate.kafka.local.runtime import Runtime

STOP_TIMEOUT: Final = 30.0  # seconds; the first clean stop also writes the class-data archive
_POLL: Final = 0.02  # seconds
_TAIL: Final = 15  # lines of the log that a failure shows


class PortTakenError(GateError):
    """Somebody else listens at the broker's port."""


@dataclass(frozen=True, slots=True)
class Manner:
    """How nodes are run; see `LocalBroker.start`."""

    heap: str
    properties: Mapping[str, str]
    timeout: float  # seconds from the start of the JVM to its answer
    optimize: bool


class Node:
    """A node, running or not. Methods block."""

    def __init__(self, runtime: Runtime, folder: Path, site: Site, cluster: Sequence[Site], manner: Manner) -> None:
        """Prepare; `folder` is there, `cluster` says where all nodes are, this one among them."""
        self.folder = folder
        self.site = site
        self._runtime = runtime
        self._cluster = cluster
        self._manner = manner
        self._id = ""  # of the cluster
        self._process: subprocess.Popen[bytes] | None = None
        self._asked = False  # to shut down

    @property
    def pid(self) -> int:
        """The JVM's process id."""
        return self._running().pid

    def spawn(self, cluster_id: str | None = None) -> str:
        """Start the JVM, in a new cluster unless one is given or the folder has one; return the cluster's id."""
        for port in (self.site.port, self.site.controller_port):
            if not config.is_free(port):
                raise PortTakenError(f"port {port} is in use", hint="choose another one, or none to get a free one")
        self._id = self._runtime.format(self.folder / config.DATA, self.site.number, cluster_id)
        properties = config.server_properties(self.site, self._cluster, self._manner.properties)
        self.folder.joinpath("server.properties").write_text(properties, "ascii")
        self.folder.joinpath("log4j2.properties").write_text(config.LOG4J, "ascii")
        self._log.unlink(missing_ok=True)
        flag = self._runtime.archive_flag()
        command = self._runtime.command(self._manner.heap, flag, optimize=self._manner.optimize)
        self._asked = False
        self._process = bound.spawn(command, cwd=self.folder, output=self._log)
        return self._id

    def await_answer(self, nodes: int = 1) -> None:
        """Return when it answers, and knows that it and so many nodes in all are alive. Raises GateError."""
        deadline = time.monotonic() + self._manner.timeout
        process, site = self._running(), self.site
        while not self._answers(nodes):
            code = process.poll()
            if code is not None:
                tail = self.log_tail()
                if "Address already in use" in tail:
                    raise PortTakenError(f"port {site.port} or {site.controller_port} was taken", hint="try again")
                raise GateError(f"the broker did not start: exit code {code}", hint=f"its log ends with:\n{tail}")
            if time.monotonic() > deadline:
                raise GateError(
                    f"the broker did not answer on {site.address} within {self._manner.timeout:g} s",
                    hint=f"its log ends with:\n{self.log_tail() or '(nothing)'}",
                )
            time.sleep(_POLL)

    def _answers(self, nodes: int) -> bool:
        answer = probe.ask(config.HOST, self.site.port)
        # The id, because somebody else's broker may have been quicker to take the port
        if answer is None or answer.cluster != self._id:
            return False
        return self.site.number in answer.nodes and len(answer.nodes) >= nodes

    def runs(self) -> bool:
        """Tell whether there is a process, paused or not."""
        return self._process is not None and self._process.poll() is None

    def exit_code(self) -> int | None:
        """Return how it ended by itself; None if it runs, or was stopped or killed."""
        return None if self._process is None or self._asked else self._process.poll()

    def terminate(self) -> None:
        """Ask it to shut down cleanly, if it runs; `await_end` waits for it."""
        if self.runs():
            self._asked = True  # before it can end: another thread looks for nodes that end by themselves
            self.resume()
            self._running().terminate()

    def await_end(self, timeout: float = STOP_TIMEOUT) -> None:
        """Wait until it has shut down; kill it after `timeout` seconds."""
        if self._process is None:
            return
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
        else:
            self._runtime.keep_archive(self.folder)
            self._process = None

    def kill(self) -> None:
        """SIGKILL: nothing is flushed, nobody is told."""
        process, self._process = self._running(), None
        process.kill()
        process.wait()

    def pause(self) -> None:
        """SIGSTOP: connections stay, answers do not come. Returns when it stands still."""
        process = self._running()
        process.send_signal(signal.SIGSTOP)
        # a thread that runs on another core may answer for a moment yet
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self) -> None:
        """Undo `pause`."""
        self._running().send_signal(signal.SIGCONT)

    def wait(self) -> str:
        """Wait until it ends by itself; return why, in one line."""
        code = self._running().wait()
        return f"the broker on {self.site.address} ended with exit code {code}"

    def log_tail(self) -> str:
        """Return the last lines of its log."""
        try:
            lines = self._log.read_text("utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return ""
        return "\n".join(lines[-_TAIL:])

    @property
    def _log(self) -> Path:
        return self.folder / config.LOG

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise GateError(f"the broker on {self.site.address} was stopped", hint="start it again")
        return self._process
