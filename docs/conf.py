"""Sphinx: the pages of this folder, and a reference that is made of docstrings and of the commands' help."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
sys.path.insert(0, str(HERE))

import slivit  # noqa: E402 (the clone must be found first)

project = "SLIViT for fastai"
author = "the SLIViT for fastai contributors"
release = version = slivit.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "reference_pages"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"{project} {release}"
myst_enable_extensions = ["colon_fence", "fieldlist"]
myst_heading_anchors = 3
default_role = "literal"
autodoc_typehints = "signature"
autodoc_default_options = {"exclude-members": "model_config"}
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
