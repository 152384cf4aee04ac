"""What the pages for newcomers say is run as it stands there, on a broker of its own with the usual topic names."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from gate.kafka.local.config import free_port

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
KEEPS_RUNNING = "it keeps running"
LINK = re.compile(r"\]\(([^)#:]+)\)")
PAGES = ["README.md", "docs/index.md", "docs/quickstart.md", "docs/dependencies.md"]
VARIES = re.compile(r"\d[\d.:TZ-]*|@\d+")


def blocks(page: str) -> list[tuple[str, str]]:
    return FENCE.findall((ROOT / page).read_text())


class Shell:
    """Runs the blocks of a page in one folder."""

    def __init__(self, folder: Path, ports: dict[str, str]) -> None:
        self.folder = folder
        self.ports = ports
        self.output = ""
        self.running: list[tuple[str, Path, subprocess.Popen[bytes]]] = []
        outer = {name: value for name, value in os.environ.items() if not name.startswith("GATE_")}
        self.environment = outer | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "GATE_BOOTSTRAP": f"127.0.0.1:{ports['9092']}",
            "COLUMNS": "200",
        }

    def run(self, script: str) -> None:
        for port, free in self.ports.items():
            script = script.replace(port, free)
        log = self.folder / f"output-{len(self.running)}-{time.monotonic_ns()}"
        with log.open("wb") as file:
            shell = subprocess.Popen(
                ["bash", "-euc", script],
                cwd=self.folder,
                env=self.environment,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        self.running.append((script, log, shell))
        if KEEPS_RUNNING in script:
            if "gate broker" in script:
                self.wait_for("broker", lambda line: line.startswith("bootstrap:"))
            return
        with suppress(subprocess.TimeoutExpired):
            shell.wait(60)
        assert shell.returncode == 0, f"{script}\n{self.outputs}"

    @property
    def outputs(self) -> str:
        return "\n".join(log.read_text() for _, log, _ in self.running)

    def wait_for(self, what: str, found: Callable[[str], bool]) -> None:
        """Return when a line of the output is found."""
        deadline = time.monotonic() + 60
        while not any(map(found, self.outputs.splitlines())):
            self.check()
            assert time.monotonic() < deadline, f"no {what} in:\n{self.outputs}"
            time.sleep(0.05)

    def check(self) -> None:
        """Fail as soon as something has ended that is meant to keep running."""
        for script, log, shell in self.running:
            assert KEEPS_RUNNING not in script or shell.poll() is None, f"ended:\n{script}\n{log.read_text()}"

    def stop(self) -> list[str]:
        """End all that runs, the newest first, as Ctrl-C would; return what ended badly."""
        wrong = []
        for script, log, shell in reversed(self.running):
            if KEEPS_RUNNING in script and shell.poll() is None:
                os.killpg(shell.pid, signal.SIGINT)
                if shell.wait(40) not in {0, 130}:
                    wrong.append(f"exit code {shell.returncode}:\n{script}\n{log.read_text()}")
            with suppress(ProcessLookupError):
                os.killpg(shell.pid, signal.SIGKILL)  # what a block has put into the background
            shell.wait()
        return wrong


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    shell = Shell(tmp_path, {"9092": str(free_port()), "9600": str(free_port())})
    yield shell
    shell.stop()


def shape(line: str) -> str:
    """Return a line without what differs from run to run."""
    return VARIES.sub("#", line).strip()


def test_the_quickstart_does_what_it_says(shell):
    for language, text in blocks("docs/quickstart.md"):
        if language == "sh":
            shell.run(text)
            continue
        assert language == "text"
        for line in text.splitlines():
            shell.wait_for(f"line like {line!r}", lambda printed, line=line: shape(printed) == shape(line))
    shell.wait_for("work", lambda line: "paid: gate.requests.payments-" in line)
    usage = next(json.loads(line) for line in shell.outputs.splitlines() if line.startswith('{"service"'))
    assert usage["service"] == "payments"
    shell.check()
    assert shell.stop() == []


def test_the_readme_does_what_it_says(shell):
    # its reader is told to have a broker
    shell.run(f"gate broker --port 9092 # {KEEPS_RUNNING}")
    for language, text in blocks("README.md"):
        match language:
            case "yaml":
                name = text.splitlines()[0].removeprefix("# ")
                (shell.folder / name).write_text(text)
            case "sh":
                shell.run(text)
            case "python":
                (shell.folder / "library.py").write_text(text)
                shell.run("python library.py")
            case _:
                assert language == "mermaid"
    shell.wait_for("answer of the library", lambda line: line.startswith("False 0.0"))
    shell.wait_for("work", lambda line: line.startswith('{"number": '))


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    links = LINK.findall((ROOT / page).read_text())
    assert [link for link in links if not (ROOT / page).parent.joinpath(link).exists()] == []


def test_every_dependency_has_its_reason():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups = {"Runtime": project["project"]["dependencies"]}
    groups |= {f"Extra `{name}`": wanted for name, wanted in project["project"]["optional-dependencies"].items()}
    groups |= {
        "Development": project["dependency-groups"]["dev"],
        "Group `bench`": project["dependency-groups"]["bench"],
    }
    page = (ROOT / "docs/dependencies.md").read_text()
    told = {
        section.partition("\n")[0].strip(): sorted(re.findall(r"^\| `([^`]+)` \| \S", section, re.MULTILINE))
        for section in page.split("\n## ")[1:]
    }
    named = {name: sorted(re.split(r"[\[<>=~! ]", wish)[0] for wish in wanted) for name, wanted in groups.items()}
    assert told == named
