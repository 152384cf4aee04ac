"""How long the gate and Kafka Streams decide nothing when something fails: three brokers, both at once, fault by fault.

How one run goes:

1. Three nodes, each broker and controller, replication 3, min ISR 2. Two gates (`gate run`, four shards, a service in
   each) and two instances of the Kafka Streams peer (two threads each, four tasks, one standby) work side by side, so
   that each fault strikes both in the same moment. A lane is what stands or goes as a whole: a service of the gate, a
   partition of the peer. Lane N of both has its request topic's leader on the same node.
2. A request a lane and tick goes to both, all the time. Its producer gives a broker up after a second, so that what it
   can't send itself is no pause of theirs for long; how long that was is reported beside.
3. Faults come one after the other. The next one begins when all copies are whole again, the preferred ones lead, and
   every lane of both has answered since.
4. Everything is read under `read_committed` at the end. Output topics carry the time of the append. The pause of a lane
   is its longest time without an output between the begin of a fault and its end. All that was acknowledged must have
   come out once; where not, the run fails.

Equal for both: session timeout, heartbeats, request timeout, replication, the nodes that hold what. The peer is set up
as its users advise for short pauses: it leaves its group when it is closed, has a standby, commits every 100 ms (the
gate commits each batch at once), times transactions out after 10 s, replaces threads that fail.
"""
