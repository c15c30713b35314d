"""The loop as the released code of the papers writes it, to compare our speed with: python benchmarks/plain_loop.py JOB.json

Eager, float32, a Python loop over batches, the whole test set at every test pass, test batches of 256 (DC, DSA, Model Pool).
On a GPU with PyTorch's defaults (convolutions in TF32) and every test batch copied there, as those do.
Networks and augmentation are ours, so that both do the same mathematics; nothing else is. Prints one JSON line: seconds
of training and of testing, and the accuracies.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from mabench import data, suites
from mabench.data.augment import augment
from mabench.networks import evaluators
from mabench.sets import readers as adapters


def run(job: dict[str, object]) -> dict[str, object]:
    """`job`: set, suite, evaluator, epochs, and optionally device, random_weights (in place of pretrained ones), test_images (the
    first so many)."""
    device = torch.device(str(job.get("device") or ("cuda" if torch.cuda.is_available() else "cpu")))
    loaded_suite = suites.load(str(job["suite"]))
    (track, evaluator), = [(t, e) for t, es in loaded_suite.evaluators.items() for e in es if e.name == job["evaluator"]]  # fmt: skip
    recipe, epochs = loaded_suite.recipes[track], int(str(job["epochs"]))
    condensed = adapters.read(Path(str(job["set"])))
    real = data.load(loaded_suite.suite.dataset, "test")
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (real.dataset.mean, real.dataset.std))
    images, labels = condensed.decoded()
    images, targets = ((images - mean) / std).to(device), F.one_hot(labels, 10).float().to(device)
    shown = slice(0, int(str(job.get("test_images") or len(real.labels))))
    test_images = (torch.tensor(real.images[shown]).float() / 255 - mean) / std
    test_labels = torch.tensor(real.labels[shown])
    weights = evaluator.model_copy(update={"pretrained": evaluator.pretrained and not job.get("random_weights")})
    model = evaluators.build(weights, num_classes=10, channels=3, image_size=evaluator.input_size, seed=0).to(device)
    kind = torch.optim.AdamW if evaluator.optimizer == "adamw" else torch.optim.SGD
    extra = {} if evaluator.optimizer == "adamw" else {"momentum": recipe.momentum}
    optimizer = kind(model.parameters(), lr=evaluator.learning_rate, weight_decay=recipe.weight_decay, **extra)
    generator = torch.Generator(device).manual_seed(0)

    def inputs(batch: torch.Tensor) -> torch.Tensor:
        side = evaluator.input_size
        return batch if batch.shape[-1] == side else F.interpolate(batch, size=(side, side), mode="bilinear")

    started, testing, accuracies = time.monotonic(), 0.0, []
    for epoch in range(1, epochs + 1):
        model.train()
        evaluators.set_batch_norm(model, frozen=evaluator.pretrained)
        for index in torch.randperm(len(images)).split(recipe.batch_size):
            batch, wanted = augment(images[index], targets[index], recipe.augmentation, generator)
            loss = F.cross_entropy(model(inputs(batch)), wanted)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if epoch % recipe.test_every == 0 or epoch == epochs:
            begun = time.monotonic()
            model.eval()
            with torch.no_grad():
                hits = sum(
                    int((model(inputs(x.to(device))).argmax(1) == y.to(device)).sum())
                    for x, y in zip(test_images.split(256), test_labels.split(256), strict=True)
                )
            accuracies.append(hits / len(test_labels))
            testing += time.monotonic() - begun
    total = time.monotonic() - started
    return {"training": total - testing, "testing": testing, "accuracies": accuracies}


if __name__ == "__main__":
    print(json.dumps(run(json.loads(Path(sys.argv[1]).read_text()))))
