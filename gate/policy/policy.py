"""A whole policy, resolved on demand: what holds for a service, and where each field came from."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from gate.errors import GateError
from gate.limits import Spec
from gate.policy.compiled import GroupPolicy, ServicePolicy, canonical, compile_service, compile_spec
from gate.policy.document import read_document
from gate.policy.errors import PolicyError, dotted
from gate.policy.layers import Key, Layer, Layers, merge, resolve
from gate.policy.live import LiveService, layers_of, overlay
from gate.policy.origins import Origin, origins_of, origins_of_limits
from gate.policy.references import check_references, check_resolved
from gate.policy.settings import CONFIG, Settings
from gate.policy.source import Node, parse, read_file
from gate.protocol.policies import GROUP, group_of

_SECTIONS: Final = frozenset({"defaults", "templates", "groups", "services"})


@dataclass(frozen=True, slots=True, eq=False)
class Policy:
    """What the user wrote, checked. `version` is 6 hex digits over what holds, not over how it is written."""

    name: str
    version: str
    settings: Settings
    groups: Mapping[str, GroupPolicy]
    root: Node = field(repr=False)  # the document, for the places of what is in it
    layers: Layers = field(repr=False)
    live: Mapping[str, LiveService] = field(default_factory=dict, repr=False)  # by service, or group:NAME
    versions: Mapping[str, str] = field(default_factory=dict, repr=False)  # of those for which something is set
    # Grows by one small value per service, as the topics do.
    _services: dict[str, ServicePolicy | None] = field(default_factory=dict, repr=False)

    @property
    def services(self) -> tuple[str, ...]:
        """Names that have an entry of their own, in the order of the file."""
        return tuple(self.layers.exact)

    @property
    def globs(self) -> tuple[str, ...]:
        """Patterns that stand for many services, the less specific first."""
        return tuple(glob.pattern for glob, _ in self.layers.globs)

    def service(self, name: str) -> ServicePolicy | None:
        """Return what holds for a service, listed or not; None where no entry and no default applies."""
        if name not in self._services:
            layers = self.layers.stack(name)
            self._services[name] = self.in_its_group(_compile(name, layers)) if layers else None
        return self._services[name]

    def effective(self, name: str) -> ServicePolicy:
        """Return what holds for a service that is served in any case: without a policy, no limit."""
        return self.service(name) or compile_service(name, {})

    def glob(self, pattern: str) -> ServicePolicy:
        """Return what a glob comes to where no other entry matches. KeyError: no such glob."""
        return _compile(pattern, self.layers.stack_glob(pattern))

    def others(self) -> ServicePolicy | None:
        """Return what holds for a service that no entry matches; None where there are no defaults."""
        return None if self.layers.defaults is None else _compile("", [self.layers.defaults])

    def group(self, name: str) -> GroupPolicy | None:
        """Return a shared budget; None where there is none of that name."""
        return self.groups.get(name)

    def in_its_group(self, service: ServicePolicy) -> ServicePolicy:
        """Return what holds for a service of a group, which lets nothing go while that one is blocked."""
        group = None if service.group is None else self.groups.get(service.group)
        if group is None or group.blocked_until <= service.blocked_until:
            return service
        return replace(service, blocked_until=group.blocked_until)

    def shard_key(self, service: str) -> str:
        """Return what decides the shard of a service: its group, so that who shares a budget shares an owner.

        What is kept of a group itself, as group:NAME, is there, too.
        """
        policy = None if group_of(service) is not None else self.service(service)
        return f"{GROUP}{policy.group}" if policy is not None and policy.group is not None else service

    def placed(self, groups: Mapping[str, str | None]) -> "Policy":
        """Return the same with services in other groups. Raises GateError where there is no such group."""
        moved = {name: group for name, group in groups.items() if self.effective(name).group != group}
        if not moved:
            return self
        if unknown := sorted({group for group in moved.values() if group is not None and group not in self.groups}):
            raise GateError(
                f"services were put into group {', '.join(unknown)} by `gate reshard --move`, and {self.name} has no "
                "such group",
                hint="write it into `groups`",
            )
        services = {name: replace(self.effective(name), group=group) for name, group in moved.items()}
        said = f"{self.version} {sorted(moved.items(), key=str)}"
        version = hashlib.sha256(said.encode()).hexdigest()[:6]
        return replace(self, version=version, _services={**self._services, **services})

    def overlaid(self, live: Mapping[str, LiveService]) -> "Policy":
        """Return the same with what is set live over it."""
        return overlay(self, live)

    def with_spec(self, service: str, spec: Spec) -> "Policy":
        """Return the same with other limits of one service, to try them: its version stays."""
        changed = replace(self.effective(service), spec=spec)
        return replace(self, _services={**self._services, service: changed})

    def version_of(self, service: str) -> str:
        """Return the version that decides about a service: the policy's, or another one where something is set live."""
        if not self.versions:
            return self.version
        own, group = self.versions.get(service), self.effective(service).group
        shared = None if group is None else self.versions.get(f"{GROUP}{group}")
        if own is None or shared is None:
            return own or shared or self.version
        return hashlib.sha256(f"{own} {shared}".encode()).hexdigest()[:6]

    def explain(self, service: str) -> Mapping[str, Origin]:
        """Return each effective field of a service with its origin; empty where no policy applies."""
        policy, live = self.service(service), self.live.get(service)
        if policy is None:
            return {}
        layers = [*self.layers.stack(service), *(() if live is None else layers_of(live))]
        return origins_of(policy, merge(layers), self.root)

    def explain_glob(self, pattern: str) -> Mapping[str, Origin]:
        """Return the same for a glob, as if no other entry matched. KeyError: no such glob."""
        return origins_of(self.glob(pattern), merge(self.layers.stack_glob(pattern)), self.root)

    def explain_others(self) -> Mapping[str, Origin]:
        """Return the same for a service that no entry matches; empty where there are no defaults."""
        rest, defaults = self.others(), self.layers.defaults
        return {} if rest is None or defaults is None else origins_of(rest, merge([defaults]), self.root)

    def explain_group(self, name: str) -> Mapping[str, Origin]:
        """Return each effective field of a shared budget with its origin. KeyError: no such group."""
        live = self.live.get(f"{GROUP}{name}")
        layers = [self.layers.groups[name], *(() if live is None else layers_of(live))]
        return origins_of_limits(self.groups[name].spec, merge(layers), self.root)


def load_policy(path: Path) -> Policy:
    """Read and check a policy file; PolicyError, with everything that is wrong, where it cannot be used."""
    return parse_policy(read_file(path), str(path))


def load_settings(path: Path | None, environment: Mapping[str, str], **given: Any) -> Settings:
    """Return the settings that hold: what is given, else a variable's, else those of the file, else the defaults.

    The file is `path`, else what GATE_CONFIG names, else there is none.
    Raises PolicyError for what no setting can be, and for a file that can't be used.
    """
    named = environment.get(CONFIG)
    path = path or (Path(named) if named else None)
    settings = Settings() if path is None else load_policy(path).settings
    return settings.with_environment(environment).override(**given)


def parse_policy(text: str, name: str = "policy.yaml") -> Policy:
    """Check a policy that was read already; `name` stands in front of its errors."""
    root, problems = parse(text, name)
    document, wrong_fields = read_document(root)
    problems += wrong_fields
    problems += check_references(root, document or Settings())
    if document is not None and not problems:
        layers = Layers.of(document)
        problems += check_resolved(root, document, layers)
    if document is None or problems:
        raise PolicyError(name, problems, text)
    groups = {group: GroupPolicy(group, compile_spec(layer.fields)) for group, layer in layers.groups.items()}
    services = {service: _compile(service, layers.stack(service)) for service in layers.exact}
    return Policy(
        name=name,
        version=_version(services, groups, layers),
        settings=Settings.model_validate(document.model_dump(exclude_unset=True, exclude=set(_SECTIONS))),
        root=root,
        layers=layers,
        groups=groups,
        _services=dict(services),
    )


def _compile(name: str, layers: list[Layer]) -> ServicePolicy:
    return compile_service(name, resolve(layers))


def _version(services: Mapping[str, ServicePolicy], groups: Mapping[str, GroupPolicy], layers: Layers) -> str:
    """Hash what decides about requests; settings do not, and what is written twice or elsewhere counts once."""
    content = {
        "services": services,
        "groups": groups,
        # What a name gets that is not listed depends on which globs it matches, in their order.
        "globs": [
            (glob.pattern, _spelt(layer.fields), _spelt(resolve(layers.stack_glob(glob.pattern))))
            for glob, layer in layers.globs
        ],
        "defaults": None if layers.defaults is None else _spelt(layers.defaults.fields),
    }
    return hashlib.sha256(canonical(content).encode()).hexdigest()[:6]


def _spelt(said: Mapping[Key, Any]) -> dict[str, Any]:
    return {dotted((key,) if isinstance(key, str) else key): value for key, value in said.items()}
