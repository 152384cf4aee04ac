"""Fixtures that every room may use: above all one real Kafka broker for the whole run."""

import contextlib
import gc
import os
import shutil
import signal
import subprocess
import uuid
from collections.abc import Callable, Iterator

import pytest
import structlog
from hypothesis import HealthCheck, settings

from gate.cli.logs import let_libraries_go
from gate.kafka.aio.compat import CHOICE
from gate.kafka.local import LocalBroker, LocalCluster
from gate.kafka.local.config import free_port
from gate.kafka.local.jars import KAFKA_VERSION
from tests.capabilities import CORE, TESTS, capability
from tests.durations import Meter
from tests.sweeping import Sweeper

# How quick a machine is says nothing about what is tested
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")

SWEEPER = Sweeper()
BROKER_FIXTURES = {"bootstrap", "own_broker", "own_cluster"}

# Files that take 15 seconds or more, the longest first (`python -m tests.durations`): they begin before all others, so
# that no process is left alone with one at the end. Clusters of three, which wait for each other's sake, lie apart.
LONG_FIRST = (
    "sim/test_simulation.py",
    "chaos/test_torn.py",
    "system/test_access.py",
    "chaos/test_resharding.py",
    "chaos/test_nodes.py",
    "sim/test_picky.py",
    "system/test_tracing.py",
    "system/test_state.py",
    "distributed/test_owner_away.py",
    "client/test_limits.py",
    "system/test_trust.py",
    "system/test_sessions.py",
    "kafka/test_local_cluster.py",
    "kafka/test_local_broker.py",
    "chaos/test_versions.py",
    "chaos/test_unanswered.py",
    "system/test_held.py",
    "chaos/test_mesh.py",
    "system/test_where.py",
    "system/test_full_disk.py",
    "chaos/test_commands.py",
    "system/test_history.py",
    "system/test_sweeping.py",
    "system/test_hostile_records.py",
    "chaos/test_refusals.py",
    "distributed/test_reshard.py",
    "chaos/test_redrive.py",
    "system/test_topics_on_three_brokers.py",
    "system/test_undecided.py",
    "bench/test_mesh.py",
    "system/test_docs.py",
    "system/test_gate_runs.py",
    "chaos/test_stale.py",
    "chaos/test_limits.py",
    "cli/test_demo.py",
    "distributed/test_tenants.py",
    "system/test_pages.py",
)


def _file(item: pytest.Item) -> str:
    return item.path.relative_to(TESTS).as_posix()


def _rank(item: pytest.Item) -> int:
    name = _file(item)
    return LONG_FIRST.index(name) if name in LONG_FIRST else len(LONG_FIRST)


@pytest.hookimpl(tryfirst=True)  # before pytest looks at -m
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("PYTEST_XDIST_WORKER"):
        items.sort(key=_rank)
    for item in items:
        if BROKER_FIXTURES.intersection(getattr(item, "fixturenames", ())):
            item.add_marker("broker")
        if capability(_file(item)) != CORE:
            item.add_marker("capability")
        if item.get_closest_marker("fast_path") and not CHOICE.fast:
            item.add_marker(pytest.mark.skip(f"the public path over aiokafka can't do it: {CHOICE.why}"))


def pytest_collection_finish() -> None:
    """Keep what is there for the whole run out of each collection below: there are hundreds of thousands of objects."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """Find what a test has left open while it can still be told which one it was."""
    if item.get_closest_marker("broker"):
        gc.collect()


def pytest_configure(config: pytest.Config) -> None:
    """Measure each test; where several processes share the tests, start the one broker for all of them."""
    config.pluginmanager.register(Meter())
    if hasattr(config, "workerinput"):
        # xdist's workers ignore SIGINT, and what they start would inherit that: Ctrl-C could not be tested
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if getattr(config.option, "numprocesses", None) and not hasattr(config, "workerinput"):
        stack = contextlib.ExitStack()
        os.environ["GATE_BOOTSTRAP"] = stack.enter_context(_any_broker())
        config.add_cleanup(stack.close)


@pytest.fixture(autouse=True)
def _log_as_before() -> Iterator[None]:
    """Undo what a command run in this process has set up: its log goes to a stderr that ends with the test."""
    yield
    structlog.reset_defaults()
    let_libraries_go()


@pytest.fixture(scope="session")
def bootstrap() -> Iterator[str]:
    """`HOST:PORT` of a broker that all tests share: `GATE_BOOTSTRAP`, else a container, else a local broker."""
    with _any_broker() as address:
        yield address


@contextlib.contextmanager
def _any_broker() -> Iterator[str]:
    with contextlib.ExitStack() as stack:
        yield os.environ.get("GATE_BOOTSTRAP") or stack.enter_context(
            _container() if _docker_answers() else _local_broker()
        )


@pytest.fixture
def prefix(request: pytest.FixtureRequest) -> Iterator[str]:
    """A topic prefix that no other test uses: `<prefix>.requests.payments`."""
    if "bootstrap" not in request.fixturenames:
        yield _new_prefix()
        return
    SWEEPER.sweep(request.getfixturevalue("bootstrap"))  # all that the tests before had running has ended by now
    yield (name := _new_prefix())
    SWEEPER.leave(name)


@pytest.fixture(scope="module")
def shared_prefix(bootstrap: str) -> Iterator[str]:
    """A topic prefix that the tests of a module share."""
    yield (name := _new_prefix())
    SWEEPER.leave(name)


def _new_prefix() -> str:
    return f"t{uuid.uuid4().hex[:8]}"


@pytest.fixture
def own_broker() -> Iterator[Callable[..., LocalBroker]]:
    """A factory of brokers that the test may kill: the arguments of `LocalBroker.start`; stopped at the end."""
    with contextlib.ExitStack() as stack:
        yield lambda *args, **kwargs: stack.enter_context(LocalBroker.start(*args, **kwargs))


@pytest.fixture
def own_cluster() -> Iterator[Callable[..., LocalCluster]]:
    """A factory of clusters of three: the arguments of `LocalCluster.start`; stopped at the end."""
    with contextlib.ExitStack() as stack:
        yield lambda *args, **kwargs: stack.enter_context(LocalCluster.start(*args, **kwargs))


@contextlib.contextmanager
def _local_broker() -> Iterator[str]:
    with LocalBroker.start() as broker:
        yield broker.bootstrap


def _docker_answers() -> bool:
    if shutil.which("docker") is None:
        return False
    try:
        return subprocess.run(["docker", "info"], capture_output=True, timeout=5, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False


@contextlib.contextmanager
def _container() -> Iterator[str]:
    """Apache's own image. Any KAFKA_ variable drops all of its defaults, so the whole node is laid out here."""
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.wait_strategies import LogMessageWaitStrategy

    port = free_port()  # the broker advertises it, so it must be known before the start
    container = (
        DockerContainer(f"apache/kafka:{KAFKA_VERSION}")
        .with_bind_ports(9092, port)
        .with_envs(
            KAFKA_NODE_ID="1",
            KAFKA_PROCESS_ROLES="broker,controller",
            KAFKA_LISTENERS="PLAINTEXT://:9092,CONTROLLER://:9093",
            KAFKA_ADVERTISED_LISTENERS=f"PLAINTEXT://127.0.0.1:{port}",
            KAFKA_CONTROLLER_LISTENER_NAMES="CONTROLLER",
            KAFKA_LISTENER_SECURITY_PROTOCOL_MAP="CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
            KAFKA_CONTROLLER_QUORUM_VOTERS="1@localhost:9093",
            KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR="1",
            KAFKA_OFFSETS_TOPIC_NUM_PARTITIONS="4",
            KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR="1",
            KAFKA_TRANSACTION_STATE_LOG_MIN_ISR="1",
            KAFKA_TRANSACTION_STATE_LOG_NUM_PARTITIONS="4",
            KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS="0",
            KAFKA_GROUP_MIN_SESSION_TIMEOUT_MS="1000",
            KAFKA_AUTO_CREATE_TOPICS_ENABLE="false",
        )
        .waiting_for(LogMessageWaitStrategy("Kafka Server started").with_startup_timeout(120))
    )
    with container:
        yield f"127.0.0.1:{port}"
