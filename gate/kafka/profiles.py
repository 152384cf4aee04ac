"""Profiles of Kafka's providers: what they do not let anybody set, by their documentation."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from gate.kafka.topic_creation import MIN_ISR

UNCLEAN: Final = "unclean.leader.election.enable"


@dataclass(frozen=True, slots=True)
class Profile:
    """What is so for all topics of a provider."""

    title: str
    fixed: frozenset[str] = frozenset()  # settings of topics
    at_creation: frozenset[str] = frozenset()  # that can be set then, and never again
    provider: str | None = None  # who alone can change the rest; None: whoever runs the brokers

    def cure(self, topic: str, config: Mapping[str, str]) -> str:
        """Return what to do to have settings of a topic as they should be."""
        fixed = [key for key in config if key in self.fixed]
        if fixed:
            return f"{self.title} lets nobody set {', '.join(fixed)}: ask {self.provider}"
        late = [key for key in config if key in self.at_creation]
        if late:
            return f"on {self.title} {', '.join(late)} can be set at creation only: delete {topic} while it is empty"
        text = ",".join(f"{key}={value}" for key, value in config.items())
        return f"kafka-configs.sh --alter --topic {topic} --add-config {text}"


OWN: Final = Profile("Apache Kafka")
PROFILES: Final = {
    # docs.aws.amazon.com/msk/latest/developerguide/serverless-config.html: all others are not configurable
    "msk-serverless": Profile(
        "MSK Serverless", frozenset({"segment.ms", "min.cleanable.dirty.ratio", MIN_ISR, UNCLEAN}),
        frozenset({"cleanup.policy"}), "AWS",
    ),
    # docs.confluent.io/cloud/current/topics/manage.html; segment.ms has a lower bound above what the gate wants
    "confluent-cloud": Profile(
        "Confluent Cloud", frozenset({"segment.ms", "min.cleanable.dirty.ratio", UNCLEAN}), frozenset(), "Confluent"
    ),
    # Raft: a majority always has what is acknowledged, and leads. Serverless refuses segment.ms
    "redpanda": Profile("Redpanda", frozenset({"segment.ms", MIN_ISR, UNCLEAN}), frozenset(), "Redpanda"),
}  # fmt: skip
