"""What the console says about a service: its own functions, run by node where that is at hand."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import gate.observe
from gate.admission.model import Binding, PausedTenant, Reason
from gate.limits import NEVER
from gate.observe.usage import to_json

PAGE = Path(gate.observe.__file__).with_name("console.html")


@pytest.fixture
def say():
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node on this machine")
    script = re.search(r"<script>(.*)poll\(\);\s*</script>", PAGE.read_text(), re.DOTALL).group(1)

    def run(told):
        asked = (
            f"{script}; const u = {json.dumps(told)}; console.log(JSON.stringify([state(u), eta(u, u.eta_seconds)]))"
        )
        done = subprocess.run([node, "-e", asked], capture_output=True, text=True, timeout=30, check=True)
        return json.loads(done.stdout)

    return run


def test_it_names_the_limit_that_binds_and_who_is_paused(say, usage):
    binds = Binding(Reason.TENANT, "payments.tenant.acme")
    assert say(to_json(usage(binding=binds)))[0] == ["breach", "breach: payments.tenant.acme, 5 s"]
    calm = {"breach_since": None, "limits": ()}
    assert say(to_json(usage(**calm)))[0] == ["calm", "within limits"]
    assert say(to_json(usage(**calm, binding=binds)))[0] == ["near", "waits for payments.tenant.acme"]
    paused = usage(**calm, paused_tenants=(PausedTenant("acme", None),), tenants_paused=1)
    assert say(to_json(paused))[0] == ["near", "within limits; tenant acme is paused until resumed"]
    lanes = tuple(lane.__class__(lane.name, lane.weight, 5, 5, 1, None) for lane in usage().lanes)
    told = say(to_json(usage(paused_until=NEVER, lanes=lanes)))
    assert told == [["near", "paused until resumed"], "until resumed"]
