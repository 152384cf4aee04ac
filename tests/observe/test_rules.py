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
from gate.observe.outcomes import outcomes
from gate.policy import parse_policy

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


def test_what_promtool_is_fed_before_the_first_event_is_what_a_gate_exports():
    """Their first value is 0: of a service that is known, and of which nothing was counted yet."""
    registry = CollectorRegistry()
    metrics = Metrics(registry, "1")
    for service in ("calm", "flooded"):
        metrics.known(
            service, outcomes(parse_policy("defaults: {requests_per_second: 1, max_delay: 60}").effective(service))
        )
    exported = {
        (sample.name, *sorted(sample.labels.items()))
        for family in registry.collect()
        for sample in family.samples
        if sample.value == 0
    }
    cases = yaml.safe_load(Path(__file__).with_name("rules.test.yml").read_text())["tests"]
    fed = [series["series"] for group in cases for series in group["input_series"]]
    for series in fed:
        name, _, labels = series.partition("{")
        said = set(re.findall(r'(\w+)="([^"]*)"', labels)) - {("instance", "a"), ("instance", "b")}
        if name == "gate_requests_total":
            assert any(found[0] == name and said <= set(found[1:]) for found in exported), series


def test_each_rule_is_tried_by_promtool(rules):
    cases = yaml.safe_load(Path(__file__).with_name("rules.test.yml").read_text())["tests"]
    tried = {case["alertname"] for group in cases for case in group["alert_rule_test"] if case.get("exp_alerts")}
    assert tried == {rule["alert"] for rule in rules}


def test_promtool_takes_the_rules_and_they_raise_what_they_should():
    tool = shutil.which("promtool") or shutil.which(str(ROOT / "build" / "promtool"))
    if tool is None:
        pytest.skip("no promtool on this machine: `make test-tools` fetches it where apt is")
    for arguments in (["check", "rules", str(RULES)], ["test", "rules", "rules.test.yml"]):
        done = subprocess.run(
            [tool, *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
