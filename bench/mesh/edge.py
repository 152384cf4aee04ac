"""Envoy before a real upstream: what a rate limit service behind it adds to a call, and what it lets through."""

import asyncio
import sys
import time
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import yaml

from bench.mesh import setup
from bench.mesh.plan import spells
from bench.mesh.servers import DOMAIN, LIMITED, OPEN, Servers, servers, until
from gate.cli.demo.intervals import Use, fullest
from gate.kafka.local.config import HOST, free_port
from gate.limits import Window
from gate.units import SECOND

RATE: Final = 200  # calls per second
LIMIT: Final = 50  # per second, of the service that has one
PLAIN, OURS, THEIRS = "without", "gate", "envoyproxy/ratelimit"
_TURN_SECONDS: Final = 2.0
_CONNECTIONS: Final = 16
_NEEDS: Final = ("broker", "gate", "sidecar", "redis", "ratelimit")
_FILTERS: Final = "type.googleapis.com/envoy.extensions.filters"


@dataclass(frozen=True, slots=True)
class Passed:
    """What calls through Envoy took, ms, and the fullest true second under the limit."""

    name: str
    calls: int
    p50: float
    p99: float
    added_p50: float
    added_p99: float
    fullest: int | None = None
    limit: int = LIMIT

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def run(folder: Path, *, quick: bool, bootstrap: str | None) -> list[Passed]:
    """Measure all three in turn. Raises MissingError and FailedError."""
    folder.mkdir(parents=True)
    program = setup.envoy()
    with servers(_NEEDS, folder, LIMIT, bootstrap) as running:
        ports = _envoy(running, program, _upstream(running))
        return asyncio.run(_calls(ports, turns=2 if quick else 6, count=2 if quick else 4))


async def _calls(ports: Mapping[str, int], turns: int, count: int) -> list[Passed]:
    edges = {name: await Edge.connect(port) for name, port in ports.items()}
    took: dict[str, list[float]] = {name: [] for name in edges}
    for turn in range(turns):
        for name, edge in edges.items():
            now = time.time()
            calls = await edge.calls(f"/{OPEN}", [(now, now + _TURN_SECONDS)])
            if turn:  # the first one is for warming up
                took[name] += [(after - before) / 1e6 for before, after, status in calls if status == 200]
    most = {name: await _most(edges[name], count) for name in (OURS, THEIRS)}
    for edge in edges.values():
        edge.close()
    return passed(took, most)


async def _most(edge: "Edge", count: int) -> int:
    """Return how many calls lie in the fullest second, where they come in spells."""
    calls = await edge.calls(f"/{LIMITED}", spells(int(time.time()) + 1, count))
    uses: list[Use] = sorted((before, after) for before, after, status in calls if status == 200)
    return fullest(Window(LIMIT, SECOND), uses)[0]


def passed(took: Mapping[str, list[float]], most: Mapping[str, int]) -> list[Passed]:
    """Make figures of what calls took, ms."""

    def at(name: str, share: float) -> float:
        ordered = sorted(took[name])
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    base = {share: at(PLAIN, share) for share in (0.5, 0.99)}
    return [
        Passed(
            name, len(took[name]), at(name, 0.5), at(name, 0.99),
            at(name, 0.5) - base[0.5], at(name, 0.99) - base[0.99], most.get(name),
        )
        for name in took
    ]  # fmt: skip


class Edge:
    """Connections to one of Envoy's listeners."""

    def __init__(self, free: "asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]]") -> None:
        self._free = free

    @classmethod
    async def connect(cls, port: int) -> "Edge":
        free: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
        for _ in range(_CONNECTIONS):
            free.put_nowait(await asyncio.open_connection(HOST, port))
        return cls(free)

    def close(self) -> None:
        while not self._free.empty():
            self._free.get_nowait()[1].close()

    async def calls(self, path: str, spans: Sequence[tuple[float, float]]) -> list[Any]:
        """Call RATE times a second within spans of unix seconds; return (ns before, ns after, status) of each."""
        under_way: list[Awaitable[tuple[int, int, int]]] = []
        for begin, end in spans:
            due = max(begin, time.time())
            while due < end:
                await asyncio.sleep(max(0.0, due - time.time()))
                under_way.append(asyncio.create_task(self._call(path)))
                due += 1 / RATE
        return await asyncio.gather(*under_way)

    async def _call(self, path: str) -> tuple[int, int, int]:
        reader, writer = connection = await self._free.get()
        before = time.time_ns()
        writer.write(f"GET {path} HTTP/1.1\r\nhost: edge\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        after = time.time_ns()
        await reader.readexactly(_length(head))
        self._free.put_nowait(connection)
        return before, after, int(head.split(b" ", 2)[1])


def _length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    return 0


def _upstream(running: Servers) -> int:
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "bench.mesh.upstream:app", "--app-dir", Path.cwd(), "--host", HOST]
    server = running.start("upstream", [*command, "--port", port, "--no-access-log", "--log-level", "warning"])
    until(lambda: _answers(f"http://{HOST}:{port}/"), "the upstream does not serve", server.check)
    return port


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False).is_success
    except httpx.TransportError:
        return False


def _envoy(running: Servers, program: setup.Installed, upstream: int) -> dict[str, int]:
    """Start Envoy with a listener for each: return their ports."""
    admin, settings = running.folder / "admin", running.folder / "envoy.yaml"
    services = {OURS: running.addresses["sidecar"][0], THEIRS: running.addresses["ratelimit"][0]}
    settings.write_text(yaml.safe_dump(_config(f"{HOST}:{upstream}", services)))
    options = ["--use-dynamic-base-id", "--concurrency", "1", "--log-level", "error", "--admin-address-path", admin]
    server = running.start("envoy", [program.path, "-c", settings, *options])
    base = f"http://{until(lambda: admin.exists() and admin.read_text().strip(), 'Envoy has no admin', server.check)}"
    until(lambda: _answers(f"{base}/ready"), "Envoy is not ready", server.check)
    listeners = httpx.get(f"{base}/listeners?format=json", trust_env=False).json()["listener_statuses"]
    return {one["name"]: one["local_address"]["socket_address"]["port_value"] for one in listeners}


def _config(upstream: str, services: Mapping[str, str]) -> dict[str, Any]:
    free = {"socket_address": {"address": HOST, "port_value": 0}}
    router = {"name": "router", "typed_config": {"@type": f"{_FILTERS}.http.router.v3.Router"}}
    http2 = {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}},
        }
    }

    def listener(name: str, filters: list[object]) -> dict[str, Any]:
        path = {"request_headers": {"header_name": ":path", "descriptor_key": "path"}}
        route = {"cluster": "upstream", "rate_limits": [{"actions": [path]}] if filters else []}
        host = {"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": route}]}
        manager = {
            "@type": f"{_FILTERS}.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": name,
            "route_config": {"virtual_hosts": [host]},
            "http_filters": [*filters, router],
        }
        chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
        return {"name": name, "address": free, "filter_chains": [chain]}

    def limit(name: str) -> dict[str, Any]:
        service = {"transport_api_version": "V3", "grpc_service": {"envoy_grpc": {"cluster_name": name}}}
        settings = {"domain": DOMAIN, "failure_mode_deny": True, "timeout": "5s", "rate_limit_service": service}
        typed = {"@type": f"{_FILTERS}.http.ratelimit.v3.RateLimit", **settings}
        return {"name": "envoy.filters.http.ratelimit", "typed_config": typed}

    def cluster(name: str, address: str, **more: object) -> dict[str, Any]:
        host, _, port = address.rpartition(":")
        endpoint = {"address": {"socket_address": {"address": host, "port_value": int(port)}}}
        return {
            "name": name,
            "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": endpoint}]}]},
            **more,
        }

    behind = [cluster(name, at, typed_extension_protocol_options=http2) for name, at in services.items()]
    listeners = [listener(PLAIN, []), *[listener(name, [limit(name)]) for name in services]]
    resources = {"listeners": listeners, "clusters": [cluster("upstream", upstream), *behind]}
    return {"admin": {"address": free}, "static_resources": resources}
