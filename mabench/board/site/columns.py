"""The columns of the board, each with the note that tells how to read it; the one source for page, Markdown and data files."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Column:
    """`kind` decides how the page shows and sorts it; `shown` is whether it is there before a reader chooses."""

    key: str
    title: str
    kind: str
    note: str
    shown: bool = True


COLUMNS = (
    Column(
        "rank",
        "Rank",
        "rank",
        "Place by score among the complete rows of the same suite, track, images per class and kind of labels. The small "
        "numbers are the 95 % interval of the place when seeds are drawn anew: rows whose intervals overlap are not "
        "told apart by this exam. A dash: not ranked, the status says why.",
    ),
    Column(
        "title", "Method", "title", "What its makers call it. It leads to the set's own page; paper and code are their links."
    ),
    Column(
        "tier",
        "Trust",
        "tier",
        "Who has seen it. verified: all cells run again by somebody else. spot-checked: some of them. self-run: only by the "
        "submitter. reported: copied from a paper, not run here. challenged, superseded, withdrawn: kept for the record.",
    ),
    Column(
        "score",
        "Score %",
        "percent",
        "Mean test accuracy over all evaluators of the track, ± the standard deviation of that mean over seeds. Whether best "
        "or last look of a run counts is the suite's rule and stands above the table. Higher is better.",
    ),
    Column(
        "worst",
        "Worst %",
        "worst",
        "The evaluator that learns least from this set, and its accuracy. A set that suits one kind of network only shows here.",
    ),
    Column(
        "lift",
        "Lift",
        "points",
        "Score minus that of random real images of the same number and kind of labels, in points. At or below 0, "
        "condensing did not help. A dash: the random baseline was not run for this suite and budget.",
    ),
    Column("ipc", "IPC", "count", "Images per class that are stored. What is trained on can be more: see decode and bytes."),
    Column(
        "bytes",
        "Bytes",
        "bytes",
        "Size of the images, of the labels where they are soft, and of the decoder where the card names one. Two sets of one IPC can differ by a factor of four: "
        "8-bit and 32-bit pixels.",
    ),
    Column(
        "labels",
        "Labels",
        "text",
        "hard: a class number an image. soft: a probability a class, which carries more and costs bytes; never ranked with hard.",
    ),
    Column("cnn", "CNN %", "percent", "Mean over the convolutional evaluators, where there are two or more.", False),
    Column("transformer", "Transf. %", "percent", "Mean over the transformers, where there are two or more.", False),
    Column(
        "recovery",
        "Recovery %",
        "recovery",
        "(score - random) / (full data - random): 0 = random images, 100 = the whole training set. A dash: one of the two "
        "was not run, or they are less than 2 points apart.",
        False,
    ),
    Column("seen", "Seen %", "percent", "Mean over evaluators whose architecture made the set, as its card says.", False),
    Column("unseen", "Unseen %", "percent", "Mean over evaluators whose architecture did not make the set.", False),
    Column(
        "gap",
        "Gap",
        "points",
        "Seen minus unseen, in points: what the set owes to the networks it was made with. Near 0 is model-agnostic; "
        "evaluators differ in strength too, so compare gaps only within a column. A dash: no source network is named.",
        False,
    ),
    Column("last", "Last %", "percent", "Mean accuracy after the last epoch, which needs no look at the test split.", False),
    Column(
        "optimism",
        "Best - last",
        "points",
        "Score minus last: how much picking the best look on the test split adds. 0 where the suite counts the last look.",
        False,
    ),
    Column(
        "decode",
        "Decode",
        "text",
        "How stored images become training images. none: as they are. grid2: each stored image is cut into 2 x 2 images.",
        False,
    ),
    Column("decoded_images", "Trained on", "count", "Images in one epoch, after decoding.", False),
    Column(
        "sources",
        "Source networks",
        "list",
        "Architectures that were used to make the set, as its card says.",
        False,
    ),
    Column("authors", "Authors", "text", "As the card says.", False),
    Column(
        "status",
        "Status",
        "text",
        "ranked, or why not: runs are missing, another state of the suite, a paper's number, challenged, withdrawn.",
        False,
    ),
    Column(
        "diverged",
        "Diverged",
        "count",
        "Runs whose loss was not finite. Each counts as chance level, one over the number of classes; a dagger marks the network.",
        False,
    ),
    Column("runs", "Runs", "runs", "Finished cells (evaluator and seed) of those that the suite asks for.", False),
)

EVALUATOR_NOTE = (
    "Test accuracy of this network trained on the set: mean over seeds ± standard deviation. The darker the shade, the higher "
    "within this table. Hollow: fewer seeds than the suite asks for. A dagger: a run diverged and counts as chance level."
)
