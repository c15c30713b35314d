"""The registry of methods (bundled, installed by somebody else, a file), their kit, and what mypy sees of them."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import mabench_methods
from mabench import data
from mabench.errors import Interrupted, MabenchError
from mabench.papers import presets
from mabench_methods import Method, Preset, kit
from mabench_methods.dm import condense as dm
from mabench_methods.kit import Run

ROOT = Path(__file__).resolve().parent.parent
CPU = torch.device("cpu")


def tutorial() -> str:
    """The method of docs/add-a-method.md, as a file: DM's own."""
    page = (ROOT / "docs" / "add-a-method.md").read_text(encoding="utf-8")
    blocks: list[str] = re.findall(r"```python\n(.*?)```", page, re.S)
    return next(block for block in blocks if "METHOD = Method(" in block)


def test_the_tutorials_method_is_a_file_of_this_package() -> None:
    source = (ROOT / "methods" / "dm" / "condense.py").read_text(encoding="utf-8")
    about_the_paper = ("from pathlib import Path\n", '    Path(__file__).with_name("paper.toml"),\n')
    assert all(line in source for line in about_the_paper)
    for line in about_the_paper:
        source = source.replace(line, "")
    assert tutorial() == source


def test_distribution_matching_by_hand() -> None:
    """One step of DM against ten lines of PyTorch: same network, same batches, no augmentation, plain SGD."""
    train = data.load("digits", "train")
    config = dm.Config(2, iterations=1, image_rate=0.5, real_batch=7, augmentation="", width=8)
    start = dm.condense(train, replace(config, iterations=0), 3, CPU).images
    moved = dm.condense(train, config, 3, CPU).images
    real, streams = kit.RealImages(train, CPU), kit.generators(3, ("images", "networks", "batches"))
    images = torch.cat([real.draw(label, 2, streams["images"]) for label in range(10)]).requires_grad_(True)
    network = kit.draw_network(train.dataset, "convnet", kit.seed_from(streams["networks"]), depth=3, width=8)
    losses = []
    for label in range(10):
        features = network.embed(real.draw(label, 7, streams["batches"])).detach()
        losses.append(((network.embed(images[2 * label : 2 * label + 2]).mean(0) - features.mean(0)) ** 2).sum())
    (gradient,) = torch.autograd.grad(torch.stack(losses).sum(), images)
    torch.testing.assert_close(start, (images.detach() * real.std + real.mean))
    torch.testing.assert_close(moved, (images.detach() - 0.5 * gradient) * real.std + real.mean, rtol=1e-4, atol=1e-5)


def test_every_bundled_method_has_presets_that_say_what_they_are() -> None:
    for name in mabench_methods.BUNDLED:
        method = mabench_methods.load(name)
        assert method.name == name and method.paper is not None and method.paper.exists()
        smoke = method.presets["smoke"]
        assert (smoke.dataset, smoke.comparable, smoke.runs_on) == ("digits", False, "cpu")
        assert all(preset.dataset in data.DATASETS and not preset.changes for preset in method.presets.values())
        assert any(preset.comparable for preset in method.presets.values()) or name == "dream"
        named = [preset for preset in method.presets.values() if {"paper", "released"} & set(preset.name.split("-"))]
        assert all(preset.comparable for preset in named), "the method's own paper or code is what such a name claims"


def leaves(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every field of a configuration by dotted path."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from leaves(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, value


@pytest.mark.parametrize("name", mabench_methods.BUNDLED)
def test_numbers_that_no_configuration_can_have_are_refused(name: str) -> None:
    method = mabench_methods.load(name)
    first = next(iter(method.presets))
    checked = 0
    for key, value in leaves(method.presets[first].config):
        if isinstance(value, bool) or not isinstance(value, int | float) or key.endswith("ipc"):
            continue
        for wrong in ("-1", "nan") if isinstance(value, float) else ("-1",):
            with pytest.raises(MabenchError, match=rf"{key.rpartition('.')[2]}\b.*{wrong}"):
                presets.preset(method, first, None, [f"{key}={wrong}"])
        checked += 1
    assert checked
    if name == "idc":
        with pytest.raises(MabenchError, match="steps = 0. Allowed: 1 or more"):
            presets.preset(method, first, None, ["steps=0"])
        assert presets.preset(method, first, None, ["iterations=0"]).config.ipc == 1  # the initial images


@pytest.mark.parametrize(
    ("name", "key"),
    [("dsa", "augmentation"), ("dm", "augmentation"), ("mtt", "augmentation"), ("trajectory", "experts.augmentation")],
)
def test_an_operation_that_there_is_not_is_refused(name: str, key: str) -> None:
    """Released code says `none`, which was taken for a rotation."""
    for wrong in ("none", "color_zoom"):
        with pytest.raises(MabenchError, match=f"'{wrong}': unknown operation '{wrong.split('_')[-1]}'.*color, crop"):
            presets.preset(name, None, 1, [f"{key}={wrong}"])
    assert presets.preset(name, None, 1, [f"{key}="]).changes == (f"{key}=",)


def test_a_step_that_is_taken_again_is_recorded_once(tmp_path: Path) -> None:
    """A selection keeps nothing of its network's training and begins it again."""
    train, config = data.load("digits", "train"), mabench_methods.load("dm").presets["smoke"].config
    run = Run(tmp_path, should_stop=lambda: len(run.losses) == 2)
    run.begin("dm", config, 0, train)
    run.step(1, 3, {"loss": 5.0}, {})
    with pytest.raises(Interrupted):
        run.step(2, 3, {"loss": 4.0}, {})
    again = Run(tmp_path)
    again.begin("dm", config, 0, train)
    assert [step for step, _ in again.losses] == [1, 2]
    for step in (1, 2, 3):
        again.step(step, 3, {"loss": float(step)}, {})
    assert again.losses == [(1, {"loss": 1.0}), (2, {"loss": 2.0}), (3, {"loss": 3.0})]


def test_importing_the_registry_imports_no_torch() -> None:
    code = "import sys, mabench_methods; print(sorted(mabench_methods.METHODS) != [], 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "True False", done.stderr


def test_a_method_of_another_package_is_found_and_runs(tmp_path: Path) -> None:
    """An installed package as pip leaves it: a module and a dist-info folder with entry points."""
    site = tmp_path / "site"
    (site / "somebody").mkdir(parents=True)
    (site / "somebody" / "__init__.py").write_text("")
    (site / "somebody" / "mean.py").write_text(tutorial().replace('"dm"', '"mean"'))
    info = site / "somebody-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: somebody\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[mabench.methods]\nmean = somebody.mean:METHOD\nhmdc = somebody.mean:METHOD\nbroken = somebody.absent:METHOD\nnone = somebody.mean:Config\nother = somebody.mean:METHOD\n"
    )
    code = (
        f"import sys; sys.path.insert(0, {str(site)!r})\n"
        "import mabench.engine, mabench_methods, torch\nfrom mabench import data\nfrom mabench.errors import MabenchError\n"
        "assert mabench_methods.load('hmdc').condense.__module__ == 'mabench_methods.hmdc.condense'\n"
        "method = mabench_methods.load('mean')\n"
        "made = method.condense(data.load('digits', 'train'), method.presets['smoke'].config, 0, torch.device('cpu'))\n"
        "print(made.class_counts)\n"
        "for name in ('broken', 'none', 'other'):\n"
        "    try: mabench_methods.load(name)\n"
        "    except MabenchError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == str((1,) * 10)
    assert "method 'broken' (somebody.absent:METHOD): importing it raised ModuleNotFoundError" in lines[1]
    assert "method 'none' (somebody.mean:Config): METHOD is a type" in lines[2]
    assert "method 'other' (somebody.mean:METHOD): its METHOD is called 'mean'" in lines[3]


def test_a_method_runs_from_its_file(mabench: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "mean.py").write_text(tutorial())
    done = mabench("reproduce", "./mean.py", "--preset", "smoke", "--evaluator", "mlp*", "--seeds", "0", "--out", "out")
    assert done.returncode == 0, done.stderr
    assert "mabench reproduce ./mean.py --preset smoke --seed 0" in (tmp_path / "out" / "set-seed0" / "card.toml").read_text()


def test_a_file_without_a_method_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    for content, message in (
        ("x = 1\n", "METHOD is nothing"),
        ("\nraise ValueError('no')\n", r"importing it raised ValueError: no at .*mine.py:2"),
        ("def f(:\n", "importing it raised SyntaxError"),
        ("from mabench_methods import Method\nMETHOD = Method('x', print, {})\n", "has no presets"),
    ):
        path.write_text(content)
        sys.modules.pop(
            next((name for name, module in sys.modules.items() if getattr(module, "__file__", "") == str(path)), ""), None
        )
        with pytest.raises(MabenchError, match=message):
            mabench_methods.load(str(path))
    with pytest.raises(MabenchError, match="there is no such file"):
        mabench_methods.load(str(tmp_path / "absent.py"))
    with pytest.raises(MabenchError, match="Did you mean 'hmdc'"):
        mabench_methods.load("hmcd")


@pytest.mark.slow
def test_a_type_checker_sees_through_the_border(tmp_path: Path) -> None:
    probe = tmp_path / "probe.py"
    probe.write_text(
        "import mabench_methods\nfrom mabench.papers import presets\nfrom mabench_methods.kit import Run\n"
        "reveal_type(mabench_methods.METHODS)\nreveal_type(mabench_methods.load('dc'))\n"
        "reveal_type(presets.preset('dc'))\nreveal_type(Run)\n"
    )
    mypy = [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", "--cache-dir", str(tmp_path / "cache"), str(probe)]
    done = subprocess.run(mypy, capture_output=True, text=True, cwd=ROOT)
    revealed = re.findall(r'Revealed type is "(.*)"', done.stdout)
    assert len(revealed) == 4, done.stdout + done.stderr
    assert revealed[0] == "dict[str, importlib.metadata.EntryPoint]"
    assert revealed[1:3] == ["mabench_methods.Method", "mabench_methods.Preset"]
    assert revealed[3].endswith("-> mabench_methods.kit.run.Run")


def test_a_snapshot_goes_back_into_the_same_objects() -> None:
    images = torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.SGD([images], lr=0.1, momentum=0.9)
    streams, waiting = kit.generators(0, ("a", "b")), [1, 2, 3]
    state = {"images": images, "optimizer": optimizer, "streams": streams, "waiting": waiting}

    def steps(count: int) -> list[float]:
        seen = []
        for _ in range(count):
            images.grad = torch.rand(3, generator=streams["a"])
            optimizer.step()
            waiting.append(len(waiting))
            seen.append(float(images.detach().sum()))
        return seen

    steps(2)
    saved = kit.snapshot(state)
    expected, there = steps(3), list(waiting)
    kit.restore(state, saved)
    assert steps(3) == expected and waiting == there


def test_one_training_is_the_textbook_loop() -> None:
    """Five epochs with a falling rate against ten lines of PyTorch, interrupted in the middle of an epoch."""
    train = data.load("digits", "train")
    real = kit.RealImages(train, CPU)

    def network() -> torch.nn.Module:
        return kit.draw_network(train.dataset, "mlp", 3)

    def order(epoch: int) -> torch.Tensor:
        return torch.randperm(200, generator=torch.Generator().manual_seed(epoch))

    plain = network()
    sgd = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9)
    for epoch in range(5):
        for rows in torch.split(order(epoch), 64):
            sgd.param_groups[0]["lr"] = 0.1 / (1 + epoch)
            sgd.zero_grad()
            torch.autograd.backward(torch.nn.functional.cross_entropy(plain(real.at(rows)), real.labels[rows]))
            sgd.step()

    def training() -> kit.Training:
        student = network()
        optimizer = torch.optim.SGD(student.parameters(), lr=0.5, momentum=0.9)

        def backward(rows: torch.Tensor, step: int) -> dict[str, float]:
            optimizer.zero_grad()
            torch.autograd.backward(torch.nn.functional.cross_entropy(student(real.at(rows)), real.labels[rows]))
            return {}

        return kit.Training(
            student,
            optimizer,
            epochs=5,
            images=200,
            batch=64,
            order=order,
            backward=backward,
            rate=lambda epoch: 0.1 / (1 + epoch),
        )

    first = training()
    for _ in range(6):
        first.step()
    second = training()
    second.resume(kit.snapshot(first.state()))
    while second.done < second.steps:
        second.step()
    assert second.steps == 20 and (second.epoch, second.position) == (5, 0)
    for ours, theirs in zip(second.network.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_presets_need_names_of_their_own() -> None:
    config = mabench_methods.load("dc").presets["smoke"].config
    with pytest.raises(ValueError, match="one name"):
        mabench_methods.by_name(Preset("x", "a", config), Preset("x", "a", config))
    assert isinstance(mabench_methods.load("dc"), Method)
