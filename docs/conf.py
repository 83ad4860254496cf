"""The documentation site: Sphinx, MyST Markdown with executed cells, and the pydata theme.

`make docs` builds it. Nothing is fetched, neither to build nor to read: mathematics is MathML, and
the theme's scripts and fonts are copied beside the pages.
"""

import os
import sys
from importlib.metadata import version as version_of
from pathlib import Path

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS), str(DOCS.parent)]

project = "skipshift"
author = "the skipshift authors"
release = version_of("skipshift")
version = release

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
    "extensions.mathml",
    "extensions.reference",
]
html_math_renderer = "mathml"
exclude_patterns = ["_build", "_inputs", "reference/_*"]
smartquotes_action = "D"  # dashes alone

# MyST and executed cells
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 4
myst_update_mathjax = False
nb_execution_mode = os.environ.get("EXECUTE", "cache")
# without a kernel nobody says what language a cell is in
suppress_warnings = ["myst-nb.lexer"] if nb_execution_mode == "off" else []
nb_execution_cache_path = str(DOCS / "_build" / "cells")
nb_execution_in_temp = True
nb_execution_show_tb = True
nb_execution_timeout = 900
nb_merge_streams = True
os.environ["SKIPSHIFT_DOCS"] = str(DOCS / "_inputs")
# its startup file makes a failing `!command` fail the build
os.environ["IPYTHONDIR"] = str(DOCS / "_kernel")

# reference
default_role = "py:obj"
autodoc_typehints = "description"
autodoc_member_order = "bysource"
python_maximum_signature_line_length = 88
napoleon_google_docstring = False
napoleon_custom_sections = ["Returns", "Yields"]  # prose, not a list of types

# the pages
html_theme = "pydata_sphinx_theme"
html_title = "skipshift"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "logo": {"text": "skipshift"},
    "navbar_align": "left",
    "header_links_before_dropdown": 8,
    "navbar_end": ["theme-switcher"],
    "show_prev_next": True,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
}
project_copyright = "the skipshift authors, Apache-2.0"
