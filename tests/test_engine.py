"""The fast engine: pruned passes are exact, its arithmetic stays near float32, and it falls back without a compiler."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from builders import CPU, PLAIN, STRONG, TEST, cell, small_set
from hypothesis import given, settings
from hypothesis import strategies as st

from mabench import engine, files, suites, training
from mabench.data import DATASETS
from mabench.engine import Workload, equivalence
from mabench.engine import fast as fast_engine
from mabench.errors import Interrupted, MabenchError
from mabench.networks import compiling, evaluators
from mabench.networks.evaluators import EVALUATORS
from mabench.results import scoring
from mabench.runs import costs
from mabench.runs.process import undisturbed
from mabench.schema import Augmentation, Cell, Distillation, Evaluator, RunRecord
from mabench.training.material import choose_engine
from mabench.training.testing import VisitingOrder

ROOT = Path(__file__).resolve().parent.parent
NARROW = EVALUATORS["convnet3-scratch"].model_copy(update={"arguments": {"depth": 3, "width": 16, "norm": "instance"}})
PASSES = PLAIN.model_copy(update={"epochs": 40, "test_every": 2, "batch_size": 20, "augmentation": STRONG})


@settings(max_examples=300, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    images=st.integers(1, 60),
    passes=st.integers(1, 25),
    batch=st.integers(1, 20),
    hard=st.floats(0, 1),
    sort_every=st.integers(1, 40),
    broken=st.booleans(),
)
def test_pruned_passes_find_the_same_best(
    seed: int, images: int, passes: int, batch: int, hard: float, sort_every: int, broken: bool
) -> None:
    """Random histories, some images harder than others, accuracy rising and falling: as if every pass had been whole."""
    generator = torch.Generator().manual_seed(seed)
    ease = torch.rand(images, generator=generator) * (1 - hard) + hard / 2
    level = torch.rand(passes, 1, generator=generator)
    labels = torch.randint(0, 3, (images,), generator=generator)
    logits = torch.randn(passes, images, 3, generator=generator)
    logits += 6 * ((ease + level) / 2 - 0.4)[..., None] * F.one_hot(labels, 3)
    if broken:  # a network that has diverged
        logits[passes // 2] = torch.tensor([float("nan"), float("inf"), float("-inf")])
    history = logits.argmax(2) == labels  # [passes,N]: which images are hit
    whole = history.sum(1).tolist()

    pruned, best, stored = VisitingOrder(labels), -1, []
    pruned.SORT_EVERY = sort_every
    for step in range(passes):
        pruned.begin()
        hits, visited = 0, []  # type: ignore[var-annotated]
        while len(visited) < images:
            window = pruned.next(batch)
            assert 1 <= len(window) <= batch
            pruned.note(window, logits[step][window])
            hits, visited = hits + int(history[step][window].sum()), visited + window.tolist()
            if step < passes - 1 and pruned.cannot_beat_best(hits, images - len(visited), best):
                break
        tested = len(visited)
        assert len(set(visited)) == tested, "every image at most once"
        stored.append(hits + images - tested)
        assert stored[-1] >= whole[step] and (stored[-1] == whole[step] or stored[-1] <= best)
        best = max(best, stored[-1])
    assert best == max(whole) and stored.index(best) == whole.index(best) and stored[-1] == whole[-1]


def run(name: str, recipe: Any = PASSES, evaluator: str | Evaluator = "mlp-scratch", **arguments: Any) -> RunRecord:
    return training.run(small_set(), cell(recipe, evaluator), TEST, device=CPU, engine=name, **arguments)  # type: ignore[arg-type]


def test_pruning_changes_only_hopeless_passes() -> None:
    """A cell too short to compile: float32 and the same batches, bit-identical wherever a pass was whole."""
    reference, fast = run("reference"), run("fast")
    assert (fast.engine, reference.engine) == ("fast", "reference")
    assert (fast.best, fast.best_epoch, fast.last) == (reference.best, reference.best_epoch, reference.last)
    assert fast.train_loss == reference.train_loss
    assert fast.upper_bounds and fast.images_tested is not None and fast.images_tested < reference.images_tested == 20 * 500  # type: ignore[operator]
    for (epoch, bound), (_, hits) in zip(fast.curve, reference.curve, strict=True):
        assert bound >= hits if epoch in fast.upper_bounds else bound == hits


def test_the_last_tenth_of_the_passes_is_whole() -> None:
    """Also where pruning would have ended them: the passes just before were ended early, and a plateau is exact."""
    recipe = PASSES.model_copy(update={"epochs": 80, "test_every": 1})
    reference, fast = run("reference", recipe), run("fast", recipe)
    plateau = recipe.plateau_epochs
    assert plateau == tuple(range(73, 81)) and not set(plateau) & set(fast.upper_bounds)
    assert len(set(range(61, 73)) & set(fast.upper_bounds)) >= 3, "such passes are usually ended early"
    assert fast.curve[-8:] == reference.curve[-8:]
    assert scoring.plateau(fast) == scoring.plateau(reference) == sum(hits for _, hits in reference.curve[-8:]) / 8 / 500


def test_an_interrupted_fast_cell_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    whole, checkpoint = run("fast"), tmp_path / "cell.pt"
    for attempt in range(400):
        calls = iter(range(10**9))
        try:
            pieces = run(
                "fast", checkpoint=checkpoint, should_stop=lambda calls=calls, limit=3 + attempt % 11: next(calls) > limit
            )
            break
        except Interrupted:
            continue
    assert attempt > 5
    changing = {"seconds", "started"}
    assert pieces.model_dump(exclude=changing) == whole.model_dump(exclude=changing)


def test_a_checkpoint_of_the_other_engine_is_not_continued(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        run("reference", checkpoint=tmp_path / "cell.pt", should_stop=lambda: True)
    assert run("fast", checkpoint=tmp_path / "cell.pt").curve == run("fast").curve


SLOWER = [pytest.param(name, marks=pytest.mark.slow) for name in ("convnet3-scratch", "vit_mini-scratch")]


@pytest.mark.parametrize("name", ["batch norm", *SLOWER])
def test_bfloat16_testing_sees_what_float32_sees(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One trained network, tested by both engines; the arithmetic of the compiled twin, uncompiled to save the time."""
    monkeypatch.setitem(fast_engine.COMPILE_FROM_FLOPS, "cpu", 0.0)
    monkeypatch.setattr(compiling, "can_compile", lambda device: True)
    monkeypatch.setattr(compiling, "has_bfloat16", lambda device: True)
    monkeypatch.setattr(compiling, "program", lambda kind: fast_engine.call_eagerly)
    torch.manual_seed(0)
    narrow = EVALUATORS["convnet3-scratch"].model_copy(update={"arguments": {"depth": 3, "width": 32, "norm": "batch"}})
    evaluator = EVALUATORS.get(name, narrow)
    model = evaluators.build(evaluator, num_classes=10, channels=3, image_size=32, seed=0)
    images = (torch.tensor(TEST.images).float() / 255 - 0.3) / 0.4
    labels = torch.tensor(TEST.labels)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(40):
        loss = torch.nn.functional.cross_entropy(model(images[::10]), labels[::10])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    plain, fast = (engine.build(e, model, CPU, Workload(evaluator, False, 0.0, 500, 1e12)) for e in ("reference", "fast"))
    assert (plain.dtype, fast.dtype) == (torch.float32, torch.bfloat16)
    answers = []
    for own in (plain, fast):
        own.begin_test_pass()
        with torch.inference_mode():
            answers.append(torch.cat([own.predict(part.to(own.dtype)).argmax(1) for part in images.split(own.test_batch)]))  # type: ignore[no-untyped-call]
    assert (answers[0] == labels).float().mean() > 0.25, "it has learnt something"
    assert (answers[0] == answers[1]).float().mean() > 0.97


def test_a_compiled_cell_and_its_second_seed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The same learning as uncompiled; the program is compiled once."""
    if not compiling.can_compile(CPU):
        pytest.skip("no C++ compiler here")
    recipe = PASSES.model_copy(update={"epochs": 8})
    plain = run("fast", recipe)
    monkeypatch.setitem(fast_engine.COMPILE_FROM_FLOPS, "cpu", 0.0)
    compiled = run("fast", recipe)
    if compiled.environment["arithmetic"].endswith("eager"):
        pytest.skip("the C++ compiler here lacks something")
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    again = run("fast", recipe)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == before, "nothing compiled anew"
    assert again.curve == compiled.curve
    assert abs(compiled.best - plain.best) < 0.1 and compiled.best > 0.3


def test_what_cannot_change_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the classifier is trained: the fast engine sends each test image through the convolutions once in twenty passes."""
    recipe = PASSES.model_copy(update={"classifier_only": ("lenet-scratch",), "batch_norm": "frozen"})
    reference, embed, seen = run("reference", recipe, "lenet-scratch"), engine.FastEngine.embed, []
    monkeypatch.setattr(engine.FastEngine, "embed", lambda self, inputs: (seen.append(len(inputs)), embed(self, inputs))[1])  # type: ignore[func-returns-value]
    fast = run("fast", recipe, "lenet-scratch")
    assert sum(seen) == 500 == reference.total
    assert (fast.best, fast.best_epoch, fast.last) == (reference.best, reference.best_epoch, reference.last)
    assert reference.best > 0.2 and "features computed once" in fast.environment["arithmetic"]
    changing = EVALUATORS["convnet3-scratch"].model_copy(update={"arguments": {"depth": 3, "width": 32, "norm": "batch"}})
    model = evaluators.build(changing, num_classes=10, channels=3, image_size=32, seed=0).requires_grad_(False)
    evaluators.head(model).requires_grad_(True)
    moving = engine.build("fast", model, CPU, Workload(changing, True, 0.0, 500, 1e12))
    assert moving.head is None, "statistics of batch norm move, so features do"


@pytest.mark.parametrize("augmentation", [Augmentation(), STRONG])
def test_a_teacher_is_asked_once_where_every_epoch_asks_the_same(augmentation: Augmentation) -> None:
    """The engines agree, whether the teacher is asked once (fast, no augmentation) or at every step."""
    distillation = Distillation(teacher="lenet-scratch", alpha=0.5, temperature=2.0)
    recipe = PLAIN.model_copy(update={"distillation": distillation, "augmentation": augmentation})
    records = [training.run(small_set(), cell(recipe), TEST, device=CPU, engine=name) for name in ("reference", "fast")]
    assert abs(records[0].last - records[1].last) <= 0.01


def test_what_is_fastest_here_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kept per machine beside the datasets; a damaged file is made anew; a folder that refuses costs a measurement."""
    monkeypatch.setenv("MABENCH_CACHE", str(tmp_path / "cache"))
    asked: list[int] = []

    def seconds(size: int) -> float:
        asked.append(size)
        return abs(size - 50)

    kept = tmp_path / "cache" / "calibration.json"
    assert compiling.fastest("net", (25, 50, 100), seconds) == 50 and asked == [25, 50, 100]
    assert compiling.fastest("net", (25, 50, 100), seconds) == 50 and len(asked) == 3
    assert compiling.fastest("other", (25, 100), seconds) == 25 and len(asked) == 5
    (machine,) = json.loads(kept.read_text())
    assert json.loads(kept.read_text())[machine] == {"net": 50, "other": 25} and torch.__version__ in machine
    for damage in ("", "[1]", json.dumps({machine: 7}), json.dumps({machine: {"net": 51}})):
        kept.write_text(damage)
        asked.clear()
        assert compiling.fastest("net", (25, 50, 100), seconds) == 50 and len(asked) == 3, damage
    kept.unlink()
    kept.mkdir()
    assert compiling.fastest("net", (25, 50, 100), seconds) == 50


def test_a_long_cell_settles_on_a_test_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The arithmetic of a compiled cell, uncompiled to save the time: some size is chosen, and the test pass is the same."""
    monkeypatch.setenv("MABENCH_CACHE", str(tmp_path))
    monkeypatch.setitem(fast_engine.COMPILE_FROM_FLOPS, "cpu", 0.0)
    monkeypatch.setattr(compiling, "can_compile", lambda device: True)
    monkeypatch.setattr(compiling, "has_bfloat16", lambda device: False)
    monkeypatch.setattr(compiling, "program", lambda kind: fast_engine.call_eagerly)
    plain = run("fast", evaluator="lenet-scratch")
    assert not (tmp_path / "calibration.json").exists(), "short cells do not try"
    monkeypatch.setattr(fast_engine, "TUNE_FROM_FLOPS", 0.0)
    settled = run("fast", evaluator="lenet-scratch")
    ((found,),) = [list(v.values()) for v in json.loads((tmp_path / "calibration.json").read_text()).values()]
    assert found in fast_engine.TEST_BATCHES
    assert (settled.train_loss, settled.best_epoch) == (plain.train_loss, plain.best_epoch)


def test_depthwise_convolutions_are_trained_as_they_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the compiler makes them slower, a processor: float32 in training, bit for bit, whatever testing does."""
    monkeypatch.setitem(fast_engine.COMPILE_FROM_FLOPS, "cpu", 0.0)
    monkeypatch.setattr(compiling, "can_compile", lambda device: True)
    monkeypatch.setattr(compiling, "has_bfloat16", lambda device: True)
    monkeypatch.setattr(compiling, "program", lambda kind: fast_engine.call_eagerly)
    for name, plain in (("mobilenetv2-scratch", True), ("convnet3-scratch", False)):
        model = evaluators.build(EVALUATORS[name], num_classes=10, channels=3, image_size=32, seed=0)
        own = engine.build("fast", model, CPU, Workload(EVALUATORS[name], True, 0.0, 500, 1e12))
        images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        model.train()
        expected = model(images)
        assert torch.equal(own.logits(images), expected) == plain
        assert ("trained in float32" in own.describe()) == plain and own.dtype == torch.bfloat16


def test_eager_training_on_a_processor_is_the_references(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit, where the processor has bfloat16 too; only test passes are computed in it."""
    monkeypatch.setattr(compiling, "has_bfloat16", lambda device: True)
    monkeypatch.setattr(fast_engine, "BFLOAT16_FROM_FLOPS", 0.0)
    recipe = PASSES.model_copy(update={"epochs": 10})
    for entry in (NARROW, "lenet-scratch"):  # NARROW is tested in another layout of memory
        reference, fast = run("reference", recipe, entry), run("fast", recipe, entry)
        assert fast.environment["arithmetic"] == "bfloat16, eager, trained in float32, eager"
        assert (fast.train_loss, fast.first_losses) == (reference.train_loss, reference.first_losses)
        assert abs(fast.last - reference.last) < 0.02


def test_every_step_in_bfloat16_sees_the_weights_of_the_step_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Autocast keeps bfloat16 weights until its outermost context ends, and a run computes within one."""
    monkeypatch.setattr(compiling, "has_bfloat16", lambda device: True)
    monkeypatch.setattr(compiling, "can_compile", lambda device: True)
    monkeypatch.setattr(compiling, "program", lambda kind: fast_engine.call_eagerly)
    monkeypatch.setitem(fast_engine.COMPILE_FROM_FLOPS, "cpu", 0.0)
    monkeypatch.setattr(fast_engine, "BFLOAT16_FROM_FLOPS", 0.0)
    monkeypatch.setattr(fast_engine, "THIN_CHANNELS", 0)
    recipe = PASSES.model_copy(update={"epochs": 10})
    with undisturbed():
        reference, fast = run("reference", recipe, NARROW), run("fast", recipe, NARROW)
    assert fast.environment["arithmetic"] == "bfloat16, compiled"
    assert fast.first_losses == pytest.approx(reference.first_losses, rel=0.02)
    assert reference.first_losses[-1] < 0.9 * reference.first_losses[0], "it has learnt something"


@pytest.mark.slow
def test_without_a_compiler_the_record_says_so(tmp_path: Path) -> None:
    """A compiler that is there but fails is the harder case: no headers, for one."""
    broken = tmp_path / "bin" / "g++"
    broken.parent.mkdir()
    broken.write_text("#!/bin/sh\necho 'Python.h: No such file or directory' >&2\nexit 1\n")
    broken.chmod(0o755)
    code = (
        "import sys; sys.path.insert(0, 'tests'); from mabench.engine import fast; fast.COMPILE_FROM_FLOPS['cpu'] = 0.0\n"
        "import test_engine as t; r = t.run('fast', t.PASSES.model_copy(update={'epochs': 4}), 'lenet-scratch')\n"
        "print(r.environment['arithmetic'], r.total)"
    )
    environment = os.environ | {"CXX": str(broken), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[1], env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert "eager 500" in done.stdout and "not compiled here" in done.stderr


def test_programs_lie_in_a_folder_of_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where PyTorch has already chosen one among the temporary files, where others can put theirs; a named one stays."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(compiling, "_PROGRAMS", {})
    own = f"mabench-compiled-{os.getuid() if hasattr(os, 'getuid') else 'user'}"
    for named, kept in (
        (None, own),
        (Path(tempfile.gettempdir()) / "torchinductor_somebody", own),
        (tmp_path / "named", "named"),
    ):
        monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
        if named is not None:
            monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(named))
        compiling.program(f"to see the folder {kept} {named}")
        assert Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]) == tmp_path / kept


def test_a_compiler_that_fails_at_the_gradient_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradient's program is made when it is first wanted; the step is then done again, with the same draws."""

    class CompilerError(Exception):
        __module__ = "torch._inductor.exc"

    class Fails(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: object, gradient: torch.Tensor) -> torch.Tensor:
            raise CompilerError("no gradient for you")

    uncompiled = run("fast", PASSES, "lenet-scratch")
    monkeypatch.setattr(fast_engine, "THIN_CHANNELS", 0)  # LeNet is too thin for compiled training
    monkeypatch.setitem(fast_engine.COMPILE_FROM_FLOPS, "cpu", 0.0)
    monkeypatch.setattr(compiling, "can_compile", lambda device: True)
    monkeypatch.setattr(compiling, "program", lambda kind: lambda model, inputs: Fails.apply(model(inputs)))
    with pytest.warns(UserWarning, match="not compiled here: no gradient"):
        failed = run("fast", PASSES, "lenet-scratch")
    assert failed.environment["arithmetic"] == uncompiled.environment["arithmetic"] == "float32, eager"
    assert failed.train_loss == uncompiled.train_loss
    assert (failed.best, failed.last) == (uncompiled.best, uncompiled.last)


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(MabenchError, match="auto, reference, fast"):
        engine.wanted("turbo")


def test_auto_is_fast_where_the_measured_differences_say_so() -> None:
    """The evidence beside the suites is everything that was measured (benchmarks/results) and found equivalent, and nothing else."""
    measured = json.loads((ROOT / "benchmarks/results/equivalence.json").read_text())
    said = {(row["suite"], row["set"], row["evaluator"], row["device"]): row for row in json.loads(equivalence.FILE.read_text())}
    assert len(said) == len(json.loads(equivalence.FILE.read_text())) > 0
    found = set()
    for row in measured:
        differences = row["differences"]
        mean, error = fmean(differences), stdev(differences) / len(differences) ** 0.5
        assert row["seeds"] == len(differences) >= 10
        assert (row["difference"], row["standard_error"]) == pytest.approx((mean, error), abs=1e-12)
        assert row["equivalent"] == (abs(mean) + error < 0.003)
        own_file = ROOT / "benchmarks" / f"{row['suite'].partition('@')[0].replace('-', '_')}.toml"
        loaded_suite = suites.load(str(own_file) if own_file.exists() else row["suite"])
        track = loaded_suite.track_of(row["evaluator"])
        (entry,) = [e for e in loaded_suite.evaluators[track] if e.name == row["evaluator"]]
        recipe, device = loaded_suite.recipes[track], torch.device(row["device"])
        assert row["key"] == equivalence.evidence_key(entry, recipe)
        for arithmetic in row["arithmetic"].replace(", steps replayed", "").split("; "):
            chosen = engine.choose("auto", cell(recipe, entry), device, partial(str, arithmetic))
            assert chosen == ("fast" if row["equivalent"] else "reference"), row
        if row["equivalent"]:
            place = (row["suite"], row["set"], row["evaluator"], row["device"])
            found.add(place)
            assert all(said[place][name] == row[name] for name in said[place])
    assert found == set(said)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool, bool], None]:
    """Call with: are there bfloat16 products? and a compiler?"""

    def pretend(bfloat16: bool, compiler: bool) -> None:
        monkeypatch.setattr(compiling, "has_bfloat16", lambda device: bfloat16)
        monkeypatch.setattr(compiling, "can_compile", lambda device: compiler)

    return pretend


def chosen(one: Cell, device: torch.device = CPU, name: engine.Wanted = "auto", work: float = 0.0) -> str:
    return choose_engine(name, one, DATASETS["cifar10"], 100, 10_000, device, work)


def test_auto_trusts_a_digest_and_no_name(machine: Callable[[bool, bool], None]) -> None:
    """The headline's ConvNet-3 on a GPU was shown; another depth, another rate or another recipe under its name was not."""
    recipe, entry = suites.load("cifar10-agnostic").recipes["scratch"], EVALUATORS["convnet3-scratch"]
    cuda = torch.device("cuda")
    machine(True, True)
    assert chosen(cell(recipe, entry), cuda, work=1e15) == "fast"
    assert chosen(cell(recipe, entry)) == "reference"
    deeper = entry.model_copy(update={"arguments": entry.arguments | {"depth": 5}})
    for other in (cell(recipe, deeper), cell(recipe, entry.model_copy(update={"learning_rate": 0.02})), cell(PLAIN, entry)):
        assert chosen(other, cuda, work=1e15) == "reference"
        assert chosen(other, cuda, "fast") == "fast" and chosen(other, CPU, "reference") == "reference"


def test_auto_is_fast_only_in_an_arithmetic_that_was_measured(machine: Callable[[bool, bool], None]) -> None:
    """`fast` means another arithmetic on another processor: it is the default where it is a measured one, or the reference's own."""
    lite, modelpool = suites.load("cifar10-lite"), suites.load("cifar10-modelpool")
    convnet, vit = (
        cell(lite.recipes["scratch"], next(e for e in lite.evaluators["scratch"] if e.name == name))
        for name in ("convnet3-scratch", "vit_mini-scratch")
    )
    paper = cell(modelpool.recipes["modelpool"], EVALUATORS["convnet3-scratch"])
    headline = cell(suites.load("cifar10-agnostic").recipes["scratch"], EVALUATORS["convnet3-scratch"])
    long, short = 1e15, 1e9
    for bfloat16, compiler, one, work, expected in (
        (True, True, convnet, long, "fast"),  # bfloat16, compiled
        (True, False, convnet, long, "fast"),  # bfloat16, eager, trained in float32, eager
        (False, True, convnet, long, "reference"),  # float32, compiled, with Winograd's convolutions
        (False, True, convnet, short, "fast"),  # float32, eager
        (True, True, vit, long, "fast"),
        (False, True, vit, long, "reference"),  # float32, compiled, trained in float32, eager
        (False, False, vit, long, "fast"),
        (True, True, paper, long, "fast"),
        (True, True, paper, short, "reference"),  # bfloat16, eager, trained in float32, eager: not measured under this recipe
    ):
        machine(bfloat16, compiler)
        assert chosen(one, work=work) == expected, (bfloat16, compiler, one.evaluator.name, work)
    for bfloat16, work, expected in ((True, long, "fast"), (False, long, "reference"), (True, short, "reference")):
        machine(bfloat16, True)
        assert chosen(headline, torch.device("cuda"), work=work) == expected
        assert engine.may_be_fast("auto", headline, "cuda") and not engine.may_be_fast("auto", headline, "cpu")


@pytest.mark.parametrize("name", ["lenet-scratch", "mobilenetv2_050-scratch", "the head"])
def test_the_arithmetic_that_auto_expects_is_the_one_that_is_recorded(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def choose(name: engine.Wanted, one: Cell, device: torch.device, would_be: Callable[[], str]) -> str:
        asked.append(would_be())
        return name

    monkeypatch.setattr(engine, "choose", choose)
    recipe = PLAIN
    if name == "the head":
        name, recipe = "lenet-scratch", PLAIN.model_copy(update={"classifier_only": ("lenet-scratch",), "batch_norm": "frozen"})
    assert [run("fast", recipe, name).environment["arithmetic"]] == asked


def test_alike_runs_of_a_panel_decide_together_whether_to_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run too short to compile alone is compiled where the panel holds enough of its kind; finished ones count."""
    monkeypatch.setattr(compiling, "can_compile", lambda device: True)
    monkeypatch.setattr(compiling, "program", lambda kind: fast_engine.call_eagerly)
    monkeypatch.setattr(fast_engine, "THIN_CHANNELS", 0)
    one = small_set()
    cells = [cell(PLAIN, "lenet-scratch", seed=seed) for seed in range(3)] + [cell(PLAIN)]
    alone = costs.flops(cells[0], TEST.dataset, 40, 500)
    shared = costs.panel_work(cells, TEST.dataset, 40, 500)
    assert shared[cells[1].name] == pytest.approx(3 * alone) and shared[cells[3].name] == costs.flops(
        cells[3], TEST.dataset, 40, 500
    )
    monkeypatch.setitem(fast_engine.COMPILE_FROM_FLOPS, "cpu", 2 * alone)

    def arithmetic(work: float | None) -> str:
        return training.run(one, cells[0], TEST, device=CPU, engine="fast", panel_work=work).environment["arithmetic"]

    assert arithmetic(None) == "float32, eager" and arithmetic(shared[cells[0].name]).endswith(", compiled")


@pytest.mark.parametrize("missing", ["pruning", "position", "a piece of pruning"])
def test_a_checkpoint_of_another_version_is_begun_again(tmp_path: Path, missing: str) -> None:
    """It lacks something that this version needs, and is sound otherwise: the cell starts again and gives the same record."""
    checkpoint = tmp_path / "cell.pt"
    calls = iter(range(10**9))
    with pytest.raises(Interrupted):
        run("fast", checkpoint=checkpoint, should_stop=lambda: next(calls) > 40)
    state = torch.load(io.BytesIO(files.read_checksummed(checkpoint) or b""), weights_only=True)
    del (state["pruning"] if missing == "a piece of pruning" else state)[
        "margins" if missing == "a piece of pruning" else missing
    ]
    torch.save(state, checkpoint)
    with checkpoint.open("r+b") as file:
        files.append_checksum(file)
    assert run("fast", checkpoint=checkpoint).curve == run("fast").curve
