"""What makes a GPU fast, step by step: python benchmarks/gpu_variants.py SET --suite SUITE --evaluator NAME

One evaluator in PyTorch as it comes, in bfloat16, with its steps recorded as CUDA graphs, compiled, and both: milliseconds of a training
step on all images of SET and of a test pass over all test images, in windows of several sizes, whole and sorted for pruning. Mean of 60
steps, one test pass each; cuDNN as PyTorch leaves it. Pretrained networks have random weights. Prints one JSON line a variant.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from pathlib import Path

import torch

from mabench import data, engine, suites
from mabench.engine import fast
from mabench.runs import costs
from mabench.runs.plan import plan
from mabench.sets import readers as adapters
from mabench.training.loop import Trainer
from mabench.training.material import Material

STEPS, WARM = 60, 6
VARIANTS = (
    # name, engine, compiled, recorded
    ("float32, eager", "reference", False, False),
    ("bfloat16, eager", "fast", False, False),
    ("bfloat16, eager, recorded", "fast", False, True),
    ("bfloat16, compiled", "fast", True, False),
    ("bfloat16, compiled, recorded", "fast", True, True),
)


@torch.inference_mode()
def test_pass(trainer: Trainer, size: int) -> float:
    """Milliseconds of one test pass in windows of `size`."""
    trainer.engine.test_batch = size
    count = len(trainer.material.test_labels)
    for begin in range(2):  # the first time compiles
        trainer.tester.take_weights()
        torch.cuda.synchronize()
        begun = time.perf_counter()
        for first in range(0, count - size + 1, size) if begin else (0, size):
            trainer.tester.logits(slice(first, first + size))
        torch.cuda.synchronize()
    return 1000 * (time.perf_counter() - begun) * count / (count // size * size)


def sorted_test_pass(trainer: Trainer) -> float:
    """Milliseconds of one test pass that could stop early and does not."""
    trainer.engine.prunes, trainer.state.curve = True, []
    trainer.tester.begin(trainer.state)
    begun = time.monotonic()
    trainer.tester.run(trainer.state, whole=False, advance=lambda images: None)
    torch.cuda.synchronize()
    return 1000 * (time.monotonic() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("set", type=Path)
    parser.add_argument("--suite", required=True)
    parser.add_argument("--evaluator", required=True)
    chosen = parser.parse_args()
    device, loaded_suite, one = torch.device("cuda"), suites.load(chosen.suite), adapters.read(chosen.set)
    test = data.load(loaded_suite.suite.dataset, "test")
    (cell, *_) = plan(loaded_suite, one, evaluator=chosen.evaluator, seeds=[0])
    cell = costs.with_random_weights(cell)
    recording = engine.FastEngine.graph
    for name, which, compiled, recorded in VARIANTS:
        fast.COMPILE_FROM_FLOPS["cuda"] = 0.0 if compiled else float("inf")
        engine.FastEngine.graph = recording if recorded else engine.Engine.graph  # type: ignore[method-assign]
        torch.cuda.reset_peak_memory_stats()
        trainer = Trainer(Material(one, cell, test, device), cell.evaluator, which)  # type: ignore[arg-type]
        batch = torch.arange(min(cell.recipe.batch_size, len(trainer.material.images)), device=device)
        trainer.set_training()
        for step in range(WARM + STEPS):
            if step == WARM:
                torch.cuda.synchronize()
                begun = time.perf_counter()
            trainer.graphed_step(batch)
        torch.cuda.synchronize()
        step_ms = 1000 * (time.perf_counter() - begun) / STEPS
        default = trainer.engine.test_batch
        passes = {size: round(test_pass(trainer, size), 2) for size in sorted({default // 2, default, default * 2})}
        trainer.engine.test_batch = default
        found = {
            "evaluator": chosen.evaluator, "variant": name, "step_ms": round(step_ms, 3), "test_pass_ms": passes,
            "sorted_test_pass_ms": round(sorted_test_pass(trainer), 1), "peak_bytes": torch.cuda.max_memory_allocated(),
        }  # fmt: skip
        print(json.dumps(found), flush=True)
        del trainer
        gc.collect()
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
