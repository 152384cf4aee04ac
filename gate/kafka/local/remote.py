"""Remote control of a running cluster: a socket per cluster, in a folder that only its user can enter."""

import contextlib
import json
import os
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from gate.errors import GateError
from gate.kafka.local.cache import cache_folder
from gate.kafka.local.cluster import LocalCluster

_START: Final = "start one with `gate broker --nodes 3`"
_MOST: Final = 1 << 16  # bytes of a line
_PATIENCE: Final = 5.0  # seconds, for a cluster to say what it is


class Request(NamedTuple):
    """What is asked: "stop", "kill", "pause", "resume", "start", "restart", or "where"."""

    what: str
    numbers: tuple[int, ...] = ()


def _said(did: str) -> Callable[[int], str]:
    return lambda number: f"node {number} {did}"


_DONE: Final = {
    "stop": _said("has shut down"), "kill": _said("is killed"), "pause": _said("stands still"),
    "resume": _said("goes on"), "start": _said("serves"), "restart": _said("serves"),
}  # fmt: skip


def carry_out(cluster: LocalCluster, request: Request) -> list[str]:
    """Do what is asked; return what there is to say, in lines. Raises GateError."""
    if request.what == "where":
        return [cluster.bootstrap]
    numbers, done = tuple(dict.fromkeys(request.numbers)), _DONE[request.what]
    for number in numbers:
        cluster.node(number)  # one that is not there keeps all from being touched
    serves = True
    if request.what == "start":
        serves = cluster.start_nodes(*numbers)
    else:
        call: Callable[[int], bool | None] = {
            "stop": cluster.stop_node, "kill": cluster.kill, "pause": cluster.pause, "resume": cluster.resume,
            "restart": cluster.restart,
        }[request.what]  # fmt: skip
        for number in numbers:
            serves = call(number) is not False and serves
    if not serves:
        done = _said(f"runs; it serves when more than half of the {len(cluster.numbers)} nodes run")
    return [done(number) for number in numbers]


class _Handler(socketserver.StreamRequestHandler):
    server: "_Server"

    def handle(self) -> None:
        line = self.rfile.readline(_MOST)
        if not line:
            return
        asked = json.loads(line)
        try:
            answer: dict[str, Any] = {
                "said": carry_out(self.server.cluster, Request(asked["what"], tuple(asked["numbers"])))
            }
        except GateError as error:
            answer = {"error": str(error), "hint": error.hint}
        with contextlib.suppress(OSError):  # who asked did not wait for it
            self.wfile.write(json.dumps(answer).encode() + b"\n")


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    cluster: LocalCluster


@contextmanager
def _folder() -> Iterator[int]:
    """Yield a descriptor of the folder with the sockets: of a path a socket takes 107 bytes, and this may be longer."""
    path = cache_folder() / "running"
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise GateError(f"{path}: {error.strerror}", hint="XDG_CACHE_HOME names another place for it") from error
    try:
        yield folder
    finally:
        os.close(folder)


def _path(folder: int) -> Path:
    return Path(f"/proc/self/fd/{folder}")


@contextmanager
def listening(cluster: LocalCluster) -> Iterator[None]:
    """Let other processes of this user ask things of `cluster` until the end of the block."""
    with _folder() as folder:
        path = _path(folder) / str(os.getpid())
        path.unlink(missing_ok=True)  # of a process that had the same number
        with _Server(str(path), _Handler) as server:
            server.cluster = cluster
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
            thread.start()
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
                server.shutdown()
                thread.join()


def ask(request: Request, bootstrap: str | None = None) -> list[str]:
    """Ask the cluster that runs, or the one that has a node at `bootstrap`; return what it says. Raises GateError."""
    with _folder() as folder:
        found: dict[Path, str] = {}
        for path in sorted(_path(folder).iterdir()):
            answer = _exchange(path, Request("where"), _PATIENCE)
            if answer is None:
                path.unlink(missing_ok=True)  # it was killed
            else:
                found[path] = answer["said"][0]
        answer = _exchange(_choose(found, bootstrap), request, None)
    if answer is None:
        raise GateError("the cluster ended meanwhile", hint=_START)
    if "error" in answer:
        raise GateError(answer["error"], hint=answer["hint"])
    return list(answer["said"])


def _choose(found: Mapping[Path, str], bootstrap: str | None) -> Path:
    if not found:
        raise GateError("no local cluster runs", hint=_START)
    if bootstrap is None:
        if len(found) > 1:
            raise GateError(
                f"{len(found)} local clusters run: {', '.join(sorted(found.values()))}",
                hint="say which by --bootstrap and the address of one of its nodes",
            )
        return next(iter(found))
    wanted = _addresses(bootstrap)
    for path, addresses in found.items():
        if wanted & _addresses(addresses):
            return path
    raise GateError(
        f"no local cluster has a node at {bootstrap}", hint=f"there are: {', '.join(sorted(found.values()))}"
    )


def _addresses(bootstrap: str) -> set[str]:
    return {address.strip().replace("localhost:", "127.0.0.1:") for address in bootstrap.split(",")}


def _exchange(path: Path, request: Request, timeout: float | None) -> dict[str, Any] | None:
    """Send a request and return the answer; None if nobody is there."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(timeout)
        try:
            connection.connect(str(path))
            connection.sendall(json.dumps(request._asdict()).encode() + b"\n")
            with connection.makefile("rb") as stream:
                line = stream.readline()
        except (ConnectionError, FileNotFoundError):
            return None
        except TimeoutError:
            raise GateError("a local cluster does not answer", hint="end its `gate broker --nodes`") from None
    return json.loads(line) if line else None
