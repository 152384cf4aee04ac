"""What of a recording `gate replay --check` compares: what was decided before a policy that the file does not say."""

from dataclasses import replace

import pytest

from gate.cli.replay_check import Checked, compare
from gate.errors import GateError
from tests.console.test_tried import POLICY, REQUESTS, T, recording

LIVE = T + 300  # the last three come then, and those before them are still waiting


def changed_live():
    told = recording(*REQUESTS)
    told.decisions = [replace(one, policy="live00") if one.request.at_ms >= LIVE else one for one in told.decisions]
    told.policies = {POLICY.version_of("pay"): T, "live00": LIVE}
    return told


def test_what_was_decided_before_a_limit_was_set_live_is_checked_and_the_rest_counted():
    assert compare("pay", POLICY, changed_live()) == Checked(9, 9, "", 3)


def test_what_left_by_a_limit_that_was_set_live_is_not_held_against_the_engine():
    told = changed_live()
    told.decisions = [replace(one, ended_ms=LIVE + 1) if one.verdict == "delayed" else one for one in told.decisions]
    assert compare("pay", POLICY, told) == Checked(9, 9, "", 3)


def test_what_the_gate_did_otherwise_before_is_told():
    told = changed_live()
    told.decisions[0] = replace(told.decisions[0], ended="rejected")
    checked = compare("pay", POLICY, told)
    assert (checked.compared, checked.same, checked.unchecked) == (9, 8, 3)
    assert checked.first.startswith("t-0@0: admitted at")


def test_a_file_that_decided_nothing_first_is_refused():
    told = changed_live()
    told.policies = {"live00": T, POLICY.version_of("pay"): T}
    with pytest.raises(GateError, match=r"decisions about pay are of policy .*live00.*the first is not"):
        compare("pay", POLICY, told)
