from aiokafka.structs import TopicPartition

from gate.client.handlers import Job
from gate.client.line import Line, Taken
from gate.client.offsets import Offsets


def taken(offset, key=None, service="s"):
    job = Job(service, service, 0, offset, 0, key, b"", ())
    return Taken(job, TopicPartition(service, 0), Offsets())


def started(line, now=0.0):
    """Start all that may start."""
    jobs = []
    while (job := line.next(now)) is not None:
        jobs.append(job)
    return jobs


def test_jobs_start_in_their_order():
    line = Line()
    jobs = [taken(offset, b"k") for offset in range(5)]
    for job in jobs:
        line.add(job)
    assert len(line) == 5
    assert started(line) == jobs
    assert len(line) == 0


def test_services_take_turns():
    line = Line()
    for offset in range(3):
        line.add(taken(offset, service="many"))
    line.add(taken(9, service="few"))
    assert [job.job.offset for job in started(line)] == [0, 9, 1, 2]


def test_jobs_of_a_key_run_one_after_another_and_hold_up_no_other():
    line = Line(by_key=True)
    a1, a2, b1, a3, x, y = jobs = [taken(i, key) for i, key in enumerate((b"a", b"a", b"b", b"a", None, None))]
    for job in jobs:
        line.add(job)
    assert started(line) == [a1, b1, x, y]
    line.ended(x)
    line.ended(b1)
    assert started(line) == []
    line.ended(a1)
    assert started(line) == [a2]
    line.ended(a2)
    a4 = taken(9, b"a")
    line.add(a4)
    assert started(line) == [a3]
    line.ended(a3)
    assert started(line) == [a4]
    line.ended(a4)
    assert len(line) == 0
    assert not line._behind  # keys are forgotten


def test_the_same_key_of_two_services_is_two_keys():
    line = Line(by_key=True)
    line.add(taken(0, b"a", "one"))
    line.add(taken(0, b"a", "other"))
    assert len(started(line)) == 2


def test_a_paused_service_waits_and_others_go_on():
    line = Line()
    line.add(taken(0, service="paused"))
    line.add(taken(1, service="free"))
    line.pause("paused", 10.0)
    line.pause("paused", 5.0)  # the later one counts
    assert [job.job.service for job in started(line, 9.9)] == ["free"]
    assert line.is_paused("paused", 9.9)
    assert [job.job.service for job in started(line, 10.0)] == ["paused"]


def test_what_runs_still_holds_its_key_when_the_rest_is_given_away():
    line = Line(by_key=True)
    first, second, other = taken(0, b"a"), taken(1, b"a"), taken(2, b"b")
    for job in (first, second, other):
        line.add(job)
    assert line.next(0.0) is first
    assert set(line.clear()) == {second, other}
    again, fresh = taken(1, b"a"), taken(2, b"b")
    line.add(again)
    line.add(fresh)
    assert started(line) == [fresh]
    line.ended(first)
    assert started(line) == [again]
