"""Builds the documentation: `make docs` writes build/docs, and takes warnings for errors."""

import sys
from importlib.metadata import version as version_of
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "extensions"))

project = "kafka-admission-gate"
author = "the authors of kafka-admission-gate"
copyright = "the authors of kafka-admission-gate, Apache-2.0"  # noqa: A001 - Sphinx's name
release = version = version_of(project)

extensions = ["myst_parser", "sphinx.ext.autodoc", "selfcontained"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["extensions", "generated.py"]

myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]

# Docstrings are prose with `code` in single backticks, as they read best in an editor
default_role = "literal"
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_display_short_literal_types = True
add_module_names = False

html_theme = "furo"
html_title = "Admission gate for Kafka"
html_static_path = ["_static"]
html_css_files = ["wide.css"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0b6e6e", "color-brand-content": "#0b6e6e"},
    "dark_css_variables": {"color-brand-primary": "#5cc8c2", "color-brand-content": "#5cc8c2"},
}
pygments_style = "friendly"
pygments_dark_style = "native"
