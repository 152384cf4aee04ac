"""Several Apache Kafka nodes on this machine, each broker and controller in one, as child processes."""

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final, Self

from gate.errors import GateError
from gate.kafka.local import config, jars
from gate.kafka.local.broker import PORT_ATTEMPTS, START_TIMEOUT
from gate.kafka.local.config import Site
from gate.kafka.local.folder import BrokerFolder
from gate.kafka.local.node import Manner, Node, PortTakenError
from gate.kafka.local.runtime import Runtime

NODES: Final = 3
HEAP: Final = "384m"  # of each node
_STOP_TIMEOUT: Final = 10.0  # seconds for all; who shuts down last has no majority to ask any more


class LocalCluster:
    """A running cluster. Use `LocalCluster.start`; leave by `stop` or as a context manager.

    What is acknowledged survives the loss of one of three nodes. Nodes are named by number, from 1 on. They die with
    this process. Methods block, and raise GateError for a number that there is not.
    """

    def __init__(self, nodes: Iterable[Node], folder: BrokerFolder, runtime: Runtime) -> None:
        self._nodes = {node.site.number: node for node in nodes}
        self._folder = folder
        self._runtime = runtime
        self._id: str | None = None

    @classmethod
    def start(
        cls,
        folder: Path | None = None,
        *,
        nodes: int = NODES,
        port: int | None = None,
        heap: str = HEAP,
        properties: Mapping[str, str] | None = None,
        properties_of: Callable[[Site], Mapping[str, str]] = lambda _site: {},
        on_progress: jars.Progress = lambda _message: None,
        timeout: float = START_TIMEOUT,
        optimize: bool = False,
    ) -> Self:
        """Start all nodes at once and return when each answers and knows the others; see `LocalBroker.start`.

        `port` is that of node 1, the others have those behind it. `properties_of` returns what is a node's own.
        """
        runtime = Runtime.provide(on_progress)
        held = BrokerFolder.open(folder)
        attempts = 1 if port else PORT_ATTEMPTS
        try:
            held.check_layout(nodes)
            while True:
                attempts -= 1
                sites = config.sites(nodes, port)
                manners = (Manner(heap, {**(properties or {}), **properties_of(s)}, timeout, optimize) for s in sites)
                nodes_of_it = (
                    Node(runtime, held.node(s.number), s, sites, manner)
                    for s, manner in zip(sites, manners, strict=True)
                )
                cluster = cls(nodes_of_it, held, runtime)
                on_progress(f"starting {nodes} nodes")
                try:
                    cluster._launch()
                except PortTakenError:
                    if not attempts:
                        raise
                else:
                    return cluster
        except BaseException:
            held.close()
            raise

    @property
    def bootstrap(self) -> str:
        """`HOST:PORT,HOST:PORT,...` for clients."""
        return ",".join(node.site.address for node in self._nodes.values())

    @property
    def folder(self) -> Path:
        """Where the nodes' folders are."""
        return self._folder.path

    @property
    def numbers(self) -> tuple[int, ...]:
        """The nodes."""
        return tuple(self._nodes)

    def node(self, number: int) -> Node:
        """Return a node by its number."""
        if number not in self._nodes:
            raise GateError(f"there is no node {number}", hint=f"the nodes are 1 to {len(self._nodes)}")
        return self._nodes[number]

    def running(self) -> list[int]:
        """Return the nodes that run, paused or not."""
        return [number for number, node in self._nodes.items() if node.runs()]

    def stop_node(self, number: int) -> None:
        """Shut a node down as for maintenance: it hands over what it leads before it goes."""
        node = self._that_runs(number)
        node.terminate()
        node.await_end()

    def kill(self, number: int) -> None:
        """SIGKILL a node."""
        self._that_runs(number).kill()

    def pause(self, number: int) -> None:
        """SIGSTOP a node: connections stay, answers do not come."""
        self._that_runs(number).pause()

    def resume(self, number: int) -> None:
        """Undo `pause`."""
        self._that_runs(number).resume()

    def start_nodes(self, *numbers: int) -> bool:
        """Start nodes again with the ports and data that they had; return when they answer.

        Returns False, and at once, where too few run to serve.
        """
        nodes = [self.node(number) for number in numbers]
        for number, node in zip(numbers, nodes, strict=True):
            if node.runs():
                raise GateError(f"node {number} runs", hint=f"gate broker restart {number}")
        for node in nodes:
            node.spawn(self._id)
        if 2 * len(self.running()) <= len(self._nodes):
            return False
        for node in nodes:
            node.await_answer()
        return True

    def restart(self, number: int) -> bool:
        """Shut a node down if it runs, and start it again; see `start_nodes`."""
        if self.node(number).runs():
            self.stop_node(number)
        return self.start_nodes(number)

    def ended(self) -> Mapping[int, int]:
        """Return nodes that have ended by themselves, and their exit codes; each once."""
        found = {}
        for number, node in self._nodes.items():
            code = node.exit_code()
            if code is not None:
                node.await_end()
                found[number] = code
        return found

    def stop(self) -> None:
        """Shut all down, at once where nothing is kept; remove the folder if it is a temporary one.

        May be called more than once.
        """
        keep = not self._folder.temporary or not self._runtime.archive.exists()
        deadline = time.monotonic() + (_STOP_TIMEOUT if keep else 0.0)
        for node in self._nodes.values():
            node.terminate()
        for node in self._nodes.values():
            node.await_end(max(0.0, deadline - time.monotonic()))
        self._folder.close()

    def log_tail(self, number: int) -> str:
        """Return the last lines of a node's log."""
        return self.node(number).log_tail()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.stop()

    def _that_runs(self, number: int) -> Node:
        node = self.node(number)
        if not node.runs():
            raise GateError(f"node {number} does not run", hint=f"gate broker start {number}")
        return node

    def _launch(self) -> None:
        try:
            for node in self._nodes.values():
                self._id = node.spawn(self._id)
            for node in self._nodes.values():
                node.await_answer(len(self._nodes))
        except BaseException:
            for node in self._nodes.values():
                if node.runs():
                    node.kill()
            raise
