"""Makes pages of the site of what lies outside `docs/`, and leads their links there."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
# Files of the repository, and what they are in the site.
OUTSIDE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "cluster/README.md": "cluster.md",
}
_SOURCES = {there: here for here, there in OUTSIDE.items()}
_LINK = re.compile(r"\[([^\]]+)\]\(([^)\s:]+?)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages."""
    for here, there in OUTSIDE.items():
        files.append(File.generated(config, there, content=(ROOT / here).read_text()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Leads a page's links to where pages are in the site; what is not in it is named alone."""
    place = page.file.src_uri
    source = _SOURCES.get(place, f"docs/{place}")

    def lead(link: re.Match[str]) -> str:
        text, path, anchor = link[1], link[2], link[3] or ""
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        known = OUTSIDE.get(target, target.removeprefix("docs/"))
        if files.get_file_from_path(known) is None:
            return text
        return f"[{text}]({posixpath.relpath(known, posixpath.dirname(place) or '.')}{anchor})"

    return _LINK.sub(lead, markdown)
