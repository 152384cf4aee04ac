"""The examples are run as they stand. What an example needs and is not there is a reason to skip it."""

import json
import os
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from gate.kafka.local.jars import lock
from gate.text import printable
from tests.client.gated import Gated
from tests.system.gates import read_count, stamp, until

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
INTEROP = EXAMPLES / "interop"


class Runner:
    """Runs programs of an example against a gate that runs."""

    def __init__(self, gated: Gated, service: str, folder: Path, stack: ExitStack) -> None:
        self.gated, self.service, self._folder, self._stack = gated, service, folder, stack
        self._environment = os.environ | {
            "GATE_BOOTSTRAP": gated.bootstrap,
            "GATE_PREFIX": gated.names.prefix,
            "GATE_SERVICE": service,
            "CELERY_FOLDER": str(folder / "celery"),
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
        }

    def run(self, *command: object, cwd: Path = INTEROP) -> str:
        """Run a program to its end; return what it printed."""
        options = {"env": self._environment, "cwd": cwd, "capture_output": True, "text": True, "timeout": 60}
        done = subprocess.run(list(map(str, command)), check=False, **options)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout.strip()

    def start(self, *command: object, cwd: Path = INTEROP) -> Path:
        """Start a program that runs until the end of the test; return the file that holds what it prints."""
        log = self._folder / f"{len(list(self._folder.iterdir()))}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                list(map(str, command)), env=self._environment, cwd=cwd, stdout=out, stderr=subprocess.STDOUT
            )
        self._stack.callback(process.wait, 20)
        self._stack.callback(process.kill)
        return log

    async def admitted(self, count: int = 1):
        """Return what of the service was admitted."""
        return await read_count(self.gated.bootstrap, [self.gated.names.admitted(self.service)], count)


@pytest.fixture
async def runner(gated, tmp_path):
    with ExitStack() as stack:
        yield Runner(gated, await gated.service(), tmp_path, stack)


def tool(name: str, how: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"there is no {name}: {how}")
    return found


async def admitted_as_submitted(runner: Runner, printed: str, payload: bytes) -> dict[str, bytes]:
    """Check that what a producer calls submitted was admitted; return its headers."""
    (record,) = await runner.admitted()
    assert printed == f"submitted {stamp(record).id}"
    assert (record.key, record.value) == (b"customer-7", payload)
    headers = dict(record.headers)
    assert headers["gate-tenant"] == b"acme"
    assert headers["gate-priority"] == b"interactive"
    assert int(headers["gate-deadline"]) > stamp(record).at_ms
    return headers


async def test_kcat(runner):
    tool("kcat", "apt-get install kcat")
    assert runner.run(INTEROP / "cron-kcat.sh") == ""
    (record,) = await runner.admitted()
    host = os.uname().nodename
    assert record.key == host.encode()
    assert json.loads(record.value) == {"report": "daily", "host": host}
    assert dict(record.headers)["gate-priority"] == b"batch"
    late = runner.run("sh", "-c", LATE)
    assert late == ""
    until(lambda: "rejected: gate-deadline=100000000000,gate=rejected;id=" in runner.run(INTEROP / "cron-kcat.sh"), 20)


LATE = "echo late | kcat -b $GATE_BOOTSTRAP -P -t $GATE_PREFIX.requests.$GATE_SERVICE -H gate-deadline=100000000000"


async def test_node(runner):
    node, npm = tool("node", "install Node.js"), tool("npm", "install Node.js with npm")
    folder = ROOT / "build" / "interop-node"  # kept for the next run
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "submit.mjs"):
        shutil.copy(INTEROP / name, folder)
    if not (folder / "node_modules" / "kafkajs").exists():
        options = {"cwd": folder, "capture_output": True, "text": True, "timeout": 60}
        install = subprocess.run([npm, "install", "--no-audit", "--no-fund"], check=False, **options)
        if install.returncode:
            pytest.skip(f"kafkajs can't be installed: {printable(install.stderr, 200)}")
    printed = runner.run(node, "submit.mjs", '{"amount": 12}', cwd=folder)
    headers = await admitted_as_submitted(runner, printed, b'{"amount": 12}')
    assert headers["gate-cost"] == b"2"


async def test_java(runner):
    java = tool("java", "apt-get install default-jdk-headless")
    tool("javac", "apt-get install default-jdk-headless")
    jars = local_jars()
    printed = runner.run(java, "-Xshare:auto", "-cp", jars, INTEROP / "Submit.java", '{"amount": 12}')
    await admitted_as_submitted(runner, printed, b'{"amount": 12}')


def local_jars() -> str:
    """Return a class path with kafka-clients: the local broker's jars."""
    from gate.kafka.local.cache import cache_folder

    wanted = {jar.name for jar in lock() if jar.artifact in {"kafka-clients", "slf4j-api"}}
    found = {path.name: path for path in cache_folder().rglob("*.jar") if path.name in wanted}
    if wanted - found.keys():
        pytest.skip("kafka-clients is not there: it comes with the first local broker")
    return ":".join(map(str, found.values()))


async def test_faststream(runner):
    pytest.importorskip("faststream", reason="install the dependency group `interop`")
    log = runner.start(sys.executable, "faststream_app.py")
    until(lambda: log.read_text().count("made ") == 3, 30, log.read_text)
    records = await runner.admitted(3)
    made = [line.split(maxsplit=2) for line in log.read_text().splitlines() if line.startswith("made ")]
    assert {what for _, what, _ in made} == {"january", "february", "march"}
    assert {decision for _, _, decision in made} == {dict(record.headers)["gate"].decode() for record in records}


async def test_celery(runner):
    pytest.importorskip("celery", reason="install the dependency group `interop`")
    runner.start(sys.executable, "celery_app.py", "bridge")
    log = runner.start(sys.executable, "-m", "celery", "-A", "celery_app", "worker", "--pool=solo")
    printed = runner.run(sys.executable, "celery_app.py", "submit", "rebuild", "docs")
    (record,) = await runner.admitted()
    assert printed == f"{stamp(record).id}: admitted"
    until(lambda: "rebuilt docs" in log.read_text(), 40, log.read_text)


async def test_jobs(gated, tmp_path):
    await gated.log.create(gated.names.requests("shout"))
    with ExitStack() as stack:
        runner = Runner(gated, "shout", tmp_path, stack)
        runner.start(sys.executable, "worker.py", cwd=EXAMPLES / "jobs")
        printed = runner.run(sys.executable, "submit.py", "hello", cwd=EXAMPLES / "jobs").splitlines()
        assert printed == ["admitted", "HELLO"]
