"""The numbers of the generated tables from raw files alone: records, TOML and JSON. It imports nothing of mabench, on purpose."""

from __future__ import annotations

import html
import json
import math
import tomllib
from collections import defaultdict
from pathlib import Path
from statistics import fmean, pstdev, stdev
from typing import Any

FAMILIES = {"convnet": "ConvNet", "resnet": "ResNet", "mobilenet": "MobileNet", "efficientnet": "MobileNet", "vit": "ViT", "deit": "ViT", "swin": "Swin"}  # fmt: skip
VALUE_BYTES = {"uint8": 1, "float16": 2, "float32": 4}
Runs = dict[str, dict[int, dict[str, Any]]]


def numbers(record: dict[str, Any], rule: str) -> dict[str, float]:
    """Best, plateau, last and score of one run, percent; a run that diverged counts as one class in ten."""
    hits = [count for _, count in record["curve"]]
    found = {"best": max(hits), "plateau": fmean(hits[-min(20, math.ceil(len(hits) / 10)) :]), "last": hits[-1]}
    found = {name: 100 * value / record["total"] for name, value in found.items()}
    found = dict.fromkeys(found, 10.0) if record["diverged_epoch"] is not None else found
    return found | {"score": found[rule]}


def weights(names: list[str]) -> dict[str, float]:
    families = {name: next((f for short, f in FAMILIES.items() if name.startswith(short)), name) for name in names}
    members = list(families.values())
    return {name: 1 / len(set(members)) / members.count(families[name]) for name in names}


def rows(
    folder: Path, suites: Path, baselines: list[dict[str, Any]], digests: dict[str, str], *, random: bool = False
) -> dict[tuple[str, ...], dict[str, str]]:
    """(suite, track, IPC, labels, title) -> column -> text, of every submission under `folder` that nobody has run again.

    With `random` also of the random images that they are compared with.
    """
    groups: dict[tuple[str, ...], Runs] = defaultdict(lambda: defaultdict(dict))
    for path in sorted(folder.glob("*/records/*.json")):
        record, title = json.loads(path.read_text()), tomllib.loads((path.parents[1] / "card.toml").read_text())["title"]
        cell, summary = record["cell"], record["synthetic_set"]
        groups[cell["suite"], cell["track"], str(summary["ipc"]), summary["labels"], title][cell["evaluator"]["name"]][
            cell["seed"]
        ] = record
    found = {}
    for key, runs in groups.items():
        suite = tomllib.loads((suites / f"{key[0]}.toml").read_text())
        found[key] = row(key, runs, suite, baselines, digests)
        some = next(iter(next(iter(runs.values())).values()))
        if random and some["cell"]["suite_digest"] == digests.get(key[0]):
            for entry in compared_with(some, key[3], baselines):
                title, columns = random_row(entry, key[1], suite)
                found[*key[:4], title] = columns
    return found


def compared_with(record: dict[str, Any], labels: str, baselines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Random images packed like the set of this record, and those that take its bytes."""
    summary, digest = record["synthetic_set"], record["cell"]["suite_digest"]
    kinds = ((summary["ipc"], summary["decode"]), (summary["ipc"] * VALUE_BYTES[summary["image_dtype"]], "none"))
    return [
        e
        for kind in kinds
        for e in baselines
        if (e["suite_digest"], e["ipc"], e["decode"], e["labels"]) == (digest, *kind, labels)
    ]


def random_row(entry: dict[str, Any], track: str, suite: dict[str, Any]) -> tuple[str, dict[str, str]]:
    """Title and columns of one form of random images; a plateau is not known where one run's is not."""
    names, rule = suite["tracks"][track], suite["recipe"]["score"]
    measured = [entry["evaluators"].get(f"{track}/{name}", {}) for name in names]
    common = sorted(set.intersection(*map(set, measured)))
    title = f"random real images, {entry['ipc']} per class" + (", packed 2 x 2" if entry["decode"] == "grid2" else "")
    title += ", labelled by the teacher" if entry["labels"] == "soft" else ""
    if len(common) < 5:
        return f"{title}, baseline not run", dict.fromkeys(["best", "plateau", "last", *names], "-")
    runs = {name: [of_network[draw] for draw in common] for name, of_network in zip(names, measured, strict=True)}
    weight, out = weights(names), {"best": "-"}
    for place, column in enumerate((rule, "plateau", "last")):
        known = all(run[place] is not None for of_network in runs.values() for run in of_network)
        means = {name: 100 * fmean(run[place] for run in of_network) for name, of_network in runs.items()} if known else {}
        out[column] = f"{sum(weight[n] * means[n] for n in names):.2f}" if known else "-"
    for name, of_network in runs.items():
        scores = [100 * run[0] for run in of_network]
        out[name] = f"{fmean(scores):.2f} ± {stdev(scores):.2f}"
    return f"{title}, {len(common)} draws", out


def row(
    key: tuple[str, ...], runs: Runs, suite: dict[str, Any], baselines: list[dict[str, Any]], digests: dict[str, str]
) -> dict[str, str]:
    track, rule, names, seeds = key[1], suite["recipe"]["score"], suite["tracks"][key[1]], suite["seeds"]
    spread = pstdev if suite.get("std") == "population" else stdev
    values = {n: {s: numbers(r, rule) for s, r in runs[n].items()} for n in names if n in runs}
    out = dict.fromkeys(["best", "plateau", "last", "lift", "smallest lift", *names], "-")
    for name, by_seed in values.items():
        scores = [v["score"] for v in by_seed.values()]
        out[name] = f"{fmean(scores):.2f}" + (f" ± {spread(scores):.2f}" if len(scores) > 1 else "")
        out[name] += "†" if any(r["diverged_epoch"] is not None for r in runs[name].values()) else ""
    if any(set(values.get(name, ())) != set(seeds) for name in names):
        return out
    weight = weights(names)
    for column in ("best", "plateau", "last"):
        means = [sum(weight[n] * values[n][s][column] for n in names) for s in seeds]
        out[column] = f"{fmean(means):.2f}" + (f" ± {spread(means):.2f}" if column == rule and len(means) > 1 else "")
    some = next(iter(runs[names[0]].values()))
    known = compared_with(some, key[3], baselines)
    if some["cell"]["suite_digest"] == digests.get(key[0]) and len(known) == 2:
        random = [{n: 100 * fmean(v[0] for v in e["evaluators"][f"{track}/{n}"].values()) for n in names} for e in known]
        better = max(random, key=lambda means: sum(weight[n] * means[n] for n in names))
        lifts = {n: fmean(v["score"] for v in values[n].values()) - better[n] for n in names}
        out |= {"lift": f"{sum(weight[n] * lifts[n] for n in names):+.2f}", "smallest lift": f"{min(lifts.values()):+.2f}"}
    return out


def printed(markdown: str, *, baselines: bool = False) -> dict[tuple[str, ...], dict[str, str]]:
    """The same of a Markdown page: its tables under headings `suite, track, IPC n, hard labels`; with rows of baselines if asked."""
    found: dict[tuple[str, ...], dict[str, str]] = {}
    for part in markdown.split("## ")[1:]:
        heading, *lines = part.replace("#", "").splitlines()
        if heading.count(",") != 3:
            continue  # prose
        suite, track, ipc, labels = (text.strip() for text in heading.split(","))
        table = [[html.unescape(c.strip()) for c in line.split("|")[1:-1]] for line in lines if line.startswith("|")]
        for cells in table[2:]:
            line = dict(zip(table[0], cells, strict=True))
            if baselines or line["rank"] != "baseline":
                found[suite, track, ipc.split()[1], labels.split()[0], line["set"]] = line
    return found
