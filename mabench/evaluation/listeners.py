"""Events for other programs. A listener is a function of an event; packages offer theirs by the entry point group
`mabench.listeners`, as a function without arguments that returns one."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points

from mabench.errors import MabenchError, lookup
from mabench.results.scoring import score
from mabench.runs.events import Event, Failed, Finished, Listener, Progress, silent

GROUP = "mabench.listeners"
BUNDLED = {name: EntryPoint(name, f"mabench.evaluation.listeners:{name}", GROUP) for name in ("tensorboard", "wandb")}


class Heard:
    """Passes events on and remembers which runs failed."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self.failed: list[Failed] = []

    def __call__(self, event: Event) -> None:
        if isinstance(event, Failed):
            self.failed.append(event)
        self._listener(event)


def joined(listeners: Listener | str | Sequence[Listener | str] | None) -> Listener:
    """One listener for several; a text is the name of an entry point. Raises MabenchError for a name that is not installed."""
    if listeners is None:
        return silent
    several = [listeners] if isinstance(listeners, str) or callable(listeners) else list(listeners)
    functions = [named(one) if isinstance(one, str) else one for one in several]

    def tell(event: Event) -> None:
        for function in functions:
            function(event)

    return tell


def named(name: str) -> Listener:
    """The listener of an entry point, made anew."""
    known = {point.name: point for point in entry_points(group=GROUP)} | BUNDLED
    try:
        listener: Listener = lookup(known, name, "listener").load()()
    except ImportError as error:
        raise MabenchError(f"listener {name}: {error}. Install it: pip install 'mabench[{name}]'") from error
    return listener


def tensorboard() -> Listener:
    """Accuracy against epoch, a curve a run, in ./runs (as torch's SummaryWriter has it)."""
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter()

    def listen(event: Event) -> None:
        if isinstance(event, Finished) and not event.resumed:
            for epoch, correct in event.record.curve:
                writer.add_scalar(event.record.cell.name, correct / event.record.total, epoch)
            writer.flush()

    return listen


def wandb() -> Listener:
    """Accuracy of the latest test pass while a cell runs, and the score of every finished run, in project `mabench`."""
    import wandb

    run = wandb.init(project="mabench")

    def listen(event: Event) -> None:
        if isinstance(event, Progress) and event.accuracy is not None:
            run.log({f"{event.cell.name}/accuracy": event.accuracy, "epoch": event.epoch})
        elif isinstance(event, Finished):
            run.summary[f"{event.record.cell.name}/score"] = score(event.record)

    return listen
