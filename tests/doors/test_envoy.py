"""A real Envoy before a real upstream asks a real `gate sidecar`: limits, tenants, costs, what nothing matches."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.doors.serving import serving_in_thread

POLICY = """
unmatched: refuse
templates: {slow: {requests_per_second: 1/h, window_size: null}}
services:
  pay: {extends: slow, burst_size: 2, match: {domain: edge, descriptors: {path: /pay}}}
  heavy: {extends: slow, burst_size: 10, match: {domain: edge, descriptors: {path: /heavy}}}
  trial: {extends: slow, burst_size: 1, shadow: true, match: {domain: edge, descriptors: {path: /trial}}}
  search:
    match: {domain: edge, descriptors: {path: /search, key: "*"}, tenant: key}
    tenants: {default: {requests_per_second: 1/h, burst_size: 1, window_size: null}}
"""
FILTER = "envoy.filters.http.ratelimit"


class Upstream:
    def __init__(self) -> None:
        self.paths: list[str] = []

    async def __call__(self, scope, receive, send):
        self.paths.append(scope["path"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"upstream"})


def until(what: Callable[[], Any]) -> Any:
    end = time.monotonic() + 60
    while not (found := what()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return found


def cluster(name: str, address: str, **more: object) -> dict[str, object]:
    host, _, port = address.rpartition(":")
    endpoint = {"address": {"socket_address": {"address": host, "port_value": int(port)}}}
    endpoints = [{"lb_endpoints": [{"endpoint": endpoint}]}]
    return {"name": name, "load_assignment": {"cluster_name": name, "endpoints": endpoints}, **more}


def config(upstream: str, rls: str, admin: Path) -> dict[str, object]:
    """Return Envoy's whole configuration, each of its ports a free one."""
    free = {"socket_address": {"address": "127.0.0.1", "port_value": 0}}
    typed = "type.googleapis.com/envoy.extensions."
    path = {"request_headers": {"header_name": ":path", "descriptor_key": "path"}}
    key = {"request_headers": {"header_name": "x-key", "descriptor_key": "key"}}

    def route(prefix: str, *actions: object) -> dict[str, object]:
        limits = [{"actions": list(actions)}] if actions else []
        return {"match": {"prefix": prefix}, "route": {"cluster": "upstream", "rate_limits": limits}}

    heavy = {
        "@type": f"{typed}filters.http.ratelimit.v3.RateLimitPerRoute",
        "rate_limits": [{"actions": [path], "hits_addend": {"number": 5}}],
    }
    manager = {
        "@type": f"{typed}filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "edge",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [
                        route("/search", path, key),
                        route("/heavy") | {"typed_per_filter_config": {FILTER: heavy}},
                        route("/", path),
                    ],
                }
            ]
        },
        "http_filters": [
            {
                "name": FILTER,
                "typed_config": {
                    "@type": f"{typed}filters.http.ratelimit.v3.RateLimit",
                    "domain": "edge",
                    "failure_mode_deny": True,
                    "timeout": "30s",
                    "enable_x_ratelimit_headers": "DRAFT_VERSION_03",
                    "rate_limit_service": {
                        "transport_api_version": "V3",
                        "grpc_service": {
                            "envoy_grpc": {"cluster_name": "sidecar"},
                            "initial_metadata": [{"key": "authorization", "value": "Bearer s3cret"}],
                        },
                    },
                },
            },
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{typed}filters.http.router.v3.Router"},
            },
        ],
    }
    http2 = {
        "@type": f"{typed}upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
    options = {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http2}
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    return {
        "admin": {"address": free},
        "static_resources": {
            "listeners": [{"name": "edge", "address": free, "filter_chains": [chain]}],
            "clusters": [
                cluster("upstream", upstream),
                cluster("sidecar", rls, typed_extension_protocol_options=options),
            ],
        },
    }


class Edge:
    """Envoy, the sidecar behind it, and what they stand before."""

    def __init__(self, client: httpx.Client, upstream: Upstream, policy: Path, http: str) -> None:
        self.client, self.upstream, self.policy, self.http = client, upstream, policy, http

    def get(self, path: str, **headers: str) -> httpx.Response:
        return self.client.get(path, headers=headers)


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    folder = tmp_path_factory.mktemp("edge")
    policy, log, admin = folder / "policy.yaml", folder / "sidecar.log", folder / "admin"
    policy.write_text(POLICY)
    (folder / "token").write_text("s3cret\n")
    command = [sys.executable, "-m", "gate", "sidecar", "--config", str(policy), "--log", "json"]
    command += ["--rls", "127.0.0.1:0", "--http", "127.0.0.1:0", "--token", f"@{folder / 'token'}"]
    upstream = Upstream()
    with serving_in_thread(upstream) as url, log.open("w") as errors, (folder / "envoy.log").open("w") as said_by_envoy:
        sidecar = subprocess.Popen(command, stderr=errors)
        envoy = None
        try:
            line = until(lambda: next((line for line in log.read_text().splitlines() if "sidecar runs" in line), None))
            said = json.loads(line)
            settings = folder / "envoy.yaml"
            settings.write_text(yaml.safe_dump(config(url.removeprefix("http://"), said["rls"], admin)))
            binary = Path(find_spec("envoy._bin").submodule_search_locations[0]) / "envoy"
            envoy = subprocess.Popen(
                [binary, "-c", settings, "--use-dynamic-base-id", "--concurrency", "1", "--admin-address-path", admin],
                stdout=subprocess.DEVNULL,
                stderr=said_by_envoy,
            )
            until(lambda: admin.exists() and admin.read_text())
            base = f"http://{admin.read_text().strip()}"
            until(lambda: httpx.get(f"{base}/ready").status_code == 200)
            listeners = httpx.get(f"{base}/listeners?format=json").json()["listener_statuses"]
            port = listeners[0]["local_address"]["socket_address"]["port_value"]
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
                yield Edge(client, upstream, policy, said["http"])
            sidecar.send_signal(signal.SIGTERM)
            assert sidecar.wait(60) == 0
            assert '"stopped"' in log.read_text()
        finally:
            for process in filter(None, (envoy, sidecar)):
                process.kill()
                process.wait()


def test_what_is_over_the_limit_does_not_reach_the_upstream(edge: Edge) -> None:
    answers = [edge.get("/pay") for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 429, 429]
    assert edge.upstream.paths.count("/pay") == 2
    assert answers[0].text == "upstream"
    assert [answer.headers["x-ratelimit-remaining"] for answer in answers[:3]] == ["1", "0", "0"]
    assert answers[0].headers["ratelimit"] == '"pay.rate";r=1;t=3600'
    assert answers[0].headers["ratelimit-policy"] == '"pay.rate";q=2;w=7200'
    assert 3500 < int(answers[3].headers["retry-after"]) <= 3600


def test_a_header_names_the_tenant(edge: Edge) -> None:
    assert [edge.get("/search", **{"x-key": key}).status_code for key in "aabba"] == [200, 429, 200, 429, 429]


def test_a_route_may_cost_more(edge: Edge) -> None:
    assert [edge.get("/heavy").status_code for _ in range(3)] == [200, 200, 429]


def test_a_shadow_only_reports(edge: Edge) -> None:
    assert [edge.get("/trial").status_code for _ in range(3)] == [200] * 3
    metrics = httpx.get(f"http://{edge.http}/metrics").text
    assert 'gate_sidecar_checks_total{decision="shadow",door="rls",service="trial"} 2.0' in metrics


def test_what_nothing_matches_is_answered_as_the_policy_says_today(edge: Edge) -> None:
    assert edge.get("/other").status_code == 429
    assert [edge.get("/pay").status_code for _ in range(3)][-1] == 429
    edge.policy.write_text("services: {pay: [")  # refused whole
    refused = "gate_sidecar_refused_policies_total 0.0"
    until(lambda: refused not in httpx.get(f"http://{edge.http}/metrics").text)
    assert edge.get("/other").status_code == 429
    edge.policy.write_text(POLICY.replace("unmatched: refuse", "unmatched: allow"))
    until(lambda: edge.get("/other").status_code == 200)
    assert edge.get("/pay").status_code == 429  # what counted counts
