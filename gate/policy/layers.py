"""Inheritance, field by field: defaults < templates < globs < exact name. Each field remembers who decided it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from gate.policy.document import Document, LimitFields, ServiceFields
from gate.policy.errors import Loc
from gate.policy.names import Glob, globs_of, is_glob

BLOCKED: Final = "blocked"  # until when a rate of 0 holds, ns
ENDLESS: Final = 2**62  # ns; the end of what has none
Key = str | tuple[str, str]
"""A field of a service, or (tenant, field) of a tenant below it."""


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """What one part of the document says: only the fields that it sets. `loc` is where it stands."""

    source: str
    loc: Loc
    fields: Mapping[Key, Any]
    written: Mapping[Key, Any] | None = None  # as spelt where that is not in the document
    until: int | None = None  # ns: it ends by itself then

    @classmethod
    def of(cls, source: str, loc: Loc, said: LimitFields) -> Self:
        """Flatten the fields that were set; tenants become keys of their own, so that they are inherited singly."""
        return cls(source, loc, dict(_flatten(said)))

    def place(self, key: Key) -> Loc:
        """Return where in the document this layer sets `key`."""
        return (*self.loc, key) if isinstance(key, str) else (*self.loc, "tenants", *key)


@dataclass(frozen=True, slots=True)
class Layers:
    """All layers of a document, ready to be stacked for any service."""

    defaults: Layer | None  # None: nothing holds for a service that no entry matches
    templates: Mapping[str, Layer]
    globs: Sequence[tuple[Glob, Layer]]
    exact: Mapping[str, Layer]
    groups: Mapping[str, Layer]

    @classmethod
    def of(cls, document: Document) -> Self:
        """Take the layers of a document whose references are sound."""
        entries = {
            name: Layer.of(f'glob "{name}"' if is_glob(name) else "exact", ("services", name), said)
            for name, said in document.services.items()
        }
        return cls(
            defaults=Layer.of("defaults", ("defaults",), document.defaults)
            if document.defaults.model_fields_set
            else None,
            templates={
                name: Layer.of(f"template {name}", ("templates", name), said)
                for name, said in document.templates.items()
            },
            globs=tuple((glob, entries[glob.pattern]) for glob in globs_of(entries)),
            exact={name: layer for name, layer in entries.items() if not is_glob(name)},
            groups={name: Layer.of("group", ("groups", name), said) for name, said in document.groups.items()},
        )

    def stack(self, service: str) -> list[Layer]:
        """Return the layers that apply to `service`, the weakest first; empty where no policy applies."""
        own = [layer for glob, layer in self.globs if glob.matches(service)]
        if service in self.exact:
            own.append(self.exact[service])
        return self._upon_templates(own)

    def stack_glob(self, pattern: str) -> list[Layer]:
        """Return the layers of a service that this glob and no other entry matches. KeyError: no such glob."""
        own = [layer for glob, layer in self.globs if glob.pattern == pattern]
        if not own:
            raise KeyError(pattern)
        return self._upon_templates(own)

    def _upon_templates(self, own: list[Layer]) -> list[Layer]:
        # `extends` is a field like the others: the most specific entry that has it decides.
        extends = next((layer.fields["extends"] for layer in reversed(own) if "extends" in layer.fields), None)
        base = [] if self.defaults is None else [self.defaults]
        return [*base, *self._expand(extends or ()), *own]

    def _expand(self, extends: Iterable[str]) -> list[Layer]:
        """Put each template behind those that it extends, once, so that a shared base never overrides its heirs."""
        order: dict[str, Layer] = {}
        todo = [(name, False) for name in reversed(tuple(extends))]
        while todo:
            name, bases_done = todo.pop()
            if name in order:
                continue
            layer = self.templates[name]
            if bases_done:
                order[name] = layer
            else:
                todo.append((name, True))
                todo += [(base, False) for base in reversed(layer.fields.get("extends") or ())]
        return list(order.values())


def merge(layers: Iterable[Layer]) -> dict[Key, Layer]:
    """Return for each field the layer that decides it: the last one that sets it."""
    decided: dict[Key, Layer] = {}
    for layer in layers:
        if "tenants" in layer.fields:  # null: nothing that was said about tenants before counts
            decided = {key: by for key, by in decided.items() if isinstance(key, str)}
        decided.update(dict.fromkeys(layer.fields, layer))
    return decided


def resolve(layers: Sequence[Layer]) -> dict[Key, Any]:
    """Return the value of each field. A rate of 0 says until when it blocks, beside the rate that it stands upon."""
    said = {key: by.fields[key] for key, by in merge(layers).items()}
    for key in [key for key, value in said.items() if value == 0 and name_of(key) == "requests_per_second"]:
        at = max(at for at, layer in enumerate(layers) if key in layer.fields)
        by = layers[at]
        beneath = [layer.fields[key] for layer in layers[:at] if layer.fields.get(key)]
        del said[key]
        if beneath:
            said[key] = beneath[-1]
        said[BLOCKED if isinstance(key, str) else (key[0], BLOCKED)] = ENDLESS if by.until is None else by.until
    return said


def name_of(key: Key) -> str:
    """Return the field that a key names."""
    return key if isinstance(key, str) else key[1]


def _flatten(said: LimitFields) -> Iterator[tuple[Key, Any]]:
    for name in said.model_fields_set:
        value = getattr(said, name)
        if name == "tenants" and isinstance(said, ServiceFields) and said.tenants is not None:
            for tenant, limits in said.tenants.items():
                for field in limits.model_fields_set:
                    yield (tenant, field), getattr(limits, field)
        else:
            yield name, value
