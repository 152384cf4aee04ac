"""What processes hold and want of shared limits, as the newest of their reports and grants tell it."""

from gate.console.shares import Share, Shares
from gate.mesh.wire import BudgetReport, Grant, Limits, Report, encode
from gate.mesh.wire import Share as Granted


def test_the_newest_report_and_grant_of_each_process_count():
    shares = Shares()
    for want in (1_000, 40_000):
        shares.report(encode(Report("a", 1, 1, (BudgetReport("pay", 0, want, 0),))))
    shares.report(encode(Report("b", 1, 1, (BudgetReport("pay", 0, 90_000, 0),))))
    shares.report(encode(Report("c", 1, 1, (BudgetReport("pay", 0, 5_000, 0),))))
    shares.report(encode(Report("c", 1, 2, leaving=True)))
    limits = Limits(100 * 10**9, (), 100, granted=False)
    shares.grant(encode(Grant("a", 1, 1, 10, 1, (Granted("pay", 1, limits, 25 * 10**9, 5, (), 0),))))
    assert shares.all() == [
        Share("pay", "b", 90.0, None),
        Share("pay", "a", 40.0, 25.0, 5, 0, is_told=True),
    ]


def test_what_is_granted_in_units_has_no_rate():
    shares = Shares()
    limits = Limits(-1, (), 100, granted=True)
    shares.grant(encode(Grant("a", 1, 1, 10, 1, (Granted("pay/acme", 1, limits, -1, -1, (), 70),))))
    assert shares.all() == [Share("pay/acme", "a", 0.0, None, 0, 70, is_told=True)]


def test_what_is_no_record_is_passed_over():
    shares = Shares()
    for value in (None, b"", b"\x01x", b"\x09"):
        shares.report(value)
        shares.grant(value)
    assert shares.all() == []


def test_what_no_holder_can_have_sent_is_passed_over_and_the_rest_is_bounded(monkeypatch):
    shares = Shares()
    shares.report(encode(Report("a", 1, 1, tuple(BudgetReport(f"b{number}", 0, 1, 0) for number in range(501)))))
    shares.report(encode(Report("a", 1, 1, (BudgetReport("b" * 100_000, 0, 1, 0),))))
    shares.report(encode(Report("a" * 100_000, 1, 1, (BudgetReport("pay", 0, 1, 0),))))
    assert shares.all() == []
    monkeypatch.setattr("gate.console.shares.MOST", 10)
    for holder in range(20):
        shares.report(encode(Report(f"h{holder}", 1, 1, (BudgetReport("pay", 0, 1_000, 0),))))
    shares.report(encode(Report("h3", 1, 2, (BudgetReport("pay", 0, 7_000, 0),))))
    assert [share.wants for share in shares.all()] == [7.0] + [1.0] * 9
