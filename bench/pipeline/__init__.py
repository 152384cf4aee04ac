"""The gate and its peers from end to end: a request topic, a decision per record, a topic of admitted or delayed.

How one run goes, the same for each contender, whatever it is written in:

1. Topics of its own on the one broker of the benchmark, four partitions each; the contender starts as a process of its
   own and works off a warm-up load, so that start-up, imports, connections, the group's join and (for the JVM) the
   compilation of hot code are behind it. A run that measured these would measure how long it lasts.
2. SIGSTOP. While the contender stands still, the load is written to its request topic in large batches, so that it
   competes with no load generator afterwards. The load: 10 B keys, values of 100 B or 1 KiB, three headers.
3. SIGCONT, until all is through: for contenders with transactions, until the group's committed offsets have reached the
   end of the request topic; for the others, until the output topics hold as many records. Polled every 10 ms.
4. Measured are the CPU time of that process alone, all of its threads, user and system, by its CPU clock
   (`clock_getcpuclockid(3)`), and the time by the wall. The broker's CPU and that of the load generator are in neither.
5. The output topics are counted under `read_committed`: a run in which a record is missing or comes twice, or in which
   not exactly as many were admitted as the limit allows, counts as failed.

A round is one run of each contender, in random order; ratios are taken within a round, so that what slows the machine
for a while slows both sides. Reported are the median of the rounds, the least and the greatest.

Form `all`: limits that nothing reaches. Form `half`: the limit is exactly half of the load (and the warm-up), and grows
by one an hour; the gate has both a token bucket and a window of that size. In both, every output record carries one
header more than its request: the gate's stamp, or the peer's decision.
"""
