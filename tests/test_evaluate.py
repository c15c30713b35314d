"""The public call as a stranger uses it: on tensors as authors have them, inside their process, which stays as it was."""

from __future__ import annotations

import doctest
import importlib
import inspect
import itertools
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import BUNDLED
from torch import Tensor

import mabench
from mabench import data, evaluation, suites, training
from mabench.errors import Interrupted, MabenchError
from mabench.evaluation import accept, inputs, listeners, probe
from mabench.runs import events
from mabench.sets import readers, synthetic

MLP: dict[str, Any] = {"suite": "digits-agnostic", "evaluators": "mlp*", "seeds": [0], "device": "cpu"}


@pytest.fixture(scope="module")
def real() -> tuple[Tensor, Tensor]:
    """Ten real digits, one a class, in an order that is not theirs."""
    train = data.load("digits", "train")
    order = [7, 2, 9, 0, 4, 1, 8, 3, 6, 5]
    first = [int(np.flatnonzero(train.labels == k)[0]) for k in order]
    return torch.tensor(np.asarray(train.images[first])).float() / 255, torch.tensor(order)


@pytest.fixture(scope="module")
def expected(real: tuple[Tensor, Tensor]) -> mabench.Evaluation:
    return mabench.evaluate(*real, **MLP)


# -- what comes in -----------------------------------------------------------------------------------------------------

FORMS: dict[str, Callable[[Tensor, Tensor], tuple[Any, Any]]] = {
    "requires_grad": lambda x, y: (x.clone().requires_grad_(), y),
    "part of a graph": lambda x, y: (x.clone().requires_grad_() * 1, y),
    "parameter": lambda x, y: (torch.nn.Parameter(x.clone()), y),
    "float64": lambda x, y: (x.double(), y),
    "int32 labels": lambda x, y: (x, y.int()),
    "float labels": lambda x, y: (x, y.float()),
    "one-hot labels": lambda x, y: (x, torch.nn.functional.one_hot(y)),
    "a column of labels": lambda x, y: (x, y[:, None]),
    "numpy": lambda x, y: (x.numpy(), y.numpy()),
    "numpy of another byte order": lambda x, y: (x.numpy().astype(">f4"), y.numpy()),
    "lists": lambda x, y: (list(x), y.tolist()),
    "list of arrays": lambda x, y: ([image.numpy() for image in x], tuple(y.tolist())),
    "a pair": lambda x, y: ((x, y), None),
    "one tensor a class": lambda x, y: ([x[int((y == k).nonzero())][None] for k in range(10)], None),
    "not contiguous": lambda x, y: (x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2), y),
}


@pytest.mark.parametrize("form", FORMS)
def test_tensors_are_accepted_as_authors_have_them(form: str, real: tuple[Tensor, Tensor]) -> None:
    images, labels = real
    before = images.clone(), labels.clone()
    got = accept(*FORMS[form](images, labels), expected_dataset="digits")
    order = got.labels.argsort()
    assert torch.equal(got.images[order], images[labels.argsort()]) and torch.equal(got.labels[order], torch.arange(10))
    assert got.ipc == 1 and not got.images.requires_grad and got.images.dtype == torch.float32
    assert torch.equal(images, before[0]) and torch.equal(labels, before[1])
    assert got.images.data_ptr() != images.data_ptr(), "an optimizer may go on changing the caller's tensor"


def test_bfloat16_is_read_as_the_numbers_it_holds(real: tuple[Tensor, Tensor]) -> None:
    got = accept(real[0].bfloat16(), real[1], expected_dataset="digits")
    assert torch.equal(got.images.float(), real[0].bfloat16().float())


def test_normalised_tensors_come_back(real: tuple[Tensor, Tensor]) -> None:
    entry = data.DATASETS["digits"]
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (entry.mean, entry.std))
    got = accept((real[0] - mean) / std, real[1], expected_dataset="digits", space="normalised")
    assert torch.allclose(got.images, real[0], atol=1e-6)


@pytest.mark.parametrize(
    ("images", "labels", "words"),
    [
        ([], None, "empty list"),
        (object(), None, "Allowed: a tensor"),
        ([torch.rand(3, 32, 32), torch.rand(3, 28, 28)], None, "different shapes"),
        (torch.rand(10, 3, 28, 28), torch.arange(10), "28"),
        (torch.rand(10, 3, 32, 32), torch.arange(9), "9 rows"),
        (BUNDLED, torch.arange(10), "Leave labels out"),
        (torch.full((10, 3, 32, 32), float("nan")), torch.arange(10), "NaN"),
    ],
)
def test_bad_input_is_one_sentence_with_its_cure(images: Any, labels: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(MabenchError, match=words):
        mabench.evaluate(images, labels, **MLP, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_reading_flags_are_those_of_the_reader() -> None:
    own = set(inspect.signature(readers.read).parameters) - {"path"}
    assert set(inputs.Reading.__annotations__) == own
    with pytest.raises(MabenchError, match="set_index only applies to files"):
        accept(torch.rand(10, 3, 32, 32), torch.arange(10), expected_dataset="digits", set_index=0)


def test_a_file_that_does_not_name_its_dataset_is_the_suites(real: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    torch.save(real[0][real[1].argsort()], tmp_path / "mine.pt")  # bare images: nothing says of what
    got = mabench.evaluate(tmp_path / "mine.pt", **MLP)
    assert ("dataset", "digits") in [(f.field, f.value) for f in got.findings]
    with pytest.raises(MabenchError, match="is for cifar10"):  # a file's own word counts
        mabench.evaluate(str(BUNDLED), suite="cifar10-lite")


def test_without_a_suite_the_small_one_of_the_dataset_is_taken_and_said() -> None:
    heard: list[events.Event] = []
    got = mabench.evaluate(BUNDLED, evaluators="mlp*", seeds=[0], device="cpu", on_event=heard.append)
    assert got.suite == "digits-agnostic@1"
    assert any(isinstance(e, events.Note) and "digits-agnostic@1, the small suite" in e.text for e in heard)


# -- what comes out ----------------------------------------------------------------------------------------------------


def test_the_result_is_that_of_the_loop(real: tuple[Tensor, Tensor], expected: mabench.Evaluation) -> None:
    (record,) = expected.records
    again = training.run(
        accept(*real, expected_dataset="digits"), record.cell, data.load("digits", "test"), device=torch.device("cpu")
    )
    assert again.curve == record.curve
    assert expected.score == max(correct for _, correct in record.curve) / record.total
    assert not expected.complete and "not the whole suite" in repr(expected)


def test_tables_and_frame_hold_the_number(expected: mabench.Evaluation) -> None:
    number = f"{100 * expected.score:.2f}"
    assert all(number in expected.table(style) for style in ("text", "markdown", "latex", "csv"))
    assert expected.latex().startswith(r"\begin{tabular}") and number in expected._repr_html_()
    (row,) = expected.frame().to_dict("records")
    assert (row["suite"], row["dataset"], row["ipc"], row["seed"]) == ("digits-agnostic@1", "digits", 1, 0)
    assert row["accuracy"] == expected.score
    assert max(map(len, expected.table(width=44).splitlines())) <= 44
    with pytest.raises(MabenchError, match="Allowed: text, markdown, latex, csv"):
        expected.table("html")


def test_out_resumes_and_nothing_is_left_without_it(
    real: tuple[Tensor, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    mabench.evaluate(*real, **MLP)
    assert not list(tmp_path.iterdir())
    first = mabench.evaluate(*real, **MLP, out="out")
    heard: list[events.Event] = []
    second = mabench.evaluate(*real, **MLP, out="out", on_event=heard.append)
    assert first.records == second.records and first.folder == Path("out")
    assert [e.resumed for e in heard if isinstance(e, events.Finished)] == [True]
    assert {"table.md", "table.tex", "results.csv", "results.json", "curves.png", "curves.pdf"} <= {
        p.name for p in Path("out").iterdir()
    }


def test_a_caller_can_stop_it(real: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        mabench.evaluate(*real, **MLP, out=tmp_path / "out", should_stop=lambda: True)
    assert not list((tmp_path / "out" / "checkpoints").glob("*.pt")), "no network is built for one step"
    calls = itertools.count()
    with pytest.raises(Interrupted):
        mabench.evaluate(*real, **MLP, out=tmp_path / "out", should_stop=lambda: next(calls) > 3)
    assert list((tmp_path / "out" / "checkpoints").glob("*.pt"))
    whole, resumed = mabench.evaluate(*real, **MLP), mabench.evaluate(*real, **MLP, out=tmp_path / "out")
    assert whole.records[0].curve == resumed.records[0].curve


# -- the caller's process ----------------------------------------------------------------------------------------------


def state_of_the_process() -> dict[str, object]:
    return {
        "torch": torch.get_rng_state().tolist(),
        "numpy": np.random.get_state()[1].tolist(),  # type: ignore[index]
        "random": random.getstate(),
        "grad": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "cudnn": (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic, torch.backends.cudnn.allow_tf32),
        "tf32": torch.backends.cuda.matmul.allow_tf32,
        "dtype": torch.get_default_dtype(),
        "device": str(torch.get_default_device()),
        "threads": torch.get_num_threads(),
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)],
    }


@pytest.mark.parametrize("call", ["evaluate", "probe"])
def test_the_callers_process_stays_as_it_was_and_does_not_matter(
    call: str, real: tuple[Tensor, Tensor], expected: mabench.Evaluation
) -> None:
    """An author's process: no gradient, double precision, deterministic, autocast, another seed, handlers of his own."""
    watch = mabench.Probe("digits-agnostic", "mlp*", epochs=2, device="cpu")
    plain = watch(*real)
    images = real[0].clone().requires_grad_()
    loss = (images**2).sum()
    handler = signal.signal(signal.SIGTERM, lambda *_: None)
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    torch.set_default_dtype(torch.float64)
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            before = state_of_the_process()
            if call == "evaluate":
                assert mabench.evaluate(images, real[1], **MLP).records[0].curve == expected.records[0].curve
            else:
                assert watch(images, real[1]) == plain
            assert state_of_the_process() == before and torch.is_autocast_enabled("cpu")
        with torch.inference_mode():
            assert watch(images * 1, real[1]) == plain
            assert torch.is_inference_mode_enabled()
    finally:
        torch.set_default_dtype(torch.float32)
        torch.use_deterministic_algorithms(False)
        signal.signal(signal.SIGTERM, handler)
    loss.backward()  # type: ignore[no-untyped-call]  # the graph of the caller's tensors is whole
    assert images.grad is not None and torch.allclose(images.grad, 2 * real[0])


# -- events, listeners, probe ------------------------------------------------------------------------------------------


def test_events_come_in_order(real: tuple[Tensor, Tensor]) -> None:
    heard: list[events.Event] = []
    mabench.evaluate(*real, **MLP, on_event=[heard.append, lambda event: None])
    kinds = [type(event).__name__ for event in heard]
    assert kinds[0] == "Planned" and kinds[-1] == "Finished" and set(kinds[1:-1]) == {"Progress"}
    done = [event.done / event.total for event in heard if isinstance(event, events.Progress)]
    assert done == sorted(done) and done[0] > 0 and done[-1] == pytest.approx(1.0)


def test_listeners_are_entry_points() -> None:
    with pytest.raises(MabenchError, match="Did you mean 'tensorboard'"):
        listeners.joined("tensorbord")
    for name in ("tensorboard", "wandb"):
        if importlib.util.find_spec(name) is None:
            with pytest.raises(MabenchError, match=rf"pip install 'mabench\[{name}\]'"):
                listeners.joined(name)


def test_tensorboard_gets_a_curve_a_run(real: tuple[Tensor, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.chdir(tmp_path)
    result = mabench.evaluate(*real, **MLP, on_event="tensorboard")
    events_of_the_run = EventAccumulator(str(next((tmp_path / "runs").iterdir())))
    events_of_the_run.Reload()
    (record,) = result.records
    (scalars,) = (events_of_the_run.Scalars(tag) for tag in events_of_the_run.Tags()["scalars"])
    assert [s.step for s in scalars] == [epoch for epoch, _ in record.curve]


def test_a_probe_is_the_suites_recipe_shortened_and_says_what_it_is(real: tuple[Tensor, Tensor]) -> None:
    watch = mabench.Probe("digits-agnostic", evaluators="mlp*", epochs=7, device="cpu")
    score = watch(*real)
    assert isinstance(score, float) and "not a suite's number" in str(score) and "not a suite's number" in repr(watch)
    cell = evaluation.prepare(*real, "digits-agnostic", evaluators="mlp*", seeds=[0]).cells[0]
    recipe = cell.recipe.model_copy(update={"epochs": 7, "test_every": 7, "score": "last"})
    if cell.recipe.decay_after is not None:
        recipe = recipe.model_copy(update={"decay_after": round(7 * cell.recipe.decay_after / cell.recipe.epochs)})
    record = training.run(
        accept(*real, expected_dataset="digits"), cell.model_copy(update={"recipe": recipe, "seed_streams": "fixed"}), data.load("digits", "test"),
        device=torch.device("cpu"),
    )  # fmt: skip
    assert float(score) == record.last and watch(*real) == score


def test_a_probe_refuses_what_it_cannot_shorten() -> None:
    with pytest.raises(MabenchError, match="replays labels"):
        mabench.Probe("cifar10-gvbsm", "*")
    with pytest.raises(MabenchError, match="1 and more"):
        mabench.Probe("digits-agnostic", "mlp*", epochs=0)


# -- the package -------------------------------------------------------------------------------------------------------


def test_the_public_names_are_there_and_lazy() -> None:
    code = "import sys, mabench; dir(mabench); assert 'torch' not in sys.modules; mabench.list_suites(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    after = "import mabench.evaluation.probe, mabench; assert callable(mabench.evaluate) and callable(mabench.Probe)"
    subprocess.run([sys.executable, "-c", after], check=True)
    for name in mabench.__all__:
        assert getattr(mabench, name) is not None
    assert (
        mabench.list_suites("digits") == ["digits-agnostic@1"] and mabench.load_suite("digits-agnostic").id == "digits-agnostic@1"
    )
    assert mabench.load_set(str(BUNDLED)).ipc == 5
    with pytest.raises(AttributeError):
        mabench.evaluat  # noqa: B018


@pytest.mark.parametrize(
    "module", [evaluation, probe, synthetic, readers, suites, importlib.import_module("mabench.papers.reproduce")]
)
def test_the_examples_in_docstrings_run(module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    failed, tried = doctest.testmod(module, optionflags=flags)
    assert tried > 0 and failed == 0


def test_what_is_called_has_an_example() -> None:
    """Everything public that a user calls; results and errors are made for them."""
    made = {"Evaluation", "MabenchError", "Report", "RunRecord", "__version__"}
    assert [name for name in mabench.__all__ if name not in made and ">>>" not in (getattr(mabench, name).__doc__ or "")] == []


def test_a_condensation_with_a_probe_every_few_steps(real: tuple[Tensor, Tensor]) -> None:
    """Images that follow the real class means: the probe's number rises as they do, and the optimizer never notices it."""
    train = data.load("digits", "train")
    means = torch.stack([torch.tensor(train.images[train.labels == k]).float().mean(0) / 255 for k in range(10)])
    images = torch.nn.Parameter(torch.full_like(means, 0.5))
    optimizer = torch.optim.SGD([images], lr=5000.0)
    watch = mabench.Probe("digits-agnostic", evaluators="mlp*", epochs=15, device="cpu")
    seen = []
    for step in range(9):
        optimizer.zero_grad()
        ((images - means) ** 2).mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if step % 4 == 0:
            seen.append(float(watch(images, range(10))))
    assert len(seen) == 3 and seen[-1] > 0.3


def test_released_suites_all_load() -> None:
    assert mabench.list_suites() == list(suites.released())
