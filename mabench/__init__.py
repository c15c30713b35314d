"""mabench: the benchmark for condensed datasets. A set goes in, a frozen suite trains every evaluator on it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mabench.errors import MabenchError as MabenchError
    from mabench.evaluation import evaluate as evaluate
    from mabench.evaluation.probe import Probe as Probe
    from mabench.evaluation.result import Evaluation as Evaluation
    from mabench.papers.report import Report as Report
    from mabench.papers.reproduce import reproduce as reproduce
    from mabench.schema import RunRecord as RunRecord
    from mabench.sets.readers import read as load_set
    from mabench.sets.synthetic import SyntheticSet as SyntheticSet
    from mabench.suites import load as load_suite
    from mabench.suites import names as list_suites

__version__ = "0.1.0"

_PLACES = {
    "Evaluation": ("mabench.evaluation.result", "Evaluation"),
    "MabenchError": ("mabench.errors", "MabenchError"),
    "Probe": ("mabench.evaluation.probe", "Probe"),
    "Report": ("mabench.papers.report", "Report"),
    "RunRecord": ("mabench.schema", "RunRecord"),
    "SyntheticSet": ("mabench.sets.synthetic", "SyntheticSet"),
    "evaluate": ("mabench.evaluation", "evaluate"),
    "list_suites": ("mabench.suites", "names"),
    "load_set": ("mabench.sets.readers", "read"),
    "load_suite": ("mabench.suites", "load"),
    "reproduce": ("mabench.papers.reproduce", "reproduce"),
}

__all__ = [
    "Evaluation",
    "MabenchError",
    "Probe",
    "Report",
    "RunRecord",
    "SyntheticSet",
    "__version__",
    "evaluate",
    "list_suites",
    "load_set",
    "load_suite",
    "reproduce",
]


def __getattr__(name: str) -> Any:
    """The public names, imported when they are first used: `import mabench` takes no torch."""
    if name not in _PLACES:
        raise AttributeError(f"module 'mabench' has no attribute '{name}'")
    module, attribute = _PLACES[name]
    value = getattr(import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLACES})
