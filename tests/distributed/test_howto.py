"""The page about shared limits: its policy, its programs and its sidecar, run as they stand."""

import json
import re
import subprocess
import sys
import urllib.request
import uuid
from pathlib import Path

import pytest

from tests.system.gates import gate, until

PAGE = Path("docs/howto/mesh.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


def test_the_page_runs_as_it_stands(bootstrap: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    prefix = f"page-{uuid.uuid4().hex[:8]}"
    (policy,) = blocks("yaml")
    with gate(tmp_path, bootstrap, prefix, f"shards: 2\n{policy}") as process:
        process.wait_for("shard taken over")
        for program in blocks("python"):
            # the page's broker and prefix are those of a laptop
            text = program.replace("localhost:9092", bootstrap).replace(', prefix="gate"', "")
            text = text.replace(f'("{bootstrap}"', f'("{bootstrap}", patience=30, prefix="{prefix}"')
            subprocess.run([sys.executable, "-c", text], check=True, timeout=100)
        assert capfd.readouterr().out.splitlines() == ["go", "reported", "go"]
        (command,) = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("gate sidecar")]
        words = command.replace("localhost:9092", bootstrap).replace("127.0.0.1:8080", "127.0.0.1:0").split()[1:]
        words[words.index("policy.yaml")] = str(process.config)
        log = tmp_path / "sidecar.log"
        with log.open("wb") as out:
            sidecar = subprocess.Popen([sys.executable, "-m", "gate", *words], stderr=out)
        try:
            until(lambda: "sidecar runs" in log.read_text(), explain=log.read_text)
            assert "of the gates, shared" in log.read_text()
            address = re.search(r"http=(\S+)", log.read_text())
            assert address is not None
            until(lambda: asked(address[1]).get("allowed"), explain=log.read_text)
            assert asked(address[1])["limit"] == 500
        finally:
            sidecar.terminate()
            sidecar.wait(30)


def asked(address: str) -> dict[str, object]:
    """Ask as the page's curl does."""
    (curl,) = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("curl")]
    body = curl.partition("-d '")[2].rstrip("'").encode()
    request = urllib.request.Request(
        f"http://{address}/v1/check", body, {"content-type": "application/json"}, method="POST"
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        found: dict[str, object] = json.load(answer)
    return found
