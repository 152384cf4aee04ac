"""Strict YAML: plain data with the place of every key and value, and no surprises.

Values are read as in YAML 1.2 (only `true` and `false` are booleans; `0o17`, `1_000`, `1:30`, `yes` are text), keys are
always text. Refused: duplicate keys, merge keys, tags, more than one document, and whatever expands beyond bounds.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from gate.files import NotAFileError, open_regular
from gate.policy.errors import Loc, PolicyError, Problem, Span, dotted, quoted

MAX_BYTES: Final = 16 * 1024 * 1024
MAX_VALUES: Final = 1_000_000  # keys and values, aliases expanded: stops a "billion laughs"
MAX_DEPTH: Final = 32  # a policy needs 7

# libyaml is some 20 times faster; both accept the same language, and neither constructs objects here.
_Loader: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_INT: Final = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_FLOAT: Final = re.compile(
    r"[-+]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)
_WORDS: Final[dict[str, bool | None]] = {
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys(("null", "Null", "NULL", "~", ""), None),
}
_MAX_DIGITS: Final = 40


@dataclass(slots=True)
class Node:
    """A value of the document: `value` is plain data; `children` and `keys` say where its parts stand."""

    value: Any
    span: Span
    size: int = 1  # values in it, itself included
    keys: dict[str, Span] = field(default_factory=dict)
    children: dict[str | int, "Node"] = field(default_factory=dict)

    def locate(self, loc: Loc, *, key: bool = False) -> Span:
        """Return the place of the value at `loc`, or of its key; of the nearest thing around it where there is none."""
        node, span = self, self.span
        for depth, part in enumerate(loc):
            child = node.children.get(part)
            if child is None:
                return span
            at_key = isinstance(part, str) and (child.value is None or (key and depth == len(loc) - 1))
            span = node.keys[str(part)] if at_key else child.span
            node = child
        return span

    def at(self, loc: Loc) -> Any:
        """Return the plain value at `loc`. KeyError: there is none."""
        node = self
        for part in loc:
            node = node.children[part]
        return node.value


def read_file(path: Path) -> str:
    """Read a policy file as UTF-8 text; PolicyError where that cannot be done."""
    name = str(path)
    try:
        with open_regular(path) as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise _refuse(name, "no such file", "check the path; docs/policy.md describes what to write") from None
    except IsADirectoryError:
        raise _refuse(name, "is a directory", "name the policy file inside it") from None
    except NotAFileError:
        raise _refuse(name, "is no regular file", "write the policy into a file, and name that") from None
    except PermissionError:
        raise _refuse(name, "may not be read by this user", "change its owner or mode") from None
    except OSError as error:
        raise _refuse(name, f"cannot be read: {error.strerror or error}") from None
    if len(data) > MAX_BYTES:
        raise _refuse(name, f"is larger than {MAX_BYTES // 1024**2} MiB", "use templates and globs to say it shorter")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line = before.count(b"\n") + 1
        column = len(before[before.rfind(b"\n") + 1 :].decode(errors="replace")) + 1
        where = Span(line, column, column + 1)
        problem = Problem(f"byte 0x{data[error.start]:02x} is not UTF-8", span=where, hint="save the file as UTF-8")
        raise PolicyError(name, [problem], data.decode(errors="replace")) from None


def parse(text: str, name: str) -> tuple[Node, list[Problem]]:
    """Read one YAML document; returns it with the problems that leave the rest readable.

    Raises PolicyError where reading cannot go on: syntax, depth, size, or nothing in it.
    """
    composer = _Composer()
    try:
        for event in yaml.parse(text, Loader=_Loader):
            composer.feed(event)
    except _Fatal as error:
        raise PolicyError(name, [*composer.problems, error.problem], text) from None
    except yaml.MarkedYAMLError as error:
        raise PolicyError(name, [*composer.problems, _syntax(error, text)], text) from None
    except (yaml.reader.ReaderError, UnicodeEncodeError) as error:
        at = error.position if isinstance(error, yaml.reader.ReaderError) else error.start
        span = _span_at(text, _char_index(text, at) if isinstance(error, yaml.reader.ReaderError) else at)
        problem = Problem("a control character that YAML does not allow", span=span, hint="remove it")
        raise PolicyError(name, [*composer.problems, problem], text) from None
    root = composer.root
    if root is None or root.value is None:
        raise _refuse(name, "is empty", "write at least `defaults:` or `services:`; docs/policy.md shows how")
    if not isinstance(root.value, dict):
        problem = Problem(
            f"must be a mapping of keys to values, not {quoted(root.value)}",
            span=root.span,
            hint="begin with `services:`; docs/policy.md shows how",
        )
        raise PolicyError(name, [problem], text)
    return root, composer.problems


def scalar(text: str) -> Any:
    """Read one plain scalar as in a policy file: a number, true, false, null, or else the text itself."""
    if text in _WORDS:
        return _WORDS[text]
    if len(text) <= _MAX_DIGITS:
        if _INT.fullmatch(text):
            return int(text)
        if _FLOAT.fullmatch(text):
            return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    return text


class _Fatal(Exception):  # noqa: N818 - control flow of this module, not an error for callers
    def __init__(self, problem: Problem) -> None:
        self.problem = problem


@dataclass(slots=True)
class _Open:
    """A mapping or list whose end has not come; `key` is the one that waits for its value (None: dropped)."""

    node: Node
    anchor: str | None
    loc: Loc
    has_key: bool = False
    key: str | None = None


class _Composer:
    """Builds nodes from parser events, without recursion, so that no depth of nesting can hurt."""

    def __init__(self) -> None:
        self.root: Node | None = None
        self.problems: list[Problem] = []
        self._stack: list[_Open] = []
        self._anchors: dict[str, Node | None] = {}  # None: still open
        self._size = 0
        self._documents = 0

    def feed(self, event: yaml.Event) -> None:
        match event:
            case yaml.ScalarEvent():
                self._refuse_tag(event)
                plain = event.style is None or event.style == ""
                node = Node(scalar(event.value) if plain and event.implicit[0] else event.value, _span(event))
                self._anchor(event.anchor, node)
                self._add(node, event.value)
            case yaml.AliasEvent():
                self._add(self._target(event), None)
            case yaml.CollectionStartEvent():
                self._refuse_tag(event)
                if len(self._stack) >= MAX_DEPTH:
                    raise _Fatal(Problem(f"nested deeper than {MAX_DEPTH} levels", span=_span(event)))
                self._anchor(event.anchor, None)
                empty: Any = {} if isinstance(event, yaml.MappingStartEvent) else []
                self._stack.append(_Open(Node(empty, _span(event)), event.anchor, self._loc()))
            case yaml.CollectionEndEvent():
                done = self._stack.pop()
                if event.end_mark is not None and event.end_mark.line + 1 == done.node.span.line:
                    done.node.span = done.node.span._replace(end=event.end_mark.column + 1)
                self._anchor(done.anchor, done.node)
                self._add(done.node, None)
            case yaml.DocumentStartEvent():
                self._documents += 1
                if self._documents > 1:
                    raise _Fatal(
                        Problem("a second document begins here", span=_span(event), hint="keep one; remove the `---`")
                    )

    def _add(self, node: Node, text: str | None) -> None:
        """Put a finished node into what is open: as a key, as a value, or as the whole."""
        if not self._stack:
            self.root = node
            return
        self._size += 1 if text is not None else node.size
        parent = self._stack[-1]
        if self._size > MAX_VALUES:
            raise _Fatal(Problem(f"more than {MAX_VALUES:,} values, aliases expanded", span=node.span))
        if isinstance(parent.node.value, list):
            parent.node.children[len(parent.node.value)] = node
            parent.node.value.append(node.value)
        elif not parent.has_key:
            parent.has_key, parent.key = True, self._key(parent, node, text)
            return
        else:
            if parent.key is not None:
                parent.node.children[parent.key] = node
                parent.node.value[parent.key] = node.value
            parent.has_key = False
        parent.node.size += node.size

    def _key(self, parent: _Open, node: Node, text: str | None) -> str | None:
        """Check a key; None where its value must be dropped."""
        if text is None and isinstance(node.value, str):
            text = node.value
        if text is None:
            self._problem("a key must be plain text", node.span, parent.loc)
        elif text == "<<":
            self._problem(
                "merge keys are not supported", node.span, (*parent.loc, text), "use a template and `extends`"
            )
        elif text in parent.node.keys:
            first = parent.node.keys[text].line
            self._problem(f"appears twice; first in line {first}", node.span, (*parent.loc, text), "keep one of them")
        else:
            parent.node.keys[text] = node.span
            return text
        return None

    def _target(self, event: yaml.AliasEvent) -> Node:
        name = event.anchor or ""
        if name not in self._anchors:
            raise _Fatal(Problem(f"alias *{name} has no anchor &{name} before it", span=_span(event)))
        node = self._anchors[name]
        if node is None:
            raise _Fatal(Problem(f"alias *{name} stands inside of what it repeats", span=_span(event)))
        return node

    def _anchor(self, name: str | None, node: Node | None) -> None:
        if name is not None:
            self._anchors[name] = node

    def _refuse_tag(self, event: yaml.ScalarEvent | yaml.CollectionStartEvent) -> None:
        if event.tag is not None:
            self._problem(f"tag {quoted(event.tag)} is not supported", _span(event), self._loc(), "remove the tag")

    def _problem(self, message: str, span: Span, loc: Loc, hint: str = "") -> None:
        self.problems.append(Problem(message, dotted(loc), span, hint))

    def _loc(self) -> Loc:
        """Where the next node will stand."""
        if not self._stack:
            return ()
        parent = self._stack[-1]
        if isinstance(parent.node.value, list):
            return (*parent.loc, len(parent.node.value))
        return parent.loc if parent.key is None else (*parent.loc, parent.key)


def _span(event: yaml.Event) -> Span:
    start, end = event.start_mark, event.end_mark
    if start is None or end is None:
        return Span(1, 1, 2)
    # What goes over several lines is underlined at its first character.
    last = end.column if end.line == start.line else start.column
    return Span(start.line + 1, start.column + 1, max(last, start.column + 1) + 1)


def _span_at(text: str, index: int) -> Span:
    line = text.count("\n", 0, index) + 1
    column = index - (text.rfind("\n", 0, index) + 1) + 1
    return Span(line, column, column + 1)


def _syntax(error: yaml.MarkedYAMLError, text: str) -> Problem:
    mark, begun = error.problem_mark, error.context_mark
    if begun is not None and (mark is None or not text[mark.index :].strip()):
        # The parser ran to the end of the file: what matters is where it had begun.
        span = Span(begun.line + 1, begun.column + 1, begun.column + 2)
        return Problem(f"not valid YAML: begun here and never ended; {error.problem}", span=span)
    if mark is None:
        return Problem(f"not valid YAML: {error.problem}")
    span = Span(mark.line + 1, mark.column + 1, mark.column + 2)
    if text[mark.index : mark.index + 1] == "\t":
        return Problem("a tab where YAML wants spaces", span=span, hint="indent with spaces")
    since = f" ({error.context}, begun in line {begun.line + 1})" if begun is not None else ""
    return Problem(f"not valid YAML: {error.problem}{since}", span=span)


def _char_index(text: str, byte: int) -> int:
    return len(text.encode(errors="surrogatepass")[:byte].decode(errors="ignore"))


def _refuse(name: str, message: str, hint: str = "") -> PolicyError:
    return PolicyError(name, [Problem(message, hint=hint)])
