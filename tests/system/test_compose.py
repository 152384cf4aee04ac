"""The composed demo: what a real Compose tool says about it, where there is one, and what we know better than it.

Without Docker the images are not pulled and nothing is started. `make compose-tool` installs the tool.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from prometheus_client import CollectorRegistry

from gate import cli
from gate.kafka.local import config as local
from gate.kafka.local.jars import KAFKA_VERSION
from gate.observe.metrics import Metrics
from gate.policy import load_policy

ROOT = Path(__file__).parents[2]
NODES = ("kafka-1", "kafka-2", "kafka-3")
PINNED = re.compile(r"[a-z/-]+:v?\d+\.\d+\.\d+(-[a-z-]+)?")


@pytest.fixture(scope="module")
def compose():
    return yaml.safe_load(ROOT.joinpath("docker-compose.yml").read_text())


@pytest.fixture(scope="module")
def services(compose):
    return compose["services"]


@pytest.fixture(scope="module")
def tool():
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]) and run([*command, "version"]).returncode == 0:
            return command
    return pytest.skip("no Compose tool on this machine: its schema is not checked; `make compose-tool` installs one")


def run(command):
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def config(tool, file):
    return run([*tool, "-f", str(file), "config"])


def test_a_real_compose_tool_accepts_it(tool, services):
    resolved = config(tool, ROOT / "docker-compose.yml")
    assert resolved.returncode == 0, resolved.stderr
    heeds_profiles = "version 1." not in run([*tool, "version"]).stdout  # Debian's shows all services
    usual = {name for name, service in services.items() if "profiles" not in service or not heeds_profiles}
    assert yaml.safe_load(resolved.stdout)["services"].keys() == usual
    resolved = run([*tool, "-f", str(ROOT / "docker-compose.yml"), "--profile", "cluster", "config"])
    assert yaml.safe_load(resolved.stdout)["services"].keys() == services.keys()


@pytest.mark.parametrize(
    ("right", "wrong"),
    [("healthcheck:", "healthcheque:"), ("[prometheus]", "[prometheuss]"), ("kafka-data:/", "data:/")],
)
def test_a_real_compose_tool_refuses_what_is_wrong(tool, right, wrong, tmp_path):
    text = ROOT.joinpath("docker-compose.yml").read_text()
    assert right in text
    broken = tmp_path / "docker-compose.yml"
    broken.write_text(text.replace(right, wrong))
    assert config(tool, broken).returncode != 0


def test_images_are_pinned_and_kafka_is_the_tested_one(services):
    images = [service["image"] for service in services.values()]
    bases = re.findall(r"^FROM (\S+)", ROOT.joinpath("Dockerfile").read_text(), re.MULTILINE)
    assert [image for image in images + bases if not PINNED.fullmatch(image)] == []
    assert {services[name]["image"] for name in ("kafka", *NODES)} == {f"apache/kafka:{KAFKA_VERSION}"}


def test_three_nodes_stand_behind_a_profile_and_are_one_cluster(services):
    nodes = {name: service for name, service in services.items() if service.get("profiles") == ["cluster"]}
    assert tuple(nodes) == NODES
    told = [service["environment"] for service in nodes.values()]
    for number, (name, said) in enumerate(zip(nodes, told, strict=True), 1):
        inside, outside = said.pop("KAFKA_ADVERTISED_LISTENERS").split(",")
        assert (said.pop("KAFKA_NODE_ID"), inside) == (str(number), f"PLAINTEXT://{name}:9092")
        (port,) = nodes[name]["ports"]
        assert outside.removeprefix("HOST://localhost:") == port.split(":")[1]  # else clients are sent elsewhere
    assert told[0] == told[1] == told[2]
    voters = ",".join(f"{number}@{name}:9093" for number, name in enumerate(NODES, 1))
    assert told[0]["KAFKA_CONTROLLER_QUORUM_VOTERS"] == voters


def test_three_nodes_keep_all_as_a_local_cluster_does(services):
    """What a test finds on the one must hold on the other."""
    site, *_ = sites = local.sites(3)
    properties = dict(line.split("=", 1) for line in local.server_properties(site, sites, {}).splitlines())
    copies = {n: v for n, v in properties.items() if n.endswith(("replication.factor", "min.isr", "insync.replicas"))}
    assert len(copies) == 7
    for name, value in copies.items():
        assert services[NODES[0]]["environment"][f"KAFKA_{name.upper().replace('.', '_')}"] == value


def test_nothing_is_secret_and_nothing_is_open_to_the_network(services):
    names = [name for service in services.values() for name in service.get("environment", {})]
    assert not [name for name in names if re.search("PASSWORD|SECRET|TOKEN|CREDENTIAL|API_?KEY", name)]
    ports = [port for service in services.values() for port in service.get("ports", ())]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_what_is_mounted_and_copied_exists(compose, services):
    mounts = [volume.split(":")[0] for service in services.values() for volume in service.get("volumes", ())]
    assert mounts
    assert [mount for mount in mounts if mount not in compose["volumes"] and not (ROOT / mount).exists()] == []
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", ROOT.joinpath("Dockerfile").read_text(), re.MULTILINE)
    sources = [source for line in copied for source in line.split()]
    assert all((ROOT / source).exists() for source in sources)
    kept = ROOT.joinpath(".dockerignore").read_text().splitlines()
    assert [source for source in sources if f"!{source}" not in kept] == []


def program_calls(services):
    """Yield the calls of programs in consumers/: path and arguments."""
    for service in services.values():
        line = " ".join([*service.get("entrypoint", ()), *service.get("command", ())])
        if found := re.search(r"python /opt/gate/(consumers/\S+)(.*)", line):
            yield ROOT / found[1], found[2].split()


def gate_calls(services):
    for service in services.values():
        if "build" not in service or service.get("entrypoint", ())[:1] == ["python"]:
            continue
        command = service["command"]
        if service.get("entrypoint") == ["sh", "-c"]:
            (command,) = (re.search(r"gate ([^;]+);", line)[1].split() for line in command)
        yield [part.replace("/etc/gate", str(ROOT / "deploy")) for part in command]


def test_every_gate_command_is_one_that_the_gate_takes(services):
    calls = list(gate_calls(services))
    assert {call[0] for call in calls} == {"run", "submit"}
    for call in calls:
        cli._app(call).parse_args(call, exit_on_error=False, print_error=False)


def test_the_programs_of_consumers_are_run_and_take_their_arguments(services):
    calls = dict(program_calls(services))
    assert calls.keys() == set((ROOT / "consumers").glob("*.py"))
    for program, arguments in calls.items():
        taken = run([sys.executable, str(program), *arguments, "--help"])  # what is not known is refused before
        assert taken.returncode == 0, taken.stderr


def test_who_sends_and_works_has_a_policy(services):
    policy = load_policy(ROOT / "deploy" / "policy.yaml")
    named = {call[1] for call in gate_calls(services) if call[0] == "submit"}
    named |= {arguments[0] for _, arguments in program_calls(services) if arguments}
    assert named == {"payments", "search", "reports", "invoices"}
    assert all(policy.service(name).spec.rate is not None for name in named)


def test_prometheus_scrapes_a_port_that_the_gate_opens(services):
    scraped = yaml.safe_load(ROOT.joinpath("deploy/prometheus.yml").read_text())["scrape_configs"]
    (target,) = scraped[0]["static_configs"][0]["targets"]
    host, port = target.split(":")
    assert f"0.0.0.0:{port}" in services[host]["command"]
    source = yaml.safe_load(ROOT.joinpath("deploy/grafana/provisioning/datasources/prometheus.yml").read_text())
    assert source["datasources"][0]["url"] == "http://prometheus:9090"
    assert "prometheus" in services


def test_keda_asks_for_metrics_that_the_gate_has():
    objects = list(yaml.safe_load_all(ROOT.joinpath("deploy/keda.yaml").read_text()))
    asked = {trigger["metadata"]["query"] for one in objects for trigger in one["spec"]["triggers"]}
    registry = CollectorRegistry()
    Metrics(registry, "1")
    served = {family.name for family in registry.collect()}
    assert {re.findall(r"gate_[a-z_]+", query)[0] for query in asked} == {
        "gate_backlog_requests", "gate_undecided_requests",
    } <= served  # fmt: skip


def test_the_dashboard_shows_only_metrics_that_the_gate_has():
    dashboard = json.loads(ROOT.joinpath("deploy/grafana/dashboards/gate.json").read_text())
    expressions = " ".join(target["expr"] for panel in dashboard["panels"] for target in panel["targets"])
    shown = set(re.findall(r"gate_[a-z_]+", expressions))
    registry = CollectorRegistry()
    Metrics(registry, "1")
    suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}
    served = {family.name + suffix for family in registry.collect() for suffix in suffixes.get(family.type, [""])}
    assert shown
    assert shown <= served


def test_the_dashboard_is_where_grafana_is_told_to_look(services):
    provider = yaml.safe_load(ROOT.joinpath("deploy/grafana/provisioning/dashboards/gate.yml").read_text())
    folder = provider["providers"][0]["options"]["path"]
    assert f"./deploy/grafana/dashboards:{folder}:ro" in services["grafana"]["volumes"]
    home = services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{folder}/gate.json"
