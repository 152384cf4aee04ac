from dataclasses import replace
from typing import Any

import pytest

from gate.admission.model import LaneUsage, LimitUsage, Reason, Refusal, Total, Usage, Verdict

AT = 1_764_025_123_456_000_000


@pytest.fixture
def usage():
    """Make the usage of a service in a breach, with fields replaced."""

    def make(**fields: Any) -> Usage:
        return replace(
            Usage(
                service="payments",
                at=AT,
                policy="9f2c01",
                limits=(
                    LimitUsage("payments.rate", 150, 100.0, 0.4),
                    LimitUsage("payments.window.60s", 6000, 100.0, 0.95),
                ),
                requests_per_second=99.5,
                units_per_second=120.0,
                offered_per_second=180.0,
                tokens=90.0,
                window_fill=0.95,
                lanes=(LaneUsage("interactive", 6.0, 0, 0, 0, 0.0), LaneUsage("batch", 1.0, 700, 900, 3, 42.5)),
                totals=(
                    Total("interactive", Verdict.ADMITTED, None, False, 1000),
                    Total("batch", Verdict.ADMITTED, None, False, 200),
                    Total("batch", Verdict.ADMITTED, None, True, 300),
                    Total("batch", Verdict.DELAYED, Reason.WINDOW, False, 1000),
                ),
                breach_since=AT - 5_000_000_000,
                last_refusal=Refusal(AT - 1_000_000, Reason.WINDOW, "payments.window.60s"),
                paused_until=None,
                in_flight=None,
                tenants=4,
                unknown_lanes=0,
            ),
            **fields,
        )

    return make
