"""What tests leave on the shared broker is deleted once it is enough; what is in use stays."""

from gate.protocol.topics import Names
from tests.client.log import Log
from tests.sweeping import AT_ONCE, Sweeper


async def test_topics_of_prefixes_that_are_left_are_deleted_once_there_are_enough(bootstrap, prefix):
    prefixes = [f"{prefix}-{chr(ord('a') + i)}" for i in range(AT_ONCE)]
    log = Log(bootstrap, Names(prefix))
    await log.create(f"{prefix}.in-use", *(f"{one}.requests.pay" for one in prefixes))

    async def there() -> list[str]:
        return [topic for topic in await log.topics() if topic.startswith(prefix)]

    while len(await there()) <= AT_ONCE:  # a broker tells of it a moment later
        pass
    sweeper = Sweeper()
    for one in prefixes[:-1]:
        sweeper.leave(one)
    sweeper.sweep(bootstrap)
    assert len(await there()) == AT_ONCE + 1
    sweeper.leave(prefixes[-1])
    sweeper.sweep(bootstrap)
    while len(left := await there()) > 1:
        pass
    assert left == [f"{prefix}.in-use"]
