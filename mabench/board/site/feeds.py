"""What happened on a board, for readers and feed readers, and what a search goes through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from email.utils import format_datetime
from xml.sax.saxutils import escape

from mabench.board.site import names
from mabench.board.site.content import Board, Site
from mabench.board.site.sources import loaded_suite, plain


def changes(board: Board) -> list[dict[str, str]]:
    """Every log entry of every set, newest first. `tier` is what the entry decided: empty where it decides nothing."""
    found = [
        {
            "when": e.when,
            "slug": s.slug,
            "title": s.title,
            "who": plain(e.who, 80),
            "action": e.action,
            "tier": e.tier if e.action == "tier" else "",
            "why": plain(e.why),
        }
        for s in board.sheets
        for e in s.about["audit"]
    ]
    return sorted(found, key=lambda entry: (entry["when"], entry["slug"]), reverse=True)[:500]


def rss(site: Site, changes: Sequence[Mapping[str, str]]) -> str:
    """The newest changes as RSS."""
    items = []
    for c in changes[:50]:
        link = f"{site.address}sets/{c['slug']}/index.html"
        when = format_datetime(datetime.fromisoformat(c["when"]))
        tier = f" ({c['tier']})" if c["tier"] else ""
        items.append(
            f"<item><title>{escape(c['title'])}: {escape(c['action'])}</title><link>{escape(link)}</link>"
            f'<guid isPermaLink="false">{escape(c["slug"])}-{escape(c["when"])}</guid><pubDate>{when}</pubDate>'
            f"<description>{escape(c['who'])}: {escape(c['why'] + tier)}</description></item>"
        )
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<rss version="2.0"><channel>'
        f"<title>{escape(site.title)}</title><link>{escape(site.address or 'index.html')}</link>"
        f"<description>Submissions, re-runs and decisions</description>\n{chr(10).join(items)}\n</channel></rss>\n"
    )


def index(board: Board) -> list[dict[str, str]]:
    """Title, address and words of every set, method and suite."""
    found = []
    for sheet in board.sheets:
        rows = board.by_slug[sheet.slug]
        words = [
            sheet.title,
            sheet.slug,
            sheet.card_text,
            *(w for r in rows for w in (r.suite, r.tier, r.method, r.dataset, r.authors)),
        ]
        words += [names.network(n) for r in rows for n in r.network_results]
        found.append(
            {
                "title": sheet.title,
                "href": f"sets/{sheet.slug}/index.html",
                "words": " ".join(dict.fromkeys(" ".join(words).lower().split())),
            }
        )
    for key, entry in board.methods.items():
        work = entry["work"]
        about = f"{entry['name']} {work.title if work else ''} {' '.join(work.authors) if work else ''} method".lower()
        found.append({"title": f"{entry['name']} (method)", "href": f"methods/{key}/index.html", "words": about})
    for suite in sorted({*board.suite_ids, *(row.suite for row in board.rows)}, key=names.suite_order):
        chosen = loaded_suite(suite)
        networks = " ".join(names.network(e.name) for es in chosen.evaluators.values() for e in es)
        found.append(
            {
                "title": f"{suite} (suite)",
                "href": f"suites/{suite}/index.html",
                "words": f"{suite} {chosen.suite.title} {networks}".lower(),
            }
        )
    return found
