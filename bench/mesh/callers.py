"""How each contender is asked, as its documentation says: one function per service, True if the call may go."""

# ruff: noqa: PLC0415 - a process imports what it asks, and nothing of the others

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from bench.mesh.servers import DOMAIN, LIMITED, OPEN, SPELLS, UNREACHED

Check = Callable[[], bool]
Options = Mapping[str, Any]  # addresses, prefix, limit, number of the process
_MS: Final = 1000
_OK: Final = 1  # of Envoy's answers


def _limits(options: Options) -> dict[str, int]:
    return {OPEN: UNREACHED, LIMITED: options["limit"], SPELLS: options["limit"]}


@contextmanager
def gate(options: Options) -> Iterator[dict[str, Check]]:
    from gate import SyncDistributedRateLimiter

    with SyncDistributedRateLimiter(options["bootstrap"], prefix=options["prefix"]) as limiter:
        check = limiter.check_rate_limit
        yield {name: lambda name=name: check(name)[0] for name in _limits(options)}


@contextmanager
def local(options: Options) -> Iterator[dict[str, Check]]:
    """Ours within one process: shared with nobody."""
    from gate import RateLimitConfig, SyncRateLimiter

    limiter = SyncRateLimiter()
    for name, limit in _limits(options).items():
        limiter.configure_limit(name, RateLimitConfig(limit, limit, 1))
    check = limiter.check_rate_limit
    yield {name: lambda name=name: check(name)[0] for name in _limits(options)}


@contextmanager
def limits_redis(options: Options) -> Iterator[dict[str, Check]]:
    import limits

    storage = limits.storage.RedisStorage(f"redis://{options['redis'][0]}")
    hit = getattr(limits.strategies, options["using"])(storage).hit
    items = {name: limits.RateLimitItemPerSecond(limit) for name, limit in _limits(options).items()}
    yield {name: lambda name=name, item=item: hit(item, name) for name, item in items.items()}


@contextmanager
def throttled_redis(options: Options) -> Iterator[dict[str, Check]]:
    import throttled

    store = throttled.RedisStore(server=f"redis://{options['redis'][0]}")

    def check(name: str, limit: int) -> Check:
        throttle = throttled.Throttled(key=name, using=options["using"], quota=throttled.per_sec(limit), store=store)
        return lambda: not throttle.limit(name).limited

    yield {name: check(name, limit) for name, limit in _limits(options).items()}


@contextmanager
def ratelimit(options: Options) -> Iterator[dict[str, Check]]:
    import grpc
    from envoy.extensions.common.ratelimit.v3.ratelimit_pb2 import RateLimitDescriptor
    from envoy.service.ratelimit.v3 import rls_pb2, rls_pb2_grpc

    with grpc.insecure_channel(options["ratelimit"][0]) as channel:
        ask = rls_pb2_grpc.RateLimitServiceStub(channel).ShouldRateLimit

        def check(name: str) -> Check:
            entry = RateLimitDescriptor.Entry(key="path", value=f"/{name}")
            request = rls_pb2.RateLimitRequest(domain=DOMAIN, descriptors=[RateLimitDescriptor(entries=[entry])])
            return lambda: ask(request).overall_code == _OK

        yield {name: check(name) for name in _limits(options)}


@contextmanager
def gubernator(options: Options) -> Iterator[dict[str, Check]]:
    import grpc

    ask_type, answer_type = _gubernator_messages()
    addresses = options["gubernator"]
    with grpc.insecure_channel(addresses[options["number"] % len(addresses)]) as channel:
        ask = channel.unary_unary(
            "/pb.gubernator.V1/GetRateLimits",
            request_serializer=ask_type.SerializeToString,
            response_deserializer=answer_type.FromString,
        )

        def check(name: str, limit: int) -> Check:
            request = ask_type()
            one = request.requests.add()
            one.name, one.unique_key, one.hits, one.limit, one.duration = name, "all", 1, limit, _MS
            one.behavior = options["behavior"]

            def asked() -> bool:
                answer = ask(request).responses[0]
                if answer.error:
                    raise RuntimeError(answer.error)
                return answer.status == 0

            return asked

        yield {name: check(name, limit) for name, limit in _limits(options).items()}


def _gubernator_messages() -> tuple[Any, Any]:
    """Return the messages of GetRateLimits: the fields of gubernator.proto that are used here, by their numbers."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="gubernator.proto", package="pb.gubernator", syntax="proto3")

    def message(name: str, *fields: tuple[str, int, int]) -> None:
        made = file.message_type.add(name=name)
        for field, number, kind in fields:
            made.field.add(name=field, number=number, type=kind, label=kinds.LABEL_OPTIONAL)

    def several(name: str, field: str, of: str) -> None:
        file.message_type.add(name=name).field.add(
            name=field, number=1, type=kinds.TYPE_MESSAGE, label=kinds.LABEL_REPEATED, type_name=f".pb.gubernator.{of}"
        )

    numbers = [("hits", 3), ("limit", 4), ("duration", 5)]
    message(
        "RateLimitReq",
        ("name", 1, kinds.TYPE_STRING),
        ("unique_key", 2, kinds.TYPE_STRING),
        *[(name, number, kinds.TYPE_INT64) for name, number in numbers],
        ("behavior", 7, kinds.TYPE_INT32),  # as an enum is written
    )
    message("RateLimitResp", ("status", 1, kinds.TYPE_INT32), ("error", 5, kinds.TYPE_STRING))
    several("GetRateLimitsReq", "requests", "RateLimitReq")
    several("GetRateLimitsResp", "responses", "RateLimitResp")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    ask, answer = (
        message_factory.GetMessageClass(pool.FindMessageTypeByName(f"pb.gubernator.GetRateLimits{end}"))
        for end in ("Req", "Resp")
    )
    return ask, answer


KINDS: Final = {
    "gate": gate,
    "local": local,
    "limits": limits_redis,
    "throttled": throttled_redis,
    "ratelimit": ratelimit,
    "gubernator": gubernator,
}
