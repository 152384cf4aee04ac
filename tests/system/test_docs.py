"""What the pages for newcomers say is run as it stands there, on a broker of its own with the usual topic names."""

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from gate.kafka.local.config import free_port
from tests.system.pages import KEEPS_RUNNING, ROOT, Shell, blocks

LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")
ROOT_PAGES = [page.name for page in ROOT.glob("*.md")]
PAGES = [*sorted(ROOT_PAGES), *sorted(str(page.relative_to(ROOT)) for page in (ROOT / "docs").rglob("*.md"))]
VARIES = re.compile(r"\d[\d.:TZ-]*|@\d+")


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    port, http = str(free_port()), str(free_port())
    shell = Shell(tmp_path, f"127.0.0.1:{port}", {"9092": port, "9600": http})
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
        "Development" if name == "dev" else f"Group `{name}`": wanted
        for name, wanted in project["dependency-groups"].items()
    }
    page = (ROOT / "docs/dependencies.md").read_text()
    told = {
        section.partition("\n")[0].strip(): sorted(re.findall(r"^\| `([^`]+)` \| \S", section, re.MULTILINE))
        for section in page.split("\n## ")[1:]
    }
    named = {name: sorted(re.split(r"[\[<>=~! ]", wish)[0] for wish in wanted) for name, wanted in groups.items()}
    assert told == named


def test_tables_that_the_code_writes_are_as_the_code_says():
    """`make format` writes them anew."""
    command = [sys.executable, ROOT / "docs" / "generated.py", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
