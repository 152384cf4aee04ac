"""Every block of code on every page: read by what it is meant for, and run for real where that is cheap."""

import ast
import asyncio
import configparser
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import yaml
from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.admin import CreateAclsRequest
from cyclopts import CycloptsError

from gate import cli
from gate.admission.model import EventKind, Reason
from gate.kafka.cluster import Cluster
from gate.observe import alerts
from gate.observe.history import stretches_of
from gate.policy import parse_policy
from gate.protocol import control, headers
from gate.protocol import feedback as outcomes
from gate.protocol.topics import Names, Templates
from tests.system.gates import create, gate, read_count, send, until
from tests.system.pages import KEEPS_RUNNING, ROOT, Shell, blocks

PAGES = ["README.md", *sorted(str(page.relative_to(ROOT)) for page in (ROOT / "docs").rglob("*.md"))]
OPERATIONS, WIRE, FAQ = "docs/operations.md", "docs/reference/wire.md", "docs/faq.md"
# Options as Kafka 4.4's own tools take them
TOOLS = {
    "kafka-topics.sh": "--bootstrap-server --create --delete --alter --topic --partitions --replication-factor"
    " --config",
    "kafka-acls.sh": "--bootstrap-server --add --allow-principal --allow-host --operation --resource-pattern-type"
    " --topic --group --transactional-id --cluster",
    "kafka-configs.sh": "--bootstrap-server --alter --topic --add-config",
}
SOURCES = [(page, language, text) for page in PAGES for language, text in blocks(page)]


def lines(script: str) -> Iterator[list[str]]:
    """Return the commands of a script, without what pipes and redirections do to them; variables are filled in."""
    known: dict[str, str] = {"BROKER": "localhost:9092"}
    for line in script.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>()")
        lexer.whitespace_split = True
        command: list[str] = []
        for token in [*lexer, ";"]:
            if set(token) <= set("|&;<>()"):
                yield command
                command = ["redirected"] if set(token) <= set("<>") else []
            elif not command and (found := re.fullmatch(r"(\w+)=(.*)", token)):
                known[found[1]] = fill(found[2], known)
            elif not command and token.startswith("$"):
                command += fill(token, known).split()
            else:
                command += fill(token, known).split() if token.startswith("$") else [fill(token, known)]


def fill(text: str, known: dict[str, str]) -> str:
    return re.sub(r"\$(\w+)", lambda found: known.get(found[1], found[0]), text)


def check_shell(script: str) -> None:
    """Check that a shell can read a script, each `gate` in it its arguments, and each tool of Kafka its options."""
    done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, done.stderr
    for command in lines(script):
        match command:
            case ["gate", *tokens]:
                cli._app(tokens).parse_args(tokens, exit_on_error=False, print_error=False)
            case [tool, *arguments] if tool.endswith(".sh") and tool.startswith("kafka-"):
                assert {word for word in arguments if word.startswith("--")} <= set(TOOLS[tool].split()), command


def check_yaml(text: str) -> None:
    documents = list(yaml.safe_load_all(text))
    assert all(isinstance(document, dict) for document in documents)
    if documents[0].keys() & {"services", "defaults", "templates", "groups"}:
        parse_policy(text)


@pytest.mark.parametrize(
    ("page", "language", "text"), SOURCES, ids=[f"{page}-{number}" for number, (page, *_) in enumerate(SOURCES)]
)
def test_a_block_is_what_it_says(page, language, text):
    match language:
        case "sh":
            check_shell(text)
        case "console":
            check_shell("\n".join(line[2:] for line in text.splitlines() if line.startswith("$ ")))
        case "yaml":
            if page != "docs/policy.md":  # its blocks, broken ones among them, have tests of their own
                check_yaml(text)
        case "python" if page == "docs/architecture.md":
            assert re.search(r"^(class|def|    def|load_policy)", text, re.MULTILINE)  # signatures in short
        case "python":
            compile(text, page, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        case "json":
            json.loads(text)
        case "ini":
            configparser.ConfigParser(strict=False, interpolation=None).read_string(text)
        case _:
            assert language in {"text", "mermaid"}


@pytest.mark.parametrize("script", ["gate submit", "gate run --confg x", "kafka-acls.sh --allow x", "gate tail a | x"])
def test_the_check_of_shells_finds_mistakes(script):
    with pytest.raises((CycloptsError, AssertionError)):
        check_shell(script)


def first_column(page: str, section: str) -> list[str]:
    """Return the names in the first column of the tables of a section."""
    text = (ROOT / page).read_text().partition(f"## {section}\n")[2].partition("\n## ")[0]
    return re.findall(r"^\| `([^`]+)` ", text, re.MULTILINE)


def test_the_page_about_the_wire_names_all_there_is():
    names = Names("gate", Templates())
    kinds = [getattr(names, kind) for kind in Templates.__dataclass_fields__]
    topics = {kind if isinstance(kind, str) else kind("SERVICE") for kind in kinds}
    assert set(first_column(WIRE, "Topics")) == topics
    options = {headers.PRIORITY, headers.TENANT, headers.COST, headers.DEADLINE, headers.START, headers.ID}
    assert set(first_column(WIRE, "Headers of a request")) == options
    assert set(first_column(WIRE, "Reasons")) == set(Reason)
    own = [alerts.policy_refused("", "", "", 0), alerts.shard_failed(0, "", 0, 0), alerts.clock_skewed("", 0, 0)]
    own.append(alerts.owner_away("", 0, 0, 0))
    place = {"service": "", "topic": "", "partition": 0, "offset": 0, "since": 0, "at": 0}
    own += [alerts.partition_waiting(**place), alerts.partition_resumed(**place), alerts.shard_recovered(0, 0)]
    own += [alerts.policy_accepted("", "", 0)]
    types = {dict(record.headers)["ce_type"].decode() for record in own}
    types |= {f"gate.breach.{kind}" for kind in EventKind if kind is not EventKind.NEAR_LIMIT} | {"gate.near_limit"}
    assert {name for name in first_column(WIRE, "Alerts") if name.startswith("gate.")} == types


def test_the_page_about_the_wire_shows_a_stamp_commands_and_feedback_that_can_be_read():
    shown = blocks(WIRE)
    assert headers.parse_stamp(shown[0][1].strip().encode()).limit == "payments.window"
    said = [text.encode() for language, text in shown if language == "json"]
    commands = [
        control.PauseUntil,
        control.Resume,
        control.Cancel,
        control.Move,
        control.Expedite,
        control.Redrive,
        control.Abort,
    ]
    commands += [control.SetLimit, control.ClearLimit, control.ImportLimits]
    commands += [control.WriteFormat, control.NewGeneration]
    given = [text for text in said if b'"command"' in text and b'"state"' not in text]
    assert [type(control.decode(text)) for text in given] == commands
    read = [outcomes.read(b"gate.admitted.payments-3@17", text, "gate.admitted.payments", 3) for text in said]
    told = [heard.outcome for heard in read if isinstance(heard, outcomes.Heard)]
    assert [type(outcome) for outcome in told] == [outcomes.Failed, outcomes.BackOff]
    assert len([heard for heard in read if isinstance(heard, outcomes.Finished)]) == 1
    (kept,) = [text for text in said if b'"services"' in text]
    gate_name, (stretch,) = stretches_of(kept, "payments") or ("", [])
    assert (gate_name, len(stretch.points())) == ("host-a:4711", 3)
    (piped,) = [next(lines(text)) for language, text in shown if language == "sh" and "gate.feedback." in text]
    assert isinstance(outcomes.read(None, piped[1].encode(), "gate.admitted.payments", 3), outcomes.Finished)


async def test_the_page_about_the_wire_tells_how_topics_are_made():
    cluster = Cluster(Names(), create=True, replication_factor=1)
    try:
        specs = cluster.common_specs(16)
    finally:
        await cluster.close()
    rows = {row.split("`")[1]: row for row in (ROOT / WIRE).read_text().splitlines() if row.startswith("| `gate.")}
    for spec in specs:
        said = dict(pair.split("=") for pair in re.findall(r"`([a-z.]+=[^`]+)`", rows[spec.name]))
        assert said == spec.config


def test_operators_are_told_of_every_alert_rule():
    rules = yaml.safe_load((ROOT / "deploy/rules.yml").read_text())["groups"]
    assert first_column(OPERATIONS, "What to watch") == [rule["alert"] for group in rules for rule in group["rules"]]


def test_the_questions_are_answered_by_commands_that_run(bootstrap, prefix, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    variables = {"GATE_PREFIX": prefix, "GATE_SHARDS": "2", "GATE_DISCOVERY_INTERVAL": "0.3"}
    for name, value in {**variables, "GATE_BOOTSTRAP": bootstrap}.items():
        monkeypatch.setenv(name, value)
    with stopping(Shell(tmp_path, bootstrap, **variables)) as shell:
        printed = ""
        for language, text in blocks(FAQ):
            if language == "yaml":
                (tmp_path / text.splitlines()[0].removeprefix("# ")).write_text(text)
            elif KEEPS_RUNNING in text:
                shell.run(text)
                shell.wait_for("gate", lambda line: "gate runs" in line)
            elif "sed" in text:
                shell.run(text)
            else:  # in this process: starting one for each takes the most time of all
                for command in filter(None, lines(text)):
                    assert command[0] == "gate"
                    assert cli.main(command[1:]) == 0, (command, capsys.readouterr())
                    printed += capsys.readouterr().out
        for said in (
            "window (mail.window)",
            "deadline (mail.deadline)",
            "never (mail.rate)",
            "tenant acme of search is paused",
        ):
            assert said in printed
        assert "mail      requests_per_second   10/min   30/min" in shell.outputs


@contextmanager
def stopping(shell: Shell) -> Iterator[Shell]:
    try:
        yield shell
    finally:
        wrong = shell.stop()
    assert wrong == []


ACL_TYPES = {"--topic": 2, "--group": 3, "--cluster": 4, "--transactional-id": 5}
OPERATIONS_OF_KAFKA = {
    "Read": 3, "Write": 4, "Create": 5, "Delete": 6, "Alter": 7, "Describe": 8, "DescribeConfigs": 10,
}  # fmt: skip
LITERAL, PREFIXED, ALLOW = 3, 4, 3
# A test's broker is ANONYMOUS to its own controller: what brokers may do is theirs, not the gate's
BROKERS = (ACL_TYPES["--cluster"], "kafka-cluster", LITERAL, "User:ANONYMOUS", "*", 9, ALLOW)


def told_acls(principal: str, to: str | None = None) -> list[tuple]:
    """Return what the commands on the page allow to somebody, as they are or to another principal."""
    found = []
    for _, text in blocks(OPERATIONS):
        for command in lines(text):
            if command[:1] != ["kafka-acls.sh"]:
                continue
            pairs = list(zip(command, [*command[1:], ""], strict=True))
            if ("--allow-principal", principal) not in pairs:
                continue
            pattern = PREFIXED if ("--resource-pattern-type", "prefixed") in pairs else LITERAL
            named = [(ACL_TYPES[key], value or "kafka-cluster") for key, value in pairs if key in ACL_TYPES]
            operations = [OPERATIONS_OF_KAFKA[value] for key, value in pairs if key == "--operation"]
            found += [
                (kind, name, pattern, to or principal, "*", operation, ALLOW)
                for kind, name in named
                for operation in operations
            ]
    return found


class CreateAcls(CreateAclsRequest):
    """Many at once: a second request might not be allowed any more after the first."""

    def __init__(self, acls: list[tuple]) -> None:
        self.acls = acls

    def build(self, request_struct_class):
        return request_struct_class(self.acls)


async def allow(bootstrap: str, acls: list[tuple]) -> None:
    client = AIOKafkaClient(bootstrap_servers=bootstrap)
    await client.bootstrap()
    try:
        answer = await client.send(client.get_random_node(), CreateAcls(acls))
        assert not any(made["error_code"] for made in answer.to_object()["creation_responses"]), answer
    finally:
        await client.close()


async def test_a_gate_needs_no_more_than_operators_are_told_to_allow(own_broker, tmp_path):
    broker = own_broker(
        properties={
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "allow.everyone.if.no.acl.found": "true",
        }
    )
    await create(broker.bootstrap, "gate.requests.pay")
    await send(broker.bootstrap, "gate.requests.pay", [(None, b"%d" % i, []) for i in range(20)])
    acls = told_acls("User:gate", "User:ANONYMOUS")
    assert {kind for kind, *_ in acls} == set(ACL_TYPES.values())
    await allow(broker.bootstrap, [*acls, BROKERS])
    policy = "shards: 2\nservices: {pay: {requests_per_second: 50, burst_size: 10, keep_released: 1s}}\n"
    with gate(tmp_path, broker.bootstrap, "gate", policy, "--http", "0") as running:
        until(lambda: json.loads(running.get("/v1/usage"))["services"], explain=running.text)

        def admitted() -> int:
            totals = json.loads(running.get("/v1/usage"))["services"][0]["totals"]
            return sum(total["requests"] for total in totals if total["verdict"] == "admitted")

        until(lambda: admitted() == 20, explain=running.text)
        running.wait_for("deleted what has been released")
        assert "Authorization" not in running.text()
        assert running.stop() == 0


async def test_the_number_of_shards_can_be_changed_as_operators_are_told(bootstrap, prefix, tmp_path):
    text = next(text for _, text in blocks(OPERATIONS) if "gate reshard 32" in text)
    commands = [command for command in lines(text) if command]
    assert [command[:3] for command in commands] == [["gate", "reshard", "32"]] * 2
    policy = "services: {pay: {requests_per_second: 1000, burst_size: 1000}}\n"
    await create(bootstrap, f"{prefix}.requests.pay")
    with gate(tmp_path, bootstrap, prefix, policy) as running:
        await send(bootstrap, f"{prefix}.requests.pay", [(None, b"%d" % i, []) for i in range(10)])
        await read_count(bootstrap, [f"{prefix}.admitted.pay"], 10)
        for command, said in zip(commands, ("nothing was changed", "its 1 gates run"), strict=True):
            done = await asyncio.to_thread(
                subprocess.run,
                [sys.executable, "-m", *command, "--bootstrap", bootstrap],
                capture_output=True, text=True, check=False, cwd=tmp_path,
            )  # fmt: skip
            assert (done.returncode, said in done.stdout) == (0, True), done.stdout + done.stderr
        await send(bootstrap, f"{prefix}.requests.pay", [(None, b"%d" % i, []) for i in range(10, 20)])
        admitted = await read_count(bootstrap, [f"{prefix}.admitted.pay"], 20)
        assert sorted(int(record.value) for record in admitted) == list(range(20)), running.text()
        assert "another number of shards is in force" in running.text()
        assert running.stop() == 0
