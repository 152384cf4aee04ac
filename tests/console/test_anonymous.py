"""What is told to who has not said who he is."""

import asyncio

import pytest

from gate.client import Answer, AnswerState
from gate.config import Connection
from gate.console.access import Role, Viewer
from gate.console.actions import Actions
from gate.console.anonymous import request_without_names

FOUND = {"id": "gate.requests.pay-0@7", "service": "pay", "producer_id": "order-7", "error": "no such account: Ann"}


@pytest.mark.parametrize(
    ("limit", "told"),
    [("pay.tenant.acme", "pay.tenant"), ("pay.rate", "pay.rate"), ("bank", "bank"), ("pay.tenants", "pay.tenants")],
)
def test_where_a_request_stands_is_told_without_names(limit, told):
    shown = request_without_names({**FOUND, "limit": limit, "reason": "tenant"})
    assert shown == {"id": FOUND["id"], "service": "pay", "limit": told, "reason": "tenant"}


class Slow(Actions):
    """Gives commands to gates that take their time, and cancel as many requests as the service's name has letters."""

    def __init__(self):
        super().__init__(Connection("localhost:1"))
        self.go = asyncio.Event()

    async def _answer(self, viewer, give):
        return await give(self)

    async def cancel(self, service, chosen, *, command_id, **_):
        await self.go.wait()
        return Answer(command_id, service, AnswerState.DONE, done=len(service), of=len(service))


async def test_one_id_for_two_services_are_two_commands():
    actions, root = Slow(), Viewer("root", Role.ADMIN)

    def cancel(service):
        form = {"id": "mine", "reason": "gone", "all": "all", "confirm": service}
        return asyncio.create_task(actions.take("cancel", service, root, form))

    given = [cancel(service) for service in ("pay", "search", "pay")]
    while len(actions._under_way) < 2:
        await asyncio.sleep(0)
    actions.go.set()
    assert [(await done).fits for done in given] == [3, 6, 3]
    await actions.close()
