import re
from itertools import pairwise
from pathlib import Path

import pytest

from gate.policy import PolicyError, parse_policy
from gate.policy.document import Document, EntryFields, LimitFields
from gate.policy.settings import Topics

PAGE = (Path(__file__).parents[2] / "docs" / "policy.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
ERRORS = [(text, said) for (_, text), (kind, said) in pairwise(BLOCKS) if kind == "text"]
VALID = [text for kind, text in BLOCKS if kind == "yaml" and text not in dict(ERRORS)]


@pytest.mark.parametrize("text", VALID)
def test_a_snippet_is_a_policy(text):
    parse_policy(text)


@pytest.mark.parametrize(("text", "said"), ERRORS)
def test_a_broken_snippet_is_answered_as_the_page_says(text, said):
    with pytest.raises(PolicyError) as raised:
        parse_policy(text)
    assert raised.value.render() == said.rstrip()


def test_the_page_has_snippets_of_both_kinds():
    assert len(VALID) >= 7
    assert len(ERRORS) == 1


def test_every_key_is_described():
    described = set(re.findall(r"^\| `(\w+)` \|", PAGE, flags=re.MULTILINE))
    sections = {"defaults", "templates", "groups", "services"}
    known = {*LimitFields.model_fields, *EntryFields.model_fields, *Document.model_fields} - sections
    assert described == known
    assert all(f"`{kind}`" in PAGE for kind in Topics.model_fields)


def test_what_the_inheritance_snippet_claims():
    policy = parse_policy(next(text for text in VALID if "slow-bulk" in text))
    got = {
        name: (policy.service(name).spec.rate, str(policy.service(name).overflow))
        for name in ("import-x", "import-eu-x", "import-eu-legacy", "import-test")
    }
    assert got == {
        "import-x": (1, "hold"),
        "import-eu-x": (2, "hold"),
        "import-eu-legacy": (2, "delay"),
        "import-test": (None, "hold"),
    }


def test_what_the_limits_snippet_claims():
    policy = parse_policy(next(text for text in VALID if "letters" in text))
    search, sms = policy.service("search").spec, policy.service("sms").spec
    assert (search.burst, search.windows[0].limit) == (3, 150)
    assert [window.limit for window in sms.windows] == [20, 500]
    assert policy.service("letters").spec.rate is None
    assert policy.service("stream").spec.windows == ()
