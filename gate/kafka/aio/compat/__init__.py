"""The only place that knows aiokafka beyond what it documents.

`parts` names each such thing and tells whether it is as known; `path` decides by that which way everything goes, the
fast one or the public one. `shared` is what both use; `connections`, `producers` and `consumers` give the private parts
that the fast path uses names of their own.
"""

from gate.kafka.aio.compat.path import CHOICE, RANGE, VARIABLE, Choice, need_fast

__all__ = ["CHOICE", "RANGE", "VARIABLE", "Choice", "need_fast"]
