"""Notes on a policy, and the difference between two."""

from pathlib import Path

import pytest

from gate.policy import load_policy, parse_policy
from gate.policy.difference import difference
from gate.policy.notes import notes_on

EXAMPLE = Path(__file__).parents[2] / "examples" / "policy.yaml"
REFUSED = 'so it refuses topics of both "a.b" and "a_b"'
INHERITED_AND_OWN_MAX_DELAY = """\
defaults: {window_limit: 1, max_delay: 9}
services:
  a: {overflow: hold}
  b: {overflow: hold, max_delay: 5}
"""


@pytest.mark.parametrize(
    ("text", "notes"),
    [
        ("services: {}", [":1: : no service and no defaults: nothing is limited"]),
        ("defaults: {requests_per_second: 3}", []),
        (
            "services:\n  pay: {}\n  search: {window_limit: 3}\n",
            [":2: services.pay: no requests_per_second and no window_limit applies: it is unlimited"],
        ),
        (
            "services: {pay: {burst_size: 3, window_limit: 9}}",
            [":1: services.pay: burst_size has no effect without requests_per_second"],
        ),
        (
            "services: {'p*': {requests_per_second: 1, burst_size: 100, window_size: 90}}",
            [':1: services."p*": burst_size 100 is never reached: a window allows 90 per 90s'],
        ),
        (
            "services: {pay: {requests_per_second: 1000, burst_size: 3, window_size: null}}",
            [
                (
                    ":1: services.pay: burst_size 3 is full again before a busy gate decides its next batch, after some"
                    " 20 ms, so less than requests_per_second is admitted; 20 would do"
                )
            ],
        ),
        (
            INHERITED_AND_OWN_MAX_DELAY,
            [":4: services.b: max_delay has no effect with overflow: hold"],
        ),
        (
            "defaults: {requests_per_second: 1}\nservices: {pay: {priorities: {fast: 2, slow: 1}}}",
            [':2: services.pay: requests that name no lane of it go to "slow", the lightest'],
        ),
        (
            "services: {pay: {requests_per_second: 1, shadow: true}}",
            [":1: services.pay: shadow: decides and reports, and admits everything"],
        ),
        (
            "templates: {a: {extends: b}, b: {}}\ngroups: {g: {window_limit: 1}}\ndefaults: {window_limit: 1}",
            [":1: templates.a: nothing extends this template", ":2: groups.g: no service shares this budget"],
        ),
        (
            "templates: {t: {group: g}}\nservices: {'*': {extends: t, requests_per_second: 1}}\ngroups: {g: {}}\n",
            [":3: groups.g: no requests_per_second and no window_limit: it limits nothing"],
        ),
        (
            "defaults: {requests_per_second: 1}\nservices: {a.b: {}, a-b: {}, a_b: {}}",
            [f':2: services.a_b: Kafka takes "." and "_" for the same in metrics, {REFUSED}'],
        ),
    ],
)
def test_notes(text, notes):
    assert [f":{note.line}: {note.field}: {note.message}" for note in notes_on(parse_policy(text))] == notes


def said(old, new):
    return [
        (
            change.name,
            change.field,
            change.before and change.before.value,
            change.after and change.after.value,
            change.after and change.after.source,
        )
        for change in difference(parse_policy(old), parse_policy(new))
    ]


def test_nothing_differs_from_itself_however_written():
    example = load_policy(EXAMPLE)
    assert difference(example, load_policy(EXAMPLE)) == ()
    assert (
        said("services: {pay: {max_delay: 1h}}", "templates: {t: {max_delay: 3600}}\nservices: {pay: {extends: t}}")
        == []
    )


def test_what_a_template_changes_is_told_for_each_service():
    old = (
        "templates: {t: {requests_per_second: 1}}\nservices: {a: {extends: t}, b: {extends: t, window_limit: 5}, c: {}}"
    )
    assert said(old, old.replace("second: 1", "second: 2")) == [
        ("a", "requests_per_second", 1, 2, "template t"),
        ("a", "burst_size", 1, 2, "from requests_per_second"),
        ("a", "window_limit", 60, 120, "from requests_per_second"),
        ("b", "requests_per_second", 1, 2, "template t"),
        ("b", "burst_size", 1, 2, "from requests_per_second"),
    ]


def test_a_service_that_is_no_longer_listed_is_compared_with_what_it_gets_now():
    old = "defaults: {max_delay: 1}\nservices: {pay: {max_delay: 2}}"
    assert said(old, "defaults: {max_delay: 1}") == [("pay", "max_delay", 2, 1, "defaults")]
    assert said("services: {pay: {max_delay: 2}}", "services: {'p*': {max_delay: 3}}")[0] == (
        "pay", "max_delay", 2, 3, 'glob "p*"',
    )  # fmt: skip
    gone = said("services: {pay: {max_delay: 2}}", "services: {}")
    assert ("pay", "max_delay", 2, None, None) in gone


def test_tenants_groups_defaults_and_settings_are_compared():
    old = """
defaults: {shadow: false}
groups: {g: {burst_size: 1}}
services: {pay: {shadow: false, tenants: {acme: {burst_size: 1}}}}
"""
    new = """
shards: 3
defaults: {shadow: true}
groups: {g: {burst_size: 2}}
services: {pay: {shadow: false, tenants: {acme: {burst_size: 3}}}}
"""
    assert said(old, new) == [
        ("pay", "tenants.acme.burst_size", 1, 3, "exact"),
        ("(all others)", "shadow", False, True, "defaults"),
        ("g", "burst_size", 1, 2, "group"),
        ("settings", "shards", 16, 3, "file"),
    ]
