"""Every command gets its connection alike: options, else variables, else the policy file, topics and group included."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
import typing
import urllib.request
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from cyclopts import App

from gate.cli import COMMANDS, main
from gate.cli.client import Client
from gate.client import Connection, SyncGateControl, SyncJobClient, SyncPacer
from tests.system.gates import gate, until

OF_THEIR_OWN = {
    "demo": "brings its own broker, unless told of one, and its own policy",
    "broker": "is what others connect to",
    "policy": "reads files, and asks nobody",
    "sidecar": "decides by its file alone, and asks nobody",
}

POLICY = """
bootstrap: {bootstrap}
group_id: "{prefix}-crew"
shards: 2
topics:
  requests: "{{service}}_{{prefix}}_todo"
  admitted: "{{service}}_{{prefix}}_go"
  delayed: "{{service}}_{{prefix}}_wait"
  rejected: "{{service}}_{{prefix}}_no"
  results: "{{service}}_{{prefix}}_result"
  retries: "{{service}}_{{prefix}}_again"
  feedback: "{{service}}_{{prefix}}_told"
  alerts: "{{prefix}}_news"
  usage: "{{prefix}}_numbers"
  state: "{{prefix}}_memory"
  control: "{{prefix}}_orders"
  answers: "{{prefix}}_replies"
  audit: "{{prefix}}_book"
  leases: "{{prefix}}_wishes"
  grants: "{{prefix}}_shares"
  policies: "{{prefix}}_overrides"
  history: "{{prefix}}_past"
services:
  pay: {{requests_per_second: 4, burst_size: 2}}
"""


def functions(name):
    """Return a command's function, or those of its parts, by what is typed."""
    command = getattr(import_module(f"gate.cli.{name}"), name)
    if not isinstance(command, App):
        return {(name,): command}
    parts = [part for part in command if not part.startswith("-")]
    return {(name, part): command[part].default_command for part in parts}


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in OF_THEIR_OWN])
def test_every_command_takes_the_same_options(name):
    for tokens, function in functions(name).items():
        hints = typing.get_type_hints(function)
        assert hints.get("client") == Client | None, (
            f"{tokens}: take `client: Client | None = None`, see gate.cli.client"
        )


def test_options_go_before_variables_before_the_file(monkeypatch, tmp_path):
    file = tmp_path / "policy.yaml"
    file.write_text("bootstrap: file:1\nprefix: file\nconnect_timeout: 1m\ntopics: {usage: '{prefix}_u'}\n")
    for name in ("BOOTSTRAP", "PREFIX", "CONNECT_TIMEOUT", "CONFIG", "GROUP_ID"):
        monkeypatch.delenv(f"GATE_{name}", raising=False)
    assert (Client().connection.bootstrap, Client().connection.connect_timeout) == ("localhost:9092", 10.0)
    one = Client(file).connection
    assert (one.bootstrap, one.connect_timeout, one.group_id, one.names.usage) == ("file:1", 60.0, "file", "file_u")
    monkeypatch.setenv("GATE_BOOTSTRAP", "variable:1")
    monkeypatch.setenv("GATE_PREFIX", "variable")
    one = Client(file).connection
    assert (one.bootstrap, one.group_id, one.names.usage) == ("variable:1", "variable", "variable_u")
    one = Client(file, bootstrap="option:1", prefix="option", connect_timeout=2.0).connection
    assert (one.bootstrap, one.connect_timeout, one.names.usage) == ("option:1", 2.0, "option_u")
    assert one.names.requests("pay") == "option.requests.pay"


def test_a_file_that_is_needed_or_broken_is_told(monkeypatch, tmp_path, capsys):
    monkeypatch.delenv("GATE_CONFIG", raising=False)
    for command in (["run"], ["reshard", "4"], ["replay", "pay"]):
        assert main(command) == 2
        assert "a policy file is needed: give --config FILE, or set GATE_CONFIG" in capsys.readouterr().err
    file = tmp_path / "policy.yaml"
    file.write_text("prefxi: a\n")
    monkeypatch.setenv("GATE_CONFIG", str(file))
    for command in (["usage"], ["run"], ["tail", "alerts"], ["pause", "pay"]):
        assert main(command) == 1
        line = capsys.readouterr().err.splitlines()[0]
        assert line.startswith(f"gate: {file}:1")
        assert "prefxi" in line


# what a command says where topics and group are spelt in ways of their own, with a gate that runs


@pytest.fixture(scope="module")
def crew(bootstrap, shared_prefix, tmp_path_factory):
    policy = POLICY.format(bootstrap=bootstrap, prefix=shared_prefix)
    with gate(tmp_path_factory.mktemp("gate"), bootstrap, shared_prefix, policy, "--http", "0") as process:
        until(process.is_ready, explain=process.text)
        yield shared_prefix, process


class Desk:
    """A terminal at which GATE_CONFIG alone is set."""

    def __init__(self, prefix, config, capsys):
        self.prefix, self.config, self.capsys = prefix, config, capsys

    def run(self, *tokens):
        code = main([str(token) for token in tokens])
        said = self.capsys.readouterr()
        assert code == 0, said.err
        return said.out

    def json(self, *tokens):
        return json.loads(self.run(*tokens, "--json"))

    def lines(self, *tokens):
        return [json.loads(line) for line in self.run(*tokens, "--json").splitlines()]

    def until(self, condition):
        def holds():
            try:
                return condition()
            except AssertionError:
                return False

        until(holds)

    @contextmanager
    def process(self, *tokens):
        command = [sys.executable, "-m", "gate", *tokens]
        environment = os.environ | {"PYTHONUNBUFFERED": "1"}
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
            try:
                yield process
                process.send_signal(signal.SIGTERM)
                assert process.wait(30) == 0
            finally:
                process.kill()


@pytest.fixture
def desk(crew, monkeypatch, capsys):
    prefix, process = crew
    for name in ("GATE_BOOTSTRAP", "GATE_PREFIX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GATE_CONFIG", str(process.config))
    return Desk(prefix, process.config, capsys)


def submit(desk):
    said = desk.json("submit", "pay", "--count", 6)
    assert (said["service"], said["topic"], said["submitted"]) == ("pay", f"pay_{desk.prefix}_todo", 6)


def run(desk):
    (line,) = desk.run("tail", "admitted", "pay", "--from-beginning", "--max", 1).splitlines()
    assert f"pay_{desk.prefix}_todo-" in line


def tail(desk):
    assert "gate.breach.opened" in desk.run("tail", "alerts", "--from-beginning", "--max", 1)
    assert f"pay_{desk.prefix}_todo-" in desk.run("tail", "delayed", "--from-beginning", "--max", 1)


def usage(desk):
    desk.until(lambda: desk.json("usage", "pay")["service"] == "pay")


def worker(desk):
    def told():
        end = desk.run("tail", "admitted", "pay", "--from-beginning", "--max", 6)
        return len(end.splitlines()) == 6

    with desk.process("worker", "pay", "--results", "--", "cat") as _:
        desk.until(told)
        until(lambda: f"pay_{desk.prefix}_result" in topics(desk))


def console(desk):
    with desk.process("console", "--http", "0") as process:
        url = process.stdout.readline().strip()

        def shown():
            with urllib.request.urlopen(f"{url}/v1/pressure", timeout=30) as answer:
                return [line["service"] for line in json.load(answer)["services"]] == ["pay"]

        until(shown)


def top(desk):
    desk.until(lambda: [line["service"] for line in desk.lines("top")] == ["pay"])


def pause(desk):
    said = desk.json("pause", "pay", "--for", "1h 30m", "--tenant", "acme")
    assert (said["service"], said["tenant"]) == ("pay", "acme")
    assert 5_300_000 < said["paused_until_ms"] - time.time() * 1000 <= 5_400_000
    assert desk.json("pause", "pay")["paused_until_ms"] is None
    desk.until(lambda: desk.json("usage", "pay")["paused_until_ms"] is not None)


def resume(desk):
    assert desk.json("resume", "pay").keys() == {"service", "tenant", "command_id"}
    desk.until(lambda: desk.json("usage", "pay")["paused_until_ms"] is None)


def cancel(desk):
    assert desk.run("cancel", "pay", "--all", "--dry-run") == "0 requests of pay fit; nothing was changed\n"


def move(desk):
    said = desk.run("move", "pay", "--all", "--to", "default", "--dry-run")
    assert said == "0 requests of pay fit; nothing was changed\n"


def expedite(desk):
    said = desk.run("expedite", "pay", "--all", "--dry-run")
    assert said == "0 requests of pay fit; nothing was changed\n"


def redrive(desk):
    said = desk.run("redrive", "pay", "--all", "--dry-run")
    assert said.endswith("requests of pay fit; nothing was changed\n")
    since = ("--from", f"pay_{desk.prefix}_todo", "--since", "0s")
    assert desk.run("redrive", "pay", *since, "--all", "--dry-run").startswith("0 requests of pay fit")


def where(desk):
    line = desk.run("tail", "admitted", "pay", "--from-beginning", "--max", 1)
    found = desk.json("where", re.search(rf"pay_{desk.prefix}_todo-\d+@\d+", line)[0])
    assert (found["service"], found["standing"]) == ("pay", "admitted")


def limit(desk):
    said = desk.json("limit", "set", "pay", "--rps", 7, "--for", "1h", "--reason", "campaign")
    assert (said["service"], said["state"], said["version"]) == ("pay", "done", 1)
    assert desk.json("limit", "show", "pay")["limit"]["requests_per_second"] == "7"
    assert f"{desk.prefix}_overrides" in topics(desk)
    assert desk.json("limit", "clear", "pay")["version"] == 2
    assert desk.json("limit", "import", Path(__file__).parent / "tenants.csv")["version"] == 3
    assert desk.json("limit", "export", "pay") == {"service": "pay", "tenant": "acme", "requests_per_second": "5"}


def audit(desk):
    desk.until(lambda: "resume  pay" in desk.run("audit", "pay"))


def alerts(desk):
    with desk.process("alerts", "--from-beginning", "--group", f"{desk.prefix}-alerts") as process:
        assert "gate.breach.opened" in process.stdout.readline()


def replay(desk):
    assert desk.json("replay", "pay", "--since", "1d")[0]["offered"] == 6


def doctor(desk):
    found = {one["check"]: one for one in json.loads(desk.run("doctor", "--json"))}
    assert found[f"{desk.prefix}_memory"]["health"] == found["pay"]["health"] == "ok"
    assert "1 " in found["group"]["text"]


def transactions(desk):
    assert isinstance(desk.json("transactions", "list"), list)
    code = main(
        ["transactions", "abort", "--topic", f"pay_{desk.prefix}_todo", "--partition", "0", "--start-offset", "9"]
    )
    assert (code, "no transaction is open" in desk.capsys.readouterr().err) == (1, True)


def upgrade(desk):
    said = desk.json("upgrade", "status")
    assert (len(said["shards"]), len(said["gates"])) == (2, 1)
    assert desk.json("upgrade", "finish") == {"format": said["newest"], "shards": 2, "switched": False}


def reshard(desk):
    assert "(2 shards) to 2 (4): 1 services" in desk.run("reshard", 4, "--dry-run")
    said = desk.json("reshard", 4, "--dry-run")
    assert (said["generation"], said["shards_before"], said["shards"], said["changed"]) == (2, 2, 4, False)
    assert (
        desk.json("reshard", 2) == desk.json("reshard", "--abort") == {"generation": 1, "shards": 2, "changed": False}
    )


WALK = (
    submit,
    run,
    tail,
    usage,
    console,
    top,
    worker,
    pause,
    resume,
    cancel,
    move,
    expedite,
    redrive,
    where,
    limit,
    audit,
    alerts,
    replay,
    doctor,
    transactions,
    upgrade,
    reshard,
)


def topics(desk):
    async def listed():
        admin = AIOKafkaAdminClient(bootstrap_servers=Client().connection.bootstrap)
        await admin.start()
        try:
            return await admin.list_topics()
        finally:
            await admin.close()

    return asyncio.run(listed())


def test_the_walk_leaves_no_command_out():
    """A new command that connects gets a function of its name above: what it says under templates."""
    assert {part.__name__ for part in WALK} == COMMANDS.keys() - OF_THEIR_OWN.keys()


@pytest.mark.parametrize("command", WALK, ids=lambda command: command.__name__)
def test_topics_and_group_of_the_file_are_those_of_every_command(desk, command):
    command(desk)
    usual = (f"{desk.prefix}.", *(f"gate.{kind}.pay" for kind in ("requests", "admitted", "feedback", "results")))
    assert [topic for topic in topics(desk) if topic.startswith(usual)] == []


def test_clients_find_topics_by_the_same_file(desk):
    connection = Connection.load()
    with SyncJobClient(connection) as jobs, SyncPacer(connection, "pay", max_wait=60.0) as pacer:
        pacer.acquire()
        ticket = jobs.submit("pay", b"x")
        assert ticket.id.startswith(f"pay_{desk.prefix}_todo-")
        assert [decision.verdict for decision in ticket][-1] == "admitted"
    with SyncGateControl(connection) as control:
        control.pause("pay", for_=600)
        desk.until(lambda: desk.json("usage", "pay")["paused_until_ms"] is not None)
        control.resume("pay")
