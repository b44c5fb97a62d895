"""Settings of the documentation's site: Sphinx reads the pages as they are, from the repository's root.

So a link between pages is the same on a code host and in the site. The README is the site's first page, and the list of
all pages, docs/README.md, is its navigation.
"""

from __future__ import annotations

import posixpath
import re
import shutil
from collections.abc import Iterator
from importlib import metadata
from itertools import starmap
from pathlib import Path
from typing import get_args

from pydantic import BaseModel
from sphinx.application import Sphinx

import scriven

ROOT = Path(__file__).parents[2]
INDEX = "docs/README"
FOLDERS = ("docs/classics/index", "docs/decisions/README")  # pages that list all others in their folder

project = "Scriven"
version = release = metadata.version("scriven")
extensions = ["myst_parser", "sphinx.ext.autodoc"]
root_doc = "README"
include_patterns = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "CODE_OF_CONDUCT.md", "SECURITY.md"]
include_patterns += ["docs/**.md"]
myst_heading_anchors = 4  # with the names that code hosts give them
html_theme = "furo"
html_title = project
html_copy_source = html_show_sphinx = html_show_copyright = False
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
default_role = "code"  # of a word between backticks in a docstring


def complete_page(app: Sphinx, page: str, source: list[str]) -> None:
    """Adds to a page what is made for the site: the navigation to the first one, all docstrings to the reference."""
    if page == root_doc:
        source[0] += "".join(starmap(toctree, sections((ROOT / f"{INDEX}.md").read_text("utf-8"))))
    elif page in FOLDERS:
        siblings = sorted((ROOT / page).parent.glob("*.md"))
        source[0] += toctree("", [path.stem for path in siblings if path.stem != Path(page).name])
    elif page == "docs/reference":
        source[0] += "".join(reference())


def sections(index: str) -> Iterator[tuple[str, list[str]]]:
    """Yields each heading of the list of pages, with the names of its pages, from the root; itself before the first."""
    yield "", [f"/{INDEX}"]
    for section in index.split("\n## ")[1:]:
        links = re.findall(r"^- \[[^]]*\]\(([^)]+)\.md\)", section, re.MULTILINE)
        yield section.partition("\n")[0], ["/" + posixpath.normpath(posixpath.join("docs", link)) for link in links]


def toctree(caption: str, pages: list[str]) -> str:
    """Returns a part of the navigation, in Markdown."""
    options = [":hidden:", *([f":caption: {caption}"] if caption else []), ""]
    return "\n".join(["", "", "```{toctree}", *options, *pages, "```", ""])


def reference() -> Iterator[str]:
    """Yields all public names in groups, in Markdown with directives that bring their docstrings."""
    groups: dict[str, list[str]] = {"Functions": [], "Classes": [], "Events": [], "Settings": [], "Errors": []}
    for name in scriven.__all__:
        if not name.startswith("_"):
            groups[group_of(name)].append(name)
    for title, names in groups.items():
        yield f"\n## {title}\n"
        for name in names:
            yield "\n".join(["", "```{eval-rst}", *directive(name), "```", ""])


def group_of(name: str) -> str:
    """Returns the group of the reference that a public name is in."""
    value = getattr(scriven, name)
    if not isinstance(value, type):
        return "Functions" if callable(value) and name != "Event" else "Events"
    if value in (*get_args(scriven.Event), scriven.Loss):
        return "Events"
    kinds = {"Errors": BaseException, "Settings": BaseModel}
    return next((group for group, kind in kinds.items() if issubclass(value, kind)), "Classes")


def directive(name: str) -> list[str]:
    """Returns the lines that bring a name's docstring, and those of its members."""
    value = getattr(scriven, name)
    if not isinstance(value, type):
        return [f".. auto{'data' if name == 'Event' else 'function'}:: scriven.{name}"]
    return [f".. autoclass:: scriven.{name}", "   :members:"]


def make_first_page(app: Sphinx, error: Exception | None) -> None:
    """Gives the first page the name under which servers look for it, too."""
    if error is None and app.builder.name == "html":
        shutil.copy(app.outdir / f"{root_doc}.html", app.outdir / "index.html")


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", complete_page)
    app.connect("build-finished", make_first_page)
