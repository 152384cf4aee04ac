import pytest

from gate.protocol.traces import sampled_trace, trace_context

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.mark.parametrize(
    ("value", "trace"),
    [
        (f"00-{TRACE}-{SPAN}-01", TRACE),
        (f"00-{TRACE}-{SPAN}-03", TRACE),
        (f"00-{TRACE}-{SPAN}-00", None),
        (f"00-{TRACE}-{SPAN}-02", None),
        (f"cc-{TRACE}-{SPAN}-01-what-comes-later", TRACE),
        (f"ff-{TRACE}-{SPAN}-01", None),
        (f"00-{'0' * 32}-{SPAN}-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (f"00-{TRACE.upper()}-{SPAN}-01", None),
        (f"00-{TRACE}-01", None),
        ("\n", None),
        ("", None),
    ],
)
def test_only_a_valid_and_sampled_trace_counts(value, trace):
    assert sampled_trace([("a", b"1"), ("traceparent", value.encode()), ("b", None)]) == trace


def test_without_a_value_there_is_none():
    assert sampled_trace([]) is None
    assert sampled_trace([("traceparent", None)]) is None
    assert sampled_trace([("traceparent", f"00-{TRACE}-{SPAN}-01".encode()), ("traceparent", b"x")]) is None


def test_what_propagators_read_is_text_whatever_was_sent():
    headers = [("traceparent", b"\xff"), ("tracestate", b"a=1"), ("n", b"1"), ("tracestate", None)]
    assert trace_context(headers) == {"traceparent": "\ufffd", "tracestate": "a=1"}
