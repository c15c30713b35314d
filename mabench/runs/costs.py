"""What cells cost: floating-point operations, processors and memory, and seconds on this device, measured on the beginning of
the real thing."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch

from mabench.data import DATASETS, Dataset, RealData
from mabench.engine import RESIDENT_BYTES, Wanted, may_be_fast
from mabench.engine.cuda_graphs import WARM
from mabench.networks import evaluators, sizes
from mabench.networks.batches import backward_batch, forward_batch
from mabench.networks.compiling import processor
from mabench.runs.folder import Folder
from mabench.runs.process import undisturbed
from mabench.schema import Cell
from mabench.sets import recorded
from mabench.sets.synthetic import SyntheticSet
from mabench.training import TRAIN_COST, provenance, work
from mabench.training.loop import Trainer
from mabench.training.material import Material, choose_engine

CALIBRATION_SECONDS = 1.5  # ours: long enough for a slow step, short enough for a suite of fourteen networks
PRUNED_SHARE = 0.3  # of the test images that the fast engine skips: 32% measured on ConvNet-3, IPC 10

PROCESS_BYTES = 2**30  # measured: a process that has imported torch, timm and the loop holds 890 MiB, shared libraries counted
GPU_PROCESS_BYTES = 4 * 2**30  # ours: a CUDA context and its libraries in host memory, with room
ACTIVATION_COPIES = 3.0  # ours: outputs, their gradients, and what layers keep besides


def flops(cell: Cell, dataset: Dataset, decoded_images: int, test_images: int) -> float:
    """Floating-point operations of a cell: those of one image times the images that pass, training counted 3 times.

    A teacher is trained on the same images, and then asked about each of them that the evaluator is trained on.
    """
    student, teacher = _taken_apart(cell)
    per_image = sizes.of(student.evaluator, dataset.num_classes, dataset.channels).flops
    total = per_image * work(student, decoded_images, test_images)
    if teacher is not None:
        per_image = sizes.of(teacher.evaluator, dataset.num_classes, dataset.channels).flops
        total += per_image * cell.recipe.epochs * decoded_images * (TRAIN_COST + 1)
    return total


def panel_work(cells: Sequence[Cell], dataset: Dataset, decoded_images: int, test_images: int) -> dict[str, float]:
    """Of every cell, by name: the floating-point operations of all cells that use the same compiled programs, its own included.

    Finished cells count too, so that a resumed run compiles what it would have compiled without the interruption.
    """
    shared: dict[str, float] = {}
    for cell in cells:
        per_image = sizes.of(cell.evaluator, dataset.num_classes, dataset.channels).flops
        key = cell.evaluator.model_dump_json()
        shared[key] = shared.get(key, 0.0) + per_image * work(cell, decoded_images, test_images)
    return {cell.name: shared[cell.evaluator.model_dump_json()] for cell in cells}


def _taken_apart(cell: Cell) -> tuple[Cell, Cell | None]:
    """The cell without its teacher, and the teacher as a cell of its own; neither distils."""
    if cell.recipe.distillation is None:
        return cell, None
    alone = cell.model_copy(update={"recipe": cell.recipe.model_copy(update={"distillation": None})})
    return alone, alone.model_copy(update={"evaluator": evaluators.EVALUATORS[cell.recipe.distillation.teacher]})


@dataclass(frozen=True)
class Needs:
    """What one cell asks of the machine it runs on."""

    cpus: float
    gpus: float
    memory_bytes: int
    """Of host memory, upper estimate."""


def needs(
    cell: Cell, synthetic_set: SyntheticSet, test: RealData, *, cpus: float, gpus: float, engine: Wanted = "reference"
) -> Needs:
    """Processors, GPUs and host memory of a cell.

    `cpus` is the number of threads that the cell computes with; the share of a GPU is not known from here, whoever runs the
    cell names it. Memory: the process, the decoded set twice (before and after normalisation), the network with gradients and
    optimizer state, and the activations of one backward pass, or of one batch of test images where that is more. On a GPU the
    last two lie elsewhere and the test split passes through host memory once.
    """
    recipe, dataset = cell.recipe, test.dataset
    summary = synthetic_set.summary()
    pixels = dataset.channels * dataset.image_size**2
    decoded = 4 * summary.decoded_images * (2 * pixels + dataset.num_classes) + synthetic_set.images.nbytes
    decoded += 2 * recorded.CHUNK_BYTES if recipe.recorded is not None else 0
    if gpus > 0:
        return Needs(cpus, gpus, GPU_PROCESS_BYTES + decoded + test.images.nbytes)
    size = sizes.of(cell.evaluator, dataset.num_classes, dataset.channels)
    fast = may_be_fast(engine, cell, "cpu")
    copies = 4 + (2 if fast else 0) + (2 if recipe.distillation else 0)  # weights, gradients, at most two moments
    side = cell.evaluator.input_size
    split = evaluators.freezes_batch_norm(recipe, cell.evaluator)
    part = min(recipe.batch_size, backward_batch("cpu", side, compiled=True)) if split else recipe.batch_size
    batch = recipe.batch_size * (3 * pixels + 2 * dataset.channels * side**2)
    activations = ACTIVATION_COPIES * max(part * size.outputs, forward_batch("cpu", side) * size.largest)
    resident = RESIDENT_BYTES if fast else 0
    return Needs(cpus, gpus, int(PROCESS_BYTES + decoded + resident + 4 * (copies * size.parameters + batch + activations)))


Kind = tuple[str, str]
"""Track and evaluator name: cells of one kind cost the same but for their epochs."""


@dataclass(frozen=True)
class Speed:
    """What a cell of one kind costs on a device."""

    flops: float
    """Floating-point operations of one image, forward: what the speed of another network is predicted from."""
    startup_seconds: float
    """Building, the first step and the first test batch: compilation is in here. Paid once per kind and process."""
    seconds_per_train_image: float
    seconds_per_test_image: float
    pruned_share: float = 0.0
    """Of the test images of all looks but the last, those that are skipped: a guess, it depends on the set."""

    def seconds(self, cell: Cell, decoded_images: int, test_images: int) -> float:
        """Estimate without the startup."""
        recipe = cell.recipe
        training = recipe.epochs * decoded_images
        looks = 1 + (math.ceil(recipe.epochs / recipe.test_every) - 1) * (1 - self.pruned_share)
        return training * self.seconds_per_train_image + looks * test_images * self.seconds_per_test_image


def _kind(cell: Cell) -> Kind:
    return cell.track, cell.evaluator.name


def kinds(cells: Sequence[Cell], dataset: Dataset) -> dict[Kind, Cell]:
    """A cell of every kind, the kinds of teachers among them, without its own teacher; cheapest kinds first."""
    alone = {_kind(one): one for cell in reversed(cells) for one in _taken_apart(cell) if one is not None}
    return dict(sorted(alone.items(), key=lambda item: _flops_per_image(item[1], dataset)))


def _flops_per_image(cell: Cell, dataset: Dataset) -> float:
    return sizes.of(cell.evaluator, dataset.num_classes, dataset.channels).flops


def learn(
    speeds: dict[Kind, Speed],
    cells: Sequence[Cell],
    synthetic_set: SyntheticSet,
    test_images: int,
    *,
    device: torch.device,
    engine: Wanted,
    on_kind: Callable[[Cell], None] = lambda cell: None,
    enough: Callable[[], bool] = lambda: False,
) -> None:
    """Add to `speeds` what it lacks of these cells, measured on the first steps and test batches of each kind, cheapest first.

    Nothing is fetched for it: random weights and random test images cost the same as real ones. `on_kind` hears of each kind
    before it is measured. Once `enough()` answers True, no further kind is measured.
    """
    dataset = DATASETS[synthetic_set.dataset]
    shared = panel_work(cells, dataset, synthetic_set.summary().decoded_images, test_images)
    with undisturbed():
        for kind, cell in kinds(cells, dataset).items():
            if kind in speeds:
                continue
            if enough():
                return
            on_kind(cell)
            speeds[kind] = measure(cell, synthetic_set, test_images, device, engine, shared.get(cell.name))


def estimate(
    cells: Sequence[Cell],
    synthetic_set: SyntheticSet,
    test_images: int,
    speeds: Mapping[Kind, Speed],
    *,
    device: torch.device,
    engine: Wanted,
) -> dict[str, float]:
    """Seconds of every cell (by name) on this device, from at least one measured speed.

    A kind that was not measured is taken to compute as many operations a second as the measured ones together.
    """
    decoded, dataset = synthetic_set.summary().decoded_images, DATASETS[synthetic_set.dataset]
    shared = panel_work(cells, dataset, decoded, test_images)
    seconds: dict[str, float] = {}
    started: set[Kind] = set()
    taught: set[tuple[int, str]] = set()

    def of(one: Cell) -> tuple[Speed, float]:
        """The speed of its kind, and the startup, which the first cell of a kind pays."""
        speed = speeds.get(_kind(one)) or _predicted(_flops_per_image(one, dataset), speeds.values())
        startup = 0.0 if _kind(one) in started else speed.startup_seconds
        started.add(_kind(one))
        return speed, startup

    for cell in cells:
        student, teacher = _taken_apart(cell)
        speed, startup = of(student)
        seconds[cell.name] = startup + speed.seconds(student, decoded, test_images)
        if teacher is not None:
            speed, startup = of(teacher)
            trained = teacher.recipe.epochs * decoded * speed.seconds_per_train_image
            fast = choose_engine(engine, cell, dataset, decoded, test_images, device, shared[cell.name]) == "fast"
            asked_once = fast and cell.recipe.augmentation.absent and cell.recipe.recorded is None
            asked = trained / TRAIN_COST / (teacher.recipe.epochs if asked_once else 1)
            known = (cell.seed, teacher.evaluator.name) in taught  # one process trains it once
            taught.add((cell.seed, teacher.evaluator.name))
            seconds[cell.name] += startup + asked + (0.0 if known else trained)
    return seconds


def _predicted(flops: float, known: Collection[Speed]) -> Speed:
    """The speed of a network of so many operations an image; its startup is the mean of the known ones."""
    share = flops / sum(speed.flops for speed in known)
    return Speed(
        flops,
        sum(speed.startup_seconds for speed in known) / len(known),
        share * sum(speed.seconds_per_train_image for speed in known),
        share * sum(speed.seconds_per_test_image for speed in known),
        min(speed.pruned_share for speed in known),
    )


def machine(device: torch.device, engine: Wanted) -> str:
    """What measured speeds hold for: the sources, the device, its threads and the engine that was asked for."""
    where = processor() if device.type == "cpu" else provenance.accelerator(device)
    return f"{provenance.commit()}; torch {torch.__version__}; {where}, {torch.get_num_threads()} threads; engine {engine}"


def read_speeds(folder: Folder, machine: str) -> dict[Kind, Speed]:
    """The speeds kept in this folder that were measured on this machine; none where the file is absent or damaged."""
    try:
        return {(kept["track"], kept["evaluator"]): Speed(**kept["speed"]) for kept in folder.speeds()[machine]}
    except (KeyError, TypeError):
        return {}


def keep_speeds(folder: Folder, machine: str, speeds: Mapping[Kind, Speed]) -> None:
    """Write the speeds beside those of other machines, for the next command in this folder. It was claimed before."""
    speeds = read_speeds(folder, machine) | dict(speeds)  # other parts of a job array measure other networks
    rows = [{"track": track, "evaluator": name, "speed": asdict(speed)} for (track, name), speed in speeds.items()]
    folder.keep_speeds(folder.speeds() | {machine: rows})


def with_random_weights(cell: Cell) -> Cell:
    """The cell without pretrained weights: it costs the same, and nothing is fetched."""
    recipe = cell.recipe
    if cell.evaluator.pretrained and recipe.batch_norm == "frozen-if-pretrained":
        recipe = recipe.model_copy(update={"batch_norm": "frozen"})  # what these words mean for the real weights
    return cell.model_copy(update={"evaluator": cell.evaluator.model_copy(update={"pretrained": False}), "recipe": recipe})


def measure(
    cell: Cell,
    synthetic_set: SyntheticSet,
    test_images: int,
    device: torch.device,
    engine: Wanted,
    shared_work: float | None = None,
) -> Speed:
    """Run the beginning of a cell, with random weights, and throw the result away. `shared_work`: as `panel_work` in `training.run`."""
    dataset = DATASETS[synthetic_set.dataset]
    image = np.random.default_rng(0).integers(0, 256, (1, dataset.channels, dataset.image_size, dataset.image_size), np.uint8)
    images = np.broadcast_to(image, (test_images, *image.shape[1:]))  # as many as there are, in no memory
    stand_in = RealData(images, np.zeros(test_images, np.int64), dataset, "test", "")
    begun = time.monotonic()
    drawn = with_random_weights(cell)
    material = Material(synthetic_set, drawn, stand_in, device)
    name = choose_engine(engine, cell, dataset, len(material.images), test_images, device, shared_work)
    trainer = Trainer(material, drawn.evaluator, name, panel_work=shared_work)
    batch = torch.arange(min(cell.recipe.batch_size, len(trainer.material.images)), device=device)
    test_batch = trainer.engine.test_batch

    def train(done: int) -> int:
        trainer.set_training()
        trainer.graphed_step(batch)
        return len(batch)

    @torch.inference_mode()
    def test(done: int) -> int:
        first = done % max(test_images - test_batch, 1)
        return len(trainer.tester.logits(slice(first, min(first + test_batch, test_images))))

    for _ in range(1 if device.type == "cpu" else WARM + 2):  # a GPU's steps are recorded after some plain ones
        train(0)
    trainer.tester.take_weights()
    test_batch = trainer.engine.test_batch
    test(0)
    _wait(device)
    startup = time.monotonic() - begun
    per_train_image = _seconds_per_image(train, device)
    trainer.tester.take_weights()
    per_test_image = _seconds_per_image(test, device)
    pruned_share = PRUNED_SHARE if trainer.engine.prunes else 0.0
    return Speed(_flops_per_image(cell, dataset), startup, per_train_image, per_test_image, pruned_share)


def _seconds_per_image(pass_batch: Callable[[int], int], device: torch.device) -> float:
    """`pass_batch`: number of images done so far -> number of images of this batch."""
    begun, done = time.monotonic(), 0
    while done == 0 or time.monotonic() - begun < CALIBRATION_SECONDS:
        done += pass_batch(done)
        _wait(device)
    return (time.monotonic() - begun) / done


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
