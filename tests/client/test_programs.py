"""The programs of consumers/ are models: small, over `gate.client` alone, and run as they stand against a real gate."""

import ast
import json
import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.client.gated import Gated
from tests.client.receivers import breach
from tests.system.gates import read_count, stamp, until

ROOT = Path(__file__).parents[2]
FUNCTIONS = {"gate.client.command", "gate.client.verify"}
PROGRAMS = sorted((ROOT / "consumers").glob("*.py"))


def environment(gated: Gated, **more: str) -> dict[str, str]:
    known = {"GATE_BOOTSTRAP": gated.bootstrap, "GATE_PREFIX": gated.names.prefix, "PYTHONUNBUFFERED": "1"}
    return os.environ | known | more


@contextmanager
def running(gated: Gated, out: Path, name: str, *arguments: str, **more: str):
    """Run a program until the end of the block; yield a function that tells what it has printed."""
    command = [sys.executable, str(ROOT / "consumers" / name), *arguments]
    with out.open("wb") as file:
        process = subprocess.Popen(
            command, env=environment(gated, **more), cwd=out.parent, stdout=file, stderr=subprocess.STDOUT
        )
    try:
        yield out.read_text
        process.send_signal(signal.SIGTERM)
        assert process.wait(40) == 0, out.read_text()
    finally:
        process.kill()
        process.wait(10)


def test_they_are_here():
    assert [program.name for program in PROGRAMS] == ["alert_consumer.py", "batch_pipeline.py", "job_worker.py"]


def test_a_wheel_brings_them_along_and_installs_one_package(tmp_path):
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel:standard", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=60)
    (wheel,) = tmp_path.iterdir()
    held = ZipFile(wheel).namelist()
    assert {f"gate/cli/demo/consumers/{program.name}" for program in PROGRAMS} <= set(held)
    assert {name.partition("/")[0] for name in held if ".dist-info/" not in name} == {"gate"}


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_each_is_short_and_knows_the_client_alone(program):
    text = program.read_text()
    assert len(text.splitlines()) < 100
    assert f"python consumers/{program.name}" in ast.get_docstring(ast.parse(text))
    assert '\nif __name__ == "__main__":\n' in text
    known = set(sys.stdlib_module_names) | {"gate.client"}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            assert {alias.name.partition(".")[0] for alias in node.names} <= known
        elif isinstance(node, ast.ImportFrom):
            assert node.module == "gate.client" or node.module.partition(".")[0] in sys.stdlib_module_names


PAGES = [*(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.py"), ROOT / "README.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_is_shown_to_users_imports_the_face_alone(page):
    inside = re.findall(r"(?:from|import|auto\w+::) gate\.client\.[a-z_][\w.]*", page.read_text())
    assert [line for line in inside if line.removeprefix("autofunction:: ") not in FUNCTIONS] == []


async def test_the_job_worker_does_what_was_admitted_and_answers(gated, tmp_path):
    service = await gated.service()
    jobs = [b"a", b"b", b"c"]
    await gated.log.write(gated.names.requests(service), *jobs)
    with running(gated, tmp_path / "out", "job_worker.py", service) as printed:
        results = await read_count(gated.bootstrap, [gated.names.results(service)], len(jobs))
        until(lambda: printed().count(" done: ") == len(jobs), explain=printed)
    assert sorted(record.value for record in results) == [b"done: a", b"done: b", b"done: c"]


async def test_the_pipeline_goes_as_fast_as_the_gate_admits(gated, tmp_path):
    service = await gated.service()
    lines = [f"line {number}" for number in range(50)]
    (tmp_path / "lines").write_text("\n".join(lines) + "\n")
    command = [sys.executable, str(ROOT / "consumers" / "batch_pipeline.py"), service, str(tmp_path / "lines")]
    done = subprocess.run(
        command, env=environment(gated), cwd=tmp_path, capture_output=True, text=True, timeout=90, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "50 submitted\n", "")
    admitted = await read_count(gated.bootstrap, [gated.names.admitted(service)], len(lines))
    assert sorted(record.value.decode() for record in admitted) == sorted(lines)
    assert {stamp(record).verdict for record in admitted} == {"admitted"}


async def test_the_alert_consumer_tells_of_breaches_and_posts_them(gated, receiver, tmp_path):
    record = breach("programs")
    with running(gated, tmp_path / "out", "alert_consumer.py", WEBHOOK=receiver.url, WEBHOOK_SECRET="s") as printed:
        await gated.log.write(gated.names.alerts, record.value, key=record.key, headers=list(record.headers))
        until(lambda: "breach 1 of programs: programs.window.60s" in printed(), explain=printed)
        until(lambda: any(json.loads(body)["data"]["service"] == "programs" for body in receiver.bodies))
        until(lambda: "gate.breach.opened  programs" in printed(), explain=printed)
