"""Everything that the board writes, one file at a time. A pure function of what it is given: same input, same bytes."""

from __future__ import annotations

import struct
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from mabench import suites
from mabench.board.site import answers, charts, data_files, exports, feeds, names, nearest, social
from mabench.board.site.columns import EXTRA, NOTES, sort_value
from mabench.board.site.content import Board
from mabench.board.site.sources import TIERS, loaded_suite, plain
from mabench.board.site.standings import Standing
from mabench.board.site.views import Table, families_of, fingerprint, short_title
from mabench.networks.evaluators import EVALUATORS
from mabench.networks.families import family_of
from mabench.results.baselines import Measured, mean, measured
from mabench.results.tables import percent
from mabench.results.works import normal

OWN = ("board.js", "board.css")
SHOWN = 50  # ours: lines of one table on the landing page; the suite's page has them all


def files(board: Board) -> Iterator[tuple[str, bytes]]:
    """(name, content) of every file of the board, the sets' before the pages that lead to them."""
    env = _environment(board)

    def page(template: str, path: str, **values: Any) -> tuple[str, bytes]:
        root = "../" * path.count("/")
        return path, env.get_template(template).render(path=path, root=root, site=board.site, **values).encode()

    yield from _sets(board, page)
    yield from _suites(board, page)
    yield from _methods(board, page)
    yield from _networks(board, page)
    if board.has_claims:
        about = {"claims": board.claims, "unmeasured": _unmeasured(board), "verdicts": _verdicts(board)}
        yield page("claims.html.j2", "claims/index.html", **about)
    changes = feeds.changes(board)
    yield page("changes.html.j2", "changes/index.html", changes=changes)
    yield "feed.xml", feeds.rss(board.site, changes).encode()
    yield page("scoring.html.j2", "scoring/index.html", notes=NOTES, extra=EXTRA, tiers=TIERS)
    yield page("submit.html.j2", "submit/index.html", suites=[_suite(s) for s in _ranking(board)])
    yield page("data.html.j2", "data/index.html", suites=sorted({row.suite for row in board.rows}))
    yield from _data(board)
    yield page("index.html.j2", "index.html", **_landing(board))


def _environment(board: Board) -> Environment:
    env = Environment(
        loader=PackageLoader("mabench.board.site", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=False,
        lstrip_blocks=True,
    )
    env.globals.update(marks=charts.keys(), has_claims=board.has_claims)
    env.filters.update(
        percent=percent,
        plain=plain,
        wrapped=names.wrapped,
        kib=names.kib,
        images=names.images,
        network=names.network,
        dataset=names.dataset,
        points=charts.points,
        sort_value=sort_value,
        short_title=short_title,
        work=lambda method: board.work.get(normal(method)),
        method_key=lambda method: normal(board.work[normal(method)].name if normal(method) in board.work else method),
    )
    return env


def _ranking(board: Board) -> list[str]:
    """Suites that rank methods, CIFAR-10's headline first: those of the board, or every released one."""
    return [s for s in sorted(board.suite_ids, key=names.suite_order) if suites.ranks_methods(s)]


def _suite(name: str) -> dict[str, Any]:
    """What pages say about one suite."""
    chosen = loaded_suite(name)
    return {
        "id": chosen.id,
        "name": chosen.suite.name,
        "title": chosen.suite.title,
        "measures": chosen.suite.measures,
        "dataset": chosen.suite.dataset,
        "dataset_title": names.dataset(chosen.suite.dataset),
        "networks": sum(len(entries) for entries in chosen.evaluators.values()),
        "protocol": names.protocol(chosen, next(iter(chosen.evaluators))),
        "ranks": suites.ranks_methods(name),
        "chosen": chosen,
    }


def _landing(board: Board) -> dict[str, Any]:
    ranking = [t for t in board.tables if suites.ranks_methods(t.suite) and t.lines]
    suites_ = _ranking(board)
    with_rows = {t.suite for t in ranking}
    leading = next((t for t in ranking if t.ranked), ranking[0] if ranking else None)
    first = [t.anchor for t in ranking if leading and (t.suite, t.track) == (leading.suite, leading.track)]
    datasets = dict.fromkeys(
        [loaded_suite(t.suite).suite.dataset for t in ([leading] if leading else [])]
        + [loaded_suite(s).suite.dataset for s in suites_]
    )
    waiting = [
        _suite(s) | {"first": leading is not None and loaded_suite(s).suite.dataset == leading.dataset}
        for s in suites_
        if s not in with_rows
    ]
    several = len({line.row.key for table in ranking for line in table.ranked}) > 1
    matrix = answers.best_by_family(board.tables, leading.suite) if leading and several else []
    return {
        "answers": answers.best_sets(board.tables),
        "tables": ranking,
        "outdated": len({line.row.key for table in ranking for line in table.lines if line.row.outdated}),
        "first": first,
        "waiting": waiting,
        "columns": EXTRA,
        "rows": len(board.rows),
        "choices": [{"key": name, "title": names.dataset(name)} for name in datasets] if leading else [],
        "budgets": sorted({t.ipc for t in ranking}),
        "trains": _trains(ranking),
        "matrix": matrix,
        "matrix_suite": leading.suite if leading else "",
        "matrix_budgets": sorted({ipc for _, _, cells in matrix for ipc in cells}),
    }


def _trains(ranking: Sequence[Table]) -> list[dict[str, str]]:
    """What the picker offers to train: all networks of a track, then each family of it."""
    found: dict[str, str] = {}
    for track in dict.fromkeys(t.track for t in ranking):
        found[track] = {"scratch": "any network from scratch", "pretrained": "any pretrained network"}.get(
            track, f"any network of {track}"
        )
        for key, family in dict.fromkeys(pair for t in ranking if t.track == track for pair in t.families):
            found[f"{track}/{key}"] = f"a {family}" + (" from scratch" if track == "scratch" else f" ({names.track(track)})")
    return [{"key": key, "title": title} for key, title in found.items()]


def _sets(board: Board, page: Any) -> Iterator[tuple[str, bytes]]:
    of_suite = {(t.suite, t.track, t.ipc): t for t in board.tables}
    of_set: dict[str, list[Standing]] = defaultdict(list)
    for row in board.rows:
        of_set[row.set_sha256].append(row)
    for sheet in board.sheets:
        folder, rows = f"sets/{sheet.slug}", board.by_slug[sheet.slug]
        drawn = dict(board.pictures.get(sheet.slug, {}))
        background = drawn.get("pixels.png")
        yield from ((f"{folder}/{name}", content) for name, content in drawn.items())
        best = next((r for r in rows if r.rank), rows[0])
        line = f"{best.suite}, {names.track(best.track)}: " + (
            f"{100 * best.score:.1f} %" if best.score is not None else "not ranked"
        )
        yield f"{folder}/card.png", social.card(background, sheet.title, line, board.site.title)
        for row in rows:
            yield f"{folder}/{exports.badge_name(row)}", exports.badge(row).encode()
        prints = {row.suite: fingerprint(families_of([r for r in rows if r.suite == row.suite])) for row in rows}
        rivals = [(row, exports.rivals(row, of_suite[row.suite, row.track, row.ipc])) for row in rows]
        same = [r for r in of_set[sheet.set_sha256] if r.key != sheet.slug]
        yield page(
            "set.html.j2", f"{folder}/index.html", **sheet.about, rows=rows, runs=sheet.runs, prints=prints, rivals=rivals,
            curves=sheet.curves(), has_pictures=bool(drawn), sheet_size=_png_size(drawn.get("preview.png")), nearest=nearest.facts(drawn.get(nearest.FACTS)), same=list({r.key: r for r in same}.values()),
            claims=[c for c in board.claims if c.row.key == sheet.slug],
        )  # fmt: skip


def _png_size(content: bytes | None) -> tuple[int, int]:
    """Width and height of a PNG, from its header: a page that names them does not move when the image arrives."""
    width, height = struct.unpack(">II", content[16:24]) if content else (0, 0)
    return width, height


def _suites(board: Board, page: Any) -> Iterator[tuple[str, bytes]]:
    ids = sorted({*board.suite_ids, *(row.suite for row in board.rows)}, key=names.suite_order)
    here = defaultdict(list)
    for table in board.tables:
        here[table.suite].append(table)
    listed = [
        _suite(s)
        | {"sets": len({line.row.key for t in here[s] for line in t.lines}), "reported": sum(len(t.reported) for t in here[s])}
        for s in ids
    ]
    yield page("suites.html.j2", "suites/index.html", suites=listed)
    tried = {normal(row.method) for row in board.rows if row.tier != "reported"}
    for entry in listed:
        present = {normal(line.row.method) for t in here[entry["id"]] for line in t.lines}
        missing = (
            sorted({r.method for r in board.rows if r.tier != "reported" and normal(r.method) in tried - present})
            if entry["ranks"]
            else []
        )
        tracks = [
            (t, names.protocol(entry["chosen"], t), entry["chosen"].recipes[t], es)
            for t, es in entry["chosen"].evaluators.items()
        ]
        yield page(
            "suite.html.j2", f"suites/{entry['id']}/index.html", suite=entry, tables=here[entry["id"]], columns=EXTRA, missing=missing, tried=bool(tried),
            tracks=tracks, baselines=_baselines(entry["chosen"]), matrix=answers.best_by_family(board.tables, entry["id"]),
        )  # fmt: skip


def _baselines(chosen: suites.LoadedSuite) -> list[tuple[str, str, str, Measured, int]]:
    """(form, track, network, accuracies, draws) of random real images, as measured for exactly this suite."""
    return [
        (
            images.title.removeprefix("random real images, "),
            names.track(track),
            names.network(network),
            mean(runs),
            len(runs),
        )
        for images in sorted(measured(chosen), key=lambda images: (images.ipc, images.decode, images.labels))
        for track in chosen.evaluators
        for network, runs in images.runs(chosen, track).items()
    ]


def _methods(board: Board, page: Any) -> Iterator[tuple[str, bytes]]:
    yield page("methods.html.j2", "methods/index.html", methods=list(board.methods.values()))
    about = {sheet.slug: sheet.about for sheet in board.sheets}
    for key, entry in board.methods.items():
        slugs = list(dict.fromkeys(row.key for row in entry["rows"]))
        together: dict[tuple[str, str], list[Standing]] = defaultdict(list)
        for row in entry["rows"]:
            together[row.key, row.suite].append(row)
        prints = {name: fingerprint(families_of(rows)) for name, rows in together.items()}
        found = [c for c in board.claims if normal(c.row.method) in {key, normal(entry["name"])}]
        yield page(
            "method.html.j2", f"methods/{key}/index.html", method=entry, prints=prints, claims=found, pictures=[s for s in slugs if s in board.pictures],
            about=[about[s] for s in slugs], titles={s: about[s]["title"] for s in slugs}, reported=_printed(entry["reported"]),
        )  # fmt: skip


def _printed(rows: Sequence[Standing]) -> list[tuple[str, list[str], list[Standing]]]:
    """Papers' rows by suite: (suite, networks that some row prints, in the suite's order, rows)."""
    found = []
    for suite in sorted({row.suite for row in rows}, key=names.suite_order):
        here = sorted((row for row in rows if row.suite == suite), key=lambda row: (row.ipc, row.where))
        known = [entry.name for entries in loaded_suite(suite).evaluators.values() for entry in entries]
        found.append((suite, [name for name in dict.fromkeys(known) if any(name in row.network_results for row in here)], here))
    return found


def _networks(board: Board, page: Any) -> Iterator[tuple[str, bytes]]:
    """A page per evaluator: what it is, which suites train it, and how the sets do on it."""
    asked: dict[str, list[tuple[str, str, Any]]] = defaultdict(list)
    for suite in sorted({*board.suite_ids, *(row.suite for row in board.rows)}, key=names.suite_order):
        for track, entries in loaded_suite(suite).evaluators.items():
            for entry in entries:
                asked[entry.name].append((suite, track, entry))
    listed = [(name, EVALUATORS[name], family_of(EVALUATORS[name]), asked[name]) for name in EVALUATORS if name in asked]
    yield page("networks.html.j2", "networks/index.html", networks=listed)
    for name, entry, family, places in listed:
        results = [
            (row, row.network_results[name]) for row in board.rows if name in row.network_results and row.tier != "reported"
        ]
        results.sort(key=lambda pair: (names.suite_order(pair[0].suite), pair[0].ipc, -pair[1].mean, pair[0].key))
        yield page(
            "network.html.j2",
            f"networks/{name}/index.html",
            name=name,
            entry=entry,
            family=family,
            places=places,
            results=results,
        )


def _verdicts(board: Board) -> dict[str, int]:
    """How many of the papers' numbers that were measured again agree, or are higher or lower here."""
    found = Counter(pair.verdict for claim in board.claims for pair in claim.pairs)
    return {"all": sum(found.values()), **{verdict: found[verdict] for verdict in ("agrees", "higher", "lower")}}


def _unmeasured(board: Board) -> list[tuple[str, int]]:
    """(method, number of papers' tables that nothing was compared with)."""
    done = {id(claim.table) for claim in board.claims}
    counts: dict[str, int] = defaultdict(int)
    for _, table in board.reported:
        if id(table) not in done:
            work = board.work.get(normal(table.method))
            counts[work.name if work else table.method] += 1
    return sorted(counts.items())


def _data(board: Board) -> Iterator[tuple[str, bytes]]:
    """What readers download, and what the script loads when somebody searches."""
    folder = resources.files("mabench.board.site").joinpath("templates")
    yield from ((f"assets/{name}", folder.joinpath(name).read_bytes()) for name in OWN)
    yield "assets/icon.svg", social.ICON.encode()
    yield (
        "assets/card.png",
        social.card(None, board.site.headline, f"{board.site.trust.sets} sets, {board.site.trust.runs:,} runs", board.site.title),
    )
    yield "assets/index.js", f"window.INDEX={data_files.json_text(feeds.index(board))};\n".encode()
    yield from data_files.downloads(board.rows, [run for sheet in board.sheets for run in sheet.runs])
    yield "README.md", exports.space_card(board.site.title, board.site.dataset).encode()
