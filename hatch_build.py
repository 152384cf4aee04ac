"""The build of the wheel: it brings the programs of consumers/ along, which `gate demo` runs."""

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Programs(BuildHookInterface[Any]):
    """Puts them below the one package that a wheel installs; an editable install finds them at the top of the clone."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """See hatchling."""
        if version == "standard":
            build_data["force_include"]["consumers"] = "gate/cli/demo/consumers"
