"""One Apache Kafka broker in KRaft mode, as a child process."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final, Self

from gate.kafka.local import config, jars
from gate.kafka.local.folder import BrokerFolder
from gate.kafka.local.node import Manner, Node, PortTakenError
from gate.kafka.local.runtime import Runtime

HEAP: Final = "512m"
START_TIMEOUT: Final = 60.0  # seconds; it takes one to three, on a busy machine more
PORT_ATTEMPTS: Final = 5


class LocalBroker:
    """A running broker. Use `LocalBroker.start`; leave by `stop` or as a context manager.

    It dies with this process, also when that is killed. Methods block: in a coroutine use `asyncio.to_thread`.
    """

    def __init__(self, node: Node, folder: BrokerFolder) -> None:
        self._node = node
        self._folder = folder

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
        manner = Manner(heap, properties or {}, timeout, optimize)
        attempts = 1 if port else PORT_ATTEMPTS
        try:
            held.check_layout(1)
            while True:
                attempts -= 1
                sites = config.sites(1, port)
                broker = cls(Node(runtime, held.path, sites[0], sites, manner), held)
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
        return self._node.site.address

    @property
    def folder(self) -> Path:
        """Where its configuration, its log (`broker.log`) and its data are."""
        return self._node.folder

    @property
    def pid(self) -> int:
        """The JVM's process id."""
        return self._node.pid

    def stop(self) -> None:
        """Shut down cleanly; remove the folder if it is a temporary one. May be called more than once."""
        self._node.terminate()
        self._node.await_end()
        self._folder.close()

    def kill(self) -> None:
        """SIGKILL: nothing is flushed, nobody is told."""
        self._node.kill()

    def restart(self) -> None:
        """Start again with the same ports and data, after SIGKILL if it still runs; return when it answers."""
        if self._node.runs():
            self._node.kill()
        self._launch()

    def pause(self) -> None:
        """SIGSTOP: connections stay, answers do not come. Returns when it stands still."""
        self._node.pause()

    def resume(self) -> None:
        """Undo `pause`."""
        self._node.resume()

    def wait(self) -> str:
        """Wait until the broker ends by itself; return why, in one line."""
        return self._node.wait()

    def log_tail(self) -> str:
        """Return the last lines of its log."""
        return self._node.log_tail()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.stop()

    def _launch(self) -> None:
        self._node.spawn()
        try:
            self._node.await_answer()
        except BaseException:
            self._node.kill()
            raise
