"""Figures on the methods' pages follow from tracked runs, `paper.toml` or the presets; a figure that follows from none fails."""

from __future__ import annotations

import tomllib
from statistics import fmean, pstdev, stdev
from typing import Any

import torch
from scipy.stats import ttest_rel
from support.figures import ROOT, mean, percents, record, unexplained

from mabench.data import DATASETS
from mabench.results import paper_tables as papers
from mabench.schema import Recipe
from mabench.suites import load
from mabench_methods import kit, presets
from mabench_methods.gvbsm.views import AREA
from mabench_methods.trajectory.experts import CLIPS
from mabench_methods.trajectory.matching import CPU_GRAPH_BYTES

AGAIN = "reproduce_again_ipc1-10-50_xeon-amx_202611"
NAMES = {
    "mlp-scratch": "MLP",
    "convnet3-scratch": "ConvNet",
    "lenet-scratch": "LeNet",
    "alexnet-scratch": "AlexNet",
    "vgg11_in-scratch": "VGG11",
    "resnet18_in-scratch": "ResNet18",
}


def page(folder: str) -> str:
    return (ROOT / "methods" / folder / "README.md").read_text(encoding="utf-8")


def plus_minus(values: list[float]) -> str:
    """Mean and population standard deviation."""
    return f"{mean(values):.2f} ± {pstdev(values):.2f}"


def in_brackets(values: list[float], *, unbiased: bool = True) -> str:
    return f"{mean(values):.2f} ({(stdev if unbiased else pstdev)(values):.2f})"


def published(method: str, title: str, ipc: int) -> dict[str, tuple[float, float | None]]:
    """Evaluator -> mean and std as `paper.toml` has them, of the tables whose title begins with this."""
    found: dict[str, tuple[float, float | None]] = {}
    for table in papers.tables(method):
        if table.title.startswith(title) and table.ipc == ipc and table.dataset == "cifar10":
            found |= table.values
    assert found, (method, title)
    return found


def panel_mean(runs: dict[str, list[float]]) -> float:
    return fmean(fmean(values) for values in runs.values())


def configs(method: str) -> dict[str, Any]:
    """Preset -> configuration, whose fields are the method's own."""
    return {name: preset.config for name, preset in presets(method).items()}


def recipe(suite: str) -> Recipe:
    """Of its first track."""
    return next(iter(load(suite).recipes.values()))


# -- baselines and DC --------------------------------------------------------------------------------------------------------


def test_the_figures_of_the_baselines_page() -> None:
    tracked = "reproduce_baselines_modelpool_convnet_epyc_202611"
    ours = {
        (name, ipc): percents(tracked, set=f"{name}-ipc{ipc}")["convnet3-scratch"]
        for name in ("random", "herding")
        for ipc in (1, 10, 50)
    }
    again = {(name, ipc): percents(AGAIN, run=f"{name}{ipc}")["convnet3-scratch"] for name, ipc in ours}
    printed = {(name, ipc): published(name, "DC, Table 1", ipc)["convnet3-scratch"] for name, ipc in ours}
    said = []
    for ipc in (1, 10, 50):
        cells = [
            f"{printed[name, ipc][0]} ± {printed[name, ipc][1]} | {plus_minus(ours[name, ipc])}" for name in ("random", "herding")
        ]
        said.append(f"| {ipc} | {' | '.join(cells)} |")
    lists = {
        name: [plus_minus(again[name, ipc]) for ipc in (1, 10, 50)] for name in ("random", "herding")
    }  # one machine after the other
    said.append(
        "Random {}, {} and {}, herding {}, {} and {}".format(*lists["random"], *lists["herding"]),
    )
    above = [fmean(runs["herding", 10]) - printed["herding", 10][0] for runs in (ours, again)]
    said.append(
        f"Herding at IPC 10 is {above[0]:.1f} points above the printed number on one machine and {above[1]:.1f} on the other"
    )
    pixels = percents(tracked, set="herding-ipc10-pixels")["convnet3-scratch"]
    said.append(f"herding gives {plus_minus(pixels)}, below the printed {printed['herding', 10][0]}")
    for runs in (ours, again):
        assert round(fmean(runs["herding", 50]) - printed["herding", 50][0]) in (8, 9)
        assert 4 < fmean(runs["herding", 50]) - fmean(runs["random", 50]) < 5
    said.append("is more than 8 points above the printed number and 4 above Random")
    assert unexplained(page("baselines"), said) == {"2.15"}  # the version of torch


def test_the_figures_of_the_dc_page() -> None:
    tracked = record("reproduce_dc_ipc1_1000iterations_epyc_202611")
    ours, again = percents("reproduce_dc_ipc1_1000iterations_epyc_202611"), percents(AGAIN, run="dc")
    logged = published("dc", "Model Pool's log of its DC baseline, 1,000 iterations", 1)
    paper = published("dc", "DC, Table 1", 1)["convnet3-scratch"]
    said = []
    for name, (value, std) in logged.items():
        beside = f" (DC's paper: {paper[0]} ± {paper[1]})" if name == "convnet3-scratch" else ""
        runs = ours[name]
        said.append(
            f"| {name} | {value:.2f} ± {std:.2f}{beside} | {plus_minus(runs)} | {len(runs)} | {mean(runs) - value:+.2f} |"
        )
    said.append(f"{tracked['condensation']['seconds'] / 60:.0f} minutes on one busy core")
    said.append(
        "ConvNet {convnet3-scratch}, MLP {mlp-scratch}, LeNet {lenet-scratch}, ten runs each".format(
            **{name: plus_minus(runs) for name, runs in again.items()}
        )
    )
    first, second, diverged = again["alexnet-scratch"]
    assert diverged == 10
    said.append(f"AlexNet, {first:.2f}, {second:.2f} and one that diverged")
    said.append("VGG11 {vgg11_in-scratch}, ResNet18 {resnet18_in-scratch}".format(**{n: plus_minus(r) for n, r in again.items()}))
    assert unexplained(page("dc"), said) == set()


# -- Model Pool --------------------------------------------------------------------------------------------------------------


def gains(name: str, student: str) -> tuple[list[float], list[float], list[float]]:
    """Without and with the teacher, and the difference of each seed."""
    accuracies = record(name)["students"][student]["accuracies"]
    return accuracies["plain"], accuracies["4"], [b - a for a, b in zip(accuracies["plain"], accuracies["4"], strict=True)]


def paired(differences: list[float]) -> str:
    """The mean with its standard error."""
    return f"{fmean(differences):+.2f} ± {stdev(differences) / len(differences) ** 0.5:.2f}"


def test_the_figures_of_our_own_images_on_the_model_pool_page() -> None:
    text, name = page("model_pool"), "reproduce_model-pool_ipc1_1000iterations_epyc_202611"
    ours, dc = percents(name), percents("reproduce_dc_ipc1_1000iterations_epyc_202611")
    rows = {k: published("model-pool", f"Table 5, row 3 (w/ main model & similar other models), {k},000", 1) for k in (1, 2, 3)}
    said = [f"{record(name)['condensation']['seconds'] / 60:.0f} minutes on one busy core"]
    for evaluator, runs in ours.items():
        difference = ""
        if evaluator == "convnet3-scratch":
            there = f"({rows[3][evaluator][0]:.2f} at 3,000)"
        else:
            value = rows[1][evaluator][0]
            there = f"{value:.2f} ({rows[2][evaluator][0]:.2f} at 2,000)" if evaluator == "alexnet-scratch" else f"{value:.2f}"
            difference = f" {mean(runs) - value:+.2f}"
        said.append(f"| {evaluator} | {there} | {plus_minus(runs)} | {len(runs)} |{difference} | {mean(dc[evaluator]):.2f} |")
    spreads = {evaluator: std for evaluator, (_, std) in rows[3].items() if std}
    most = spreads.pop("alexnet-scratch")
    said.append(f"vary by {min(spreads.values())} to {max(spreads.values())}, AlexNet by {most}")
    said += [f"{NAMES[evaluator]} {in_brackets(runs, unbiased=False)}" for evaluator, runs in percents(AGAIN, run="mp").items()]
    given = published("model-pool", "Table 5, row 3 (w/ main model & similar other models), 3,000", 10)
    reference = percents("cifar10-modelpool_ipc10_epyc-1-thread_202611")
    apart = {evaluator: round(mean(runs), 2) - given[evaluator][0] for evaluator, runs in reference.items()}
    assert max(apart, key=lambda evaluator: abs(apart[evaluator])) == "lenet-scratch"
    lenet = f"({given['lenet-scratch'][0]:.2f} published, {plus_minus(reference['lenet-scratch'])} ours, 10 runs)"
    said.append(f"LeNet's {apart['lenet-scratch']:+.2f} {lenet}")
    said += [f"{NAMES[evaluator]} {value:+.2f}" for evaluator, value in apart.items() if evaluator != "lenet-scratch"]
    fast = {student: gains("distillation_ipc10_xeon-amx_202611", student)[0] for student in given}
    said.append(
        ", ".join(
            f"{NAMES[evaluator]} {round(fmean(fast[evaluator]), 2) - given[evaluator][0]:+.2f}"
            for evaluator in (
                "lenet-scratch",
                "alexnet-scratch",
                "convnet3-scratch",
                "vgg11_in-scratch",
                "mlp-scratch",
                "resnet18_in-scratch",
            )
        )
    )
    whole, _, rest = text.partition("## What knowledge distillation gives")
    assert rest and unexplained(whole, said) == set()


def test_the_figures_of_distillation_on_the_model_pool_page() -> None:
    machine, other = "distillation_ipc10_xeon-amx_202611", "distillation_ipc10_epyc_202611"
    distilled = recipe("cifar10-modelpool-kd").distillation
    assert distilled is not None
    said = [f"Eq. 1 with alpha {distilled.alpha} and temperature {distilled.temperature:.0f}"]
    for student in record(machine)["students"]:
        plain, taught, differences = gains(machine, student)
        said.append(
            f"| {student} | {in_brackets(plain, unbiased=False)} | {in_brackets(taught, unbiased=False)} | {paired(differences)} |"
        )
    plain, _, differences = gains(machine, "alexnet-scratch")
    worst = plain.index(min(plain))
    said.append(
        f"(seed {worst}, {plain[worst]:.2f}); the nine others gain {paired(differences[:worst] + differences[worst + 1 :])}"
    )
    said.append(
        "gained {}, {} and {}".format(
            *(paired(gains(other, student)[2]) for student in ("mlp-scratch", "lenet-scratch", "convnet3-scratch"))
        )
    )
    for student, found in record("distillation_temperatures_ipc10_epyc_202611")["students"].items():
        cells = [in_brackets(found["accuracies"][key], unbiased=False) for key in ("plain", "1", "2", "4", "8")]
        said.append(f"| {student} | {' | '.join(cells)} |")
    rest = page("model_pool").partition("## What knowledge distillation gives")[2]
    assert unexplained(rest, said) == {"2.15"}  # the version of torch


# -- HMDC, G-VBSM, trajectories ----------------------------------------------------------------------------------------------


def test_the_figures_of_the_hmdc_page() -> None:
    hmdc = configs("hmdc")
    paper, released, lite = hmdc["paper-ipc10"], hmdc["released-ipc10"], hmdc["lite"]
    said = [
        f"| rate of the ConvNet | {paper.rates[0]} | {released.rates[0]} in its commands |",
        f"| rate of the images, their momentum | not given | {released.image_rate}, {released.image_momentum} |",
        f'| {hmdc["released-ipc10-large"].alignment_rate} for the pair of "larger models" (section 4.5) |',
    ]
    cost = record("hmdc_cost_h100_202611")["presets"]
    steps = [cost[f"paper-ipc{ipc}"] for ipc in (1, 10)]
    seconds = [step["seconds_a_step"] for step in steps]
    said.append(f"takes {seconds[0]:.1f} s at IPC 1 and {seconds[1]:.1f} s at IPC 10")
    assert {step["steps_of_the_whole"] for step in steps} == {paper.iterations * paper.steps}
    said.append(f"so {steps[0]['hours_of_the_whole']:.0f} to {steps[1]['hours_of_the_whole']:.0f} hours per set")
    assert (lite.pretraining, lite.iterations * lite.steps) == (800, 80)
    sets = {"hmdc": "HMDC `lite`", "initial": "its initial images", "random-packed": "Random, packed"}
    networks = ("convnet3-scratch", "vit_mini-scratch", "efficientnet_lite0-pretrained")
    runs = {key: percents("reproduce_hmdc_lite_ipc1_epyc_202611", set=key) for key in sets}
    for key, label in sets.items():
        means = [fmean(values) for values in zip(*runs[key].values(), strict=True)]
        cells = [in_brackets(runs[key][network]) for network in networks] + [in_brackets(means)]
        said.append(f"| {label} | {' | '.join(cells)} |")
    gain = [fmean(runs["hmdc"][network]) - fmean(runs["initial"][network]) for network in networks]
    p = ttest_rel(runs["hmdc"][networks[0]], runs["initial"][networks[0]]).pvalue
    said.append(f"{gain[0]:+.1f} points (p {p:.3f}, paired), against {gain[1]:+.1f} and {gain[2]:+.1f} on the other two")
    four = {cell["set"] for cell in record("reproduce_hmdc_lite_ipc1_h100_202611")["cells"] if cell["set"].startswith("lite")}
    means = [panel_mean(percents("reproduce_hmdc_lite_ipc1_h100_202611", set=name)) for name in four]
    tracked = "reproduce_hmdc_lite_ablation_ipc1_epyc_202611"
    three = {cell["set_sha256"] for cell in record(tracked)["cells"] if cell["preset"] == "lite-neither"}
    same = [panel_mean(percents(tracked, set_sha256=sha256)) for sha256 in three]
    assert (len(means), len(same)) == (4, 3)
    said.append(
        f"lie within {max(means) - min(means):.1f} points, and three sets of one combination within {max(same) - min(same):.1f}"
    )
    said.append(f"{record('hmdc_movement_epyc_202611')['paper']['largest']:.1f}/255 at most in 20 steps")
    packed = record("classifier_only_packed_random_ipc10")
    more = record("classifier_only_packed_random_ipc10_draws3-8_xeon-amx_202611")["runs"]
    alone = [run["best"] for run in packed["runs"]["classifier only"] + more]
    (every,) = [run["best"] for run in packed["runs"]["every layer"]]
    value, std = published("random", "HMDC, Table 1", 10)["convnet3-scratch"]
    assert len(alone) == 9
    said.append(f"gives {in_brackets(alone, unbiased=False)[:-1]}, nine runs; published {value} ({std}))")
    said.append(f"gives {every:.2f} (one run)")
    assert unexplained(page("hmdc"), said) == set()


def test_the_figures_of_the_gvbsm_page() -> None:
    gvbsm = configs("gvbsm")
    sre2l = configs("sre2l")["cifar100-released-ipc10"]
    released, imagenet = gvbsm["released-ipc10"], gvbsm["imagenet1k-released-ipc10"]
    said = [
        f"200 epochs of squeezing at {sre2l.squeeze.rate} with weight decay 5e-4, "
        f"{sre2l.iterations:,} steps at {sre2l.image_rate} that only roll",
        f"{imagenet.iterations:,} steps at {configs('sre2l')['imagenet1k-released-ipc10'].image_rate}.",
        f"| none given in the main text | {released.matching_weight} | {released.matching_weight}, in all presets |",
        f"| {imagenet.momentum} is the headline, {released.momentum} the best (Table 1) "
        f"| {released.momentum}; ImageNet {imagenet.momentum} | {released.momentum} |",
        f"| {released.drop} called default, {imagenet.drop} gives the headline "
        f"| {released.drop}; ImageNet {imagenet.drop} | {gvbsm['lite'].drop} where time allows |",
    ]
    assert (sre2l.squeeze.epochs, sre2l.squeeze.weight_decay) == (200, 5e-4)
    assert {config.matching_weight for config in gvbsm.values()} == {released.matching_weight}
    gammas = {}
    for dataset in ("cifar10", "cifar100", "tinyimagenet", "imagenet1k"):
        recorded = recipe(f"{dataset}-gvbsm").recorded
        assert recorded is not None
        gammas[dataset] = recorded.ground_truth
    assert gammas["cifar10"] == gammas["cifar100"] and gammas["tinyimagenet"] == gammas["imagenet1k"]
    said.append(f"(gamma {gammas['cifar10']} on CIFAR, {gammas['tinyimagenet']} elsewhere;")
    taken = 4 + 4 + 4 * 2 + 1 + 10 * 2  # bytes of order, partner, box, flip and ten logits (`mabench.sets.recorded`)
    weight = taken * 100 * released.record_epochs
    said.append(
        f"about {taken} bytes per image and epoch for ten classes, so {weight / 1e6:.1f} MB for CIFAR-10 at IPC 10 "
        f"and {released.record_epochs:,} epochs, {weight / (100 * 3 * 32 * 32):.0f} times its images"
    )
    side = DATASETS["imagenet1k"].image_size
    sizes = [1000 * ipc * 3 * side**2 / 1e9 for ipc in (10, 50, 100)]
    said.append("takes {:.1f} GB at IPC 10, {:.1f} GB at IPC 50 and {:.0f} GB at IPC 100".format(*sizes))
    sets = {
        "lite": "G-VBSM `lite`, three backbones",
        "random": "random real images, labels of the same three",
        "lite, convolution=false": "`lite`, `convolution=false`",
        "lite, convnet48_bn alone": "`lite`, `convnet48_bn` alone",
    }
    networks = ("convnet3-scratch", "lenet-scratch", "mlp-scratch", "vit_mini-scratch")
    runs = {key: percents("reproduce_gvbsm_lite_ipc10_epyc_202611", set=key) for key in sets}
    for key, label in sets.items():
        said.append(f"| {label} | {' | '.join(in_brackets(runs[key][network]) for network in networks)} |")
    ahead = [mean(runs["lite"][network]) - mean(runs["lite, convnet48_bn alone"][network]) for network in networks]
    said.append(f"Three backbones are {min(ahead):.1f} to {max(ahead):.1f} points ahead of one")
    noise = {key: percents("reproduce_gvbsm_lite-noise_ipc10_epyc_202611", set=key) for key in ("lite-noise", "random")}
    lists = [
        "{:.1f}, {:.1f} and {:.1f}".format(
            *(mean(values[n]) for n in ("convnet3-scratch", "vit_mini-scratch", "efficientnet_lite0-pretrained"))
        )
        for values in noise.values()
    ]
    said.append(f"{lists[0]} against {lists[1]}")
    assert unexplained(page("gvbsm"), said) == set()


def test_the_figures_of_the_trajectory_page() -> None:
    name = "reproduce_trajectory_lite_ipc1_epyc_202611"
    runs = {key: percents(name, set=key)["convnet3-scratch"] for key in {cell["set"] for cell in record(name)["cells"]}}
    apart = [mean(values) - mean(runs["all"]) for key, values in runs.items() if key.startswith("no-")]
    paper, released = configs("trajectory")["paper-ipc10"], configs("trajectory")["released-ipc10"]
    expert, momentum = paper.experts, released.inner_momentum
    assert (expert.rate, expert.weight_decay, expert.batch) == (0.003, 1e-3, 256) and not paper.inner_momentum
    network = kit.draw_network(DATASETS["cifar10"], "convnet", 0, depth=3, width=expert.width)
    weights = [module.weight for module in network.modules() if isinstance(module, torch.nn.Conv2d)]
    noise = sum(float((paper.perturbation_scale * weight.detach()).square().sum()) for weight in weights)
    size = sum(parameter.numel() for parameter in network.parameters()) * (expert.epochs + 1)
    measured = tomllib.loads((ROOT / "methods" / "trajectory" / "paper.toml").read_text(encoding="utf-8"))["expert"]
    ast = recipe("cifar10-ast")
    said = [
        f"three sets give {in_brackets(runs['lite'])}, Random {in_brackets(runs['random'])}",
        f"changes by at most {max(map(abs, apart)):.1f} points, and three sets of the whole differ by "
        f"{max(runs['lite']) - min(runs['lite']):.1f}",
        f"takes {4 * size / 1e6:.0f} MB per expert in float32 and {2 * size / 1e6:.0f} MB in float16; "
        f"{expert.count} of them take {4 * expert.count * size / 1e9:.1f} and {2 * expert.count * size / 1e9:.1f} GB",
        f"Above an estimated {CPU_GRAPH_BYTES / 1e9:.0f} GB",
        f"lambda {CLIPS['paper'][0]} to {CLIPS['paper'][-1]} in {len(CLIPS['paper'])} epochs, then 1",
        f"{CLIPS['released'][0]} to {CLIPS['released'][-1]} in {len(CLIPS['released'])} epochs",
        f"**{expert.rate}, 1e-3, {expert.batch}**",
        f"noise of {paper.perturbation_scale} of each filter's length",
        f"| **0** | {momentum}, mentioned nowhere | {momentum} makes the same rate",
        f"adds noise of squared length {noise:.1f} to the convolutions",
        f"the paper's own experts move {measured[3]['avg_var']:.1f} per epoch (Table 6)",
        f"replacing it by {ast.learning_rate} is another experiment",
        f"({ast.learning_rate} if it has none)",
        f"half the rate and momentum {ast.decay_momentum} instead of {ast.momentum}",
    ]
    assert unexplained(page("trajectory"), said) == set()


# -- methods without results -------------------------------------------------------------------------------------------------


def test_the_figures_of_the_pages_on_dm_and_rded() -> None:
    images = configs("dm")["paper-ipc10"]
    assert unexplained(page("dm"), [f"SGD with rate {images.image_rate:.0f} and momentum {images.image_momentum}"]) == set()
    released = configs("rded")["released-ipc10"]
    said = [
        f"{released.crops} of each image, square, {AREA[0]} to {AREA[1]:.0f} of its area",
        f"trained here: SGD at {released.squeeze.rate}, cosine, {released.squeeze.epochs} epochs, batches of {released.squeeze.batch}",
        f"the rate falls from {recipe('cifar10-rded').learning_rate} to half of that",
    ]
    assert unexplained(page("rded"), said) == set()
