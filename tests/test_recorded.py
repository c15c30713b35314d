"""Replaying recorded labels: against a slow reference, resumed, on both engines, and every way in which a record can be wrong."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from builders import CPU, TEST, Command, cell, flipped, shaped, small_set
from torch import Tensor

from mabench import data, suites, training
from mabench.data import DATASETS, RealData
from mabench.digests import stream
from mabench.errors import Interrupted, MabenchError
from mabench.networks import evaluators
from mabench.networks.evaluators import EVALUATORS
from mabench.runs.plan import plan
from mabench.schema import Augmentation, Evaluator, Recipe, Recorded
from mabench.sets import label_files, recorded
from mabench.sets import readers as adapters
from mabench.sets.synthetic import SyntheticSet

EPOCHS, BATCH = 6, 16  # of the records made here: 40 images, so the last batch has 8
NORMALISED = Augmentation(space="normalised")
REPLAY = Recipe(
    epochs=EPOCHS, batch_size=BATCH, test_every=2, score="best", optimizer="adamw", learning_rate=0.01, weight_decay=0.1,
    weight_decay_on="weights", schedule="cosine", normalisation="dataset", batch_norm="train", augmentation=NORMALISED,
    recorded=Recorded(ground_truth=0.15),
)  # fmt: skip
BATCH_NORMED = EVALUATORS["convnet3-scratch"].model_copy(update={"arguments": {"width": 8, "norm": "batch"}})


def write(chosen: SyntheticSet, folder: Path, *, epochs: int = EPOCHS, batch: int = BATCH, per_file: int = 4) -> SyntheticSet:
    """The set with a record of random views; the logits are those of a fixed random network on the images that were really seen."""
    draws = torch.Generator().manual_seed(7)
    count, side, classes = len(chosen.images), chosen.entry.image_size, chosen.num_classes
    teach = torch.randn(chosen.entry.channels * 16, classes, generator=draws) * 2
    pixels = (chosen.decoded()[0] - mean_and_std(chosen)[0]) / mean_and_std(chosen)[1]
    for first in range(0, epochs, per_file):
        made: list[dict[str, Tensor]] = []
        for _ in range(first, min(epochs, first + per_file)):
            length = torch.randint(side // 2, side + 1, (count, 2), generator=draws)
            start = (torch.rand(count, 2, generator=draws) * (side - length + 1)).long()
            corners = torch.randint(0, side + 1, (-(-count // batch), 2, 2), generator=draws).sort(1).values
            sizes = [min(batch, count - begin) for begin in range(0, count, batch)]
            one = {
                "order": torch.randperm(count, generator=draws).int(),
                "boxes": torch.cat([start, length], 1).short(),
                "flipped": torch.randint(2, (count,), generator=draws).to(torch.uint8),
                "partner": torch.cat([torch.randperm(size, generator=draws) for size in sizes]).int(),
                "mix": corners.flatten(1).short(),
            }
            seen = [
                look(pixels[rows], {n: v[b * batch : b * batch + len(rows)] for n, v in one.items()}, one["mix"][b])
                for b, rows in enumerate(one["order"].long().split(batch))  # type: ignore[no-untyped-call]
            ]
            one["logits"] = (F.adaptive_avg_pool2d(torch.cat(seen), 4).flatten(1) @ teach).half()
            made.append(one)
        facts = recorded.header(chosen.sha256, batch, first)
        recorded.save(folder / label_files.file_name(first), {n: torch.stack([m[n] for m in made]) for n in made[0]}, facts)
    return replace(chosen, labels_folder=folder)


def mean_and_std(chosen: SyntheticSet) -> tuple[Tensor, Tensor]:
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (chosen.entry.mean, chosen.entry.std))
    return mean, std


def look(images: Tensor, one: dict[str, Tensor], mix: Tensor) -> Tensor:
    """The slow reference of a view: every image by itself, cut out, enlarged, mirrored; then the box, pixel by pixel."""
    side, out = images.shape[-1], []
    for image, (top, left, height, width), mirrored in zip(images, one["boxes"].tolist(), one["flipped"].tolist(), strict=True):
        cut = F.interpolate(image[None, :, top : top + height, left : left + width], size=(side, side), mode="bilinear")[0]
        out.append(cut.flip(2) if mirrored else cut)
    mixed = torch.stack(out)
    for n, partner in enumerate(one["partner"].tolist()):
        for y in range(int(mix[0]), int(mix[2])):
            for x in range(int(mix[1]), int(mix[3])):
                mixed[n, :, y, x] = out[partner][:, y, x]
    return mixed


def sat(chosen: SyntheticSet, recipe: Recipe = REPLAY, evaluator: str | Evaluator = "mlp-scratch", **arguments: Any) -> Any:
    own = cell(recipe, evaluator).model_copy(update={"labels_sha256": chosen.recorded.sha256})
    return training.run(chosen, own, TEST, device=CPU, **arguments)


@pytest.mark.parametrize("kind", ["mse, AdamW", "kl, SGD, two parts under batch norm"])
def test_the_replay_is_the_slow_reference(kind: str, tmp_path: Path) -> None:
    """Files read by hand, views by the loops above, loss, schedule and optimizer written out: the same losses and curve."""
    chosen = write(small_set(), tmp_path / "labels")
    recipe, evaluator, parts = REPLAY, EVALUATORS["mlp-scratch"], 1
    if kind.startswith("kl"):
        changes = {"optimizer": "sgd", "accumulate": 2, "recorded": Recorded(loss="kl", temperature=4.0, ground_truth=0.5)}
        recipe, evaluator, parts = REPLAY.model_copy(update=changes), BATCH_NORMED, 2
    record = sat(chosen, recipe, evaluator)

    from safetensors.torch import load_file

    model = evaluators.build(evaluator, num_classes=10, channels=3, image_size=32, seed=stream(0, "init"))
    mean, std = mean_and_std(chosen)
    images, test = ((torch.tensor(np.asarray(v)).float() / 255 - mean) / std for v in (chosen.images, TEST.images))
    files = [load_file(tmp_path / "labels" / name) for name in ("labels-00000.safetensors", "labels-00004.safetensors")]
    names = {p: n for n, p in model.named_parameters()}
    first, second = ({p: torch.zeros_like(p) for p in names} for _ in range(2))
    losses, curve, steps = [], [], 0
    for epoch in range(EPOCHS):
        held = {n: v[epoch % 4] for n, v in files[epoch // 4].items()}
        rate, total = 0.01 * 0.5 * (1 + math.cos(math.pi * epoch / EPOCHS)), 0.0
        model.train()
        for b in range(3):
            one = {n: v[b * BATCH : (b + 1) * BATCH] for n, v in held.items() if n != "mix"}
            rows = one["order"].long()
            seen, taught, truth = look(images[rows], one, held["mix"][b]), one["logits"].float(), chosen.labels[rows]
            loss = torch.zeros(())
            size = -(-len(rows) // parts)
            for x, z, y in zip(seen.split(size), taught.split(size), truth.split(size), strict=True):  # type: ignore[no-untyped-call]
                out = model(x)
                if kind.startswith("mse"):
                    own = ((out - z) ** 2).sum() / out.numel() - 0.15 * out.log_softmax(1)[range(len(y)), y].mean()
                else:
                    p, q = (z / 4).softmax(1), (out / 4).softmax(1)
                    own = (p * (p / q).log()).sum() / len(y) - 0.5 * out.log_softmax(1)[range(len(y)), y].mean()
                loss = loss + own * len(y) / len(rows)
            gradients = torch.autograd.grad(loss, list(names))
            steps, total = steps + 1, total + float(loss.detach()) * len(rows)
            with torch.no_grad():
                for p, g in zip(names, gradients, strict=True):
                    shrink = 0.1 if p.dim() > 1 and names[p].endswith("weight") else 0.0
                    if kind.startswith("kl"):
                        first[p] = 0.9 * first[p] + g + shrink * p
                        p -= rate * first[p]  # type: ignore[misc]
                        continue
                    first[p], second[p] = 0.9 * first[p] + 0.1 * g, 0.999 * second[p] + 0.001 * g * g
                    step = first[p] / (1 - 0.9**steps) / ((second[p] / (1 - 0.999**steps)).sqrt() + 1e-8)
                    p -= rate * shrink * p + rate * step  # type: ignore[misc]
        if epoch % 2:
            model.eval()
            with torch.no_grad():
                hits = int((model(test).argmax(1) == torch.tensor(TEST.labels)).sum())
            losses.append((epoch + 1, total / len(images)))
            curve.append((epoch + 1, hits))
    assert [e for e, _ in record.train_loss] == [e for e, _ in losses] == [2, 4, 6]
    assert [v for _, v in record.train_loss] == pytest.approx([v for _, v in losses], rel=2e-3)
    assert all(abs(a - b) <= 5 for (_, a), (_, b) in zip(record.curve, curve, strict=True)), (record.curve, curve)


def test_replayed_images_are_those_of_the_slow_reference_to_the_last_digits(tmp_path: Path) -> None:
    chosen = write(small_set(), tmp_path / "labels")
    images = (chosen.decoded()[0] - mean_and_std(chosen)[0]) / mean_and_std(chosen)[1]
    for epoch in range(EPOCHS):
        for number, rows in enumerate(chosen.recorded.order(epoch).split(BATCH)):  # type: ignore[no-untyped-call]
            views, logits = chosen.recorded.batch_of(epoch, number)
            one = {"boxes": views.boxes, "flipped": views.flipped, "partner": views.partner}
            torch.testing.assert_close(recorded.apply_views(images[rows], views), look(images[rows], one, views.mix))
            assert logits.shape == (len(rows), 10)


def test_both_engines_agree(tmp_path: Path) -> None:
    chosen = write(small_set(), tmp_path / "labels")
    reference, fast = sat(chosen), sat(chosen, engine="fast")
    assert (fast.engine, reference.engine) == ("fast", "reference")
    assert (fast.train_loss, fast.best, fast.best_epoch, fast.last) == (
        reference.train_loss, reference.best, reference.best_epoch, reference.last,
    )  # fmt: skip


def test_an_interrupted_replay_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    """Stopped within epochs, at their borders and at the border of two files of the record; names and bytes are recorded."""
    chosen = write(small_set(), tmp_path / "labels")
    whole, stops = sat(chosen), 0
    for attempt in range(200):
        calls = 0

        def stop(limit: int = 1 + attempt % 5) -> bool:
            nonlocal calls
            calls += 1
            return calls > limit

        try:
            pieces = sat(replace(chosen), checkpoint=tmp_path / "cell.pt", should_stop=stop)
            break
        except Interrupted:
            stops += 1
    assert stops > 5 and (pieces.curve, pieces.train_loss) == (whole.curve, whole.train_loss)
    weight = sum(p.stat().st_size for p in (tmp_path / "labels").iterdir())
    assert pieces.synthetic_set.recorded_bytes == weight > 0 and pieces.cell.labels_sha256 == chosen.recorded.sha256


def test_the_labels_teach(tmp_path: Path) -> None:
    """A student of recorded logits comes near to them; one whose logits were shuffled between batches does not."""
    chosen = write(small_set(), tmp_path / "labels", epochs=60)
    recipe = REPLAY.model_copy(update={"epochs": 60, "test_every": 10, "learning_rate": 0.003})
    losses = [loss for _, loss in sat(chosen, recipe).train_loss]
    assert losses[-1] < 0.5 * losses[0]


def test_the_losses_follow_their_formulas() -> None:
    draws = torch.Generator().manual_seed(0)
    out, taught = (torch.randn(5, 3, generator=draws, dtype=torch.float64) for _ in range(2))
    truth = F.one_hot(torch.tensor([0, 2, 1, 1, 0]), 3).double()
    squared = sum((float(out[i, k]) - float(taught[i, k])) ** 2 for i in range(5) for k in range(3)) / 15
    true_class = -sum(math.log(float(out[i].softmax(0) @ truth[i])) for i in range(5)) / 5
    p, q = (taught / 20).softmax(1), (out / 20).softmax(1)
    divergence = sum(float(p[i, k]) * math.log(float(p[i, k]) / float(q[i, k])) for i in range(5) for k in range(3)) / 5
    for wanted, expected in [
        (Recorded(ground_truth=0.15), squared + 0.15 * true_class),
        (Recorded(), squared),
        (Recorded(loss="kl", temperature=20.0), divergence),
    ]:
        assert float(recorded.loss(out, taught, truth, wanted)) == pytest.approx(expected, rel=1e-9)


# -- records that are not what they should be ---------------------------------------------------------------------------


def edit(path: Path, change: Callable[[dict[str, Tensor]], None]) -> None:
    from safetensors.torch import load_file

    tensors = {name: value.clone() for name, value in load_file(path).items()}
    facts = recorded.read_header(path)
    change(tensors)
    recorded.save(path, tensors, facts)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: [p.unlink() for p in f.iterdir()], "no record of labels .* --recorded-labels"),
        (lambda f: (f / "labels-00000.safetensors").unlink(), "Some are missing"),
        (lambda f: cut(f / "labels-00004.safetensors"), "damaged"),
        (lambda f: (f / "labels-00004.safetensors").rename(f / "labels-00008.safetensors"), "its name and neighbours do not"),
        (lambda f: edit(f / "labels-00000.safetensors", lambda t: t["order"][0].fill_(0)), "not a permutation"),  # type: ignore[arg-type]
        (lambda f: edit(f / "labels-00000.safetensors", lambda t: t["partner"][1].fill_(15)), "partner is outside"),  # type: ignore[arg-type]
        (lambda f: edit(f / "labels-00000.safetensors", lambda t: t["boxes"][0, 0].fill_(30)), "crop leaves the image"),  # type: ignore[arg-type]
        (lambda f: edit(f / "labels-00000.safetensors", lambda t: t["mix"].fill_(-1)), "CutMix box leaves"),  # type: ignore[arg-type]
        (lambda f: edit(f / "labels-00000.safetensors", lambda t: t["logits"].fill_(torch.inf)), "not finite"),  # type: ignore[arg-type]
    ],
)
def test_a_wrong_record_is_refused(damage: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    chosen = write(small_set(), tmp_path / "labels")
    damage(tmp_path / "labels")
    with pytest.raises(MabenchError, match=message):
        for epoch in range(chosen.recorded.epochs):
            chosen.recorded.order(epoch)


def test_a_flipped_bit_in_a_record_is_found(tmp_path: Path) -> None:
    chosen = write(small_set(), tmp_path / "labels")
    known = chosen.recorded.sha256
    path = tmp_path / "labels" / "labels-00004.safetensors"
    whole = path.read_bytes()
    for place in (whole.index(b"batch") + 8, len(whole) // 2, len(whole) - 1):
        path.write_bytes(flipped(whole, place))
        with pytest.raises(MabenchError, match=r"changed after it was written|its name and neighbours do not|damaged"):
            _ = replace(chosen).recorded.sha256
    path.write_bytes(whole)
    assert replace(chosen).recorded.sha256 == known


def test_a_record_belongs_to_one_set_one_batch_and_so_many_epochs(tmp_path: Path) -> None:
    chosen = write(small_set(), tmp_path / "labels")
    with pytest.raises(MabenchError, match="labels of set"):
        _ = replace(chosen, images=255 - chosen.images).recorded
    with pytest.raises(MabenchError, match="batches of 16.*record_batch=20"):
        chosen.recorded.check(REPLAY.model_copy(update={"batch_size": 20}), "s@1")
    with pytest.raises(MabenchError, match="labels of 6 epochs.*record_epochs=7"):
        chosen.recorded.check(REPLAY.model_copy(update={"epochs": 7}), "s@1")
    with pytest.raises(MabenchError, match="ends after 6"):
        chosen.recorded.order(6)
    old = cell(REPLAY).model_copy(update={"labels_sha256": chosen.recorded.sha256})
    edit(tmp_path / "labels" / "labels-00000.safetensors", lambda t: t["logits"].add_(1))  # type: ignore[arg-type]
    with pytest.raises(MabenchError, match="another record of labels"):
        training.run(replace(chosen), old, TEST, device=CPU)


def test_recipes_that_contradict_themselves_are_refused() -> None:
    for change, message in [
        ({"decay_after": 3}, "schedule and decay_after"),
        ({"augmentation": {"flip": 0.5}}, "bring their own views"),
        ({"distillation": {"teacher": "mlp-scratch", "alpha": 0.5, "temperature": 1}}, "both say what the loss is"),
    ]:
        with pytest.raises(ValueError, match=message):
            Recipe.model_validate(REPLAY.model_dump() | change)  # type: ignore[operator]


# -- suites and commands ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "evaluator"),
    [("cifar100-gvbsm", "convnet3-scratch"), pytest.param("tinyimagenet-gvbsm", "resnet18-scratch", marks=pytest.mark.slow)],
)
def test_the_sisters_run_on_data_of_their_shape(name: str, evaluator: str, tmp_path: Path) -> None:
    loaded_suite = suites.load(name)
    recipe, entry = loaded_suite.recipes["gvbsm"], DATASETS[loaded_suite.suite.dataset]
    chosen = write(shaped(entry.name), tmp_path / "labels", epochs=1, batch=recipe.batch_size)
    with pytest.raises(MabenchError, match=f"labels of 1 epochs are recorded, {name}@1 trains for {recipe.epochs}"):
        plan(loaded_suite, chosen)
    short = replace(loaded_suite, recipes={"gvbsm": recipe.model_copy(update={"epochs": 1, "test_every": 1})})
    test = RealData(chosen.images[:20].numpy(), np.arange(20), entry, "test", "0" * 64)
    (own,) = plan(short, chosen, evaluator=evaluator, seeds=[0])
    record = training.run(chosen, own, test, device=CPU)
    assert record.total == 20 and record.diverged_epoch is None and own.evaluator.input_size == entry.image_size


def test_the_deep_networks_of_imagenet_pass_in_four_parts() -> None:
    loaded_suite = suites.load("imagenet1k-gvbsm")
    assert {t: r.accumulate for t, r in loaded_suite.recipes.items()} == {"gvbsm": 1, "deep": 4}
    assert all(e.input_size == 224 and not e.pretrained for es in loaded_suite.evaluators.values() for e in es)


MINE = """
name = "digits-replayed"
version = 1
title = "Replayed digits"
measures = "A test."
dataset = "digits"
seeds = [0]
ipcs = [2]
tracks = { own = ["mlp-scratch"] }
[recipe]
epochs = 2
batch_size = 8
test_every = 1
score = "best"
optimizer = "adamw"
learning_rate = 0.001
schedule = "cosine"
normalisation = "dataset"
augmentation = { space = "normalised" }
recorded = { ground_truth = 0.15 }
"""


@pytest.mark.slow
def test_condensing_recording_and_replaying_in_one_command(mabench: Command, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(MINE)
    command = ("reproduce", "gvbsm", "--preset", "smoke", "--suite", "mine.toml", "--out", "out", "--device", "cpu")
    environment = {"MABENCH_CACHE": str(tmp_path / "cache")}
    refused = mabench(*command, "--config", "record_epochs=1", **environment)
    assert refused.returncode == 2 and "labels of 1 epochs" in refused.stderr and not (tmp_path / "out").exists()
    cost = mabench(*command, "--dry-run", **environment)
    assert cost.returncode == 0 and "all together about" in cost.stdout and not (tmp_path / "out").exists(), cost.stderr
    done = mabench(*command, **environment)
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "out").rglob("records/*.json")
    record = json.loads(path.read_text())
    labels = tmp_path / "out" / "set-seed0" / "labels"
    weight = sum(p.stat().st_size for p in labels.glob("*.safetensors"))
    assert record["synthetic_set"]["recorded_bytes"] == weight and len(record["cell"]["labels_sha256"]) == 64
    (table,) = (tmp_path / "out").rglob("table.md")
    assert f"labels recorded for every epoch: {weight:,} bytes more" in table.read_text()

    made = tmp_path / "out" / "set-seed0" / "set.safetensors"
    again = mabench("eval", made, "--suite", "mine.toml", "--out", "again", "--device", "cpu")
    assert again.returncode == 0 and f"{weight:,} bytes in" in again.stdout, again.stderr
    (own,) = (tmp_path / "again").rglob("records/*.json")
    assert json.loads(own.read_text())["curve"] == record["curve"], "the labels beside the set are found"

    (tmp_path / "elsewhere").mkdir()
    alone = tmp_path / "elsewhere" / "set.safetensors"
    alone.write_bytes(made.read_bytes())
    without = mabench("eval", alone, "--suite", "mine.toml")
    assert without.returncode == 2 and "mabench reproduce gvbsm" in without.stderr and "--recorded-labels" in without.stderr
    assert "Traceback" not in without.stderr and not (tmp_path / "results").exists()
    wrong = mabench("eval", alone, "--suite", "mine.toml", "--recorded-labels", tmp_path)
    assert wrong.returncode == 2 and "no recorded labels (labels-00000.safetensors)" in wrong.stderr
    named = mabench("eval", alone, "--suite", "mine.toml", "--recorded-labels", labels, "--dry-run", "--device", "cpu")
    assert named.returncode == 0 and "1 run to do" in named.stdout, named.stderr


def test_a_set_without_a_record_is_told_how_to_get_one(mabench: Command, tmp_path: Path) -> None:
    shaped("cifar10").save(tmp_path / "set.safetensors")
    done = mabench("eval", "set.safetensors", "--suite", "cifar10-gvbsm")
    assert done.returncode == 2 and "mabench reproduce gvbsm" in done.stderr and "Traceback" not in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["set.safetensors"]


def test_a_cluster_takes_the_record_along(tmp_path: Path) -> None:
    from mabench.runs import ray_worker

    chosen = replace(write(small_set(), tmp_path / "labels"), learning_rate=0.02)
    again = ray_worker.unpack_set(ray_worker.pack_set(chosen))
    assert (again.sha256, again.learning_rate, again.labels_folder) == (chosen.sha256, 0.02, tmp_path / "labels")


@pytest.mark.slow
def test_real_cifar10_is_learned_from_a_record(real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten real images a class, their views labelled by a backbone trained on 5,000: a student of 60 epochs beats chance clearly."""
    from mabench_methods.gvbsm.presets import GVBSM, LITE
    from mabench_methods.gvbsm.teachers import Squeeze
    from mabench_methods.kit import Run

    monkeypatch.setenv("MABENCH_CACHE", str(tmp_path / "cache"))
    train, test = (data.load("cifar10", split) for split in ("train", "test"))
    train = replace(train, images=train.images[:5000], labels=train.labels[:5000], sha256="the first 5,000")
    config = replace(
        LITE, backbones=("convnet48",), squeeze=Squeeze(epochs=2), initial="real", iterations=0,
        record_epochs=60, record_batch=100,
    )  # fmt: skip
    GVBSM.condense(train, config, 0, CPU, Run(tmp_path))
    chosen = adapters.read(tmp_path / "set.safetensors")
    loaded_suite = suites.load("cifar10-gvbsm")
    recipe = loaded_suite.recipes["gvbsm"].model_copy(update={"epochs": 60, "test_every": 60})
    (own,) = plan(replace(loaded_suite, recipes={"gvbsm": recipe}), chosen, evaluator="convnet3*", seeds=[0])
    small = replace(test, images=test.images[:1000], labels=test.labels[:1000])
    assert training.run(chosen, own, small, device=CPU).last > 0.2
