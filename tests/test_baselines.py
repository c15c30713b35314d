"""Sets of real images: right count, right classes, really from the train split, chosen as the textbook says."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch

from mabench import data
from mabench.errors import Interrupted, MabenchError
from mabench.sets.synthetic import SyntheticSet
from mabench_methods.baselines import condense as baselines
from mabench_methods.baselines.condense import Config, condense
from mabench_methods.kit import RealImages, Run

CPU = torch.device("cpu")


def make(config: Config, seed: int = 0) -> SyntheticSet:
    return condense(data.load("digits", "train"), config, seed, CPU)


@pytest.mark.parametrize("selection", get_args(baselines.Selection))
def test_images_are_distinct_real_images_of_their_class(selection: baselines.Selection) -> None:
    train = data.load("digits", "train")
    chosen = make(Config(3, selection, epochs=1, width=8))
    assert chosen.class_counts == (3,) * 10
    where = {image.tobytes(): int(label) for image, label in zip(train.images, train.labels, strict=True)}
    keys = [image.numpy().tobytes() for image in chosen.images]
    assert [where[k] for k in keys] == chosen.labels.tolist() and len(set(keys)) == 30


def test_the_seed_decides() -> None:
    assert make(Config(2, "random"), 1).sha256 == make(Config(2, "random"), 1).sha256 != make(Config(2, "random"), 2).sha256


@pytest.mark.parametrize("selection", ["k-means", "herding", "k-center"])
def test_the_first_choice_is_the_image_nearest_to_the_class_mean(selection: baselines.Selection) -> None:
    train = data.load("digits", "train")
    chosen = make(Config(1, selection, features="pixels"))
    for label in range(10):
        mine = train.images[train.labels == label].astype(np.float64)
        nearest = ((mine - mine.mean(0)) ** 2).sum((1, 2, 3)).argmin()
        assert np.array_equal(chosen.images[label].numpy(), mine[nearest].astype(np.uint8))


def test_herding_and_k_center_equal_a_slow_search() -> None:
    features = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)
    centre = features.mean(0)
    picked: list[int] = []
    for _ in range(12):
        gaps = {i: np.linalg.norm(centre - features[[*picked, i]].mean(0)) for i in range(60) if i not in picked}
        picked.append(min(gaps, key=gaps.__getitem__))
    assert baselines.herd(features, 12).tolist() == picked

    picked = [int(np.linalg.norm(features - centre, axis=1).argmin())]
    for _ in range(11):
        distances = [min(np.linalg.norm(features[i] - features[j]) for j in picked) for i in range(60)]
        picked.append(int(np.argmax(distances)))
    assert baselines.k_center(features, 12).tolist() == picked


def test_packed_images_hold_four_of_their_class() -> None:
    chosen = make(Config(2, "random", packed=True))
    full = make(Config(8, "random"))
    assert (chosen.decode, chosen.class_counts) == ("grid2", (2,) * 10)
    decoded, labels = chosen.decoded()
    assert decoded.shape == (80, 3, 32, 32)
    # every tile is one of the eight real images, shrunk and enlarged: nearer to it than to any other of the class
    real = full.decoded()[0].view(10, 8, -1)
    for label in range(10):
        distances = torch.cdist(decoded[labels == label].flatten(1), real[label])
        assert sorted(distances.argmin(1).tolist()) == list(range(8))


def test_packed_images_may_hold_more_than_four() -> None:
    chosen, full = make(Config(1, "random", packed=True, formation=4)), make(Config(16, "random"))
    assert (chosen.decode, len(chosen.decoded()[0]), chosen.name) == ("grid4", 160, "random-packed-ipc1-seed0")
    small = torch.nn.functional.interpolate(full.decoded()[0][:16], size=(8, 8), mode="bilinear", align_corners=True)
    tile = chosen.images[0, :, 8:16, :8].float() / 255  # below the first
    assert (tile - small[1]).abs().max() <= 0.5 / 255 + 1e-6
    with pytest.raises(MabenchError, match="32 px image cannot hold a 3 x 3 grid. Allowed: 2, 4, 8"):
        make(Config(1, "random", packed=True, formation=3))
    with pytest.raises(MabenchError, match="formation = 9"):
        Config(1, "random", packed=True, formation=9)  # type: ignore[arg-type]


def test_forgetting_prefers_what_was_unlearned(monkeypatch: pytest.MonkeyPatch) -> None:
    train = data.load("digits", "train")
    counts = np.zeros(len(train.labels), dtype=np.int64)
    hard = [int(np.flatnonzero(train.labels == label)[7]) for label in range(10)]
    counts[hard] = 5
    monkeypatch.setattr(baselines, "_trained", lambda *_: (None, counts))
    chosen = make(Config(1, "forgetting"))
    assert np.array_equal(chosen.images.numpy(), train.images[hard])


def test_a_dry_run_does_not_wait_for_an_epoch() -> None:
    """The network of a selection takes minutes an epoch on CIFAR-10: what is asked to stop stops after a batch."""
    seen: list[tuple[float, int]] = []
    run = Run(None, lambda done, total, losses: seen.append((done, total)), lambda: len(seen) == 2)
    with pytest.raises(Interrupted):
        condense(data.load("digits", "train"), Config(1, "herding", epochs=2, width=8), 0, CPU, run)
    batches = -(-len(data.load("digits", "train").labels) // 256)
    assert seen == [(1, 2 * batches), (2, 2 * batches)]


def test_selections_share_one_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MABENCH_CACHE", str(tmp_path / "cache"))
    train = data.load("digits", "train")

    def run(name: str, selection: baselines.Selection) -> tuple[SyntheticSet, int]:
        batches: list[float] = []
        folder = Run(tmp_path / name, lambda done, total, losses: batches.append(done))
        return condense(train, Config(2, selection, epochs=2, width=8), 0, CPU, folder), len(batches)

    first, trained = run("a", "herding")
    again, trained_again = run("b", "herding")
    forgotten, trained_for_it = run("c", "forgetting")
    assert (trained, trained_again, trained_for_it) == (2 * -(-len(train.labels) // 256), 0, 0)
    assert first.sha256 == again.sha256 == make(Config(2, "herding", epochs=2, width=8)).sha256
    assert forgotten.sha256 == make(Config(2, "forgetting", epochs=2, width=8)).sha256
    (file,) = (tmp_path / "cache" / "selection").iterdir()
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(MabenchError, match="Remove it"):
        run("d", "k-center")


def test_misuse_is_refused() -> None:
    with pytest.raises(MabenchError, match="train split"):
        condense(data.load("digits", "test"), Config(1, "random"), 0, CPU)
    with pytest.raises(MabenchError, match="smallest class"):
        make(Config(5000, "random"))
    with pytest.raises(MabenchError, match="Allowed: random"):
        Config(1, "randm")  # type: ignore[arg-type]


@pytest.mark.parametrize("packed", [False, True])
def test_soft_labels_are_what_one_teacher_says_of_every_draw(packed: bool) -> None:
    """Against the network itself, image by image; the teacher does not depend on the draw."""
    train = data.load("digits", "train")
    config = Config(2, "random", packed=packed, labels="soft", epochs=1, width=8)
    network, _ = baselines._trained(train, RealImages(train, CPU), config, baselines.TEACHER_SEED, Run())
    network.eval()
    for seed in (1, 2):
        chosen, plain = make(config, seed), make(Config(2, "random", packed=packed), seed)
        assert chosen.label_kind == "soft" and torch.equal(chosen.images, plain.images)
        decoded, _ = plain.decoded()
        for row in range(0, len(chosen.images), 7):
            tiles = decoded[row :: len(chosen.images)]
            with torch.no_grad():
                said = network(
                    (tiles - torch.tensor(train.dataset.mean).view(3, 1, 1)) / torch.tensor(train.dataset.std).view(3, 1, 1)
                )
            assert torch.allclose(chosen.labels[row], said.softmax(1).mean(0), atol=1e-4)
