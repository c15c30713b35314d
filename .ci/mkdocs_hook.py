"""MkDocs hook: pages that lie outside `docs/` join the site, and links that work in the repository work there too.

A link to a file that has no page (code, results) keeps its text and loses its link.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"(!?)\[([^\]\n]+)\]\(([^()\s]+)\)")
FENCE = re.compile(r"(^(?:```|~~~).*?^(?:```|~~~)[^\n]*$)", re.M | re.S)


def outside() -> dict[str, str]:
    """File of the repository -> its page on the site."""
    named = {
        "PROTOCOL.md": "protocol.md",
        "CHANGELOG.md": "changelog.md",
        "CONTRIBUTING.md": "contributing.md",
        "SECURITY.md": "security.md",
        "GOVERNANCE.md": "governance.md",
        "benchmarks/gpu.md": "gpu.md",
        "leaderboard/README.md": "leaderboard.md",
        "submissions/README.md": "submissions.md",
        "methods/README.md": "methods/index.md",
    }
    methods = {
        f"methods/{p.parent.name}/README.md": f"methods/{p.parent.name}.md" for p in sorted(ROOT.glob("methods/*/README.md"))
    }
    return named | methods


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """`methods/*` stands for every method's page."""
    config.nav = _expanded(config.nav)
    return config


def _expanded(entries: list[object]) -> list[object]:
    kept: list[object] = []
    for entry in entries:
        if entry == "methods/*":
            kept += [page for source, page in outside().items() if source.count("/") == 2]
        elif isinstance(entry, dict):
            ((title, value),) = entry.items()
            if isinstance(value, list):
                kept.append({title: _expanded(value)})
            else:
                kept.append(entry)
        else:
            kept.append(entry)
    return kept


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from outside `docs/`."""
    from mkdocs.structure.files import File

    for source, page in outside().items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links from repository paths to site paths; what belongs to a numbered item is indented as Python-Markdown wants it."""
    markdown = re.sub(r"^ {3}(?=\S)", "    ", markdown, flags=re.M)
    here = page.file.src_uri
    source = next((s for s, p in outside().items() if p == here), f"docs/{here}")
    parts = FENCE.split(markdown)
    parts[::2] = [LINK.sub(lambda match: _link(match, source, here), part) for part in parts[::2]]
    return "".join(parts)


def _link(match: re.Match[str], source: str, here: str) -> str:
    text, (target, _, anchor) = match[2], match[3].partition("#")
    if not target or re.match(r"[a-z]+:", target):
        return match[0]
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
    there = outside().get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else "")
    if path == "README.md":
        there = "README.md"
    if there:
        return f"{match[1]}[{text}]({posixpath.relpath(there, posixpath.dirname(here) or '.')}{'#' + anchor if anchor else ''})"
    return text if (ROOT / path).exists() else match[0]
