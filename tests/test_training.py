"""The loop against a textbook loop written here, its streams, its checkpoints and its quirks."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from builders import CPU, PLAIN, STRONG, TEST, cell, small_set

from mabench import training
from mabench.digests import stream
from mabench.engine import Engine
from mabench.errors import Interrupted
from mabench.networks import evaluators
from mabench.networks.evaluators import EVALUATORS
from mabench.schema import Augmentation, Distillation, Evaluator, Recipe
from mabench.sets.synthetic import SyntheticSet
from mabench.training import distillation, optimizers, progress, provenance
from mabench.training.loop import Trainer
from mabench.training.material import Material


def new_trainer(recipe: Recipe, evaluator: str | Evaluator = "mlp-scratch") -> Trainer:
    one = cell(recipe, evaluator=evaluator)
    return Trainer(Material(small_set(), one, TEST, CPU), one.evaluator, "reference")


def curve(recipe: Recipe = PLAIN, **arguments: Any) -> tuple[tuple[int, int], ...]:
    return training.run(small_set(), cell(recipe, **arguments), TEST, device=CPU).curve


@pytest.mark.parametrize("quirks", ["none", "learned rate, other momentum after the decay, no decay of biases"])
def test_the_loop_is_the_textbook_loop(quirks: str) -> None:
    """Same initial weights and order, then thirty lines that know nothing of our loop: the same curve."""
    recipe, quirky = PLAIN.model_copy(update={"decay_after": 4}), quirks != "none"
    given = small_set()
    if quirky:  # AST's recipe, and G-VBSM's weight decay: the learned rate wins over the recipe's own
        given = replace(given, learning_rate=0.08)
        update = {
            "rate": "learned",
            "decay_factor": 0.5,
            "decay_momentum": 0.5,
            "weight_decay_on": "weights",
            "weight_decay": 0.05,
        }
        recipe = recipe.model_copy(update=update)
    record = training.run(given, cell(recipe), TEST, device=CPU)
    assert record.synthetic_set.learning_rate == given.learning_rate
    model = evaluators.build(EVALUATORS["mlp-scratch"], num_classes=10, channels=3, image_size=32, seed=stream(0, "init"))
    order = torch.Generator().manual_seed(stream(0, "order"))
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (TEST.dataset.mean, TEST.dataset.std))
    chosen = small_set()
    images, labels = (chosen.images.float() / 255 - mean) / std, chosen.labels
    test_images = (torch.tensor(TEST.images).float() / 255 - mean) / std
    expected, losses, rate, keep, shrink = [], [], (0.08 if quirky else 0.05), 0.9, (0.05 if quirky else 5e-4)
    momentum = {p: torch.zeros_like(p) for p in model.parameters()}
    for epoch in range(1, 7):
        permutation, total = torch.randperm(len(images), generator=order), 0.0
        for batch in permutation.split(16):  # type: ignore[no-untyped-call]
            loss = F.cross_entropy(model(images[batch]), labels[batch])
            gradients = torch.autograd.grad(loss, list(model.parameters()))
            with torch.no_grad():
                for p, g in zip(model.parameters(), gradients, strict=True):
                    momentum[p] = keep * momentum[p] + g + (0 if quirky and p.dim() == 1 else shrink) * p
                    p -= rate * momentum[p]  # type: ignore[misc]
            total += float(loss.detach()) * len(batch) / len(images)
        if epoch == 4:
            rate, keep = (0.04, 0.5) if quirky else (0.005, 0.9)
            momentum = {p: torch.zeros_like(p) for p in model.parameters()}
        if epoch % 2 == 0:
            losses.append(total)
            with torch.no_grad():
                expected.append((epoch, int((model(test_images).argmax(1) == torch.tensor(TEST.labels)).sum())))
    assert len(record.curve) == 3 and record.total == 500
    for (epoch, correct), (epoch_here, correct_here) in zip(record.curve, expected, strict=True):
        assert epoch == epoch_here and abs(correct - correct_here) <= 2, "float32 sums in another order may move an image or two"
    assert [loss for _, loss in record.train_loss] == pytest.approx(losses, rel=1e-3)
    assert record.best > 0.3, "and it learns"


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_an_optimizer_steps_as_torchs_own(name: str) -> None:
    recipe = PLAIN.model_copy(update={"optimizer": name, "momentum": 0.9, "weight_decay": 0.01, "weight_decay_on": "weights"})
    ours, theirs = (torch.nn.Linear(5, 3) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    groups: list[dict[str, Any]] = [{"params": [theirs.weight]}, {"params": [theirs.bias], "weight_decay": 0.0}]
    own: torch.optim.Optimizer = (
        torch.optim.SGD(groups, lr=0.05, momentum=0.9, weight_decay=0.01)
        if name == "sgd"
        else torch.optim.AdamW(groups, lr=0.05, weight_decay=0.01)
    )
    built = optimizers.build(ours, recipe, EVALUATORS["mlp-scratch"], 0.05, decayed=False, capturable=False)
    inputs = torch.randn(8, 5)
    for _ in range(4):
        for network, optimizer in ((ours, built), (theirs, own)):
            optimizer.zero_grad()
            network(inputs).square().sum().backward()
            optimizer.step()
        assert torch.equal(ours.weight, theirs.weight) and torch.equal(ours.bias, theirs.bias)
        kept = built.state_dict()
        built = optimizers.build(ours, recipe, EVALUATORS["mlp-scratch"], 0.05, decayed=False, capturable=False)
        built.load_state_dict(kept)


def test_an_eager_run_imports_no_compiler(tmp_path: Path) -> None:
    """torch's compiler takes two processor seconds to import; a checkpoint is written and read on the way."""
    code = f"""
import sys
from pathlib import Path
from builders import CPU, PLAIN, TEST, cell, small_set
from mabench import training
from mabench.errors import Interrupted
for optimizer in ("sgd", "adamw"):
    one = cell(PLAIN.model_copy(update={{"optimizer": optimizer}}))
    steps = iter(range(1000))
    try:
        training.run(small_set(), one, TEST, device=CPU, checkpoint=Path({str(tmp_path)!r}) / optimizer, should_stop=lambda: next(steps) > 3)
    except Interrupted:
        training.run(small_set(), one, TEST, device=CPU, checkpoint=Path({str(tmp_path)!r}) / optimizer)
assert "torch._dynamo" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("schedule", "ends_at"), [("cosine", 1), ("half-cosine", 2)])
def test_rates_on_a_cosine_are_those_of_pytorchs_schedule(schedule: str, ends_at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's own cosine, which for `half-cosine` would reach zero after twice as many epochs."""
    recipe, rates = PLAIN.model_copy(update={"schedule": schedule}), []
    plain = optimizers.set_cosine_rate

    def spied(optimizer: torch.optim.Optimizer, *arguments: Any) -> None:
        plain(optimizer, *arguments)
        rates.append(optimizer.param_groups[0]["lr"])

    monkeypatch.setattr(optimizers, "set_cosine_rate", spied)
    training.run(small_set(), cell(recipe), TEST, device=CPU)
    reference = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.05)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(reference, T_max=6 * ends_at)
    expected = []
    for _ in range(6):
        expected.append(reference.param_groups[0]["lr"])
        reference.step()
        scheduler.step()
    assert rates == pytest.approx(expected) and rates[0] == 0.05


def test_a_learned_rate_is_for_recipes_that_ask_for_it() -> None:
    """Without a rate of its own the set is trained at the recipe's, which is what `rate = fixed` always does."""
    learned, brings = PLAIN.model_copy(update={"rate": "learned"}), replace(small_set(), learning_rate=0.001)

    def losses(chosen: SyntheticSet, recipe: Recipe) -> tuple[tuple[int, float], ...]:
        return training.run(chosen, cell(recipe), TEST, device=CPU).train_loss

    fixed = losses(small_set(), PLAIN)
    assert losses(small_set(), learned) == fixed == losses(brings, PLAIN)
    assert losses(brings, learned) != fixed


def test_streams_follow_from_seed_suite_and_set() -> None:
    """The published derivation, written out: sha256 of a path of names, its first seven bytes. Every part of it counts."""

    def expected(*parts: str) -> int:
        return int(hashlib.sha256("/".join(("mabench", *parts)).encode()).hexdigest()[:14], 16)

    fixed = cell(PLAIN, seed=2)
    bound = fixed.model_copy(update={"seed_streams": "set"})
    for name in ("init", "order", "augment", "teacher-init"):
        assert fixed.stream(name) == expected("2", name)
        assert bound.stream(name) == expected("2", "test@1", small_set().sha256, name)
    others = [bound.model_copy(update=change) for change in ({"seed": 1}, {"suite": "test@2"}, {"set_sha256": "1" * 64})]
    assert len({one.stream("init") for one in (fixed, bound, *others)}) == 5
    assert fixed.model_copy(update={"set_sha256": "1" * 64}).stream("init") == fixed.stream("init")


def test_a_set_that_changes_by_one_bit_meets_other_networks() -> None:
    given = small_set()
    images = given.images.clone()
    images[0, 0, 0, 0] ^= 1
    changed = replace(given, images=images)

    def started(one: SyntheticSet, streams: str) -> str:
        made = cell(PLAIN).model_copy(update={"seed_streams": streams, "set_sha256": one.sha256})
        return training.run(one, made, TEST, device=CPU).initial_weights_sha256

    assert started(given, "fixed") == started(changed, "fixed")
    assert len({started(given, "fixed"), started(given, "set"), started(changed, "set")}) == 3
    assert started(given, "set") == started(given, "set")


def test_a_cell_is_reproducible() -> None:
    recipe = PLAIN.model_copy(update={"augmentation": STRONG})
    first = curve(recipe)
    torch.manual_seed(99)
    torch.rand(5)
    assert curve(recipe) == first, "no global state"
    assert curve(recipe, seed=1) != first
    state = torch.random.get_rng_state()
    curve(recipe)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("distilled", [False, True])
def test_an_interrupted_cell_equals_an_uninterrupted_one(
    tmp_path: Path, distilled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped again and again, at places within epochs and within looks."""
    monkeypatch.setattr(distillation, "TRAINED", distillation.TrainedTeachers())
    monkeypatch.setattr(distillation.TRAINED, "remember", lambda key, teacher: None)  # each process trains its own teacher
    update: dict[str, Any] = {"augmentation": STRONG, "decay_after": 3}
    if distilled:
        update["distillation"] = Distillation(teacher="lenet-scratch", alpha=0.5, temperature=4.0)
    recipe = PLAIN.model_copy(update=update)
    whole = training.run(small_set(), cell(recipe), TEST, device=CPU)
    checkpoint = tmp_path / "checkpoints" / "cell.pt"
    stops = 0
    for attempt in range(200):
        calls = 0

        def stop(limit: int = 1 + attempt % 7) -> bool:
            nonlocal calls
            calls += 1
            return calls > limit

        try:
            pieces = training.run(small_set(), cell(recipe), TEST, device=CPU, checkpoint=checkpoint, should_stop=stop)
            break
        except Interrupted:
            stops += 1
    else:
        pytest.fail("never finished")
    assert stops > 5
    changing = {"seconds", "started"}
    assert pieces.model_dump(exclude=changing) == whole.model_dump(exclude=changing), "first losses and initial weights too"


def test_a_damaged_or_foreign_checkpoint_starts_the_cell_again(tmp_path: Path) -> None:
    checkpoint = tmp_path / "cell.pt"
    with pytest.raises(Interrupted):
        training.run(small_set(), cell(seed=1), TEST, device=CPU, checkpoint=checkpoint, should_stop=lambda: True)
    foreign = checkpoint.read_bytes()
    expected = curve()
    with pytest.raises(Interrupted):
        training.run(small_set(), cell(), TEST, device=CPU, checkpoint=checkpoint, should_stop=lambda: True)
    own = checkpoint.read_bytes()
    flipped = [own[:i] + bytes([own[i] ^ 64]) + own[i + 1 :] for i in (200, len(own) // 2, len(own) - 3)]
    for content in (foreign, foreign[: len(foreign) // 2], b"", b"<html>", *flipped):
        checkpoint.write_bytes(content)
        assert training.run(small_set(), cell(), TEST, device=CPU, checkpoint=checkpoint).curve == expected


def test_splitting_a_batch_is_the_same_step(monkeypatch: pytest.MonkeyPatch) -> None:
    losses = []
    for size in (3, 10**6):
        monkeypatch.setattr(Engine, "part_size", lambda self, count, size=size: size)
        record = training.run(small_set(), cell(evaluator="lenet-scratch"), TEST, device=CPU)
        losses.append([loss for _, loss in record.train_loss])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_classifier_only_and_frozen_batch_norm(tmp_path: Path) -> None:
    entry = EVALUATORS["convnet3-scratch"].model_copy(update={"arguments": {"width": 8, "norm": "batch"}})
    recipe = PLAIN.model_copy(update={"classifier_only": (entry.name,), "batch_norm": "frozen"})
    trainer = new_trainer(recipe, entry)
    before = {k: v.clone() for k, v in trainer.model.state_dict().items()}
    trainer.train(progress.Watch(trainer.material.cell, "reference", 40, 500))
    changed = {k for k, v in trainer.model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {"classifier.weight", "classifier.bias"}


@pytest.mark.parametrize("space", ["pixel", "normalised"])
def test_inputs_reach_the_network_in_its_own_normalisation(space: str) -> None:
    """A pretrained entry's mean and std decide what the network sees, wherever the augmentation acts."""
    entry = EVALUATORS["mlp-scratch"].model_copy(update={"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.5, 1.0)})
    pixels = torch.rand(2, 3, 32, 32)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (TEST.dataset.mean, TEST.dataset.std))
    for normalisation in ("evaluator", "dataset"):
        recipe = PLAIN.model_copy(update={"augmentation": Augmentation(space=space), "normalisation": normalisation})  # type: ignore[arg-type]
        view = Material(small_set(), cell(recipe, evaluator=entry), TEST, CPU).view(entry)
        given = (pixels - mean) / std if space == "normalised" else pixels
        m, s = (
            (torch.tensor(v).view(1, 3, 1, 1) for v in (entry.mean, entry.std)) if normalisation == "evaluator" else (mean, std)
        )
        torch.testing.assert_close(view(given), (pixels - m) / s, rtol=1e-4, atol=1e-5)


def test_divergence_is_recorded() -> None:
    record = training.run(small_set(), cell(PLAIN.model_copy(update={"learning_rate": 1e30})), TEST, device=CPU)
    assert record.diverged_epoch is not None and record.last < 0.2
    assert record.model_validate_json(record.model_dump_json()) == record
    one_step = PLAIN.model_copy(
        update={"epochs": 1, "test_every": 1, "batch_size": 1000, "learning_rate": 3e38, "weight_decay": 1e3}
    )
    late = training.run(small_set(), cell(one_step), TEST, device=CPU)
    assert late.diverged_epoch == 1 and late.train_loss[0][1] > 0, "the very last step did it: no loss has seen it"


@pytest.mark.parametrize("threads", [1, 2])
def test_a_cell_is_the_same_twice_on_as_many_threads(threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        first, second = (training.run(small_set(), cell(), TEST, device=CPU) for _ in range(2))
    finally:
        torch.set_num_threads(before)
    assert (first.curve, first.train_loss) == (second.curve, second.train_loss)


def test_distillation_is_model_pools_equation_1() -> None:
    """Against probabilities written out; and a probability that underflows gives no NaN."""
    recipe = PLAIN.model_copy(update={"distillation": Distillation(teacher="mlp-scratch", alpha=1.0, temperature=2.0)})
    trainer = new_trainer(recipe)
    teacher = distillation.Teacher(trainer.model, trainer.view, trainer.material, ask_once=False, batch=50)
    draws = torch.Generator().manual_seed(0)
    images, logits = torch.randn(4, 3, 32, 32, generator=draws), torch.randn(4, 10, generator=draws)
    target = torch.softmax(trainer.model(trainer.view(images)) / 2, 1)
    expected = 4 * (target * (target.log() - torch.log_softmax(logits / 2, 1))).sum(1).mean()
    indices, no_loss = torch.arange(4), torch.tensor(0.0)
    torch.testing.assert_close(teacher.mixed_loss(no_loss, logits, images, indices), expected)
    far = torch.tensor([[0.0, 500.0] + [0.0] * 8] * 4, requires_grad=True)
    teacher.mixed_loss(no_loss, far, images, indices).backward()  # type: ignore[no-untyped-call]
    assert far.grad is not None and far.grad.isfinite().all()


def test_students_of_one_seed_share_a_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trained once for both students, and neither can tell; another seed or another set has its own."""
    monkeypatch.setattr(distillation, "TRAINED", distillation.TrainedTeachers())
    recipe = PLAIN.model_copy(update={"distillation": Distillation(teacher="mlp-scratch", alpha=0.5, temperature=2.0)})
    alone = curve(recipe, evaluator="lenet-scratch")
    distillation.TRAINED.forget()
    curve(recipe, evaluator="mlp-scratch")
    assert len(distillation.TRAINED.weights) == 1
    heard: list[training.Progress] = []
    second = cell(recipe, evaluator="lenet-scratch")
    record = training.run(small_set(), second, TEST, device=CPU, on_progress=heard.append)
    assert record.curve == alone
    assert heard[0].done > heard[-1].total * 0.2, "the teacher's part of the work is already done"
    assert heard[-1].done == pytest.approx(heard[-1].total)
    curve(recipe.model_copy(update={"distillation": Distillation(teacher="mlp-scratch", alpha=0.9, temperature=4.0)}))
    assert len(distillation.TRAINED.weights) == 1, "how it teaches is another matter"
    curve(recipe, seed=1)
    other = small_set(ipc=3)
    training.run(other, cell(recipe).model_copy(update={"set_sha256": other.sha256}), TEST, device=CPU)
    assert len(distillation.TRAINED.weights) == 3


@pytest.mark.parametrize("augmentation", [Augmentation(), Augmentation(flip=1e-9)])
def test_a_teacher_sees_images_in_its_own_way(augmentation: Augmentation) -> None:
    """A student with another normalisation and size; asked once or at every step, the teacher's answers are its own."""
    student = EVALUATORS["lenet-scratch"].model_copy(update={"mean": (0.9, 0.9, 0.9), "std": (0.1, 0.1, 0.1), "input_size": 40})
    recipe = PLAIN.model_copy(
        update={
            "distillation": Distillation(teacher="mlp-scratch", alpha=1.0, temperature=2.0),
            "normalisation": "evaluator",
            "augmentation": augmentation,
        }
    )
    material = Material(small_set(), cell(recipe, student), TEST, CPU)
    trainer = Trainer(material, EVALUATORS["mlp-scratch"], "reference", phase="teacher")
    indices = torch.tensor([3, 39, 0])
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (TEST.dataset.mean, TEST.dataset.std))
    expected = trainer.model((small_set().images[indices].float() / 255 - mean) / std)
    for ask_once in (False, True):
        teacher = distillation.Teacher(trainer.model, trainer.view, material, ask_once=ask_once, batch=7)
        assert (teacher.logits is not None) == (ask_once and augmentation.absent)
        torch.testing.assert_close(teacher.ask(material.images[indices], indices), expected, rtol=1e-4, atol=1e-5)


def test_a_record_says_what_made_it() -> None:
    """Initial weights and first losses by a computation of ten lines; commit, processor, threads, engine, kernels by name."""
    record = training.run(small_set(), cell(), TEST, device=CPU)
    model = evaluators.build(EVALUATORS["mlp-scratch"], num_classes=10, channels=3, image_size=32, seed=stream(0, "init"))
    whole = hashlib.sha256()
    for name, value in model.state_dict().items():
        whole.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode() + value.numpy().tobytes())
    assert record.initial_weights_sha256 == whole.hexdigest()
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (TEST.dataset.mean, TEST.dataset.std))
    one = small_set()
    batch = torch.randperm(40, generator=torch.Generator().manual_seed(stream(0, "order")))[:16]
    loss = F.cross_entropy(model((one.images[batch].float() / 255 - mean) / std), one.labels[batch])
    assert len(record.first_losses) == 10 and record.first_losses[0] == pytest.approx(float(loss.detach()), rel=1e-5)
    facts = record.environment
    assert facts["threads"] == str(torch.get_num_threads()) and facts["accelerator"] == "none" and facts["processor"]
    assert (facts["engine"], facts["arithmetic"], facts["kernels"]) == ("reference", "float32, eager", "PyTorch's own")
    assert re.fullmatch(r"[0-9a-f]{40}(, dirty, sources [0-9a-f]{64})?|sources [0-9a-f]{64}", facts["commit"])


def test_sources_without_git_are_named_by_their_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed copy; one changed byte is another digest; a checkout with changes is dirty."""
    copy = tmp_path / "mabench"
    copy.mkdir()
    (copy / "a.py").write_text("x = 1\n")
    monkeypatch.setattr(provenance, "PACKAGE", copy)
    provenance.commit.cache_clear()
    first = provenance.commit()
    (copy / "a.py").write_text("x = 2\n")
    provenance.commit.cache_clear()
    assert first.startswith("sources ") and provenance.commit().startswith("sources ") and provenance.commit() != first
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    for command in (["init", "-q"], ["add", "-A"], [*identity, "commit", "-qm", "x"]):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    provenance.commit.cache_clear()
    assert re.fullmatch(r"[0-9a-f]{40}", provenance.commit())
    (copy / "a.py").write_text("x = 3\n")
    provenance.commit.cache_clear()
    assert re.fullmatch(r"[0-9a-f]{40}, dirty, sources [0-9a-f]{64}", provenance.commit())
    provenance.commit.cache_clear()


def test_on_a_gpu_convolutions_stay_with_cudnn_repeatable_and_in_float32() -> None:
    """The switches exist without a GPU too."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul

    def switches() -> tuple[bool, ...]:
        return cudnn.enabled, cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32, matmul.allow_tf32

    own, matmul.allow_tf32 = matmul.allow_tf32, True  # a caller's choice
    try:
        before = switches()
        with training.deterministic(torch.device("cuda")):
            assert switches() == (True, False, True, False, False)
        assert switches() == before
        with training.deterministic(torch.device("cpu")):
            assert switches() == before
    finally:
        matmul.allow_tf32 = own
