#!/bin/sh
# A job from cron, with nothing but kcat (Debian: apt-get install kcat). In a crontab:
#   0 2 * * *  GATE_SERVICE=reports /opt/jobs/cron-kcat.sh
# A thousand machines may run this at two o'clock: the gate lets through what the service can take, in order.
set -eu
bootstrap=${GATE_BOOTSTRAP:-localhost:9092} prefix=${GATE_PREFIX:-gate} service=${GATE_SERVICE:-reports}

# Submit. Headers are optional; this one is in no hurry, and of no use after an hour (unix milliseconds).
printf '{"report": "daily", "host": "%s"}' "$(hostname)" |
  kcat -b "$bootstrap" -P -t "$prefix.requests.$service" -k "$(hostname)" -X acks=all \
    -H gate-priority=batch -H "gate-deadline=$(($(date +%s) * 1000 + 3600000))"

# What was rejected so far, with the gate's reason. read_committed: the gate writes in transactions.
kcat -b "$bootstrap" -C -t "$prefix.rejected.$service" -o beginning -e -q -X isolation.level=read_committed \
  -f 'rejected: %h %s\n' 2>/dev/null || true  # the topic is made when the gate first sees the service
