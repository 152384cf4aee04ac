"""The policy: the file that the user writes, its inheritance, and settings."""

from gate.policy.compiled import Deduplicate, GroupPolicy, ServicePolicy, Tenants
from gate.policy.errors import PolicyError, Problem, Span
from gate.policy.fields import Overflow
from gate.policy.origins import Origin
from gate.policy.policy import Policy, load_policy, load_settings, parse_policy
from gate.policy.settings import Compression, Delivery, Settings, Topics

__all__ = [
    "Compression",
    "Deduplicate",
    "Delivery",
    "GroupPolicy",
    "Origin",
    "Overflow",
    "Policy",
    "PolicyError",
    "Problem",
    "ServicePolicy",
    "Settings",
    "Span",
    "Tenants",
    "Topics",
    "load_policy",
    "load_settings",
    "parse_policy",
]
