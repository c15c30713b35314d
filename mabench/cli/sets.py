"""Check a set, and convert it."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from mabench.cli import console
from mabench.cli.options import Command, reading_options
from mabench.errors import MabenchError


@click.command(
    cls=Command,
    short_help="Show what is in a set and what was guessed while reading it.",
    epilog="mabench check my_set.pt --dataset cifar10\nmabench check org/name --json",
)
@reading_options
@click.option(
    "-o", "--out", type=click.Path(path_type=Path, dir_okay=False), help="The picture, a PNG (default: NAME.preview.png here)."
)
@click.option("--per-class", default=10, show_default=True, type=click.IntRange(1, 100), help="Images per class in the picture.")
@click.option("--no-preview", is_flag=True, help="Write no picture.")
def check(set_path: str, reading: dict[str, Any], out: Path | None, per_class: int, no_preview: bool) -> Any:
    """Show what is in a set, what was guessed while reading it and why, and draw its images.

    SET is a file, a folder, or a dataset on the Hub (org/name).
    """
    from mabench.sets import probes, readers, synthetic

    synthetic_set = readers.read(set_path, **reading)
    finding = probes.order_finding(synthetic_set)
    if finding is not None:
        synthetic_set = replace(synthetic_set, findings=(*synthetic_set.findings, finding))
        console.say(f"warning: {finding.reason}", err=True)
    console.describe(synthetic_set)
    path = out or Path(f"{synthetic_set.file_stem}.preview.png")
    if not no_preview:
        synthetic.preview(synthetic_set, path, per_class)
        console.say(f"\npreview: {path}")
    console.say(f"\nNext: {_evaluate(set_path, reading, synthetic_set.dataset)}  (mabench list shows every suite)")
    return synthetic_set.summary().model_dump(mode="json") | {"preview": None if no_preview else str(path)}


def _evaluate(set_path: str, reading: dict[str, Any], dataset: str) -> str:
    """The command that evaluates what was just read, with the flags it was read with."""
    from mabench import suites

    given = {name: value for name, value in reading.items() if value is not None}
    texts = {name: ",".join(map(str, value)) if isinstance(value, list) else str(value) for name, value in given.items()}
    flags = [f"--{name.replace('_', '-')} {shlex.quote(text)}" for name, text in texts.items()]
    suite = suites.small(dataset) or next((name.partition("@")[0] for name in suites.names(dataset)), None)
    return " ".join(["mabench eval", shlex.quote(set_path), *flags, *([f"--suite {suite}"] if suite else [])])


@click.command(
    cls=Command,
    short_help="Convert a set to the canonical file (safetensors).",
    epilog="mabench pack res_DC_CIFAR10_ConvNet_10ipc.pt --out dc_ipc10.safetensors\n"
    "mabench pack syn_data/ --fkd FKD_cutmix_fp16/ --out sre2l/set.safetensors",
)
@reading_options
@click.option(
    "-o", "--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="The .safetensors file to write."
)
@click.option("--force", is_flag=True, help="Replace an existing file.")
@click.option(
    "--fkd",
    type=click.Path(path_type=Path, file_okay=False),
    help="FKD archive (epoch_0/batch_0.tar ...) whose labels are imported into labels/ beside --out.",
)
@click.option(
    "--fkd-seed", default=42, show_default=True, help="Seed of the FKD recording, if the archive does not name the images."
)
@click.option(
    "--quantise",
    type=click.Choice(["uint8"]),
    help="Round pixels to 256 levels: a quarter of float32's bytes, but a different set.",
)
def pack(
    set_path: str, reading: dict[str, Any], out: Path, force: bool, fkd: Path | None, fkd_seed: int, quantise: str | None
) -> Any:
    """Convert a set to the canonical file: safetensors, pixel space, all metadata in its header."""
    from mabench.sets import fkd as archives
    from mabench.sets import label_files, quantising, readers

    synthetic_set = readers.read(set_path, **reading)
    if out.suffix != ".safetensors":
        raise MabenchError(f"{out}: the canonical file ends in .safetensors. Use --out {out.with_suffix('.safetensors')}")
    if out.exists() and not force:
        raise MabenchError(f"{out}: exists already. Choose another name, or replace it with --force.")
    quantised = quantising.to_uint8(synthetic_set) if quantise else None
    if quantised is not None:
        synthetic_set = quantised.synthetic_set
    if fkd is not None:
        imported = archives.import_labels(fkd, synthetic_set, out.parent / label_files.FOLDER, seed=fkd_seed)
        synthetic_set = replace(synthetic_set, findings=(*synthetic_set.findings, *imported))
    synthetic_set.save(out)
    console.describe(synthetic_set)
    value = synthetic_set.summary().model_dump(mode="json") | {"file": str(out)}
    if quantised is not None:
        console.say(f"\nquantised: {quantised.loss}. This is another set than before: evaluate it again.")
        value["quantised"] = {
            "largest_difference": quantised.largest,
            "mean_difference": quantised.mean,
            "outside": quantised.outside,
        }
    console.say(f"\nwritten: {out} ({out.stat().st_size:,} bytes)")
    console.say(f"Next: {_evaluate(str(out), {}, synthetic_set.dataset)}")
    return value
