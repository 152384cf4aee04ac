"""What aiokafka keeps private is used in one place, is what it was, and decides which path runs."""

import ast
import importlib
import inspect
import pkgutil
import sys
from functools import cache
from pathlib import Path

import aiokafka
import pytest

import gate
from gate.errors import GateError
from gate.kafka.aio.compat import parts, path
from gate.kafka.aio.compat.path import choose
from gate.kafka.diagnostics import client_path
from gate.kafka.findings import Health

ROOT = Path(gate.__file__).parent.parent
COMPAT = ROOT / "gate" / "kafka" / "aio" / "compat"
SOURCES = [
    file for folder in ("gate", "consumers") for file in (ROOT / folder).rglob("*.py") if COMPAT not in file.parents
]
AIOKAFKA = Path(aiokafka.__file__).parent


def private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@cache
def parsed(file: str) -> ast.Module:
    return ast.parse(Path(file).read_text())


@cache
def own_names(cls: type) -> frozenset[str]:
    """What aiokafka's own classes among the bases of one call private: methods and what they set."""
    found: set[str] = set()
    for base in cls.__mro__:
        if base.__module__.partition(".")[0] == "aiokafka":
            for node in ast.walk(parsed(sys.modules[base.__module__].__file__)):
                if isinstance(node, ast.ClassDef) and node.name == base.__name__:
                    found |= {n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute)}
                    found |= {n.name for n in ast.walk(node) if isinstance(n, FUNCTIONS)}
    return frozenset(name for name in found if private(name))


def test_no_undocumented_module_is_imported_elsewhere():
    undocumented = []
    for file in SOURCES:
        for node in ast.walk(parsed(str(file))):
            modules = [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for module in modules:
                if module and module.partition(".")[0] == "aiokafka" and module not in parts.DOCUMENTED:
                    undocumented.append(f"{file}:{node.lineno} {module}")
    assert not undocumented


def test_nobody_elsewhere_looks_into_what_is_not_its_own():
    """`self._x` is one's own, as the next test makes sure."""
    names = {m.partition("(")[0] for table in (parts.NEEDED, parts.FAST) for members in table.values() for m in members}
    secret = {name for name in names if private(name)}
    found = []
    for file in SOURCES:
        for node in ast.walk(parsed(str(file))):
            own = (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.value.id in {"self", "cls"}
            )
            if isinstance(node, ast.Attribute) and node.attr in secret and not own:
                found.append(f"{file}:{node.lineno} {ast.unparse(node)}")
            if isinstance(node, ast.Call) and ast.unparse(node.func) in {"getattr", "setattr", "hasattr"}:
                named = {arg.value for arg in node.args if isinstance(arg, ast.Constant)}
                found += [f"{file}:{node.lineno} {name}" for name in named & secret]
    assert not found


def test_no_class_elsewhere_names_what_a_base_of_aiokafka_keeps_private():
    found, seen = [], 0
    for module in pkgutil.walk_packages(gate.__path__, "gate."):
        if module.name.startswith("gate.kafka.aio.compat") or "__main__" in module.name:
            continue
        loaded = importlib.import_module(module.name)
        for cls in vars(loaded).values():
            if not (inspect.isclass(cls) and cls.__module__ == module.name and own_names(cls)):
                continue
            seen += 1
            tree = ast.parse(inspect.getsource(cls))
            said = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
            said |= {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}
            found += [f"{module.name}.{cls.__name__}: {name}" for name in sorted(said & own_names(cls))]
    assert not found
    assert seen >= 10, "it does look"


def test_what_is_used_is_what_is_listed():
    """A name that compat uses and does not list would not be checked; one that it only lists would ask for too much."""
    listed = {m.partition("(")[0] for table in (parts.NEEDED, parts.FAST) for names in table.values() for m in names}
    used: set[str] = set()
    for file in COMPAT.glob("*.py"):
        if file.name in {"parts.py", "path.py"}:
            continue
        tree = parsed(str(file))
        own = {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
        used |= {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute) and private(n.attr)} - own
        overridden = {n.name for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))}
        used |= {name for name in overridden if private(name) and name in listed}
        used |= {n.arg for n in ast.walk(tree) if isinstance(n, ast.keyword) and n.arg and private(n.arg)}
    assert {name for name in listed if private(name)} == used
    imported = {
        alias.name
        for file in COMPAT.glob("*.py")
        for node in ast.walk(parsed(str(file)))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("aiokafka.")
        if node.module not in parts.DOCUMENTED
        for alias in node.names
    } - {"fetcher"}
    kinds = {owner.partition(":")[2] for table in (parts.NEEDED, parts.FAST) for owner in table}
    assert imported <= listed | kinds


def test_this_aiokafka_is_as_it_is_used():
    assert not list(parts.faults(parts.NEEDED))
    assert not list(parts.faults(parts.FAST))


class Lamp:
    """Something that others may look into."""

    def __init__(self, bulb):
        self._bulb = bulb

    def shine(self, on, colour, *, bright=False):
        """Shine."""


@pytest.mark.parametrize(
    ("member", "fault"),
    [
        ("_bulb", None),
        ("shine(on, colour)", None),
        ("shine(on, bright)", None),
        ("_socket", "_socket is missing"),
        ("glow()", "glow is missing"),
        ("shine(on, shade)", "shine takes (on, colour, bright) and not (on, shade)"),
    ],
)
def test_what_is_missing_or_takes_something_else_is_found(monkeypatch, member, fault):
    monkeypatch.setattr(aiokafka, "Lamp", Lamp, raising=False)
    found = list(parts.faults({"aiokafka:Lamp": (member,)}))
    assert found == ([f"aiokafka.Lamp.{fault}"] if fault else [])


def test_a_class_or_module_that_is_missing_is_found():
    assert list(parts.faults({"aiokafka:Candle": ("burn()",)})) == ["aiokafka.Candle is missing"]
    assert list(parts.faults({"aiokafka.candle": ("burn()",)})) == ["aiokafka.candle is missing"]


@pytest.mark.parametrize(
    ("version", "wish", "private", "fast", "why"),
    [
        ("0.14.0", "auto", [], True, "its private parts are as known"),
        ("0.13.0", "fast", [], True, "its private parts are as known"),
        ("0.14.7", "auto", ["conn.x is missing"], False, "conn.x is missing"),
        ("0.15.0", "auto", [], False, "it is not of aiokafka>=0.13,<0.15"),
        ("0.14.0", "public", [], False, "GATE_AIOKAFKA=public"),
    ],
)
def test_the_fast_path_runs_whole_where_all_is_as_known_and_else_the_public_one(version, wish, private, fast, why):
    choice = choose(version, wish, [], private)
    assert (choice.fast, choice.why) == (fast, why)
    finding = client_path(version, choice)
    assert finding.health is (Health.WARN if not fast and wish == "auto" else Health.OK)
    assert why in finding.text
    assert ("the fast path runs" in finding.text) == fast


@pytest.mark.parametrize(
    ("version", "wish", "lacking", "private", "says"),
    [
        ("0.14.0", "quick", [], [], "GATE_AIOKAFKA=quick is neither auto, fast nor public"),
        ("0.16.0", "fast", [], [], "GATE_AIOKAFKA=fast, but with aiokafka 0.16.0 that can't be: it is not of"),
        ("0.14.0", "fast", [], ["conn.x is missing"], "can't be: conn.x is missing"),
        ("0.12.0", "public", ["a is missing"] * 5, [], "neither by its private parts nor without: a is missing; "),
    ],
)
def test_where_neither_path_can_hold_what_is_promised_nothing_starts(version, wish, lacking, private, says):
    with pytest.raises(GateError) as refused:
        choose(version, wish, lacking, private)
    assert says in str(refused.value)
    assert refused.value.hint


def test_the_range_is_that_of_the_package():
    wanted = next(line for line in (ROOT / "pyproject.toml").read_text().splitlines() if '"aiokafka[' in line)
    assert path.RANGE.removeprefix("aiokafka") in wanted
