import fnmatch
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gate.policy import parse_policy
from gate.units import SECOND

SERVICES = ["a", "b", "ab", "abc", "b-1"]
ENTRIES = [*SERVICES[:4], "*", "a*", "?b", "*b*", "ab?"]
TENANTS = ["default", "acme", "corp", "*", "a*", "ac*"]

LIMITS = {
    "requests_per_second": st.none() | st.integers(1, 9),
    "burst_size": st.none() | st.integers(1, 99),
    "window_size": st.none() | st.integers(1, 99),
    "window_limit": st.none() | st.integers(1, 99),
}
FIELDS = {
    **LIMITS,
    "overflow": st.sampled_from(["delay", "hold", "reject"]),
    "max_delay": st.none() | st.integers(1, 99),
    "group": st.sampled_from([None, "g", "h"]),
    "priorities": st.none() | st.dictionaries(st.sampled_from(["default", "x", "y"]), st.integers(1, 9), min_size=1),
    "worker_group": st.sampled_from(["w", "v"]),
    "shadow": st.booleans(),
    "near_limit": st.sampled_from([0.5, 0.9]),
    "max_tenants": st.integers(1, 9),
    "tenants": st.none()
    | st.dictionaries(st.sampled_from(TENANTS), st.fixed_dictionaries({}, optional=LIMITS), max_size=3),
}


def entries(templates, names):
    extends = st.none() | st.sampled_from(templates) | st.lists(st.sampled_from(templates), max_size=3)
    entry = st.fixed_dictionaries({}, optional=FIELDS | ({"extends": extends} if templates else {}))
    return st.dictionaries(st.sampled_from(names), entry, max_size=5)


@st.composite
def documents(draw):
    templates = {}
    for name in ["t0", "t1", "t2", "t3"]:
        templates |= draw(entries(list(templates), [name]))
    return {
        "defaults": draw(st.fixed_dictionaries({}, optional=FIELDS)),
        "templates": templates,
        "groups": {"g": {}, "h": {}},
        "services": draw(entries(list(templates), ENTRIES)),
    }


def naive(document, service):
    """Resolve by layering plain dicts; None: no layer at all."""

    def literals(pattern):
        return len(pattern) - pattern.count("*") - pattern.count("?")

    def listed(extends):
        return [extends] if isinstance(extends, str) else extends or []

    def expand(names, seen):
        for name in names:
            if name not in seen:
                expand(listed(document["templates"][name].get("extends")), seen)
                seen.append(name)
        return seen

    globs = [name for name in document["services"] if set(name) & set("*?") and fnmatch.fnmatchcase(service, name)]
    own = [document["services"][name] for name in sorted(globs, key=literals)]
    own += [document["services"][service]] if service in document["services"] else []
    extends = [entry["extends"] for entry in own if "extends" in entry]
    templates = expand(listed(extends[-1]) if extends else [], [])
    layers = [document["defaults"], *(document["templates"][name] for name in templates), *own]
    return overlay(layers) if own or document["defaults"] else None


def overlay(layers):
    result = {}
    for layer in layers:
        for field, value in layer.items():
            if field == "tenants" and value is not None:
                tenants = dict(result.get("tenants") or {})
                for tenant, limits in value.items():
                    tenants[tenant] = tenants.get(tenant, {}) | limits
                result["tenants"] = tenants
            else:
                result[field] = value
    return result


def spec_of(said):
    """Compile limits; every rate of these documents is whole."""
    rate, size = said.get("requests_per_second"), said.get("window_size", 60)
    limit = said.get("window_limit") or (rate and size and rate * size)
    windows = [(limit, size * SECOND)] if size and limit else []
    return rate, (said.get("burst_size") or rate) if rate else None, windows


def spec_given(spec):
    return spec.rate, spec.burst if spec.rate else None, [(window.limit, window.size) for window in spec.windows]


@given(documents())
def test_resolution_is_a_layering_of_dicts(document):
    policy = parse_policy(json.dumps(document))
    for service in SERVICES:
        said, given_ = naive(document, service), policy.service(service)
        if said is None:
            assert given_ is None
            continue
        assert spec_given(given_.spec) == spec_of(said)
        assert given_.overflow == said.get("overflow", "delay")
        assert given_.max_delay == (said["max_delay"] * SECOND if said.get("max_delay") else None)
        assert given_.group == said.get("group")
        assert given_.lanes == (said.get("priorities") or {"default": 1})
        assert given_.worker_group == said.get("worker_group")
        assert given_.shadow == said.get("shadow", False)
        assert given_.near_limit == said.get("near_limit", 0.8)
        assert given_.max_tenants == said.get("max_tenants", 100_000)


@given(documents(), st.sampled_from(["acme", "corp", "default", "", "accenture", "a*", "x?*"]))
def test_tenants_are_a_layering_of_dicts_within_their_service(document, tenant):
    policy = parse_policy(json.dumps(document))
    for service in SERVICES:
        rules = (naive(document, service) or {}).get("tenants") or {}
        globs = sorted(
            (rule for rule in rules if "*" in rule and fnmatch.fnmatchcase(tenant, rule)),
            key=lambda rule: len(rule) - 1,
        )
        exact = [tenant] if tenant in rules and tenant != "default" and "*" not in tenant else []
        rate, burst, windows = spec_of(
            overlay([rules.get("default", {}), *map(rules.get, globs), *map(rules.get, exact)])
        )
        given_ = policy.effective(service).tenant(tenant)
        if rate is None and not windows:
            assert given_ is None
        else:
            assert spec_given(given_) == (rate, burst, windows)


@given(documents())
def test_each_field_is_explained_by_the_value_that_holds(document):
    policy = parse_policy(json.dumps(document, indent=1))
    lines = json.dumps(document, indent=1).splitlines()
    for service in SERVICES:
        said = naive(document, service)
        explained = policy.explain(service)
        assert bool(explained) is (said is not None)
        for field, origin in explained.items():
            if origin.line is not None and not field.startswith("tenants"):
                assert origin.value == said[field]
                assert f'"{field}":' in lines[origin.line - 1]
            elif not field.startswith("tenants"):
                assert said.get(field) is None


@settings(max_examples=50)
@given(documents(), st.randoms(use_true_random=False))
def test_the_version_ignores_the_order_of_keys(document, random):
    def shuffled(value):
        if not isinstance(value, dict):
            return value
        keys = random.sample(list(value), len(value))
        # Globs of one length are ordered by the file, so that their order does count.
        keys.sort(key=lambda key: ENTRIES.index(key) if key in ENTRIES and set(key) & set("*?") else -1)
        return {key: shuffled(value[key]) for key in keys}

    document = shuffled(document)
    assert parse_policy(json.dumps(shuffled(document))).version == parse_policy(json.dumps(document)).version


@pytest.mark.parametrize(
    ("services", "burst"),
    [
        ("{pay: {}}", 1),
        ("{pay: {extends: low}}", 2),
        ("{pay: {extends: [low, high]}}", 3),
        ("{pay: {extends: [high, low]}}", 2),
        ("{pay: {extends: heir}}", 4),
        ("{pay: {extends: [heir, twin]}}", 4),  # both build on base: it does not override heir
        ("{pay: {extends: both}}", 3),
        ("{pay: {extends: low, burst_size: 5}}", 5),
        ("{'p*': {burst_size: 6}, pay: {extends: low}}", 6),  # a glob is stronger than a template
        ("{'p*': {extends: high}, pay: {}}", 3),
        ("{'p*': {extends: high}, pay: {extends: low}}", 2),  # extends is inherited as any field
        ("{'p*': {extends: high}, pay: {extends: null}}", 1),
        ("{'pa*': {burst_size: 7}, 'p*': {burst_size: 6}}", 7),
        ("{'*y': {burst_size: 8}, 'p*': {burst_size: 6}}", 6),  # equals: the later in the file
        ("{'*': {burst_size: 9}, other: {burst_size: 10}}", 9),
        ("{pay: {burst_size: null, requests_per_second: 7.5}}", 8),
    ],
)
def test_who_decides(services, burst):
    policy = parse_policy(f"""
defaults: {{burst_size: 1, requests_per_second: 100}}
templates:
  low: {{burst_size: 2}}
  high: {{burst_size: 3}}
  both: {{extends: [low, high]}}
  base: {{burst_size: 1}}
  heir: {{extends: base, burst_size: 4}}
  twin: {{extends: base}}
services: {services}
""")
    assert policy.service("pay").spec.burst == burst


def test_null_takes_away_the_tenants_said_before():
    policy = parse_policy("""
defaults: {tenants: {default: {requests_per_second: 5}, acme: {burst_size: 9}}}
services: {pay: {tenants: null}, 'r*': {tenants: null}, reports: {tenants: {acme: {requests_per_second: 1}}}}
""")
    assert policy.service("pay").tenants is None
    assert policy.service("reports").tenant("corp") is None
    assert policy.service("reports").tenant("acme").burst == 1
    assert policy.service("search").tenant("acme").burst == 9


def test_a_field_stands_in_the_line_of_its_key():
    policy = parse_policy("services:\n  pay:\n    priorities:\n      fast: 1\n    group:\n      g\ngroups: {g: {}}")
    explained = policy.explain("pay")
    assert [explained[field].line for field in ("priorities", "group")] == [3, 5]


def test_a_lattice_of_templates_is_walked_once():
    # With each template reached anew by each way to it, there would be 2^60 ways.
    rows = "\n".join(f"  {side}{i}: {{extends: [a{i - 1}, b{i - 1}]}}" for i in range(1, 60) for side in "ab")
    base = "  a0: {burst_size: 3, requests_per_second: 9}\n  b0: {}"
    policy = parse_policy(f"templates:\n{base}\n{rows}\nservices: {{pay: {{extends: a59}}}}")
    assert policy.service("pay").spec.burst == 3


def test_a_chain_of_ten_thousand_templates():
    chain = "\n".join(f"  t{i}: {{extends: t{i - 1}}}" for i in range(1, 10_000))
    policy = parse_policy(
        f"templates:\n  t0: {{burst_size: 3, requests_per_second: 9}}\n{chain}\nservices: {{pay: {{extends: t9999}}}}"
    )
    assert policy.service("pay").spec.burst == 3
