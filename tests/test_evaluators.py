"""Every evaluator builds, is reproducible from its seed, and carries the normalisation of its weights."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mabench import suites
from mabench.networks import evaluators, sizes
from mabench.networks.evaluators import EVALUATORS
from mabench.schema import Evaluator

PRETRAINED = [e for e in EVALUATORS.values() if e.pretrained]


@pytest.mark.parametrize("name", [e.name for e in EVALUATORS.values() if not e.pretrained])
def test_scratch_evaluators_answer_with_one_logit_a_class(name: str) -> None:
    entry = EVALUATORS[name]
    model = evaluators.build(entry, num_classes=7, channels=3, image_size=entry.input_size, seed=0).eval()
    with torch.inference_mode():
        assert model(torch.zeros(2, 3, entry.input_size, entry.input_size)).shape == (2, 7)
    assert evaluators.head(model).out_features == 7


@pytest.mark.parametrize("entry", PRETRAINED, ids=lambda e: e.name)
def test_pretrained_entries_name_real_weights_and_their_statistics(entry: Evaluator) -> None:
    import timm

    config = timm.get_pretrained_cfg(entry.architecture)
    assert config is not None and "." in entry.architecture, "the tag must be explicit: a bare name's default may move"
    assert (config.mean, config.std) == (entry.mean, entry.std)
    assert config.hf_hub_id == f"timm/{entry.architecture}"


def test_the_seed_decides_the_weights_and_leaves_the_global_state_alone() -> None:
    entry = EVALUATORS["convnet3-scratch"]

    def weights(seed: int) -> torch.Tensor:
        return next(evaluators.build(entry, num_classes=10, channels=3, image_size=32, seed=seed).parameters())

    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    assert torch.equal(weights(1), weights(1)) and not torch.equal(weights(1), weights(2))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_frozen_batch_norm_keeps_its_statistics_but_trains_its_scale() -> None:
    model = evaluators.build(EVALUATORS["mobilenetv2-scratch"], num_classes=10, channels=3, image_size=32, seed=0)
    images = torch.randn(4, 3, 32, 32)
    statistics = {k: v.clone() for k, v in model.named_buffers()}
    model.train()
    evaluators.set_batch_norm(model, frozen=True)
    model(images).sum().backward()
    assert all(torch.equal(v, statistics[k]) for k, v in model.named_buffers())
    assert all(p.grad is not None for p in model.parameters())
    evaluators.set_batch_norm(model, frozen=False)
    model(images)
    assert any(not torch.equal(v, statistics[k]) for k, v in model.named_buffers() if "running_mean" in k)


@pytest.mark.parametrize(("name", "mega_macs"), [("convnet3-scratch", 51), ("resnet18_in-scratch", 555)])
def test_flops_agree_with_the_literature(name: str, mega_macs: float) -> None:
    model = evaluators.build(EVALUATORS[name], num_classes=10, channels=3, image_size=32, seed=0)
    assert evaluators.flops(model, image_size=32, channels=3) == pytest.approx(2e6 * mega_macs, rel=0.03)


def test_mobilenet_backbone_weights_fit_the_cifar_form(real_data: Path) -> None:
    from safetensors.torch import load_file

    model = evaluators.build(EVALUATORS["mobilenetv2-scratch"], num_classes=10, channels=3, image_size=32, seed=0).eval()
    keys = model.load_state_dict(load_file(real_data / "weights" / "mobilenetv2_100-backbone-in1k.safetensors"), strict=False)
    assert not keys.unexpected_keys and set(keys.missing_keys) == {"classifier.weight", "classifier.bias"}
    features = model.forward_features(torch.zeros(1, 3, 32, 32))  # type: ignore[operator]
    assert features.shape[-2:] == (4, 4)


PRETRAINED_SCRIPT = """
import torch
from mabench import suites
from mabench.schema import Evaluator
from mabench.networks import evaluators, sizes
entry = evaluators.EVALUATORS["efficientnet_lite0-pretrained"]
a, b = (evaluators.build(entry, num_classes=10, channels=3, image_size=64, seed=s).state_dict() for s in (1, 2))
print(sorted(k for k in a if not torch.equal(a[k], b[k])), a['classifier.weight'].shape[0])
"""


def script(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True, timeout=120)


def test_real_pretrained_weights_come_from_the_hub_cache_with_a_fresh_head(real_data: Path) -> None:
    done = script(PRETRAINED_SCRIPT, HF_HUB_CACHE=str(real_data / "hub"), HF_HUB_OFFLINE="1")
    assert done.stdout.strip() == "['classifier.bias', 'classifier.weight'] 10", done.stderr


def test_missing_weights_are_explained(tmp_path: Path) -> None:
    done = script(PRETRAINED_SCRIPT, HF_HUB_CACHE=str(tmp_path), HF_HUB_OFFLINE="1")
    assert "MabenchError" in done.stderr and "hf download timm/tf_efficientnet_lite0.in1k" in done.stderr


@pytest.mark.parametrize("name", EVALUATORS)
def test_stored_sizes_are_those_of_the_networks(name: str) -> None:
    """Operations, parameters and outputs per image: the network itself is built and counted, for ten classes and for others."""
    entry = EVALUATORS[name]
    assert sizes.STORED.keys() == EVALUATORS.keys()
    assert sizes.of(entry, 10, 3) == sizes.count(entry.model_dump_json(), 10, 3)
    if entry.input_size <= 32:
        derived, counted = sizes.of(entry, 200, 3), sizes.count(entry.model_dump_json(), 200, 3)
        assert derived._replace(outputs=0) == counted._replace(outputs=0)
        assert derived.outputs == pytest.approx(counted.outputs, rel=1e-3), "some heads pass their logits through more layers"


def test_a_changed_evaluator_is_counted_itself() -> None:
    """A suite may replace arguments under the same name: closed form of a ConvNet with half the width."""
    entry = EVALUATORS["convnet3-scratch"]
    narrow = entry.model_copy(update={"arguments": entry.arguments | {"width": 64}})
    macs = 9 * (3 * 64 * 32**2 + 64 * 64 * 16**2 + 64 * 64 * 8**2) + 64 * 16 * 10
    assert sizes.of(narrow, 10, 3).flops == 2 * macs


def test_planning_builds_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the command to the first step nothing is built but the network that is trained."""
    monkeypatch.setattr(evaluators, "build", lambda *_, **__: pytest.fail("a network was built"))
    loaded_suite = suites.load("cifar10-agnostic")
    for entries in loaded_suite.evaluators.values():
        for entry in entries:
            assert sizes.of(entry, 10, 3).flops > 0
