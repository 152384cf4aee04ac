"""What makes no sense is refused when the object is made, by all alike; and the face of the client is whole."""

import inspect

import pytest

import gate.client
from gate.client import (
    Alerts,
    ArgumentError,
    GateControl,
    GateError,
    Job,
    JobClient,
    Pacer,
    Pauses,
    SyncGateControl,
    SyncJobClient,
    SyncPacer,
    Worker,
)
from gate.protocol.topics import TopicNameError

MAKERS = {
    "Worker": lambda bootstrap="h:1", **more: Worker(bootstrap, **{"group_id": "g"} | more),
    "Alerts": lambda bootstrap="h:1", **more: Alerts(bootstrap, **more),
    "JobClient": lambda bootstrap="h:1", **more: JobClient(bootstrap, **more),
    "SyncJobClient": lambda bootstrap="h:1", **more: SyncJobClient(bootstrap, **more),
    "Pacer": lambda bootstrap="h:1", **more: Pacer(bootstrap, "s", **more),
    "SyncPacer": lambda bootstrap="h:1", **more: SyncPacer(bootstrap, "s", **more),
    "GateControl": lambda bootstrap="h:1", **more: GateControl(bootstrap, **more),
    "SyncGateControl": lambda bootstrap="h:1", **more: SyncGateControl(bootstrap, **more),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_all_begin_alike(make):
    make(prefix="other", connect_timeout=1.5)
    for bootstrap in ("", "nowhere", "host:", "host:x", "a:1,,b:2", None):
        with pytest.raises(ArgumentError, match="bootstrap") as refused:
            make(bootstrap)
        assert refused.value.hint
    for seconds in (0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ArgumentError, match="connect_timeout") as refused:
            make(connect_timeout=seconds)
        assert refused.value.hint
    with pytest.raises(TopicNameError):
        make(prefix="not a topic")


@pytest.mark.parametrize(
    ("make", "wrong"),
    [
        ("Worker", {"concurrency": 0}),
        ("Worker", {"concurrency": 2.5}),
        ("Worker", {"ordered": "yes"}),
        ("Worker", {"ordered": True}),
        ("Worker", {"timeout": -1}),
        ("Worker", {"shutdown_timeout": -1}),
        ("Worker", {"session_timeout": 0}),
        ("Worker", {"group_id": ""}),
        ("Alerts", {"group_id": "with blanks"}),
        ("JobClient", {"submit_timeout": 0}),
        ("SyncJobClient", {"submit_timeout": 0}),
        ("Pacer", {"cost": 0}),
        ("Pacer", {"max_wait": -1}),
        ("Pacer", {"when_away": "panic"}),
        ("SyncPacer", {"max_backlog": 0}),
    ],
)
def test_each_refuses_what_is_its_own(make, wrong):
    with pytest.raises(ArgumentError, match=next(iter(wrong))) as refused:
        MAKERS[make](**wrong)
    assert refused.value.hint


def test_a_service_has_one_handler_and_a_receiver_one_name():
    worker = Worker("h:1", group_id="g")
    worker.handler("payments")(print)
    with pytest.raises(ArgumentError, match="a handler for payments already"):
        worker.handler("payments")
    alerts = Alerts("h:1")
    with pytest.raises(ArgumentError, match="attempts is 0"):
        alerts.on("*", attempts=0)(print)
    with pytest.raises(ArgumentError, match="first is 0"):
        Pauses(first=0)
    with pytest.raises(ArgumentError, match="longest is 1"):
        Pauses(first=2, longest=1)


def test_a_job_tells_its_json_and_its_producers_id():
    job = Job("s", "t", 0, 1, 2, None, b'{"amount": 12}', (("gate-id", b"invoice-7"),))
    assert (job.json(), job.producer_id) == ({"amount": 12}, "invoice-7")
    bare = Job("s", "t", 0, 1, 2, None, None, ())
    assert bare.producer_id is None
    with pytest.raises(ValueError, match="truncated"):
        bare.json()


def test_every_error_of_the_client_is_a_gate_error():
    errors = [one for one in vars(gate.client).values() if inspect.isclass(one) and issubclass(one, BaseException)]
    assert len(errors) > 10
    assert [error for error in errors if not issubclass(error, GateError)] == []


def test_the_face_is_sorted_and_whole_and_every_twin_has_its_other():
    names = gate.client.__all__
    assert names == sorted(names)
    assert all(inspect.isclass(vars(gate.client)[name]) or name in {"command", "verify"} for name in names)
    twins = [name for name in names if name.startswith("Sync")]
    assert len(twins) == 4
    for name in twins:
        other, sync = vars(gate.client)[name.removeprefix("Sync")], vars(gate.client)[name]
        calls = {call for call in vars(other) if not call.startswith("_")} - {"take", "break_off"}
        assert calls <= set(dir(sync))
