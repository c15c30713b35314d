"""What the commands share: how they print and end, and the options that mean the same in all of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click
from click.shell_completion import CompletionItem

from mabench.cli import console
from mabench.errors import MabenchError, printable

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Ended:
    """A result that ends the command with another exit code than 0: 1 = it ran, and the answer is bad news."""

    value: Any
    exit_code: int = 1


class Command(click.Command):
    """A command with `--json` and `--quiet`, whose help ends with examples. What the function returns is what `--json` prints."""

    def __init__(self, *arguments: Any, **fields: Any) -> None:
        super().__init__(*arguments, **fields)
        self.params += [
            click.Option(["--json"], is_flag=True, help="Print the result as JSON and nothing else."),
            click.Option(["-q", "--quiet"], is_flag=True, help="Print warnings and errors only."),
        ]

    def invoke(self, ctx: click.Context) -> Any:
        console.note_start()
        as_json, quiet = ctx.params.pop("json"), ctx.params.pop("quiet")
        with console.muted(as_json or quiet):
            result = super().invoke(ctx)
        value = result.value if isinstance(result, Ended) else result
        if as_json:
            click.echo(json.dumps(value, indent=1, default=str))
        if isinstance(result, Ended):
            ctx.exit(result.exit_code)
        return value

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if self.epilog:
            formatter.write("\nExample:\n")
            for line in self.epilog.splitlines():
                formatter.write(_folded(line.strip(), formatter.width) + "\n")


def _folded(command: str, columns: int) -> str:
    """A command within `columns`, continued by backslashes between its options."""
    lines = ["  " + command]
    while len(lines[-1]) > columns and (place := lines[-1].rfind(" --", 8, columns - 2)) > 0:
        lines[-1:] = [lines[-1][:place] + " \\", "     " + lines[-1][place:]]
    return "\n".join(lines)


class Group(click.Group):
    """Commands in sections, their summaries whole. A MabenchError ends any of them with its text and exit code 2.

    Names of files reach a terminal here, and only as text: a MabenchError sees to its own, click's messages are seen to below.
    """

    command_class = Command
    group_class = type  # a group within a group is of the same class

    def __init__(self, *arguments: Any, sections: dict[str, Sequence[str]] | None = None, **fields: Any) -> None:
        super().__init__(*arguments, **fields)
        self.sections = sections or {}

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except MabenchError as error:
            console.say(f"mabench: {error}", err=True)
            ctx.exit(2)
        except click.ClickException as error:
            error.message = printable(error.message)  # type: ignore[misc]  # declared final, shown later
            raise

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections = self.sections or {"Commands": sorted(self.commands)}
        for title, names in sections.items():
            with formatter.section(title):
                formatter.write_dl([(name, self.commands[name].get_short_help_str(limit=1000)) for name in names])


# -- the set -----------------------------------------------------------------------------------------------------------

READING = (
    "dataset", "set_index", "layout", "space", "mean", "std", "decode", "ipc", "learned_rate", "recorded_labels", "images_key", "labels_key",
    "label_kind",
)  # fmt: skip


def _several(options: Sequence[Callable[[F], F]]) -> Callable[[F], F]:
    def decorate(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def numbers(context: click.Context, parameter: click.Parameter, text: str | None) -> list[float] | None:
    """`0.5,0.5,0.5` -> numbers. Raises MabenchError for anything else."""
    try:
        return None if text is None else [float(part) for part in text.split(",")]
    except ValueError as error:
        raise MabenchError(f"--{parameter.name} {text}: not numbers. Write one per channel, e.g. 0.5,0.5,0.5") from error


reading_flags = {
    "dataset": click.option(
        "--dataset",
        help="The real dataset that the set condenses (default: from the file, its name or its content; eval and submit fall back on the suite's).",
        shell_complete=lambda *_: names("dataset", *_),
    ),
    "set_index": click.option("--set-index", type=int, help="Which set of a file that holds several (default: the last)."),
    "layout": click.option(
        "--layout", type=click.Choice(["nchw", "nhwc"]), help="Order of the image axes (default: from their lengths)."
    ),
    "space": click.option(
        "--space",
        type=click.Choice(["pixel", "normalised", "signed", "imagenet", "zca", "uint8-range"]),
        help="pixel: 0..1; normalised: by the dataset's mean and std; signed: -1..1; imagenet: by ImageNet's mean and std; zca: whitened; uint8-range: 0..255 (default: from the values).",
    ),
    "mean": click.option("--mean", callback=numbers, help="Mean per channel that was subtracted, e.g. 0.5,0.5,0.5; with --std."),
    "std": click.option("--std", callback=numbers, help="Std per channel that images were divided by; with --mean."),
    "decode": click.option(
        "--decode",
        help="How small images are packed into one: none, grid2 (2 x 2), ... grid8 (default: from the file, else none).",
    ),
    "ipc": click.option(
        "--ipc", type=click.IntRange(min=1), help="Stored images per class (default: images divided by classes)."
    ),
    "learned_rate": click.option(
        "--learned-rate", type=float, help="Learning rate that was learned with the images, if the file does not hold it."
    ),
    "images_key": click.option("--images-key", help="Key or column of the images (default: the usual names)."),
    "labels_key": click.option("--labels-key", help="Key or column of the labels (default: the usual names)."),
    "label_kind": click.option(
        "--label-kind",
        type=click.Choice(["hard", "probabilities", "logits", "log-probabilities", "centred"]),
        help="Kind of labels (default: from their values).",
    ),
    "recorded_labels": click.option(
        "--recorded-labels",
        type=click.Path(path_type=Path),
        help="Folder of labels recorded for every epoch (default: labels/ beside SET).",
    ),
}


def reading_options(command: F) -> F:
    """SET, and the flags that override what its reader would guess; the command gets `reading`, those that were given."""

    @wraps(command)
    def with_reading(*given: Any, **arguments: Any) -> Any:
        values = {name: arguments.pop(name) for name in READING if name in arguments}
        return command(*given, reading={name: value for name, value in values.items() if value is not None}, **arguments)

    set_argument = click.argument("set_path", metavar="SET")
    return _several([set_argument, *reading_flags.values()])(with_reading)  # type: ignore[return-value]


FROM_SET = tuple(name for name in reading_flags if name != "ipc")
"""What overrides the reader's guesses about a set whose budget is named otherwise, as in `reproduce`."""
from_set_options = _several([reading_flags[name] for name in FROM_SET])

# -- the part of a suite, and where it runs ----------------------------------------------------------------------------


def seed_list(context: click.Context, parameter: click.Parameter, text: str | None) -> list[int] | None:
    """`0,1`, `0-2`, `0-2,5` -> seeds. Raises MabenchError for anything else."""
    if text is None:
        return None
    seeds: set[int] = set()
    try:
        for part in text.split(","):
            first, separator, last = part.partition("-")
            seeds |= set(range(int(first), int(last) + 1)) if separator else {int(first)}
    except ValueError as error:
        raise MabenchError(f"--seeds {text}: not numbers. Write a list or a range, e.g. --seeds 0,1,2 or --seeds 0-2") from error
    if not seeds:
        raise MabenchError(f"--seeds {text}: holds no seed. Write the smaller number first, e.g. --seeds 0-2")
    return sorted(seeds)


def shard_of(context: click.Context, parameter: click.Parameter, text: str | None) -> tuple[int, int] | None:
    """`2/8` -> (2, 8). Raises MabenchError for anything else."""
    from mabench.runs.plan import part_of

    return None if text is None else part_of(text)


def names(kind: str, context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """What a shell completes: the names of suites, evaluators, datasets or methods that begin like this."""
    from mabench.cli import listing

    return [CompletionItem(name) for name in listing.names(kind) if name.startswith(incomplete)]


part_options = _several(
    [
        click.option("--track", "tracks", multiple=True, help="Only this track of the suite; may be repeated."),
        click.option(
            "--evaluator",
            "evaluators",
            multiple=True,
            help="Only evaluators whose name matches, e.g. 'resnet*'; may be repeated.",
            shell_complete=lambda *_: names("evaluator", *_),
        ),
        click.option("--seeds", callback=seed_list, help="Only these of the suite's seeds: 0,1 or 0-2."),
    ]
)

device_option = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N, or mps.")
engine_option = click.option(
    "--engine",
    default="auto",
    show_default=True,
    help="reference (eager float32), fast (shortened test passes, compiled where that pays), or auto: fast where it was shown to give the same numbers.",
)


def out_option(default: str) -> Callable[[F], F]:
    """`--out`, a folder; `default` says where without it."""
    return click.option("-o", "--out", type=click.Path(path_type=Path), help=f"Folder for everything (default: {default}).")


def launcher_options(command: F) -> F:
    """The flags that say where cells run; the command gets `launcher`, a ray_cluster.Ray or None for here."""
    options = [
        click.option(
            "--launcher",
            type=click.Choice(["local", "ray"]),
            default="local",
            show_default=True,
            help="One by one here, or on Ray.",
        ),
        click.option(
            "--address",
            help="Address of the Ray cluster: auto (default), HOST:PORT, ray://HOST:10001, or local to start one here.",
        ),
        click.option(
            "--gpus-per-cell",
            type=float,
            help="Ray: GPUs per evaluator run (cell), 0 to 1, e.g. 0.5 for two on one GPU (default: 1 where there are GPUs).",
        ),
        click.option(
            "--cpus-per-cell",
            type=int,
            help="Ray: threads per evaluator run (cell) (default: 1 beside a GPU, else as without Ray).",
        ),
    ]

    @wraps(command)
    def with_launcher(
        *given: Any, launcher: str, address: str | None, gpus_per_cell: float | None, cpus_per_cell: int | None, **arguments: Any
    ) -> Any:
        if launcher == "ray":
            from mabench.runs.ray_cluster import Ray

            return command(*given, launcher=Ray(address or "auto", gpus_per_cell, cpus_per_cell), **arguments)
        for flag, value in (("address", address), ("gpus-per-cell", gpus_per_cell), ("cpus-per-cell", cpus_per_cell)):
            if value is not None:
                raise MabenchError(f"--{flag} only applies with --launcher ray. Add --launcher ray, or leave it out.")
        return command(*given, launcher=None, **arguments)

    return _several(options)(with_launcher)  # type: ignore[return-value]


# -- submissions -------------------------------------------------------------------------------------------------------

submissions_option = click.option(
    "--submissions",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("submissions"),
    show_default=True,
    help="The folder of submissions.",
)
repo_option = click.option("--repo", metavar="ORG/NAME", help="A dataset repository on the Hugging Face Hub (or on HF_ENDPOINT).")
required_repo_option = click.option(
    "--repo", metavar="ORG/NAME", required=True, help="A dataset repository on the Hugging Face Hub (or on HF_ENDPOINT)."
)
who_option = click.option("--who", help="Your name in the audit log; with --repo it is the account that is logged in.")


def stopped(path: Path, error: Exception) -> NoReturn:
    """End a command that was asked to stop: what it did is in `path`. Exit code 130, as a shell has it for Ctrl-C."""
    console.say(f"\nStopped; everything so far is in {path}. The same command continues from there.", err=True)
    raise SystemExit(130) from error
