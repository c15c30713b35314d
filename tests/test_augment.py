"""Every operation against a slow per-sample loop, and the draws against what the protocol promises."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from mabench.data import augment as A
from mabench.schema import Augmentation

N, S = 6, 12


def images(n: int = N, side: int = S, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(seed))


def one_hot(n: int) -> torch.Tensor:
    return F.one_hot(torch.arange(n) % 10, 10).float()


def run(plan: dict[str, Any], x: torch.Tensor, seed: int = 0, **arguments: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return A.augment(x, one_hot(len(x)), Augmentation(**plan), torch.Generator().manual_seed(seed), **arguments)


FULL: dict[str, Any] = {"color": "full", "geometry": ("crop",), "flip": 0.5, "cutmix": 0.5, "cutout": "unless-cutmix"}


def test_colour_operations_follow_their_formulas() -> None:
    x, p = images(), torch.linspace(-1.0, 2.0, N)
    for n in range(N):
        grey = x[n].mean(0)
        torch.testing.assert_close(A.brightness(x, p)[n], x[n] + p[n])
        torch.testing.assert_close(A.saturation(x, p)[n], torch.stack([(x[n, c] - grey) * p[n] + grey for c in range(3)]))
        torch.testing.assert_close(A.contrast(x, p)[n], (x[n] - x[n].mean()) * p[n] + x[n].mean())


def test_shift_moves_whole_pixels_and_fills_with_zero() -> None:
    x = images()
    down, right = torch.tensor([0, 2, -3, 1, -1, 3]), torch.tensor([0, -2, 1, 3, -3, 0])
    expected = torch.zeros_like(x)
    for n in range(N):
        for i in range(S):
            for j in range(S):
                source = (i - int(down[n]), j - int(right[n]))
                if 0 <= source[0] < S and 0 <= source[1] < S:
                    expected[n, :, i, j] = x[n, :, source[0], source[1]]
    assert torch.equal(A.shift(x, down, right), expected)


def test_flip_and_cutout_against_loops() -> None:
    x = images()
    mask = torch.tensor([True, False, True, True, False, False])
    y, z = torch.tensor([0, 3, 11, 6, 5, 2]), torch.tensor([0, 11, 11, 1, 5, 7])
    flipped, cut = A.flip(x, mask), A.cutout(x, y, z, 5)
    for n in range(N):
        for i in range(S):
            for j in range(S):
                assert torch.equal(flipped[n, :, i, j], x[n, :, i, S - 1 - j] if mask[n] else x[n, :, i, j])
                inside = y[n] - 2 <= i < y[n] + 3 and z[n] - 2 <= j < z[n] + 3
                assert torch.equal(cut[n, :, i, j], torch.zeros(3) if inside else x[n, :, i, j])


def test_rotate_by_a_right_angle_and_scale_by_one() -> None:
    x = images()
    quarter = torch.full((N,), math.pi / 2)
    torch.testing.assert_close(A.rotate(x, quarter, align_corners=True), x.rot90(1, (2, 3)), rtol=1e-4, atol=1e-4)
    one = torch.ones(N)
    torch.testing.assert_close(A.scale(x, one, one, align_corners=True), x, rtol=1e-4, atol=1e-5)
    factor = torch.tensor([1.2, 0.9, 1.0, 1.1, 0.8, 1.0])
    for n in range(N):
        theta = torch.tensor([[[float(factor[n]), 0, 0], [0, 1.0, 0]]])
        alone = F.grid_sample(x[n : n + 1], F.affine_grid(theta, [1, 3, S, S], align_corners=True), align_corners=False)
        torch.testing.assert_close(A.scale(x, factor, one)[n : n + 1], alone)


def test_cutmix_mixes_labels_by_the_clipped_area() -> None:
    x, partner = images(), torch.tensor([3, 0, 1, 5, 4, 2])
    mask = torch.zeros(1, 1, S, S, dtype=torch.bool)
    mask[..., 0:4, 9:12] = True
    mixed, targets = A.cutmix(x, one_hot(N), partner, mask)
    share = 12 / S**2
    for n in range(N):
        expected = x[n].clone()
        expected[:, 0:4, 9:12] = x[partner[n], :, 0:4, 9:12]
        assert torch.equal(mixed[n], expected)
        torch.testing.assert_close(targets[n], (1 - share) * one_hot(N)[n] + share * one_hot(N)[partner[n]])


def test_cutmix_boxes_are_those_of_the_paper() -> None:
    """On marked images the box can be seen: area about 1 - lambda, uniform lambda, labels equal to what is seen."""
    shares = []
    for seed in range(400):
        x = torch.arange(8.0).view(8, 1, 1, 1).expand(8, 3, 32, 32)
        mixed, targets = run({"cutmix": 1.0}, x, seed)
        for n in range(8):
            seen = (mixed[n, 0] == n).float().mean()
            if targets[n].count_nonzero() > 1:
                assert float(targets[n, n]) == pytest.approx(float(seen), abs=1e-5)
        moved = [float((mixed[n, 0] != n).float().mean()) for n in range(8)]
        shares.append(max(moved))
    assert 0.28 < sum(shares) / len(shares) < 0.45, "clipping makes it less than one half"


def test_draws_reach_their_bounds() -> None:
    x = torch.zeros(4000, 3, 32, 32)
    x[:, :, 16, 16] = 1.0
    moved, _ = run({"geometry": ("crop",)}, x)
    where = moved[:, 0].flatten(1).argmax(1)
    offsets = torch.stack([where // 32 - 16, where % 32 - 16])
    assert offsets.min() == -4 and offsets.max() == 4 and len(offsets.unique()) == 9  # type: ignore[no-untyped-call]
    flat = torch.zeros(4000, 3, 4, 4)
    shifts = run({"color": "brightness-only"}, flat)[0][:, 0, 0, 0]
    assert -0.5 <= shifts.min() < -0.49 and 0.49 < shifts.max() < 0.5
    x = torch.zeros(4000, 3, 4, 4)
    x[..., 0] = 1
    assert 0.46 < run({"flip": 0.5}, x)[0][:, 0, 0, 3].mean() < 0.54


def test_cutout_and_cutmix_exclude_each_other_in_the_headline_plan() -> None:
    cuts = mixes = 0
    for seed in range(60):
        x = torch.ones(8, 3, 32, 32) * torch.arange(1.0, 9.0).view(8, 1, 1, 1)
        out, targets = run({"cutmix": 0.5, "cutout": "unless-cutmix"}, x, seed)
        cut, mixed = bool((out == 0).any()), not torch.equal(targets, one_hot(8))
        assert not (cut and mixed)
        cuts, mixes = cuts + cut, mixes + mixed
    assert cuts > 15 and mixes > 15
    out, targets = run({"cutmix": 1.0, "cutout": "unless-cutmix"}, x, mix=False)
    assert (out == 0).any() and torch.equal(targets, one_hot(8)), "without mixing every batch is cut"
    out, targets = run({"cutmix": 1.0, "cutout": "always"}, x, seed=3)
    assert (out == 0).any() and not torch.equal(targets, one_hot(8)), "HMDC's code does both"


def test_inputs_stay_and_the_seed_decides() -> None:
    x, kept = images(side=32), images(side=32)
    a, b, c = run(FULL, x, 1), run(FULL, x, 1), run(FULL, x, 2)
    assert torch.equal(x, kept)
    assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) and not torch.equal(a[0], c[0])
    torch.testing.assert_close(a[1].sum(1), torch.ones(N))


def test_one_of_the_geometries_a_batch_and_siamese_parameters() -> None:
    plan = {"geometry": ("crop", "scale", "rotate"), "geometry_one_of": True}
    x = images(1, 32).expand(5, 3, 32, 32)
    out, _ = run(plan, x, 4, siamese=True)
    assert all(torch.equal(out[0], out[n]) for n in range(5))
    out, _ = run(plan, x, 4)
    assert not all(torch.equal(out[0], out[n]) for n in range(5))


def test_images_receive_gradients() -> None:
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    targets = one_hot(2).double()
    plan = Augmentation(color="full", geometry=("crop", "scale", "rotate"), flip=0.5, cutmix=0.5, cutout="always")
    assert torch.autograd.gradcheck(lambda v: A.augment(v, targets, plan, torch.Generator().manual_seed(1))[0], (x,))


def test_dsa_applies_one_family_a_batch() -> None:
    x = images(4, 32)
    kinds = set()
    for seed in range(40):
        out = A.dsa(x, A.DSA, torch.Generator().manual_seed(seed))
        assert out.shape == x.shape
        kinds.add("cutout" if (out == 0).sum() > 100 and torch.equal(out[out != 0], x[out != 0]) else "other")
    assert kinds == {"cutout", "other"}


def test_one_of_dsas_operations_a_batch_is_the_slow_reference() -> None:
    """The same draws, then every image by itself, with the grids as AST's and MTT's code samples them."""
    names, x, seen = ("color", "crop", "cutout", "flip", "scale", "rotate"), images(3, 16), set()
    for seed in range(60):
        found, targets = A.augment(x, one_hot(3), Augmentation(one_of=names), torch.Generator().manual_seed(seed))  # type: ignore[arg-type]
        g = torch.Generator().manual_seed(seed)
        name = names[int(torch.randint(6, (), generator=g))]
        seen.add(name)
        integer = name in ("crop", "cutout")
        first, second, third = (
            torch.randint(*((-2, 3) if name == "crop" else (0, 17)), (3,), generator=g) if integer else torch.rand(3, generator=g)
            for _ in range(3)
        )
        for n in range(3):
            image, a, b, c = x[n], first[n], second[n], third[n]
            if name == "color":
                image = image + (a - 0.5)
                image = (image - image.mean(0)) * (2 * b) + image.mean(0)
                image = (image - image.mean()) * (c + 0.5) + image.mean()
            elif name == "crop":
                image = F.pad(image, (2, 2, 2, 2))[:, 2 - a : 18 - a, 2 - b : 18 - b]
            elif name == "cutout":
                image = image.clone()
                for i in range(int(a) - 4, int(a) + 4):
                    for j in range(int(b) - 4, int(b) + 4):
                        if 0 <= i < 16 and 0 <= j < 16:
                            image[:, i, j] = 0
            elif name == "flip":
                image = image.flip(2) if a < 0.5 else image
            else:
                sx, sy = (1 / 1.2 + (1.2 - 1 / 1.2) * v for v in (a, b))
                angle = math.radians(15) * (2 * a - 1)
                theta = (
                    [[sx, 0, 0], [0, sy, 0]]
                    if name == "scale"
                    else [[angle.cos(), -angle.sin(), 0], [angle.sin(), angle.cos(), 0]]
                )
                grid = F.affine_grid(torch.tensor([theta]), [1, 3, 16, 16], align_corners=True)
                image = F.grid_sample(image[None], grid, align_corners=True)[0]
            torch.testing.assert_close(found[n], image, rtol=1e-4, atol=1e-5, msg=name)
        assert torch.equal(targets, one_hot(3))
    assert seen == set(names)
    with pytest.raises(ValueError, match="one_of is the whole augmentation"):
        Augmentation(one_of=names, flip=0.5)  # type: ignore[arg-type]
