"""Gates of two versions side by side: the short version of `python -m tests.chaos.versions`."""

import logging

import pytest

from tests.chaos import versions

pytestmark = pytest.mark.slow


@pytest.mark.timeout(300)  # on a busy machine; 40 s on an idle one
async def test_a_step_to_the_next_version_and_back_loses_nothing(tmp_path, caplog):
    caplog.set_level(logging.CRITICAL, "aiokafka")
    commit = versions.last_old_commit()
    if commit is None:
        pytest.skip("the repository's history is not here: the version before can't be built")
    found = await versions.run(tmp_path, commit, seconds=0.5, rate=300)
    text = "\n".join(found.lines())
    print(text)
    assert found.report.problems == [], text
    assert found.report.ends["delayed"] > found.report.offered // 20, text  # a good part was parked
    (refusal,) = found.refusals
    assert "1 of 2 gates do not know format 2 of the state" in refusal
    assert "does NOT know format 2" in found.shown
    assert "all 6 shards write format 2 now" in found.finished
