"""How Sphinx builds these pages."""

from importlib.metadata import version as version_of

from sphinx.ext.napoleon.docstring import GoogleDocstring

project = "trio_romancy"
copyright = "2026, the trio_romancy developers"
release = version = version_of("trio_romancy")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"trio_romancy {release}"
html_static_path = ["_static"]
html_css_files = ["pages.css"]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 88
napoleon_use_ivar = True


def _description_only(docstring: GoogleDocstring) -> tuple[str, list[str]]:
    """Read an attribute's docstring as a description only: napoleon takes what is before a colon for a type."""
    lines = docstring._dedent(docstring._consume_to_end())
    return "", GoogleDocstring(lines, docstring._config).lines()


GoogleDocstring._consume_inline_attribute = _description_only
