"""What a user does with the installed wheel, outside the repository: the public call, a probe in a condensation loop, a method of
somebody else's package found by its entry point, and a method in a file. Run by `.ci/wheel`, with the wheel's Python."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch
from sklearn.datasets import load_digits

import mabench

# -- the public call -----------------------------------------------------------------------------------------------------------
digits = load_digits()
images = digits.images[:10, None].repeat(4, axis=2).repeat(4, axis=3).repeat(3, axis=1) / 16
result = mabench.evaluate(images, digits.target[:10], suite="digits-agnostic", evaluators="mlp*", seeds=[0], out="call")
print(result, result.table(), result.latex(), sep="\n")
assert 0.2 < result.score < 1 and len(result.frame()) == len(result.records) == 1
again = mabench.evaluate(images, digits.target[:10], suite="digits-agnostic", evaluators="mlp*", seeds=[0], out="call")
assert again.records == result.records, "the second call resumes"
assert "digits-agnostic@1" in mabench.list_suites()

# -- a probe inside a condensation loop (gradient matching, as DC: one network, all of the train split's classes) ---------------
probe = mabench.Probe("digits-agnostic", evaluators="mlp*", epochs=5)
real = (
    torch.tensor(digits.images[:1000] / 16, dtype=torch.float32)[:, None]
    .repeat_interleave(4, 2)
    .repeat_interleave(4, 3)
    .repeat(1, 3, 1, 1)
)
classes = torch.tensor(digits.target[:1000])
synthetic, labels = torch.rand(10, 3, 32, 32, requires_grad=True), torch.arange(10)
optimizer = torch.optim.SGD([synthetic], lr=1.0)
scores = []
for step in range(6):
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
    loss = torch.zeros(())
    for label in range(10):
        batch = real[classes == label][:32]
        targets = [torch.full((len(x),), label) for x in (batch, synthetic[label : label + 1])]
        ours, theirs = (
            torch.autograd.grad(torch.nn.functional.cross_entropy(network(x), y), list(network.parameters()), create_graph=True)
            for x, y in ((synthetic[label : label + 1], targets[1]), (batch, targets[0]))
        )
        loss = loss + sum((a - b.detach()).square().sum() for a, b in zip(ours, theirs, strict=True))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 2 == 0:
        scores.append(probe(synthetic, labels))
        print(step, float(loss), scores[-1])
assert len(scores) == 3 and synthetic.requires_grad and synthetic.grad is not None

# -- a method in a package of its own, and one in a file ------------------------------------------------------------------------
METHOD = '''
from dataclasses import dataclass

import torch

from mabench.schema import Card
from mabench_methods import Method, Preset, by_name, kit
from mabench_methods.kit import RealImages, Run


@dataclass(frozen=True)
class Config:
    ipc: int


def condense(train, config, seed, device, run=None):
    """The first images of every class."""
    run = run or Run()
    run.begin("NAME", config, seed, train)
    if (done := run.finished()) is not None:
        return done
    real = RealImages(train, device)
    streams = kit.generators(seed, ("draws",))
    images = [real.draw(label, config.ipc, streams["draws"]).cpu() for label in range(train.dataset.num_classes)]
    made = real.to_set(torch.cat(images).to(device), config.ipc, f"NAME-ipc{config.ipc}-seed{seed}")
    return run.finish(made, Card(title="NAME"))


METHOD = Method("NAME", condense, by_name(Preset("NAME", "smoke", Config(1), "digits", comparable=False, runs_on="cpu")))
'''
package = Path(sys.argv[1])  # a site-packages folder that may be written to
(package / "outsider.py").write_text(METHOD.replace("NAME", "outsider"))
info = package / "outsider-1.0.dist-info"
info.mkdir()
(info / "METADATA").write_text("Metadata-Version: 2.1\nName: outsider\nVersion: 1.0\n")
(info / "entry_points.txt").write_text("[mabench.methods]\noutsider = outsider:METHOD\n")
Path("my_method.py").write_text(METHOD.replace("NAME", "my-method"))
command = [str(Path(sys.executable).with_name("mabench")), "reproduce"]
for name in ("outsider", "./my_method.py"):
    more = ["--preset", "smoke", "--suite", "digits-agnostic", "--evaluator", "mlp*", "--seeds", "0", "--device", "cpu"]
    done = subprocess.run([*command, name, *more], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    print(f"mabench reproduce {name}: {done.stdout.splitlines()[-1]}")
