"""Commands by HTTP: who shows a token may give them, and is named in the audit."""

import asyncio
import json
import urllib.error
import urllib.request

from gate.protocol.answers import decode_audit
from gate.protocol.topics import Names
from tests.client.log import Log
from tests.system.gates import gate, read_count, until

POLICY = """
groups: {bank: {requests_per_second: 5}}
services:
  buy: {requests_per_second: 1}
  pay: {requests_per_second: 1/h, burst_size: 1, window_size: 1, max_delay: 10000d}
"""
TOKENS = "ann admin a-long-enough-token\nbob operate another-long-token\ncat read a-third-long-token\n"
CANCEL = {"command": "cancel", "selection": {"all": True}, "reason": "nobody waits"}


def ask(url: str, body: object = None, token: str | None = None, kind: str = "") -> tuple[int, dict]:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    headers |= {"Content-Type": kind} if kind else {}
    data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=10) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def test_who_shows_a_token_commands(bootstrap, prefix, tmp_path):
    names, log = Names(prefix), Log(bootstrap, Names(prefix))
    asyncio.run(log.create(names.requests("pay"), names.requests("buy"), names.results("pay")))
    tokens = tmp_path / "tokens"
    tokens.write_text(TOKENS)
    with gate(tmp_path, bootstrap, prefix, POLICY, "--http", "0", "--tokens", str(tokens)) as running:
        until(running.is_ready, explain=running.text)
        asyncio.run(log.write(names.requests("pay"), *[b"%d" % n for n in range(6)]))
        asyncio.run(read_count(bootstrap, [names.delayed("pay")], 5))
        there, other = (f"{running.url()}/v1/services/{name}/commands" for name in ("pay", "nobody"))
        token, bobs = "a-long-enough-token", "another-long-token"
        for wrong in (None, "", "ann", "another-long-toke", "a-long-enough-tokem"):
            assert ask(there, CANCEL, wrong)[0] == 401
        assert ask(there, CANCEL, "a-third-long-token")[0] == 403
        refused = ask(there, CANCEL, bobs)
        assert refused == (403, {"error": "that takes the role admin; bob has operate"})
        for depth in range(900, 1001):  # about where parsers of JSON give up, each at a depth of its own
            nested = b"[" * depth + b"]" * depth
            body = b'{"reason": %b, %b' % (nested, json.dumps(CANCEL).encode()[1:])
            status, told = ask(there, body, bobs)
            assert status in {400, 403}, (depth, told)
        assert ask(other, CANCEL, token) == (
            400,
            {"error": "there is no service 'nobody'", "hint": "known are buy, pay"},
        )
        for body in (b"{", b"[]", {"command": "write-format", "format": 9}, {"command": "cancel"}, CANCEL | {"id": 7}):
            assert ask(there, body, token)[0] == 400
        for said in ({"requests_per_second": "5", "until_ms": 2**50}, {}):
            status, told = ask(there, {"command": "set-limit", "limit": said}, token)
            assert (status, "`limit`" in told["error"]) == (400, True)
        assert ask(there, b" " * 20_000, token)[0] == 413
        assert ask(f"{running.url()}/v1/commands/nothing", token=bobs)[0] == 404
        assert ask(f"{running.url()}/v1/commands/nothing")[0] == 401
        assert ask(f"{running.url()}/v1/requests/{names.requests('pay')}-0@0")[0] == 401
        for key, answer in ((b"another", b"no"), (f"{names.requests('pay')}-0@0".encode(), b"paid \xc3\xa4")):
            asyncio.run(log.write(names.results("pay"), answer, key=key))
        first = f"{running.url()}/v1/requests/{names.requests('pay')}-0@0"
        assert "result" not in ask(first, token="a-third-long-token")[1]  # reading it costs more
        answered = ask(f"{first}?result=true", token="a-third-long-token")[1]
        assert (answered["standing"], answered["result"], answered["result_bytes"]) == ("admitted", "paid ä", 7)
        waits = ask(f"{running.url()}/v1/requests/{names.requests('pay')}-0@1?result=true", token=token)[1]
        assert (waits["standing"], waits.get("result")) == ("waiting", None)
        asyncio.run(log.write(names.results("pay"), b"x" * 70_000, key=f"{names.requests('pay')}-0@1".encode()))
        status, given = ask(there, CANCEL | {"id": "once"}, token)
        assert (status, given) == (202, {"command": "once", "answers": "/v1/commands/once?service=pay"})
        answers = running.url() + given["answers"]
        until(lambda: ask(answers, token=token)[1].get("state") == "done", explain=running.text)
        buy = f"{running.url()}/v1/services/buy/commands"
        theirs = running.url() + ask(buy, CANCEL | {"id": "once"}, token)[1]["answers"]  # one of its own
        until(lambda: ask(theirs, token=token)[1].get("state") == "failed", explain=running.text)
        assert ask(theirs, token=token)[1]["why"] == "nothing that waits for buy fits the filter"
        assert {name: ask(answers, token=token)[1][name] for name in ("done", "of")} == {"done": 5, "of": 5}
        limit = {"command": "set-limit", "limit": {"requests_per_second": "5"}, "tenant": "acme", "id": "limit"}
        assert (ask(there, limit, bobs)[0], ask(there, limit, token)[0]) == (403, 202)
        known = f"{running.url()}/v1/commands/limit"
        until(lambda: ask(known, token=token)[1].get("version") == 1, explain=running.text)
        bank = f"{running.url()}/v1/groups/bank/commands"
        shared = {"command": "set-limit", "limit": {"requests_per_second": "7"}, "id": "shared"}
        assert ask(bank, shared, bobs)[0] == 403
        assert ask(bank, CANCEL, token)[1]["error"] == "cancel is not for group bank"
        status, given = ask(bank, shared, token)
        assert (status, given["answers"]) == (202, "/v1/commands/shared?service=group%3Abank")
        known = running.url() + given["answers"]
        until(lambda: ask(known, token=token)[1].get("version") == 1, explain=running.text)
        upload = f"{running.url()}/v1/services/pay/limits"
        rows = b"tenant,requests_per_second,quotas\nacme,7,\nbeta,,5/day\n"
        assert ask(upload, rows, bobs)[0] == 403
        assert ask(upload, rows, token)[0] == 400  # of no kind
        assert ask(f"{running.url()}/v1/services/nobody/limits", rows, token, "text/csv")[0] == 400
        assert ask(f"{upload}?id=two&reason=contracts", rows, token, "text/csv")[0] == 202
        known = f"{running.url()}/v1/commands/two?service=pay"
        until(lambda: ask(known, token=token)[1].get("state") == "done", explain=running.text)
        assert {name: ask(known, token=token)[1][name] for name in ("of", "version")} == {"of": 2, "version": 2}
        assert ask(f"{upload}?id=two", rows, token, "text/csv")[0] == 202  # sent again: once
        assert ask(f"{upload}?id=old&if_version=1", rows, token, "text/csv")[0] == 202
        old = f"{running.url()}/v1/commands/old"
        until(lambda: ask(old, token=token)[1].get("state") == "failed", explain=running.text)
        assert "at version 2, not 1" in ask(old, token=token)[1]["why"]
        paused = {"command": "pause-until", "until": 2**52, "id": "by-bob", "reason": "the bank is down"}
        assert ask(there, paused, bobs)[0] == 202
        usage = f"{running.url()}/v1/usage"
        until(lambda: ask(usage, token=bobs)[1]["services"][1]["paused_until_ms"], explain=running.text)
        assert ask(f"{running.url()}/v1/commands/by-bob", token=bobs)[1]["state"] == "done"
        assert ask(there, {"command": "resume", "id": "by-ann"}, token)[0] == 202
        until(lambda: ask(f"{running.url()}/v1/commands/by-ann", token=token)[0] == 200, explain=running.text)
        assert ask(there, paused, bobs)[0] == 202  # as who got no answer sends it again
        assert ask(there, {"command": "resume", "id": "last"}, token)[0] == 202
        until(lambda: ask(f"{running.url()}/v1/commands/last", token=token)[0] == 200, explain=running.text)
    audit = [decode_audit(record.value) for record in asyncio.run(log.read(names.audit))]
    assert [(one.what, one.who, one.reason) for one in audit if one.service == "pay"] == [
        ("cancel", "ann", "nobody waits"),
        ("set-limit", "ann", ""),
        ("import-limits", "ann", "contracts"),
        ("import-limits", "ann", ""),
        ("pause", "bob", "the bank is down"),
        ("resume", "ann", ""),
        ("resume", "ann", ""),
    ]
