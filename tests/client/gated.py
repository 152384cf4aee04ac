"""A gate that runs, and what tests of jobs do with it."""

import uuid
from dataclasses import dataclass
from functools import partial

from gate.protocol.topics import Names
from tests.client.log import Log
from tests.system.gates import GateProcess

POLICY = """
groups:
  bank: {requests_per_second: 1/h, burst_size: 1, window_size: 1}
templates:
  open: {requests_per_second: 5000, burst_size: 5000}
services:
  "open-*": {extends: open}
  "slow-*": {requests_per_second: 2, burst_size: 1}
  "strict-*": {requests_per_second: 1, burst_size: 1, overflow: reject}
  "idle-*": {requests_per_second: 1/h, burst_size: 1, window_size: 1, max_delay: 10000d}
  "lanes-*": {requests_per_second: 1/h, burst_size: 1, window_size: 1, max_delay: 10000d, priorities: {high: 6, low: 1}}
  "shared-*": {group: bank, max_delay: 10000d}
  "small-*": {requests_per_second: 1, burst_size: 1, max_delay: 1}
"""


@dataclass
class Gated:
    bootstrap: str
    names: Names
    process: GateProcess

    @property
    def log(self) -> Log:
        return Log(self.bootstrap, self.names)

    async def service(self, kind: str = "open", partitions: int = 2) -> str:
        """Make the request topic of a new service of a kind."""
        name = f"{kind}-{uuid.uuid4().hex[:6]}"
        await self.log.create(self.names.requests(name), partitions=partitions)
        return name

    def worker(self, service: str, **options):
        from gate.client._worker import Worker

        return Worker(self.bootstrap, group_id=f"{service}-workers", prefix=self.names.prefix, **options)

    @property
    def client(self):
        from gate.client import JobClient

        return partial(JobClient, self.bootstrap, prefix=self.names.prefix)
