from aiokafka.structs import TopicPartition

from gate.client._handlers import Job
from gate.client._job_queue import JobQueue, TakenJob
from gate.client._offsets import Offsets


def taken(offset, key=None, service="s"):
    job = Job(service, service, 0, offset, 0, key, b"", ())
    return TakenJob(job, TopicPartition(service, 0), Offsets())


def started(queue, now=0.0):
    """Start all that may start."""
    jobs = []
    while (job := queue.next(now)) is not None:
        jobs.append(job)
    return jobs


def test_jobs_start_in_their_order():
    queue = JobQueue()
    jobs = [taken(offset, b"k") for offset in range(5)]
    for job in jobs:
        queue.add(job)
    assert len(queue) == 5
    assert started(queue) == jobs
    assert len(queue) == 0


def test_services_take_turns():
    queue = JobQueue()
    for offset in range(3):
        queue.add(taken(offset, service="many"))
    queue.add(taken(9, service="few"))
    assert [job.job.offset for job in started(queue)] == [0, 9, 1, 2]


def test_jobs_of_a_key_run_one_after_another_and_hold_up_no_other():
    queue = JobQueue(by_key=True)
    a1, a2, b1, a3, x, y = jobs = [taken(i, key) for i, key in enumerate((b"a", b"a", b"b", b"a", None, None))]
    for job in jobs:
        queue.add(job)
    assert started(queue) == [a1, b1, x, y]
    queue.ended(x)
    queue.ended(b1)
    assert started(queue) == []
    queue.ended(a1)
    assert started(queue) == [a2]
    queue.ended(a2)
    a4 = taken(9, b"a")
    queue.add(a4)
    assert started(queue) == [a3]
    queue.ended(a3)
    assert started(queue) == [a4]
    queue.ended(a4)
    assert len(queue) == 0
    assert not queue._behind  # keys are forgotten


def test_the_same_key_of_two_services_is_two_keys():
    queue = JobQueue(by_key=True)
    queue.add(taken(0, b"a", "one"))
    queue.add(taken(0, b"a", "other"))
    assert len(started(queue)) == 2


def test_a_paused_service_waits_and_others_go_on():
    queue = JobQueue()
    queue.add(taken(0, service="paused"))
    queue.add(taken(1, service="free"))
    queue.pause("paused", 10.0)
    queue.pause("paused", 5.0)  # the later one counts
    assert [job.job.service for job in started(queue, 9.9)] == ["free"]
    assert queue.is_paused("paused", 9.9)
    assert [job.job.service for job in started(queue, 10.0)] == ["paused"]


def test_what_runs_still_holds_its_key_when_the_rest_is_given_away():
    queue = JobQueue(by_key=True)
    first, second, other = taken(0, b"a"), taken(1, b"a"), taken(2, b"b")
    for job in (first, second, other):
        queue.add(job)
    assert queue.next(0.0) is first
    assert set(queue.clear()) == {second, other}
    again, fresh = taken(1, b"a"), taken(2, b"b")
    queue.add(again)
    queue.add(fresh)
    assert started(queue) == [fresh]
    queue.ended(first)
    assert started(queue) == [again]
