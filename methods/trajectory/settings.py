"""Hyper-parameters of matching that were published, by dataset and IPC. All without whitening (ZCA), whatever their source had.

AST's paper names none and says that it follows MTT, TESLA and FTD.
"""

from __future__ import annotations

from dataclasses import dataclass

from mabench.errors import MabenchError, lookup


@dataclass(frozen=True)
class Setting:
    """Fields of `condense.Config` of the same names."""

    student_steps: int
    expert_epochs: int
    max_start: int
    batch: int
    image_rate: float
    rate_rate: float
    start_rate: float


SUBSETS = ("imagenette", "imagewoof", "imagefruit", "imagemeow")

MTT: dict[str, Setting] = {  # MTT's commands as DC-BENCH published them; ImageNet's subsets: MTT's README, issue 1
    "cifar10 1": Setting(50, 2, 2, 0, 100.0, 1e-7, 0.01),
    "cifar10 10": Setting(30, 2, 20, 0, 100.0, 1e-5, 0.001),
    "cifar10 50": Setting(30, 2, 40, 0, 1000.0, 1e-5, 0.001),
    "cifar100 1": Setting(20, 3, 20, 0, 1000.0, 1e-5, 0.01),
    "cifar100 10": Setting(20, 2, 20, 0, 1000.0, 1e-5, 0.01),
    "cifar100 50": Setting(80, 2, 40, 125, 1000.0, 1e-5, 0.01),
    "tinyimagenet 1": Setting(10, 2, 10, 0, 10000.0, 1e-4, 0.01),
    "tinyimagenet 10": Setting(20, 2, 40, 200, 10000.0, 1e-4, 0.01),
    "tinyimagenet 50": Setting(20, 2, 40, 300, 10000.0, 1e-4, 0.01),
    **{f"{name} 1": Setting(20, 2, 10, 0, 1000.0, 1e-6, 0.01) for name in SUBSETS},
    **{f"{name} 10": Setting(20, 2, 10, 20, 100000.0, 1e-6, 0.01) for name in SUBSETS},
}
FTD: dict[str, Setting] = {  # FTD's Table 7 of parameters; ImageNet's subsets: its issue 3
    "cifar10 1": Setting(50, 2, 2, 0, 100.0, 1e-7, 0.01),
    "cifar10 10": Setting(30, 2, 20, 0, 100.0, 1e-5, 0.001),
    "cifar10 50": Setting(30, 2, 40, 0, 1000.0, 1e-5, 0.01),
    "cifar100 1": Setting(40, 3, 20, 0, 1000.0, 1e-5, 0.01),
    "cifar100 10": Setting(20, 2, 40, 0, 1000.0, 1e-5, 0.01),
    "cifar100 50": Setting(80, 2, 40, 1000, 1000.0, 1e-5, 0.01),
    "tinyimagenet 1": Setting(30, 2, 10, 0, 10000.0, 1e-4, 0.01),
    "tinyimagenet 10": Setting(20, 2, 40, 500, 10000.0, 1e-4, 0.01),
    **{f"{name} {ipc}": Setting(20, 2, 10, 64, 10000.0, 1e-4, 0.01) for name in SUBSETS for ipc in (1, 10)},
}
AST: dict[str, Setting] = FTD | {  # AST's distill.sh where it has a line
    "cifar10 10": Setting(30, 2, 20, 0, 100.0, 1e-6, 0.01),
    "cifar100 1": Setting(40, 3, 15, 0, 100.0, 1e-5, 0.01),
    "cifar100 10": Setting(20, 2, 30, 128, 1000.0, 1e-5, 0.01),
    "cifar100 50": Setting(80, 2, 40, 700, 1000.0, 1e-5, 0.01),
    "tinyimagenet 1": Setting(10, 2, 10, 0, 10000.0, 1e-4, 0.01),
}


def find(table: dict[str, Setting], dataset: str, ipc: int) -> Setting:
    """The setting of a table. Raises MabenchError, which names the nearest, where nothing was published."""
    if ipc < 1:
        raise MabenchError(f"IPC {ipc}: there must be at least one image per class.")
    return lookup(table, f"{dataset} {ipc}", "published setting")
