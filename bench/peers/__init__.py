"""What teams would write without the gate: each a small program that passes requests on by a decision per record.

None of them knows the gate. Where there is a choice, the cheaper one was taken: fixed windows, no wait for the broker's
answer to each record, the partition given where the library takes one.
"""
