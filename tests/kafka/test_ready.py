"""How soon three local nodes are ready, beside one; it runs alone, as what else is going on would be measured."""

import math
import time

import pytest


def test_three_nodes_are_ready_within_three_times_of_one(own_broker, own_cluster):
    """Of the best starts of each: what else the machine does meanwhile is not what is measured."""

    def seconds(start):
        begun = time.monotonic()
        running = start()
        took = time.monotonic() - begun
        running.stop()
        return took

    own_broker().stop()  # has written the archive of classes
    one = three = math.inf
    for _ in range(6):  # in turn, so that both meet the same machine
        one, three = min(one, seconds(own_broker)), min(three, seconds(own_cluster))
        if three <= 3 * one:
            return
    pytest.fail(f"one node {one:.2f} s, three {three:.2f} s: {three / one:.2f} times")
