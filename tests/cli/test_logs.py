"""What libraries log comes out as the gate's own lines."""

import logging

import pytest
import stamina
from structlog.testing import capture_logs

from gate.cli.logs import AGAIN_AFTER, LibraryLog, take_over_libraries


@pytest.fixture
def library():
    """A library's logger whose lines come out as the gate's, and what they are."""
    library = logging.getLogger("some.library")
    handler = LibraryLog(clock=lambda: library.now)
    library.now, library.propagate = 100.0, False
    library.addHandler(handler)
    with capture_logs() as library.lines:
        yield library
    library.removeHandler(handler)


def test_what_a_library_logs_is_a_line_of_the_gates_log(library):
    error = OSError(24, "Too many open files")
    library.error("socket.accept() out of system resource\nsocket: <%s>", "x", exc_info=error)
    (line,) = library.lines
    assert (line["event"], line["log_level"], line["library"]) == (
        "socket.accept() out of system resource",
        "error",
        "some.library",
    )
    assert "Too many open files" in line["why"]


def test_a_flood_is_told_once_and_then_how_much_it_was(library):
    for _ in range(40_000):
        library.warning("no more files")
    library.warning("something else")
    assert [line["event"] for line in library.lines] == ["no more files", "something else"]
    library.now += AGAIN_AFTER
    library.warning("no more files")
    assert library.lines[-1]["more"] == 39_999


def test_words_that_do_not_fit_are_told_too(library):
    slip = {"name": "some.library", "levelno": logging.WARNING, "msg": "%d files", "args": ("many",)}
    library.handlers[0].handle(logging.makeLogRecord(slip))
    assert [line["event"] for line in library.lines] == ["%d files"]


def test_what_is_of_no_concern_is_not_told(library):
    library.info("started")
    assert library.lines == []


async def test_what_is_tried_again_is_told_by_who_tries():
    """`stamina.retry_scheduled args=() callable='<context block>'` says nothing to who reads it."""
    take_over_libraries()
    with capture_logs() as lines:
        async for attempt in stamina.retry_context(on=OSError, wait_initial=0.001):
            with attempt:
                if attempt.num == 1:
                    raise OSError
    assert lines == []
