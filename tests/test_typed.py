"""The commands of README and docs, typed one after the other in a folder as their readers have it, on digits instead of CIFAR-10."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import BUNDLED, Command, write_card
from PIL import Image
from support.hub_server import Hub, machine
from support.pages import FENCE, PAGES, commands, page

from mabench.sets import synthetic

READ = (
    "README.md",
    "docs/quick-start.md",
    "docs/your-set.md",
    "docs/reproduce.md",
    "docs/add-a-method.md",
    "docs/add-an-evaluator.md",
    "docs/add-a-dataset.md",
    "docs/run-a-board.md",
    "docs/use-a-set.md",
    "docs/file-forms.md",
    "docs/scale.md",
    "docs/speed.md",
    "methods/README.md",
    "submissions/README.md",
    "leaderboard/README.md",
)
NOT_READ = {
    "docs/cluster.md": "a cluster: test_ray.py runs the same flags on a local one",
    "docs/validation.md": "hours on CIFAR-10: test_published.py runs a part of them",
    "docs/scoring.md": "CIFAR-10.1, which is not here: test_second.py",
}
"""Page -> why its commands are not run here."""
SMALL = {
    **dict.fromkeys(("cifar10-lite", "cifar10-agnostic", "cifar10-modelpool", "cifar10-ast"), "digits-agnostic"),
    **dict.fromkeys(("ORG/NAME", "my-lab/board", "org/board"), "board/results"),
    **dict.fromkeys(("my-lab/leaderboard", "org/page"), "board/page"),
    "cifar10": "digits",
    "cuda:0": "cpu",
    "resnet*": "mlp*",
    "NAME": "dm",
    "modelpool_res_DC_CIFAR10_ConvNet_10ipc_3000.pt": "published_digits.pt",
}
"""What a page names -> what is run here: a toy, no GPU, a Hub on this machine."""
ELSEWHERE = {
    "--launcher": "test_ray.py",
    "serve": "test_cli.py: runs until Ctrl-C",
    "--recorded-labels": "test_recorded.py",
    "--fkd": "test_fkd.py",
    "zca": "test_zca.py",
    "demo": "test_cli.py",
}
"""Word -> where a command that has it is run; it is not run here."""


def files(folder: Path) -> None:
    """What the pages take for granted: sets in the forms they name, a card, a dataset, suites, a method."""
    digits = synthetic.load(BUNDLED)
    images, labels = digits.images.float() / 255, digits.labels
    torch.save({"images": images, "labels": labels}, folder / "my_set.pt")
    digits.save(folder / "my_set.safetensors")
    torch.save({"images": images, "labels": labels}, folder / "cifar10.pt")
    first = torch.stack([images[labels == k][0] for k in range(10)])
    published = folder / "published_digits.pt"
    torch.save({"images": first, "labels": torch.arange(10)}, published)
    np.save(folder / "images.npy", digits.images.permute(0, 2, 3, 1)[labels.argsort(stable=True)].numpy())
    mean, std = (torch.tensor(values)[:, None, None] for values in (digits_statistics("mean"), digits_statistics("std")))
    normalised = (images - mean) / std
    torch.save(normalised, folder / "images_best.pt")
    torch.save(labels, folder / "labels_best.pt")
    torch.save({"data": [[normalised, labels], [normalised, labels]]}, folder / "res_DC_CIFAR10_ConvNet_10ipc.pt")
    logits = 9 * torch.nn.functional.one_hot(labels, 10) - 4 + 0.1 * torch.rand(len(labels), 10)
    torch.save({"images": 2 * images - 1, "targets": logits}, folder / "set.pt")
    small = torch.nn.functional.avg_pool2d(images, 2)
    tiles = torch.stack([small[labels == k].repeat(8, 1, 1, 1)[:40] for k in range(10)])  # [10,40,3,16,16]: ten grids a class
    rows = tiles.reshape(10, 10, 2, 2, 3, 16, 16).permute(0, 1, 4, 2, 5, 3, 6).reshape(100, 3, 32, 32)
    torch.save({"images": rows, "labels": torch.arange(10).repeat_interleave(10)}, folder / "tiles.pt")
    write_card(folder / "card.toml", title="k-means on digits, IPC 5", slug="dc-ipc1")
    for split in ("train", "test"):
        for number, name in enumerate(("cat", "dog", "rabbit")):
            (folder / "pets" / split / name).mkdir(parents=True)
            for k in range(6):
                noise = np.random.default_rng(100 * number + 10 * k + len(split)).integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(noise // (number + 1)).save(folder / "pets" / split / name / f"{k}.png")
    (folder / "pets.toml").write_text(blocks("docs/add-a-dataset.md", "toml")[0])
    own = blocks("docs/your-set.md", "toml")[-1]
    (folder / "mine.toml").write_text(own)
    suite = own.replace('"digits-wide"', '"pets-mlp"').replace('"digits"', '"pets"').replace("convnet3-scratch", "mlp-scratch")
    (folder / "pets-suite.toml").write_text(suite.partition("[evaluator_fields")[0])
    deeper = blocks("docs/add-an-evaluator.md", "python")[0].split('"""')[1]
    (folder / "deeper.toml").write_text(deeper.replace("epochs = 60", "epochs = 10"))
    (folder / "my_method.py").write_text(blocks("docs/add-a-method.md", "python")[0])
    (folder / "README.md").write_text("<!-- mabench: generated -->\n<!-- mabench: end -->\n")


def digits_statistics(name: str) -> tuple[float, ...]:
    from mabench.data import DATASETS

    values: tuple[float, ...] = getattr(DATASETS["digits"], name)
    return values


def blocks(name: str, language: str) -> list[str]:
    return [text for kind, text in FENCE.findall(page(name)) if kind == language]


def without(words: list[str], *options: str) -> list[str]:
    """Without these options and their values."""
    for option in options:
        while option in words:
            del words[words.index(option) : words.index(option) + 2]
    return words


def smaller(arguments: list[str], folder: Path) -> list[str]:
    """The command on a toy: the same options, with what costs hours replaced."""
    words = [SMALL.get(word, word) for word in arguments]
    if words[0] == "reproduce":
        words = without(words, "--ipc", "--config", "--sets", "--seeds")
        words[1] = "dm" if words[1] == "NAME" else words[1]
        if "--preset" in words:
            words[words.index("--preset") + 1] = "smoke"
        else:
            words += ["--preset", "smoke"]
    if words[0] in ("eval", "reproduce") and "--dry-run" not in words:
        own = any(word.endswith(".toml") for word in words)
        words = without(words, "--seeds", *(() if own else ("--evaluator",)))
        words += ["--seeds", "0"] + ([] if own else ["--evaluator", "mlp*"])
    if "my_set.pt" in words and "pets.toml" in " ".join(words):
        words[words.index("my_set.pt")] = "pets_set.pt"
    if words[:2] == ["leaderboard", "build"]:
        words = without(words, "--suite") + (["--suite", "digits-agnostic"] if "--suite" in words else [])
    return [next((p.as_posix() for p in folder.glob("results/my_set-*")), word) if "1a2b3c4d" in word else word for word in words]


def typed() -> Iterator[tuple[str, list[str]]]:
    for name in READ:
        for arguments, whole in commands(page(name)):
            if whole and not any(word in arguments for word in ELSEWHERE):
                yield name, arguments


def test_every_page_with_commands_is_read_or_says_why_not() -> None:
    about = {"README.md", *(name for name in PAGES if name.startswith("docs/") and "evidence" not in name)}
    assert {name for name in about if any(whole for _, whole in commands(page(name)))} <= {*READ, *NOT_READ}


@pytest.mark.slow
def test_the_commands_of_the_pages_run(mabench: Command, tmp_path: Path) -> None:
    files(tmp_path)
    torch.save({"images": torch.rand(3, 3, 32, 32), "labels": torch.arange(3)}, tmp_path / "pets_set.pt")
    done: dict[str, int] = {}
    failed = []
    with Hub() as server:
        owner = machine(server, tmp_path / "home", "owner")
        for name, arguments in typed():
            words = [shlex.quote(word) for word in smaller(arguments, tmp_path)]
            line = " ".join(words)
            if line in done:
                continue
            if "pull" in words and "board/results" not in server.repos:
                make(mabench, tmp_path, owner)
            if name == "leaderboard/README.md" and "--repo" in words:
                shutil.rmtree(
                    tmp_path / "submissions", ignore_errors=True
                )  # as on another machine: `verify` added to the one here
            result = mabench(*smaller(arguments, tmp_path), cwd=tmp_path, **owner)
            done[line] = result.returncode
            if result.returncode or "Traceback" in result.stderr:
                failed.append(f"{name}: mabench {line}\n{result.stdout[-400:]}{result.stderr[-800:]}")
    assert not failed, "\n\n".join(failed)
    assert len(done) > 40


def make(mabench: Command, folder: Path, owner: dict[str, str]) -> None:
    """A board on the Hub that has the submission which the pages fetch; the one here is put aside, as on another machine."""
    for words in (
        ["board", "init", "board/results", "--space", "board/page"],
        ["submit", "my_set.pt", "--repo", "board/results"],
    ):
        result = mabench(*words, cwd=folder, **owner)
        assert result.returncode == 0, result.stderr
    shutil.rmtree(folder / "submissions" / "dc-ipc1")
