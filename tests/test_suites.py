"""Suites are frozen: a digest that moves means that published numbers no longer belong together."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from mabench import suites
from mabench.board.site import names
from mabench.errors import MabenchError
from mabench.results import tables
from mabench.schema import Augmentation, Distillation, Evaluator, Recipe, Recorded

GOLDEN = Path(__file__).parent / "golden" / "suites.json"


def test_released_suites_never_change() -> None:
    """To release a new suite or version, add its digest by hand; an existing line must never be edited."""
    assert {name: suites.load(name).digest for name in suites.released()} == json.loads(GOLDEN.read_text())


def test_defaults_never_change() -> None:
    """Digests leave out what is at its default. A new field joins the golden file by hand; an existing line is never edited."""
    found = {
        f"{model.__name__}.{name}": json.loads(
            json.dumps(field.get_default(call_default_factory=True), default=lambda m: m.model_dump())
        )
        for model in (Recipe, Augmentation, Evaluator, Distillation, Recorded)
        for name, field in model.model_fields.items()
        if not field.is_required()
    }
    assert found == json.loads((GOLDEN.parent / "defaults.json").read_text())


def test_headline_recipe_is_the_protocol() -> None:
    loaded_suite = suites.load("cifar10-agnostic@1")
    recipe = loaded_suite.recipes["scratch"]
    assert loaded_suite.recipes["pretrained"] == recipe
    assert (recipe.epochs, recipe.batch_size, recipe.test_every, recipe.score) == (2000, 128, 10, "best")
    assert (recipe.momentum, recipe.weight_decay, loaded_suite.suite.seeds) == (0.9, 5e-4, (0, 1, 2))
    rates = {e.name: e.learning_rate for e in loaded_suite.evaluators["pretrained"]}
    assert [rates[f"{n}-pretrained"] for n in ("resnet18", "resnet50", "resnet101", "vit_tiny", "vit_small", "vit_base")] == [
        1e-3, 1e-3, 1e-4, 1e-3, 1e-3, 1e-4,
    ]  # fmt: skip
    assert all(e.input_size == 224 for e in loaded_suite.evaluators["pretrained"])
    assert all(e.input_size == 32 for e in loaded_suite.evaluators["scratch"])


def test_the_newest_version_answers_to_the_plain_name() -> None:
    assert suites.load("digits-agnostic").id == "digits-agnostic@1"


def test_a_typo_is_answered_with_the_nearest_name() -> None:
    with pytest.raises(MabenchError, match="Did you mean 'cifar10-agnostic'"):
        suites.load("cifar10-agnostc")
    with pytest.raises(MabenchError, match="unknown suite 'cifar10-agnostic@7'"):
        suites.load("cifar10-agnostic@7")


def test_a_users_own_suite(tmp_path: Path) -> None:
    text = (suites.FOLDER / "digits-agnostic@1.toml").read_text()
    mine = tmp_path / "mine.toml"
    mine.write_text(text.replace("epochs = 60", "epochs = 20"))
    loaded_suite = suites.load(str(mine))
    assert loaded_suite.recipes["scratch"].epochs == 20 and not loaded_suite.released
    assert loaded_suite.digest != suites.load("digits-agnostic").digest

    same = tmp_path / "same.toml"
    same.write_text(text.replace("Handwritten digits, for first contact", "Another title"))
    assert suites.load(str(same)).digest == suites.load("digits-agnostic").digest, "prose is no part of the suite"

    for old, new, message in [
        ("epochs = 60", "epochs = 5", "larger than epochs"),
        ("epochs = 60", "epoch = 60", "epoch"),
        ('"lenet-scratch"', '"lenet-scrtch"', "Did you mean 'lenet-scratch'"),
        ("[recipe]", "[recipe", "not TOML"),
        ("[evaluator_fields.convnet3-scratch]", "[evaluator_fields.vgg]", "in no track"),
    ]:
        mine.write_text(text.replace(old, new))
        with pytest.raises(MabenchError, match=message):
            suites.load(str(mine))
    with pytest.raises(MabenchError, match="No such file"):
        suites.load(str(tmp_path / "absent.toml"))


def test_every_table_of_a_suite_whose_rates_were_not_swept_says_so() -> None:
    """The note changes no digest: it goes when the sweep has been run and has confirmed the rates."""
    for name in ("cifar10-agnostic", "imagenet1k-agnostic", "cifar100-lite"):
        chosen = suites.load(name)
        assert any(note.startswith("rates not yet frozen: ") for note in tables.notes(chosen, [], [])), name
        assert names.protocol(chosen, "scratch").endswith("; rates not yet frozen")
        settled = replace(chosen, suite=chosen.suite.model_copy(update={"open_rates": None}))
        assert settled.digest == chosen.digest
        assert not any("frozen" in note for note in tables.notes(settled, [], []))
    for name in ("cifar10-lite", "cifar10-hmdc", "digits-agnostic"):
        assert suites.load(name).suite.open_rates is None, name
