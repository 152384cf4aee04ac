"""A limit that many processes share by calls, beside others that offer one: all in one run, under the same load.

How one round goes, for each contender in random order:

1. Its servers start: a local broker and a gate for ours, Redis, envoyproxy/ratelimit before Redis, or a cluster of
   gubernators for the others. Nothing else runs. Then the processes, each with its own connection; each asks until it
   is answered.
2. **Flat out**: all processes call as fast as they can, one call after the other, under a limit that is never reached.
   Checks per second and process; p50 and p99 of a check; CPU of all together, servers included, per check.
3. **Saturated**: each process calls at a steady pace, together four times as often as a limit per second allows. After
   a while for warming up: the share of the limit that is used; p50 and p99 of a check; cores in use by all together.
4. **Spells**: the same pace, but in spells of 0.8 s that begin at different times after the full second. The fullest
   true second, of both: what lies in it whatever the times of the calls between their beginnings and answers were.

Then Envoy, before a real upstream: 200 calls a second go through without a limiter, with `gate sidecar`, and with
envoyproxy/ratelimit behind it, in turn. What each adds to p99, and the fullest true second under a limit of 50.

Where there was a choice, the peers got the cheaper form, and besides the more exact one. What can't be had on a machine
is left out, with a line that says so.
"""
