"""The columns of a table that a reader may add, and the note on every column; the one source for pages and data files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mabench.board.site import names
from mabench.board.site.standings import Standing

ABSENT = "\u2013"


@dataclass(frozen=True)
class Column:
    """A column that is hidden until a reader asks for it."""

    key: str
    title: str
    note: str
    number: Callable[[Standing], float | int | None] | None = None
    """What it is sorted by; None = its text."""
    shown: Callable[[Standing], str] | None = None
    """Its text; None = the number as percent."""

    @property
    def align(self) -> str:
        return "c-extra" + (" r" if self.number else "")

    @property
    def first(self) -> str:
        """The first direction of sorting."""
        return "down" if self.number and self.key != "bytes" else "up"

    def text(self, row: Standing) -> str:
        if self.shown is not None:
            return self.shown(row) or ABSENT
        number = self.number(row) if self.number else None
        return ABSENT if number is None else f"{100 * number:.1f}"

    def value(self, row: Standing) -> str:
        """What the page sorts by; empty = comes last."""
        if self.number is None:
            return self.text(row) if self.text(row) != ABSENT else ""
        return sort_value(self.number(row))


def sort_value(number: float | int | None) -> str:
    """What the page sorts a number by; empty = comes last. Six digits: a page has thousands of them."""
    return "" if number is None else f"{number:.6g}"


EXTRA = (
    Column(
        "worst", "Smallest lift", "Lift of the network to which the set brings least, in points.",
        lambda r: r.worst_lift,
        lambda r: f"{100 * r.worst_lift:+.1f} {names.network(r.worst_evaluator)}" if r.worst_lift is not None else "",
    ),
    Column(
        "recovery", "Recovery %", "(score - random) / (full data - random): 0 = random images, 100 = the whole training set.",
        lambda r: r.recovery,
    ),
    Column(
        "hardened", "Hardened %", "For soft labels: the score of the same images with hard labels, by the submitter's own runs. Never ranked.",
        lambda r: r.hardened,
    ),
    Column(
        "second", "Second test %", "Accuracy on new images of the same classes (CIFAR-10.1) after the last epoch. Never ranked.",
        lambda r: r.second,
    ),
    Column(
        "gap", "Seen - unseen", "Networks whose architecture made the set minus the others, in points. Near 0 is model-agnostic.",
        lambda r: r.gap,
    ),
    Column(
        "bytes", "Size", "Images, soft and recorded labels and a decoder, as stored. Sets of one budget can differ fourfold.",
        lambda r: r.bytes, lambda r: names.kib(r.bytes),
    ),
    Column("decode", "Packing", "grid2 = each stored image is cut into 2 x 2 images.", None, lambda r: r.decode),
    Column("images", "Trained on", "Images of one epoch, after decoding.", lambda r: r.decoded_images,
           lambda r: f"{r.decoded_images:,}" if r.decoded_images else ""),
    Column("made", "Made with", "Networks that made the set, as its card says.", None, lambda r: ", ".join(r.sources)),
    Column("authors", "Authors", "Who made the set, as its card says.", None, lambda r: r.authors),
    Column("submitter", "Submitted by", "Who sent it in.", None, lambda r: r.submitter),
    Column("date", "Date", "Day of the submission.", None, lambda r: r.submitted),
)  # fmt: skip

NOTES = (
    ("Rank", "Place by score among the complete rows of one suite, track, budget and kind of labels. “Clear” means that no other "
     "set can be in its place; “tied 2 to 5” is the 95 % interval of the place over seeds: sets whose intervals overlap are "
     "not told apart."),
    ("Score", "Mean test accuracy of the families of the track, each the mean of its networks. Whether the best or the last test pass of a run counts is the "
     "suite's rule and stands in the table's caption. ± is half of the 95 % interval over seeds. Runs that somebody else has repeated "
     "count as they came out there; the score by the submitter's own runs then stands beside it."),
    ("Best", "Mean accuracy at the best test pass of each run, which is chosen on the test split."),
    ("Plateau", "Mean accuracy over the last tenth of the test passes, at least one and at most 20: nothing is chosen, and there is "
     "little noise in it."),
    ("Last", "Mean accuracy at the last test pass."),
    ("95 % interval", "The same on one axis for the whole table. Dashed: random real images of the same budget. Solid: the whole "
     "training set, where it was run."),
    ("Gain by family", "Accuracy minus that of random real images, by family of networks and for every track of the suite: up "
     "and blue = the set teaches more than random images, down and orange = less. A full bar is 10 points or more."),
    ("Lift", "Score minus that of random real images, in points: of those packed like the set or of those that take its bytes, "
     "whichever learn more. ± is half of its 95 % interval over seeds and draws. At or below 0, condensing did not help."),
)  # fmt: skip
