"""What reaches disk, as frozen pydantic models. Imports no torch."""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Mapping
from datetime import datetime
from operator import itemgetter
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from mabench.digests import stream

MAX_PASSES = (
    10_000  # ours: test passes of a run; the headline has 200, and a record of more would be larger than any that is read
)
MAX_PLATEAU = 20  # ours: the last tenth of the headline's 200 test passes; more would reach back to where networks still learn
RECORD_SCHEMA = 1  # raised when a field of RunRecord changes meaning; readers refuse a newer one


class Frozen(BaseModel):
    """Base of all models: immutable, and an unknown field is an error rather than ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Finite(Frozen):
    """A model whose numbers go into digests: NaN and infinity are errors."""

    model_config = ConfigDict(allow_inf_nan=False)


Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Whole = Annotated[int, Field(ge=0, le=2**53)]  # what every reader of JSON and every column of a table holds exactly
Count = Annotated[int, Field(ge=1, le=2**53)]
SeedStreams = Literal["fixed", "set"]
"""set = a seed's random numbers depend on the suite and the set, so that no set can be made for them; fixed = on the seed alone."""
FileName = Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,64}$")]
"""A name that becomes part of a file's name."""


BLANK = "\u115f\u1160\u2800\u3164\uffa0"
"""Letters and a symbol that are drawn as nothing: with them two names look the same."""


def _visible(text: str) -> str:
    """Text of a stranger: nothing that a terminal or a page would obey instead of show (controls, direction overrides)."""
    bad = sorted(
        {f"U+{ord(c):04X}" for c in text if (unicodedata.category(c) in ("Cc", "Cf", "Cs") and c not in "\n\t") or c in BLANK}
    )
    if bad:
        raise ValueError(f"holds invisible or control characters ({', '.join(bad[:5])}); leave them out")
    return text


def _one_line(text: str) -> str:
    if "\n" in text or "\t" in text:
        raise ValueError("must be one line")
    return _visible(text)


Line = Annotated[str, Field(max_length=300), AfterValidator(_one_line)]
"""One line of text from a stranger; escaped wherever it is shown."""
Text = Annotated[str, Field(max_length=8000), AfterValidator(_visible)]


class Evaluator(Finite):
    """A network that is trained on a set and tested: architecture, initial weights, input, and the rate it is trained with."""

    name: FileName
    architecture: str
    """A network of `networks.py` (library='mabench') or a timm name with its explicit tag (library='timm')."""
    library: Literal["mabench", "timm"]
    family: Literal["cnn", "transformer", "mlp"]
    pretrained: bool
    input_size: Count
    """Side in pixels to which images are resized, square."""
    learning_rate: Positive
    optimizer: Literal["sgd", "adamw"] = "sgd"
    arguments: dict[str, bool | int | float | str | tuple[int, ...]] = Field(default_factory=dict)
    """Keyword arguments of the architecture: depth, patch_size, ..."""
    mean: tuple[float, ...] | None = None
    """Per-channel normalisation of the pretrained weights; None = the dataset's own."""
    std: tuple[float, ...] | None = None
    note: str = ""
    """One line for a reader: where weights and rate come from. Not part of any digest."""


class Augmentation(Finite):
    """What happens to a training batch, at the set's own resolution, before the resize. Per sample unless said."""

    color: Literal["none", "full", "brightness-only"] = "none"
    """full = brightness, saturation, contrast with DSA's definitions."""
    brightness: float = 1.0  # DSA: x + U(-.5,.5)*brightness
    saturation: float = 2.0  # DSA: (x - mean_c) * U(0,saturation) + mean_c
    contrast: float = 0.5  # DSA: (x - mean_chw) * (U(0,1) + contrast) + mean_chw
    geometry: tuple[Literal["crop", "scale", "rotate"], ...] = ()
    """Applied all in this order, or one of them per batch when `geometry_one_of`."""
    geometry_one_of: bool = False
    crop_ratio: Fraction = 0.125  # shift up to this part of the side
    scale_ratio: Positive = 1.2
    rotate_degrees: float = 15.0
    flip: Fraction = 0.0
    """Probability of a horizontal flip."""
    flip_first: bool = False
    """Flip before colour (HMDC's released code) instead of after geometry."""
    cutmix: Fraction = 0.0
    """Probability per batch."""
    cutmix_except: tuple[Literal["cnn", "transformer", "mlp"], ...] = ()
    """Evaluator families that never get CutMix (HMDC's code: its ViTs)."""
    cutout: Literal["never", "always", "unless-cutmix"] = "never"
    cutout_ratio: Fraction = 0.5
    space: Literal["pixel", "normalised"] = "pixel"
    """Where the operations act; zero fill is black in pixel space, the mean colour in normalised space."""
    one_of: tuple[Literal["color", "crop", "cutout", "flip", "scale", "rotate"], ...] = ()
    """DSA: one of these for each batch and nothing else, with the strengths above; flip mirrors half of the images."""

    @property
    def absent(self) -> bool:
        """Whether images pass unchanged."""
        return not self.one_of and not self._operations()

    def _operations(self) -> bool:
        return any((self.color != "none", self.geometry, self.flip > 0, self.cutmix > 0, self.cutout != "never"))

    @model_validator(mode="after")
    def _one_of_stands_alone(self) -> Augmentation:
        if self.one_of and self._operations():
            raise ValueError("one_of is the whole augmentation: leave color, geometry, flip, cutmix and cutout out")
        return self


class Distillation(Finite):
    """Knowledge distillation at evaluation (Model Pool, Eq. 1): (1-alpha)*CE + alpha*tau^2*KL(teacher || student)."""

    teacher: str
    """Evaluator trained first on the same set with the same recipe and plain cross-entropy."""
    alpha: Fraction
    temperature: Positive


class Recorded(Finite):
    """Learning from teachers' logits on every view of every epoch, recorded beside the set (`recorded.py`; FKD, SRe2L, G-VBSM).

    The record brings order, crops, flips, CutMix boxes and logits. Loss: `loss` + ground_truth * cross-entropy.
    """

    loss: Literal["mse", "kl"] = "mse"
    """mse = squared distance of the logits, mean over images and classes (G-VBSM, Eq. 11, as released); kl = KL(teacher ||
    student) of the softmax of logits / temperature, mean over images, not multiplied by temperature^2 (SRe2L)."""
    temperature: Positive = 1.0
    """Of kl."""
    ground_truth: Annotated[float, Field(ge=0)] = 0.0
    """Weight (gamma) of the cross-entropy with the class of the image that was cropped, whatever CutMix put into it."""


class Recipe(Finite):
    """How one evaluator is trained on one decoded set and when it is tested. Every quirk is a named field."""

    epochs: Count
    batch_size: Count
    test_every: Count
    """Epochs between test passes; the last epoch always ends with one."""
    score: Literal["best", "last"]
    learning_rate: Positive | None = None
    """None = the evaluator's own."""
    rate: Literal["fixed", "learned"] = "fixed"
    """learned = the rate that the set brings (trajectory matching learns it with the images); `learning_rate` where it has none."""
    schedule: Literal["constant", "cosine", "half-cosine"] = "constant"
    """cosine = after e of E epochs the rate is multiplied by (1 + cos(pi e / E)) / 2; half-cosine = by (1 + cos(pi e / 2E)) / 2, which
    ends at a half (RDED's released code)."""
    optimizer: Literal["sgd", "adamw"] | None = None
    """None = the evaluator's own."""
    momentum: Fraction = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    weight_decay_on: Literal["all", "weights"] = "all"
    """weights = only tensors called weight of two dimensions and more: no biases, no norms (SRe2L's and G-VBSM's released code)."""
    decay_after: Count | None = None
    """After this many epochs the rate is multiplied by `decay_factor` and the optimizer is reset; None = constant."""
    decay_factor: Positive = 0.1
    decay_momentum: Fraction | None = None
    """Momentum after the decay; None = unchanged."""
    accumulate: Count = 1
    """A batch passes in at most this many parts of equal size (the last may be smaller) whose weighted gradients add up to that of
    the batch's mean; batch norm sees a part at a time."""
    augmentation: Augmentation = Augmentation()
    normalisation: Literal["evaluator", "dataset", "zca"] = "evaluator"
    """dataset = the dataset's mean and std even for pretrained weights (HMDC's released code); zca = whitened images, in whose space
    they are augmented as well (MTT's released code)."""
    batch_norm: Literal["train", "frozen", "frozen-if-pretrained"] = "frozen-if-pretrained"
    classifier_only: tuple[str, ...] = ()
    """Evaluators of which only the last linear layer is trained (HMDC's released code: its ConvNet)."""
    resize_align_corners: bool = False
    distillation: Distillation | None = None
    recorded: Recorded | None = None
    """None = the set's own labels under the augmentation above."""

    @property
    def test_epochs(self) -> tuple[int, ...]:
        """Epochs, counted from 1, after which the network is tested."""
        every = range(self.test_every, self.epochs + 1, self.test_every)
        return (*every, *(() if self.epochs in every else (self.epochs,)))

    @property
    def plateau_epochs(self) -> tuple[int, ...]:
        """The last tenth of `test_epochs`, at least one and at most 20: their mean selects nothing. No engine ends these passes early."""
        passes = self.test_epochs
        return passes[-min(MAX_PLATEAU, math.ceil(len(passes) / 10)) :]

    @model_validator(mode="after")
    def _fields_fit(self) -> Recipe:
        if self.test_every > self.epochs:
            raise ValueError(f"test_every = {self.test_every} is larger than epochs = {self.epochs}")
        if self.epochs > MAX_PASSES * self.test_every:
            raise ValueError(
                f"epochs = {self.epochs} with test_every = {self.test_every} are more than {MAX_PASSES:,} test passes"
            )
        if self.schedule != "constant" and self.decay_after is not None:
            raise ValueError("schedule and decay_after both change the rate: leave one of the two out")
        if self.recorded is not None and self.distillation is not None:
            raise ValueError("recorded and distillation both say what the loss is: leave one of the two out")
        if self.normalisation == "zca" and self.augmentation.space != "normalised":
            raise ValueError('normalisation = "zca" augments whitened images: set space = "normalised"')
        if self.normalisation == "zca" and self.recorded is not None:
            raise ValueError("recorded labels are of images that mean and std normalise, not of whitened ones")
        if self.recorded is not None and self.augmentation != Augmentation(space="normalised"):
            raise ValueError('recorded labels bring their own views: of the augmentation only space = "normalised" is left')
        return self


class Suite(Finite):
    """One fixed set of rules: dataset, evaluators by track, recipe, seeds, score rule. Released suites never change."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9-]{3,64}$")]
    version: Count
    title: Line
    measures: Text
    """What this suite measures, for a method author who does not read code. Not part of the digest."""
    open_rates: Line | None = None
    """Which learning rates these are, where no sweep on held-out training images has chosen them yet: every table says so. Not part of
    the digest."""
    dataset: str
    tracks: dict[FileName, tuple[str, ...]]
    """Track name -> evaluator names, in table order."""
    recipe: Recipe
    track_recipe: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Track name -> fields of the recipe that this track replaces."""
    evaluator_fields: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Evaluator name -> fields of its entry that this suite replaces (input_size, learning_rate)."""
    seeds: Annotated[tuple[Whole, ...], Field(min_length=1)]
    seed_streams: SeedStreams = "fixed"
    std: Literal["unbiased", "population"] = "unbiased"
    ipcs: tuple[Count, ...]
    """Images per class that have a table; other budgets run too and say so."""
    balanced: bool = True
    """Refuse sets whose classes have different numbers of stored images."""

    @property
    def id(self) -> str:
        return f"{self.name}@{self.version}"

    def recipe_for(self, track: str) -> Recipe:
        """The recipe of a track, its own fields replaced; validated again."""
        changes = self.track_recipe.get(track, {})
        return Recipe.model_validate(_merged(self.recipe.model_dump(), changes))


def _merged(base: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    return base | {
        k: _merged(base[k], v) if isinstance(v, Mapping) and isinstance(base.get(k), dict) else v for k, v in changes.items()
    }


def cell_name(track: str, evaluator: str, seed: int) -> str:
    """How a cell is called: safe as a file name and unique within one evaluation."""
    return f"{track}--{evaluator}--seed{seed}"


class Cell(Finite):
    """Set x evaluator x seed: the unit of work, of resume, of scale-out and of verification."""

    set_sha256: str
    suite: Annotated[str, Field(pattern=r"^[a-z0-9@-]{1,80}$")]
    suite_digest: str
    track: FileName
    evaluator: Evaluator
    recipe: Recipe
    seed: Whole
    seed_streams: SeedStreams = "fixed"
    """As the suite says; `fixed` in records of before the field."""
    labels_sha256: str | None = None
    """Of the record of labels that a `recorded` recipe replays; None = the set's own labels."""

    @property
    def name(self) -> str:
        """As `cell_name`."""
        return cell_name(self.track, self.evaluator.name, self.seed)

    def stream(self, name: str) -> int:
        """The integer that one kind of random numbers of this run (`init`, `order`, `augment`) begins with."""
        scope = (self.suite, self.set_sha256) if self.seed_streams == "set" else ()
        return stream(self.seed, name, *scope)


class Finding(Frozen):
    """One thing that a reader of a foreign file decided: what, on what evidence, and the flag that overrides it."""

    field: str
    value: str
    reason: str
    flag: str = ""


class SetSummary(Frozen):
    """What a record keeps of the set it was made from."""

    sha256: str
    name: str
    dataset: str
    ipc: Whole
    stored_images: Whole
    decoded_images: Whole
    image_shape: tuple[Whole, Whole, Whole]
    image_dtype: str
    decode: str
    labels: Literal["hard", "soft"]
    stored_bytes: Whole
    """Images, and labels where they are soft."""
    recorded_bytes: Whole = 0
    """Of the record of labels, where the recipe replays one."""
    learning_rate: float | None = None
    """Learned with the images; None = the set brings none."""
    findings: tuple[Finding, ...] = ()

    @property
    def bytes(self) -> int:
        """Everything that is stored to train on the set: images, soft labels, recorded labels."""
        return self.stored_bytes + self.recorded_bytes

    @property
    def taught(self) -> Literal["hard", "soft"]:
        """The kind of labels that a network learned from: recorded ones are soft, whatever the set's own are."""
        return "soft" if self.recorded_bytes else self.labels


class SecondResult(Frozen):
    """A run on the dataset's second test set, after the last epoch. Never ranked."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9._-]{1,64}$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """Of the file of images, as its authors publish it."""
    correct: Whole
    total: Count

    @model_validator(mode="after")
    def _no_more_than_all(self) -> SecondResult:
        if self.correct > self.total:
            raise ValueError(f"{self.correct} of {self.total} images cannot be right")
        return self


class RunRecord(Frozen):
    """The result of one cell. Only what was observed: best, best epoch and last are derived from the curve."""

    record_schema: Literal[1] = 1
    cell: Cell
    synthetic_set: SetSummary
    test_sha256: str
    """Order-independent content digest of the real test split that was used."""
    total: Count
    """Number of test images in one test pass."""
    curve: tuple[tuple[Whole, Whole], ...]
    """(epoch, correct) of every test pass, epochs counted from 1."""
    train_loss: tuple[tuple[Whole, float], ...] = ()
    """(epoch, mean training loss of that epoch) at every test pass; -1 where it was not finite."""
    diverged_epoch: Whole | None = None
    """First epoch whose loss, or the last one whose weights, were not finite; None = it did not happen. Such a cell counts as
    chance level (`scoring.score`), its curve stays what was observed."""
    engine: Literal["reference", "fast"] = "reference"
    """`fast`: bfloat16 products, compiled, pruned looks (PROTOCOL.md has the equivalence)."""
    upper_bounds: tuple[int, ...] = ()
    """Epochs whose look stopped when the best so far could not be beaten: there the curve holds an upper bound."""
    images_tested: Whole | None = None
    """Test images that went through the network, all test passes together; None = all of every pass."""
    initial_weights_sha256: str = ""
    """Of the network's parameters and buffers before the first step; empty in records of before the field."""
    first_losses: tuple[float, ...] = ()
    """Losses of the first ten steps, -1 where not finite: from which step on two machines differ."""
    second_test: SecondResult | None = None
    """None = it was not at hand; left out of what is written then, so that records of before the field stay what they are."""
    environment: dict[str, str]
    seconds: float
    started: str
    """UTC, ISO 8601."""

    @model_serializer(mode="wrap")
    def _without_what_is_absent(self, written: SerializerFunctionWrapHandler) -> dict[str, Any]:
        value: dict[str, Any] = written(self)
        if value.get("second_test") is None:
            value.pop("second_test", None)
        return value

    @model_validator(mode="after")
    def _curve_is_plausible(self) -> RunRecord:
        if not self.curve:
            raise ValueError("the curve is empty")
        epochs, counts = (list(column) for column in zip(*self.curve, strict=True))
        if epochs != sorted(set(epochs)) or min(counts) < 0 or max(counts) > self.total:
            raise ValueError("the curve's epochs must rise and its counts lie in 0..total")
        if not set(self.upper_bounds) <= set(epochs[:-1]):
            raise ValueError("upper_bounds must be epochs of the curve; the last test pass is whole")
        return self

    @property
    def best(self) -> float:
        """Highest test accuracy of the run, a fraction in [0,1]."""
        top: int = max(map(itemgetter(1), self.curve))
        return top / self.total

    @property
    def best_epoch(self) -> int:
        """First epoch that reached `best`."""
        top = max(map(itemgetter(1), self.curve))
        return next(e for e, c in self.curve if c == top)

    @property
    def last(self) -> float:
        """Test accuracy after the last epoch, a fraction in [0,1]."""
        return self.curve[-1][1] / self.total


Link = Annotated[str, Field(max_length=500, pattern=r"^(https?://[^\s<>\"'`\\]+)?$"), AfterValidator(_one_line)]
"""Empty, or an address that starts with http:// or https://."""
Slug = Annotated[str, Field(pattern=r"^[a-z0-9-]{3,64}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Card(Frozen):
    """Who made a set and how: what a leaderboard row says beside its numbers."""

    title: Annotated[Line, Field(min_length=1, max_length=120)]
    authors: Annotated[tuple[Line, ...], Field(max_length=50)] = ()
    paper: Link = ""
    code: Link = ""
    command: Text = ""
    note: Text = ""
    """What a user of the set should know: a learned rate, networks that were trained first, labels that were corrected."""
    licence: Line = ""
    source_networks: Annotated[tuple[Line, ...], Field(max_length=50)] = ()
    """Evaluators' architectures that made the set, so that unseen ones can be told apart."""
    slug: Annotated[str, Field(pattern=r"^([a-z0-9-]{3,64})?$")] = ""
    """Name of the submission's folder; empty = made from the title."""
    method: Line = ""
    """Name of the condensation method, so that several sets of one method can be told from other methods'."""
    submitter: Line = ""
    """Who submits, where that is not the first author."""
    decoder_bytes: Whole = 0
    """Bytes of a decoder that the set cannot be trained without; 0 for the formats that mabench decodes itself."""
    gpu_hours: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    """What making the set cost."""
    bibtex: Text = ""
    """How to cite it, shown as it is; empty = an entry made from the fields above."""

    def toml(self) -> str:
        """The card as TOML, fields in this order, those that say nothing left out: the same card gives the same bytes."""
        said = self.model_dump(mode="json", exclude_defaults=True)
        # a JSON string is a TOML string; so is a list of them, and a number
        return "".join(f"{name} = {json.dumps(value, ensure_ascii=False)}\n" for name, value in said.items())


Tier = Literal["reported", "self-run", "spot-checked", "verified", "challenged", "superseded", "withdrawn"]
"""How far a row can be trusted. reported: numbers of a paper, no records; self-run: records by the submitter; spot-checked:
some runs repeated by others; verified: all of them; challenged: a re-run disagreed; superseded, withdrawn: kept, unranked."""

RANKED_TIERS: tuple[Tier, ...] = ("verified", "spot-checked", "self-run")
"""Whose complete tracks take part in the ranking."""


def _real_time(text: str) -> str:
    datetime.fromisoformat(text)  # a ValueError is what pydantic expects
    return text


class AuditEntry(Frozen):
    """One line of a submission's append-only log: who did what to it, when, why, and which records it is about."""

    when: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00$"), AfterValidator(_real_time)]
    """UTC, ISO 8601."""
    who: Annotated[Line, Field(min_length=1)]
    action: Literal["submitted", "changed", "re-run", "tier"]
    tier: Tier = "self-run"
    """With action tier: what was decided, self-run taking a decision back. Other entries decide nothing, whatever stands here."""
    why: Annotated[Line, Field(min_length=1)]
    set_sha256: Sha256
    records: dict[Line, Sha256] = Field(default_factory=dict)
    """Name -> sha256 of the file: records that were added."""
    hardened: dict[Line, Sha256] = Field(default_factory=dict)
    """Name -> sha256 of the file: records of the same runs with hardened labels that were added, kept under hardened/."""
    contradicted: dict[Line, Sha256] = Field(default_factory=dict)
    """Read from older logs only; what a re-run says is computed from its records."""
    reruns: dict[Line, Sha256] = Field(default_factory=dict)
    """Name -> sha256 of the file: records of a re-run, kept under reruns/."""
    card_sha256: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""
    """Of the card as this entry leaves it; empty where it did not touch the card."""
    previous: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""
    """sha256 of the line before, without its line end; empty for the first: a line changed later breaks the chain."""
    checksum: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""
    """sha256 of the entry as a line with an empty checksum: the last line, which nothing follows, is damaged by nobody unseen."""
