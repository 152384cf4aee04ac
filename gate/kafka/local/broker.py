"""One Apache Kafka broker in KRaft mode, as a child process."""

import os
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from gate.errors import GateError
from gate.kafka.local import bound, config, jars, probe
from gate.kafka.local.folder import BrokerFolder
from gate.kafka.local.runtime import Runtime

HEAP = "512m"
START_TIMEOUT = 60.0  # seconds; it takes one to three, on a busy machine more
STOP_TIMEOUT = 30.0  # seconds; the first clean stop also writes the class-data archive
_PORT_ATTEMPTS = 5
_POLL = 0.02  # seconds
_TAIL = 15  # lines of the log that a failure shows


class PortTakenError(GateError):
    """Somebody else listens at the broker's port."""


class LocalBroker:
    """A running broker. Use `LocalBroker.start`; leave by `stop` or as a context manager.

    It dies with this process, also when that is killed. Methods block: in a coroutine use `asyncio.to_thread`.
    """

    def __init__(
        self,
        runtime: Runtime,
        folder: BrokerFolder,
        ports: tuple[int, int],
        *,
        heap: str,
        properties: Mapping[str, str],
        timeout: float,
        optimize: bool,
    ) -> None:
        self._runtime = runtime
        self._folder = folder
        self._ports = ports
        self._heap = heap
        self._properties = properties
        self._timeout = timeout
        self._optimize = optimize
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def start(
        cls,
        folder: Path | None = None,
        *,
        port: int | None = None,
        heap: str = HEAP,
        properties: Mapping[str, str] | None = None,
        on_progress: jars.Progress = lambda _message: None,
        timeout: float = START_TIMEOUT,
        optimize: bool = False,
    ) -> Self:
        """Start a broker and return when it answers.

        `folder` keeps the data over runs; without one it lives in a temporary folder until `stop`. `port`: a free one
        if not given. `properties` are added to `server.properties`. `timeout` in seconds counts from the start of the
        JVM, not the download. `optimize` runs the JVM as Kafka's own start script does, with all of `heap` at once:
        slower in its first minutes, then twice as quick to answer, and without long pauses. Raises GateError if there
        is no Java, no download or no broker.
        """
        runtime = Runtime.provide(on_progress)
        held = BrokerFolder.open(folder)
        attempts = 1 if port else _PORT_ATTEMPTS
        try:
            while True:
                attempts -= 1
                outer = port or config.free_port()
                ports = (outer, config.free_port(taken=outer))
                broker = cls(
                    runtime, held, ports, heap=heap, properties=properties or {}, timeout=timeout, optimize=optimize
                )
                on_progress("starting the broker")
                try:
                    broker._launch()
                except PortTakenError:
                    if not attempts:
                        raise
                else:
                    return broker
        except BaseException:
            held.close()
            raise

    @property
    def bootstrap(self) -> str:
        """`HOST:PORT` for clients."""
        return f"{config.HOST}:{self._ports[0]}"

    @property
    def folder(self) -> Path:
        """Where its configuration, its log (`broker.log`) and its data are."""
        return self._folder.path

    @property
    def pid(self) -> int:
        """The JVM's process id."""
        return self._running().pid

    def stop(self) -> None:
        """Shut down cleanly; remove the folder if it is a temporary one. May be called more than once."""
        if self._process is not None:
            self.resume()
            self._process.terminate()
            try:
                self._process.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                self.kill()
            else:
                self._runtime.keep_archive(self.folder)
            self._process = None
        self._folder.close()

    def kill(self) -> None:
        """SIGKILL: nothing is flushed, nobody is told."""
        process = self._running()
        process.kill()
        process.wait()

    def restart(self) -> None:
        """Start again with the same ports and data, after SIGKILL if it still runs; return when it answers."""
        self.kill()
        self._launch()

    def pause(self) -> None:
        """SIGSTOP: connections stay, answers do not come. Returns when it stands still."""
        self._running().send_signal(signal.SIGSTOP)
        # a thread that runs on another core may answer for a moment yet
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self) -> None:
        """Undo `pause`."""
        self._running().send_signal(signal.SIGCONT)

    def wait(self) -> str:
        """Wait until the broker ends by itself; return why, in one line."""
        code = self._running().wait()
        return f"the broker on {self.bootstrap} ended with exit code {code}"

    def log_tail(self) -> str:
        """Return the last lines of its log."""
        try:
            lines = self._log.read_text("utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return ""
        return "\n".join(lines[-_TAIL:])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.stop()

    @property
    def _log(self) -> Path:
        return self.folder / config.LOG

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise GateError(f"the broker on {self.bootstrap} was stopped", hint="start a new one")
        return self._process

    def _launch(self) -> None:
        for port in self._ports:
            if not config.is_free(port):
                raise PortTakenError(f"port {port} is in use", hint="choose another one, or none to get a free one")
        cluster = self._runtime.format(self.folder / config.DATA)
        properties = config.server_properties(*self._ports, self._properties)
        self.folder.joinpath("server.properties").write_text(properties, "ascii")
        self.folder.joinpath("log4j2.properties").write_text(config.LOG4J, "ascii")
        self._log.unlink(missing_ok=True)
        command = self._runtime.command(self._heap, self._runtime.archive_flag(), optimize=self._optimize)
        self._process = bound.spawn(command, cwd=self.folder, output=self._log)
        try:
            self._await_answer(self._process, cluster)
        except BaseException:
            self.kill()
            raise

    def _await_answer(self, process: subprocess.Popen[bytes], cluster: str) -> None:
        deadline = time.monotonic() + self._timeout
        # The id, because somebody else's broker may have been quicker to take the port
        while probe.cluster_id(config.HOST, self._ports[0]) != cluster:
            code = process.poll()
            if code is not None:
                tail = self.log_tail()
                if "Address already in use" in tail:
                    raise PortTakenError(f"port {self._ports[0]} or {self._ports[1]} was taken", hint="try again")
                raise GateError(f"the broker did not start: exit code {code}", hint=f"its log ends with:\n{tail}")
            if time.monotonic() > deadline:
                raise GateError(
                    f"the broker did not answer on {self.bootstrap} within {self._timeout:g} s",
                    hint=f"its log ends with:\n{self.log_tail() or '(nothing)'}",
                )
            time.sleep(_POLL)
