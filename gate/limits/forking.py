"""Locks that no child of a fork finds held.

A fork copies all memory and one thread. A lock that another thread held is never released in the child, and what it
guards may be half done. So a fork waits until nobody holds any of these locks, which is a matter of microseconds.
"""

import os
import threading
from typing import Final
from weakref import WeakSet

# The thread that forks may hold one itself, in a signal handler that came amid a decision: it goes on in the child.
_PATIENCE: Final = 5.0  # s

_locks: "WeakSet[threading.Lock]" = WeakSet()
_forking = threading.Lock()  # held from before a fork until after it, and where a lock is made
_held: list[threading.Lock] = []


def make_lock() -> threading.Lock:
    """Return a new lock that is free, and what it guards complete, in every child of a fork."""
    lock = threading.Lock()
    with _forking:
        _locks.add(lock)
    return lock


def _before() -> None:
    _held.extend([lock for lock in (_forking, *_locks) if lock.acquire(timeout=_PATIENCE)])


def _after() -> None:
    while _held:  # the first one last: until then this list is ours
        _held.pop().release()


if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
    os.register_at_fork(before=_before, after_in_parent=_after, after_in_child=_after)
