"""A child of a fork finds every limiter free and complete, whatever other threads were doing to it."""

import subprocess
import sys

import pytest

PROGRAM = """
import os, signal, sys, threading, time
from gate import RateLimitConfig, RateLimiter, TokenBucket

sys.setswitchinterval(1e-6)
subject = RateLimiter(clock=lambda: 10**18)  # time stands: what is taken from the bucket is in the window
subject.configure("api", RateLimitConfig(1, 10**9, 60, 10**9, ((10**9, 7),)))
bucket = TokenBucket(1, 10**9)

def work():
    while True:
        subject.check("api", cost=3)
        bucket.try_consume()

def look():
    subject.check("api")
    usage = subject.usage("api")
    assert usage.tokens + usage.window_used == 10**9, usage
    RateLimiter(clock=lambda: 10**18).restore(subject.snapshot())
    assert bucket.try_consume()
    TokenBucket(1, 1)

for _ in range(3):
    threading.Thread(target=work, daemon=True).start()
failed = 0
for _ in range(40):
    if not (child := os.fork()):
        signal.alarm(5)  # ends a child that hangs
        try:
            look()
        except BaseException as error:
            print(error, file=sys.stderr)
            os._exit(1)
        os._exit(0)
    failed += os.waitpid(child, 0)[1] != 0
look()
print(failed, flush=True)
os._exit(0)
"""
AMID_A_DECISION = """
import os, signal
from gate import TokenBucket

def clock():
    if asked:
        asked.clear()
        os.kill(os.getpid(), signal.SIGUSR1)  # comes while this thread holds the lock
    return 10**18

asked, children = [], []
signal.signal(signal.SIGUSR1, lambda *_: children.append(os.fork()))
from gate.limits import forking
forking._PATIENCE = 0.1
bucket = TokenBucket(1, 5, clock=clock)
asked.append(1)
assert bucket.try_consume(2)
signal.alarm(5)
assert bucket.tokens == 3 and bucket.try_consume(3)
if children == [0]:
    os._exit(0)
print(os.waitpid(children[0], 0)[1], flush=True)
"""


@pytest.mark.parametrize("program", [PROGRAM, AMID_A_DECISION], ids=["others decide", "in a signal handler"])
def test_no_child_hangs_or_finds_half_a_decision(program: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, timeout=240, check=False
    )
    assert (done.stdout, done.stderr, done.returncode) == ("0\n", "", 0)
