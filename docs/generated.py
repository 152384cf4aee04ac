"""Tables that the code writes into the pages, between `<!-- generated: NAME -->` and `<!-- end -->`.

`python docs/generated.py` writes them anew; a test holds that they are as the code says.
Meanings of policy fields come from the tables of docs/policy.md, which a test holds
against the models.
"""

import importlib
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from inspect import getclosurevars
from pathlib import Path
from types import NoneType
from typing import Any, Final, get_args

from cyclopts.docs.markdown import generate_markdown_docs
from prometheus_client import CollectorRegistry
from pydantic.fields import FieldInfo

from gate.cli import COMMANDS, _app
from gate.observe.metrics import Metrics
from gate.policy import fields
from gate.policy.document import EntryFields, LimitFields, QuotaFields, WindowFields
from gate.policy.settings import ENVIRONMENT, Settings, Topics
from gate.units import SECOND

DOCS: Final = Path(__file__).parent
PART: Final = re.compile(r"^(<!-- generated: ([a-z-]+) -->\n).*?^(<!-- end -->)$", re.MULTILINE | re.DOTALL)
POLICY_PAGE: Final = DOCS / "policy.md"
ROW: Final = re.compile(r"^\| `(\w+)` \| (.*) \| (.*) \|$", re.MULTILINE)

LENGTH: Final = ("length of time: seconds, or text such as `1h30m`", "seconds")
READERS: Final[Mapping[Callable[..., Any], tuple[str, str]]] = {
    fields.read_count: (f"whole number, 1 to {fields.MAX_COUNT:.0e}".replace("e+", "e"), "units of cost"),
    fields.read_rate: ("rate: a number, or text such as `10/min`", "units of cost per second"),
    fields.read_duration: LENGTH,
    fields.read_seconds: LENGTH,
    fields.read_weight: ("number above 0", "weight"),
    fields.read_ratio: ("number above 0, at most 1", "ratio"),
    fields.read_flag: ("`true` or `false`", ""),
    fields.read_text: ("text", ""),
    fields.read_timezone: ("name of a time zone of the IANA database", ""),
}
SPELT: Final = {
    "bootstrap": "text: `HOST:PORT`, several with commas",
    "prefix": "text: beginning of a topic's name",
    "http": "port, or `HOST:PORT`",
    "http_host": "name, or a list of names",
    "topics": "mapping of kinds of topics to templates",
    "replication_factor": "whole number, 1 to 32767, or `-1`",
    "extends": "name of a template, or a list of them",
    "priorities": "mapping of lanes to weights, numbers above 0",
    "tenants": "mapping of tenants to limits",
    "windows": "list of `{limit, size}`",
    "quotas": "list of `{limit, per, timezone}`",
    "group": "name of a group",
    "match": "`{domain, descriptors, tenant}`, or a list of them",
    "deduplicate": "length of time, or `{for, at_most, by}`",
}
UNITS: Final = {
    "max_in_flight": "requests",
    "max_running": "requests",
    "windows": "units of cost, seconds",
    "quotas": "units of cost",
    "shards": "partitions of the state",
    "deduplicate": "seconds",
}


def policy_limits() -> str:
    """Describe the fields of limits, and those of an entry of `windows` and of `quotas`."""
    lines = [_fields(LimitFields, ())]
    for name, model in {"windows": WindowFields, "quotas": QuotaFields}.items():
        rows = [_row(key, field, "", "") for key, field in model.model_fields.items()]
        lines += ["", f"Of each entry of `{name}`:", "", *_table(("field", "type", "unit"), rows)]
    return "\n".join(lines)


def policy_services() -> str:
    """Describe the fields that services, templates and defaults have beside limits."""
    return _fields(EntryFields, LimitFields.model_fields)


def settings() -> str:
    """Describe the settings, with their variables."""
    rows = []
    for name, field in Settings.model_fields.items():
        meaning, said = _meanings()[name]
        variable = "" if name == "topics" else f"`{ENVIRONMENT}{name.upper()}`"
        rows.append((*_row(name, field, meaning, said), variable))
    return "\n".join(_table(("key", "type", "unit", "default", "meaning", "variable"), rows))


def topics() -> str:
    """Describe the templates of topics."""
    rows = [(f"`{name}`", f"`{field.default}`") for name, field in Topics.model_fields.items()]
    return "\n".join(_table(("key", "default"), rows))


def metrics() -> str:
    """Describe each metric of a fresh registry."""
    registry = CollectorRegistry()
    Metrics(registry, "0")
    rows = []
    for family in sorted(registry.collect(), key=lambda family: family.name):
        name = family.name + {"counter": "_total", "info": "_info"}.get(family.type, "")
        rows.append((f"`{name}`", family.type, ", ".join(f"`{label}`" for label in labels(registry, family.name)),
                     family.documentation))  # fmt: skip
    return "\n".join(_table(("metric", "type", "labels", "meaning"), rows))


def labels(registry: CollectorRegistry, family: str) -> tuple[str, ...]:
    """Return the labels of a metric, whether it has series yet or not."""
    collector = registry._names_to_collectors[family]  # noqa: SLF001 - a family without series does not tell them
    if isinstance(collector, Metrics):
        return next(tuple(found._labelnames) for found in collector.collect() if found.name == family)  # noqa: SLF001
    return ("version",) if family == "gate_build" else tuple(collector._labelnames)  # noqa: SLF001


def commands() -> str:
    """Describe each command as its --help does."""
    return "\n\n".join(_command(name) for name in COMMANDS)


def _command(name: str) -> str:
    app = _app([name])[name]
    text = generate_markdown_docs(app, heading_level=2, command_chain=["gate", name], generate_toc=False)
    return re.sub(r"^Example: `(.*)`$", r"```sh\n\1\n```", text, flags=re.MULTILINE)


def _meanings() -> dict[str, tuple[str, str]]:
    """Return what docs/policy.md says of each key: its value or meaning, and what holds if it is not said."""
    rows = ROW.findall(POLICY_PAGE.read_text().replace("](howto/", "](../howto/"))  # as seen from docs/reference
    return {name: (value.removesuffix(", see below"), default) for name, value, default in rows}


def _fields(model: type[EntryFields] | type[LimitFields], without: Iterable[str]) -> str:
    rows = [
        _row(name, field, *_meanings()[name]) for name, field in model.model_fields.items() if name not in set(without)
    ]
    return "\n".join(_table(("field", "type", "unit", "default", "meaning"), rows))


def _row(name: str, field: FieldInfo, meaning: str, said: str) -> tuple[str, ...]:
    kind, unit = _type(name, field)
    row = (f"`{name}`", kind, UNITS.get(name, unit))
    return (*row, _default(field, said), meaning) if said else row


def _default(field: FieldInfo, said: str) -> str:
    """Return a default: the model's own, or what the page says where it follows from other fields."""
    default = field.get_default()
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, int | float):
        return f"`{default:g}`" if default < SECOND else said  # lengths of time are kept in ns
    return f"`{default}`" if isinstance(default, str) else said


def _type(name: str, field: FieldInfo) -> tuple[str, str]:
    if name in SPELT:
        return SPELT[name], ""
    kinds = [*field.metadata]
    for part in get_args(field.annotation):  # of "X or nothing"
        kinds += getattr(part, "__metadata__", ())
    for kind in kinds:
        reader = kind.func
        if reader in READERS:
            return READERS[reader]
        if "low" in (bounds := getclosurevars(reader).nonlocals):
            return f"whole number, {bounds['low']} to {bounds['high']}", ""
    choices = [kind for kind in (field.annotation, *get_args(field.annotation)) if kind not in {None, NoneType}]
    if choices and isinstance(choices[0], type) and issubclass(choices[0], StrEnum):
        return ", ".join(f"`{choice}`" for choice in choices[0]), ""
    raise LookupError(f"no words for the type of {name}: {field!r}")


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    lines = [head, tuple("---" for _ in head), *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]


GENERATED: Final[Mapping[str, Callable[[], str]]] = {
    "policy-limits": policy_limits,
    "policy-services": policy_services,
    "settings": settings,
    "topics": topics,
    "metrics": metrics,
    "commands": commands,
}


def filled(text: str) -> str:
    """Return a page with each of its tables as the code says today."""
    return PART.sub(lambda part: f"{part[1]}{GENERATED[part[2]]().strip()}\n{part[3]}", text)


def main() -> int:
    """Write tables and the picture of the rooms anew; with --check tell which are out of date, and return 1."""
    status = 0
    sys.path.insert(0, str(DOCS / "figures"))
    rooms = importlib.import_module("rooms")
    pages = sorted(DOCS.rglob("*.md"))
    outputs = {page: filled(page.read_text()) for page in pages} | {rooms.FILE: rooms.picture()}
    for page, written in outputs.items():
        if page.read_text() == written:
            continue
        if "--check" in sys.argv:
            print(f"{page.relative_to(DOCS.parent)}: out of date; `make format` writes it anew")  # noqa: T201
            status = 1
        else:
            page.write_text(written)
    return status


if __name__ == "__main__":
    sys.exit(main())
