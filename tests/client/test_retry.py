import math
from datetime import UTC, datetime
from email.utils import format_datetime

import httpx
import pytest

from gate.client._retry import Backoff, Retry, asked_to_wait

NOW = 1_764_025_123.5


def test_pauses_double_up_to_the_longest():
    retry = Retry(attempts=10_001, first=1, longest=10)
    assert [retry.pause(attempt) for attempt in (1, 2, 3, 4, 5, 6, 10_000)] == [1, 2, 4, 8, 10, 10, 10]


@pytest.mark.parametrize(
    "wrong",
    [
        {"attempts": 0},
        {"first": 0},
        {"first": 2, "longest": 1},
        {"longest": math.inf},
        {"longest": 7 * 86_400 + 1},
        {"first": math.nan},
        {"cost": 0},
        {"backoffs": -1},
        {"longest_backoff": 0.5},
        {"longest_backoff": 3_601},
    ],
)
def test_a_retry_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(ValueError, match="is "):
        Retry(**wrong)


def answered(status, **headers):
    request = httpx.Request("GET", "https://bank.example/pay")
    response = httpx.Response(status, headers={k.replace("_", "-"): v for k, v in headers.items()}, request=request)
    with pytest.raises(httpx.HTTPStatusError) as raised:
        response.raise_for_status()
    return raised.value


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (Backoff(7), 7),
        (Backoff(0), 1),
        (Backoff(math.inf), 3600),
        (answered(429, retry_after="17"), 17),
        (answered(503, retry_after=" 0 "), 1),
        (answered(503, retry_after="9" * 400), 3600),
        (answered(429, retry_after=format_datetime(datetime.fromtimestamp(NOW + 30.5, UTC), usegmt=True)), 30.5),
        (answered(429, retry_after="Wed, 21 Oct 2015 07:28:00 GMT"), 1),
        (answered(429, retry_after="soon"), None),
        (answered(429, retry_after="-5"), None),
        (answered(429, retry_after="Mon, 01 Jan 99999999999999999999 00:00:00 GMT"), None),
        (answered(429, retry_after="Mon, 99999999999 Jan 2024 00:00:00 GMT"), None),
        (answered(429, retry_after="Mon, 01 Jan 2024 00:00:00 +99999999999999999999"), None),
        (answered(429), None),
        (answered(500, retry_after="17"), None),
        (ValueError("x"), None),
        (SystemExit(1), None),
    ],
)
def test_who_asks_to_wait_is_heard(error, seconds):
    assert asked_to_wait(error, NOW) == seconds


@pytest.mark.parametrize("seconds", [-1, math.nan])
def test_a_backoff_into_the_past_is_refused(seconds):
    with pytest.raises(ValueError, match="makes no sense"):
        Backoff(seconds)
