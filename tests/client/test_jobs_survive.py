import pytest

from tests.client.jobs_long import play


@pytest.mark.long
async def test_no_job_is_lost_whatever_is_killed(bootstrap, tmp_path, capsys):
    """Must hold: every job done at least once, every completed id known; duplicates only where a worker died.

    100,000 of them: `python -m tests.client.jobs_long`.
    """
    outcome = await play(tmp_path, bootstrap, jobs=2_000)
    with capsys.disabled():
        print(f" {outcome}", end="")
    outcome.check()
    assert outcome.kills
