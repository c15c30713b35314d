"""What several tests build: small sets, cells, records, cards and submissions."""

from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import mabench as package
from mabench import data, digests, suites
from mabench.board import audit_log, owners
from mabench.board import submission as submissions
from mabench.data import DATASETS
from mabench.digests import digest
from mabench.networks.evaluators import EVALUATORS
from mabench.runs.folder import read_record
from mabench.schema import Augmentation, Card, Cell, Evaluator, Recipe, RunRecord, SetSummary
from mabench.sets.synthetic import SyntheticSet

Command = Callable[..., "subprocess.CompletedProcess[str]"]
CPU = torch.device("cpu")
TEST = data.load("digits", "test")
PLAIN = Recipe(epochs=6, batch_size=16, test_every=2, score="best", learning_rate=0.05, batch_norm="train")
STRONG = Augmentation(color="full", geometry=("crop",), flip=0.5, cutmix=0.5, cutout="unless-cutmix", space="normalised")
DIGITS = suites.load("digits-agnostic")
LITE = suites.load("cifar10-lite")
HOSTILE = "<script>window.hacked=1</script><img src=x onerror='window.hacked=1'>]](javascript:alert(1))`|*_"
PAPER = """
[[table]]
method = "digits-paper"
title = "Table 5, row 3"
dataset = "digits"
ipc = 10
suite = "digits-agnostic"
runs = 10
config = { packed = true }
[table.values]
mlp-scratch = [90.78, 0.34]
convnet3-scratch = [95.5]
lenet-scratch = [91.0, 0.5]
vit_mini-scratch = [60.0, 0.5]
"""
BUNDLED = Path(package.__file__).parent / "assets" / "digits_kmeans_ipc5.safetensors"
CARD = {"title": "k-means on digits, IPC 5", "authors": ["A. Author"], "licence": "CC0-1.0", "slug": "digits-kmeans"}


def flipped(content: bytes, place: int) -> bytes:
    """The content with one bit of one byte changed."""
    changed = bytearray(content)
    changed[place] ^= 1
    return bytes(changed)


def small_set(ipc: int = 4) -> SyntheticSet:
    train = data.load("digits", "train")
    index = np.concatenate([np.flatnonzero(train.labels == c)[:ipc] for c in range(10)])
    return SyntheticSet(
        images=torch.tensor(train.images[index]),
        labels=torch.tensor(train.labels[index]),
        dataset="digits",
        ipc=ipc,
        name="small",
    )


def cell(recipe: Recipe = PLAIN, evaluator: str | Evaluator = "mlp-scratch", seed: int = 0) -> Cell:
    entry = EVALUATORS[evaluator] if isinstance(evaluator, str) else evaluator
    return Cell(
        set_sha256=small_set().sha256,
        suite="test@1",
        suite_digest="0" * 64,
        track="scratch",
        evaluator=entry,
        recipe=recipe,
        seed=seed,
    )


def pinned_test_split(dataset: str) -> str:
    """Digest of the dataset's test split, where one is pinned."""
    return DATASETS[dataset].digests.get("test", "1" * 64)


def run_record(evaluator: str, seed: int, counts: list[int], *, total: int = 1000, diverged: int | None = None) -> RunRecord:
    entry = next(e for e in DIGITS.evaluators["scratch"] if e.name == evaluator)
    return RunRecord(
        cell=Cell(
            set_sha256="0" * 64, suite=DIGITS.id, suite_digest=DIGITS.digest, track="scratch", evaluator=entry,
            recipe=DIGITS.recipes["scratch"], seed=seed, seed_streams=DIGITS.suite.seed_streams,
        ),
        synthetic_set=SetSummary(
            sha256="0" * 64, name="x", dataset="digits", ipc=1, stored_images=10, decoded_images=10, image_shape=(3, 32, 32),
            image_dtype="uint8", decode="none", labels="hard", stored_bytes=30720,
        ),
        test_sha256=pinned_test_split("digits"), total=total, curve=tuple((10 * (i + 1), c) for i, c in enumerate(counts)),
        diverged_epoch=diverged, environment={}, seconds=1.0, started="2026-01-01T00:00:00+00:00",
    )  # fmt: skip


def made_record(
    loaded_suite: suites.LoadedSuite,
    track: str,
    evaluator: str,
    seed: int,
    accuracy: float,
    *,
    sha: str,
    ipc: int = 10,
    labels: str = "hard",
) -> RunRecord:
    """A finished run whose best test pass, the last but one, is `accuracy` and whose last is two points less."""
    entry = next(e for e in loaded_suite.evaluators[track] if e.name == evaluator)
    real = DATASETS[loaded_suite.suite.dataset]
    total, images = real.test_size or 1000, real.num_classes * ipc
    best = round(total * accuracy)
    recipe = loaded_suite.recipes[track]
    return RunRecord(
        cell=Cell(
            set_sha256=sha,
            suite=loaded_suite.id,
            suite_digest=loaded_suite.digest,
            track=track,
            evaluator=entry,
            recipe=recipe,
            seed=seed,
            seed_streams=loaded_suite.suite.seed_streams,
        ),
        synthetic_set=SetSummary.model_validate(
            dict(
                sha256=sha,
                name="made",
                dataset=loaded_suite.suite.dataset,
                ipc=ipc,
                stored_images=images,
                decoded_images=images,
                image_shape=real.shape,
                image_dtype="uint8",
                decode="none",
                labels=labels,
                stored_bytes=images * (math.prod(real.shape) + (4 * real.num_classes if labels == "soft" else 0)),
            )
        ),
        test_sha256=pinned_test_split(loaded_suite.suite.dataset),
        total=total,
        curve=_curve(recipe, best, max(0, best - total // 50)),
        initial_weights_sha256=digest([sha, evaluator, seed]),
        first_losses=(2.3,) * 10,
        environment={"mabench": "0.1.0", "torch": "2.15.0", "device": "cpu", "arithmetic": "float32"},
        seconds=2.5,
        started="2026-11-01T00:00:00+00:00",
    )


def _curve(recipe: Recipe, best: int, last: int) -> tuple[tuple[int, int], ...]:
    """Counts at the recipe's own test passes."""
    passes = recipe.test_epochs
    counts = [best // 2] * (len(passes) - 2) + [best, last] if len(passes) > 1 else [best]
    return tuple(zip(passes, counts, strict=True))


def write_submission(
    folder: Path,
    slug: str,
    quality: float,
    *,
    card: dict[str, Any] | None = None,
    tier: str | None = None,
    skip: tuple[str, int] | None = None,
    loaded_suite: suites.LoadedSuite = DIGITS,
    who: str = "a maintainer",
    why: str = "sampled",
    **fields: Any,
) -> Path:
    """Write one submission: every cell of the suite, spread a little over evaluators and seeds; `skip` leaves one out.

    Soft labels bring the runs with hardened ones.
    """
    sha = digest(slug)
    records = []
    for track, entries in loaded_suite.evaluators.items():
        for index, entry in enumerate(entries):
            for seed in loaded_suite.suite.seeds:
                if (entry.name, seed) != skip:
                    accuracy = quality + 0.02 * index + 0.004 * ((seed * 7 + index * 3) % 5)
                    records.append(made_record(loaded_suite, track, entry.name, seed, accuracy, sha=sha, **fields))
    written = {submissions.record_name(r): submissions.record_bytes(r) for r in records}
    hard = {
        submissions.record_name(r): submissions.record_bytes(hardened(r)) for r in records if r.synthetic_set.labels == "soft"
    }
    made = Card(**{"title": slug.replace("-", " ").title(), "authors": ["A. Author"], "licence": "CC0-1.0"} | (card or {}))
    return put(folder / slug, made.toml().encode(), written, sha, tier=tier, who=who, why=why, hard=hard)


def hardened(record: RunRecord) -> RunRecord:
    """The same run, a little worse, on the set with hardened labels."""
    sha = digest(f"{record.cell.set_sha256} hardened")
    return record.model_copy(
        update={
            "cell": record.cell.model_copy(update={"set_sha256": sha}),
            "synthetic_set": record.synthetic_set.model_copy(update={"sha256": sha, "labels": "hard"}),
            "curve": tuple((epoch, int(0.9 * count)) for epoch, count in record.curve),
        }
    )


def put(
    path: Path,
    card: bytes,
    records: dict[str, bytes],
    sha: str,
    *,
    tier: str | None = None,
    who: str = "a maintainer",
    why: str = "sampled",
    hard: dict[str, bytes] | None = None,
) -> Path:
    """Write these files and a log that names them, with a second line where `tier` says so; `who` is a maintainer of the board.

    There is no set: the board's list says that it is published elsewhere.
    """
    named, harder = ({name: digests.sha256(content) for name, content in each.items()} for each in (records, hard or {}))
    entry = audit_log.make_entry(
        who="A. Submitter",
        action="submitted",
        why="made",
        set_sha256=sha,
        records=named,
        card_sha256=digests.sha256(card),
        **({"hardened": harder} if harder else {}),
    )
    log = audit_log.appended((), entry)
    if tier is not None:
        more = audit_log.make_entry(who=who, action="tier", tier=tier, why=why, set_sha256=sha)
        log = audit_log.appended(audit_log.parse(log, path), more)
    files = {f"{submissions.RECORDS}{name}.json": content for name, content in records.items()}
    files |= {f"{submissions.HARDENED}{name}.json": content for name, content in (hard or {}).items()}
    submissions.write(path, files | {submissions.CARD: card, submissions.AUDIT: log})
    listed(path.parent, path.name, sha)
    return path


def listed(root: Path, slug: str, sha: str) -> None:
    """Let the board in `root` do without this submission's set."""
    board = owners.read_board(root)
    external = dict(board.external) | {slug: sha}
    lines = ['maintainers = ["a maintainer"]', "[external]", *(f"{json.dumps(k)} = {json.dumps(v)}" for k, v in external.items())]
    (root / owners.BOARD).write_text("\n".join(lines) + "\n")


def records_of(path: Path) -> list[RunRecord]:
    return [read_record(p) for p in sorted((path / "records").glob("*"))]


def write_card(path: Path, **fields: Any) -> Path:
    path.write_text("\n".join(f"{k} = {json.dumps(v)}" for k, v in (CARD | fields).items() if v is not None) + "\n")
    return path


def tree(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def shaped(dataset: str) -> SyntheticSet:
    """One random uint8 image per class, in the dataset's own size and number of classes."""
    entry = DATASETS[dataset]
    generator = torch.Generator().manual_seed(0)
    side = entry.image_size
    images = torch.randint(0, 256, (entry.num_classes, entry.channels, side, side), generator=generator, dtype=torch.uint8)
    return SyntheticSet(images, torch.arange(entry.num_classes), dataset, 1, name="shaped")
