import os
import sys
import time
from pathlib import Path

import pytest

from bench.pipeline import page, plan
from bench.pipeline.contenders import AT_LEAST_ONCE, EXACTLY_ONCE, Contender
from bench.pipeline.load import Shape, fill
from bench.pipeline.process import FailedError, Process
from bench.pipeline.run import Case, Outcome, run
from bench.pipeline.topics import Topics, partitions_of
from bench.soak import slope

# Passes each record on, but those that the third argument says: loses them, or sends them twice.
FAKE = """
import asyncio, sys
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
async def main(bootstrap, requests, admitted, delayed, limit, fault):
    consumer = AIOKafkaConsumer(requests, bootstrap_servers=bootstrap, group_id=requests, auto_offset_reset="earliest")
    await consumer.start()
    async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
        number = 0
        async for record in consumer:
            number += 1
            topic = admitted if number <= int(limit) else delayed
            for _ in range({"none": 1, "unfair": 1, "twice": 1 + (number == 70)}[fault]):
                await producer.send(delayed if fault == "unfair" and number == 3 else topic, record.value)
            if number % 50 == 0:
                await producer.flush()
asyncio.run(main(*sys.argv[1:]))
"""


def fake(fault: str) -> Contender:
    def command(setting):
        topics = [setting.topics(kind)[0] for kind in ("requests", "admitted", "delayed")]
        return [sys.executable, "-c", FAKE, setting.bootstrap, *topics, str(setting.limit), fault]

    return Contender("fake", command, commits=False, warm_up=50, load=100)


async def test_a_run_measures_a_contender_that_does_its_work(bootstrap):
    outcome = await run(Case(fake("none"), Shape(100), 100, "half"), bootstrap)
    assert outcome.cpu > 0
    assert outcome.rate > 0
    assert outcome.memory > 5


@pytest.mark.parametrize(("fault", "counted"), [("unfair", r"\[99, 51\]"), ("twice", r"\[101, 50\]")])
async def test_a_run_with_wrong_outputs_is_not_counted(bootstrap, fault, counted):
    with pytest.raises(FailedError, match=counted):
        await run(Case(fake(fault), Shape(100), 100, "half"), bootstrap)


async def test_a_contender_that_ends_is_reported_with_its_log(bootstrap):
    broken = Contender("broken", lambda _: [sys.executable, "-c", "print('no licence'); exit(3)"], True, 10, 10)
    with pytest.raises(FailedError, match=r"exit code 3(?s:.)*no licence"):
        await run(Case(broken, Shape(100), 10), bootstrap)


async def test_the_gate_runs_and_leaves_no_topics(bootstrap):
    outcome = await run(Case(EXACTLY_ONCE, Shape(100, tenants=3), 1_000), bootstrap)
    assert outcome.rate > 0
    async with Topics(bootstrap) as topics:
        assert not [name for name in await topics._admin.list_topics() if name.startswith("bench-")]


async def test_the_load_is_dealt_out_and_has_its_shape(bootstrap, prefix):
    async with Topics(bootstrap) as topics:
        await topics.create({prefix: 4})
        partitions = partitions_of([prefix], 4)
        await fill(bootstrap, partitions, 4_002, Shape(1024))
        assert [await topics.ends([p]) for p in partitions] == [1001, 1001, 1000, 1000]
        assert await topics.count(partitions) == 4_002
        await topics.drop(prefix)
    key, value, headers = next(Shape(1024, tenants=2).requests())
    assert (len(key), len(value), [name for name, _ in headers][-1]) == (10, 1024, "gate-tenant")


def test_the_cpu_of_a_process_is_its_own_and_stands_still_when_it_is_stopped(tmp_path):
    spin = """
import threading, time
thread = threading.Thread(target=sum, args=(range(10**7),))
thread.start()
thread.join()
print("spun", time.process_time_ns(), flush=True)
while True: pass
"""
    log = tmp_path / "log"
    with Process("spinner", [sys.executable, "-c", spin], log) as process:
        while not log.read_text().endswith("\n"):  # it may be written word by word
            process.check()
        assert process.cpu() >= int(log.read_text().split()[1])  # what a thread that is gone had used counts
        process.freeze()
        while _state(process) != "T":
            pass
        before, began = process.cpu(), time.process_time_ns()
        while time.process_time_ns() < began + 20_000_000:
            os.getpid()
        assert process.cpu() == before
        process.thaw()
        while process.cpu() == before:
            process.check()


def _state(process: Process) -> str:
    return Path(f"/proc/{process._process.pid}/stat").read_text().rpartition(")")[2].split()[0]


def outcomes(*cpu: float | None) -> list[Outcome | None]:
    return [None if value is None else Outcome(value, 1e6 / value, 100.0) for value in cpu]


def test_ratios_skip_rounds_in_which_a_side_failed_and_peers_that_never_ran():
    shape, other = Shape(100), fake("none")
    rounds = {
        Case(EXACTLY_ONCE, shape, 9): outcomes(2.0, None, 4.0),
        Case(AT_LEAST_ONCE, shape, 9): outcomes(1.0, 1.0, 4.0),
        Case(other, shape, 9): outcomes(None, None, None),
        Case(other, shape, 9, "half"): outcomes(1.0, 1.0, 1.0),  # nothing of ours beside it
    }
    results = {result.name: (result.ratio, result.min, result.max) for result in plan.ratios(rounds)}
    assert results == {"cpu/at_least_once/100": (1.5, 1.0, 2.0), "time/at_least_once/100": (1.5, 1.0, 2.0)}


def test_every_name_of_the_contract_comes_of_the_plan():
    for quick in (True, False):
        rounds = {case: outcomes(1.0) for case in plan.cases(quick=quick)}
        names = {result.name for result in plan.ratios(rounds)}
        peers = ("naive", "faststream", "quixstreams", "confluent", "kafka-streams", "at_least_once")
        assert {f"cpu/{peer}/100" for peer in peers} | {"cpu/naive/1024"} <= names
    scaled = plan.scale_ratios({case: outcomes(2.0, None) for case in plan.scale_cases()})
    names = ["cpu/services/1000", "cpu/tenants/100000", "cpu/deduplicate", "memory/16-shards"]
    assert [result.name for result in scaled] == names


def test_figures_go_between_their_marks_and_nothing_else_changes():
    text = f"before\n{page.BEGIN}\nold\n{page.END}\nafter\n"
    assert page.with_figures(text, "new") == f"before\n{page.BEGIN}\nnew\n{page.END}\nafter\n"
    with pytest.raises(ValueError, match="each once"):
        page.with_figures("no marks", "new")


def test_the_slope_is_that_of_the_second_half():
    warming = [(second, 50 + second) for second in range(60)]
    assert slope(warming + [(60 + second, 110 + second / 60) for second in range(60)]) == pytest.approx(1.0)


def test_no_two_rows_of_the_table_have_one_name():
    rows = [
        {
            "contender": "gate", "value_size": 100, "form": "all", "services": 1, "tenants": 0, "records": records,
            "cpu": [cpu], "rate": [1], "memory": [1.0],
        }
        for records, cpu in ((200_000, 7.0), (50_000, 8.0))
    ]  # fmt: skip
    names = [line.split(" | ")[0] for line in page.costs(rows).splitlines()[2:]]
    assert names == ["| 100 B, all, 200,000 records", "| 100 B, all, 50,000 records"]
