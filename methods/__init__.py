"""Condensation methods: reference implementations, and whatever another package registers. They never see the test split or the evaluation.

A method is a `Method`: a name, the function that condenses, and its presets. The methods of this package stand in `BUNDLED`; another
package offers its own by an entry point in the group `mabench.methods`, whose value is `module:METHOD`; a file offers one as `METHOD`:

    [project.entry-points."mabench.methods"]
    mean = "my_package.mean:METHOD"

Importing this module imports no method and no torch.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from mabench.digests import digest
from mabench.errors import MabenchError, lookup

if TYPE_CHECKING:
    import torch

    from mabench.data import RealData
    from mabench.sets.synthetic import SyntheticSet
    from mabench_methods.kit import Run

GROUP = "mabench.methods"


class Config(Protocol):
    """Hyper-parameters of a method: a frozen dataclass."""

    @property
    def ipc(self) -> int:
        """Stored images per class."""
        ...


@dataclass(frozen=True)
class Preset:
    """A method, one of its configurations, and what it is run on."""

    method: str
    name: str
    config: Config
    dataset: str = "cifar10"
    comparable: bool = True
    """Whether the method's paper, or its released code, ran this configuration: only then can its numbers be compared."""
    runs_on: Literal["cpu", "gpu"] = "gpu"
    """Where one set takes minutes: on two processor cores, or only on an accelerator."""
    changes: tuple[str, ...] = ()
    """Fields changed since, as `--config` reads them; with any it is no longer the preset that its name says."""


class Condense(Protocol):
    """Condense a train split; resume from the run's checkpoint, to the same images."""

    def __call__(self, train: RealData, config: Any, seed: int, device: torch.device, run: Run | None = None) -> SyntheticSet: ...


@dataclass(frozen=True)
class Method:
    """A method as `mabench reproduce` runs it."""

    name: str
    condense: Condense
    presets: Mapping[str, Preset]
    """By name; the first with a budget is what `--ipc` takes."""
    paper: Path | None = None
    """Its `paper.toml`: what was published about it."""


def _bundled(name: str, value: str) -> EntryPoint:
    return EntryPoint(name, f"mabench_methods.{value}", GROUP)


BUNDLED: dict[str, EntryPoint] = {
    entry.name: entry
    for entry in (
        _bundled("random", "baselines.presets:RANDOM"),
        _bundled("herding", "baselines.presets:HERDING"),
        _bundled("k-center", "baselines.presets:K_CENTER"),
        _bundled("k-means", "baselines.presets:K_MEANS"),
        _bundled("forgetting", "baselines.presets:FORGETTING"),
        _bundled("dc", "dc.presets:DC"),
        _bundled("dsa", "dc.presets:DSA"),
        _bundled("dm", "dm.condense:METHOD"),
        _bundled("model-pool", "model_pool.presets:METHOD"),
        _bundled("hmdc", "hmdc.presets:METHOD"),
        _bundled("idc", "hmdc.rivals:IDC"),
        _bundled("dream", "hmdc.rivals:DREAM"),
        _bundled("trajectory", "trajectory.presets:AST"),
        _bundled("mtt", "trajectory.presets:MTT"),
        _bundled("gvbsm", "gvbsm.presets:GVBSM"),
        _bundled("sre2l", "gvbsm.presets:SRE2L"),
        _bundled("rded", "rded.presets:METHOD"),
    )
}
"""The methods of this package."""


def _registered() -> dict[str, EntryPoint]:
    """Every method by name. Another package cannot replace one of this package, or one of a third."""
    found = dict(BUNDLED)
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: (entry.name, entry.value)):
        found.setdefault(entry.name, entry)
    return found


METHODS: dict[str, EntryPoint] = _registered()
"""Name -> where the method is. `load` imports it."""


def load(method: str) -> Method:
    """Return a method by its name, or the `METHOD` of a Python file by its path.

    Raises MabenchError for a name that is not registered, and for a file or package that offers no method.
    """
    if method.endswith(".py"):
        return _of_file(Path(method))
    entry = lookup(METHODS, method, "method", "mabench list")
    try:
        loaded = entry.load()
    except Exception as error:
        if method in BUNDLED:
            raise
        raise MabenchError(f"method '{method}' ({entry.value}): {_importing(error)}") from error
    found = _checked(loaded, f"method '{method}' ({entry.value})")
    if found.name != method:
        raise MabenchError(
            f"method '{method}' ({entry.value}): its METHOD is called '{found.name}'. Register it under that name."
        )
    return found


def presets(method: str) -> Mapping[str, Preset]:
    """Return every preset of a method by name. Raises MabenchError as `load`."""
    return load(method).presets


def _of_file(path: Path) -> Method:
    """The `METHOD` of a file, which is imported as a module of its own."""
    if not path.is_file():
        raise MabenchError(f"{path}: there is no such file. A method is a registered name, or the path of a Python file.")
    name = f"mabench_method_{digest(str(path.resolve()))[:12]}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # dataclasses look their module up while it is imported
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            del sys.modules[name]
            raise MabenchError(f"{path}: {_importing(error)}") from error
    return _checked(getattr(sys.modules[name], "METHOD", None), str(path))


def _importing(error: Exception) -> str:
    """One line about an error in somebody's module: what it is, and the line of its own code that raised it."""
    frame, line = error.__traceback__, ""
    while frame is not None:
        code: types.CodeType = frame.tb_frame.f_code
        if "importlib" not in code.co_filename and code.co_filename != __file__:
            line = f" at {code.co_filename}:{frame.tb_lineno}"
        frame = frame.tb_next
    return f"importing it raised {type(error).__name__}: {error}{line}"


def _checked(value: Any, where: str) -> Method:
    if not isinstance(value, Method):
        kind = "nothing" if value is None else f"a {type(value).__name__}"
        raise MabenchError(
            f"{where}: METHOD is {kind}. It must be a mabench_methods.Method: METHOD = Method(NAME, condense, presets); see docs/add-a-method.md."
        )
    for name, preset in value.presets.items():
        if not isinstance(preset, Preset) or (preset.method, preset.name) != (value.name, name):
            raise MabenchError(f"{where}: preset '{name}' must be a Preset of method '{value.name}' with that name.")
    if not value.presets:
        raise MabenchError(f"{where}: method '{value.name}' has no presets; `mabench reproduce` needs one.")
    return value


def by_name(*every: Preset) -> dict[str, Preset]:
    """Return presets by name, in their order: what `Method.presets` holds. Raises ValueError for a name that is there twice."""
    named = {preset.name: preset for preset in every}
    if len(named) != len(every):
        raise ValueError("two presets have one name")
    return named
