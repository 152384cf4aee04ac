"""The alert rules of deploy/: they name what the gate exports, and raise what they should where promtool is at hand."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from prometheus_client import CollectorRegistry

from gate.admission.model import Reason, Verdict
from gate.observe.metrics import Metrics

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "rules.yml"
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "info": ("_info",), "gauge": ("",)}


@pytest.fixture(scope="module")
def rules():
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def test_rules_name_metrics_that_the_gate_exports(rules):
    registry = CollectorRegistry()
    Metrics(registry, "1")
    exported = {family.name + suffix for family in registry.collect() for suffix in SUFFIXES[family.type]}
    named = {name for rule in rules for name in re.findall(r"\bgate_\w+", rule["expr"])}
    assert named <= exported
    assert len(named) >= 9


def test_rules_name_values_that_labels_have(rules):
    told = {rule["alert"]: re.findall(r'(decision|reason)=~?"([^"]+)"', rule["expr"]) for rule in rules}
    for label, values in [pair for pairs in told.values() for pair in pairs]:
        assert set(values.split("|")) <= set(Verdict if label == "decision" else Reason)


def test_each_rule_is_tried_by_promtool(rules):
    cases = yaml.safe_load(Path(__file__).with_name("rules.test.yml").read_text())["tests"]
    tried = {case["alertname"] for group in cases for case in group["alert_rule_test"] if case.get("exp_alerts")}
    assert tried == {rule["alert"] for rule in rules}


def test_promtool_takes_the_rules_and_they_raise_what_they_should():
    tool = shutil.which("promtool")
    if tool is None:
        pytest.skip("no promtool on this machine (Debian: apt-get install prometheus)")
    for arguments in (["check", "rules", str(RULES)], ["test", "rules", "rules.test.yml"]):
        done = subprocess.run(
            [tool, *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
