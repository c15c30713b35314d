"""The networks that examine a set, and how each is built. Importing this module imports neither torch nor timm."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mabench.errors import MabenchError, printable
from mabench.networks import allowed
from mabench.schema import Evaluator, Recipe

if TYPE_CHECKING:
    from torch import nn

_IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}  # torchvision's and timm's ImageNet statistics
_HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}  # timm: augreg ViTs and TensorFlow ports
_UNSWEPT = "rate: the field's usual one, not yet swept on random real subsets"


def _pretrained(name: str, architecture: str, family: str, rate: float, statistics: dict[str, Any]) -> Evaluator:
    """224 px, all layers trained, fresh head; rates of protocol section 1, which are HMDC's."""
    return Evaluator.model_validate(
        dict(
            name=f"{name}-pretrained",
            architecture=architecture,
            library="timm",
            family=family,
            pretrained=True,
            input_size=224,
            learning_rate=rate,
            note="ImageNet weights of timm",
            **statistics,
        )
    )


def _scratch(
    name: str,
    architecture: str,
    family: str,
    rate: float,
    optimizer: str = "sgd",
    library: str = "mabench",
    note: str = _UNSWEPT,
    input_size: int = 32,
    **arguments: Any,
) -> Evaluator:
    """Random initial weights, the dataset's normalisation."""
    return Evaluator.model_validate(
        dict(
            name=f"{name}-scratch",
            architecture=architecture,
            library=library,
            family=family,
            pretrained=False,
            input_size=input_size,
            learning_rate=rate,
            optimizer=optimizer,
            arguments=arguments,
            note=note,
        )
    )


def _large(name: str, architecture: str, family: str) -> Evaluator:
    """As `_scratch` at 224 px, with ImageNet's own stem: what papers train on condensed ImageNet."""
    note = "as in G-VBSM's tables; rate 1e-3"
    return _scratch(f"{name}_224", architecture, family, 1e-3, "adamw", "timm", note, 224)


_MODEL_POOL = "as in Model Pool: instance norm or none; rate 0.01"

EVALUATORS: dict[str, Evaluator] = {
    e.name: e
    for e in (
        _scratch("convnet3", "convnet", "cnn", 1e-2, depth=3, width=128, norm="instance"),
        _scratch("resnet18", "resnet", "cnn", 1e-2, depth=18, norm="batch"),
        _scratch("resnet50", "resnet", "cnn", 1e-2, depth=50, norm="batch"),
        _scratch("resnet101", "resnet", "cnn", 1e-2, depth=101, norm="batch"),
        _scratch("mobilenetv2", "mobilenetv2_100", "cnn", 1e-2, library="timm", cifar_strides=True),
        _scratch("resnet20", "resnet", "cnn", 1e-2, depth=20, norm="batch"),
        _scratch("mobilenetv2_050", "mobilenetv2_050", "cnn", 1e-2, library="timm", cifar_strides=True),
        _scratch("vit_tiny", "vit_tiny_patch16_224", "transformer", 5e-4, "adamw", "timm", img_size=32, patch_size=4),
        _scratch(
            "swin_tiny",
            "swin_tiny_patch4_window7_224",
            "transformer",
            5e-4,
            "adamw",
            "timm",
            img_size=32,
            patch_size=2,
            window_size=4,
        ),
        _scratch(
            "vit_mini",
            "vit_tiny_patch16_224",
            "transformer",
            1e-3,
            "adamw",
            "timm",
            img_size=32,
            patch_size=4,
            embed_dim=128,
            depth=6,
            num_heads=4,
        ),
        _scratch(
            "swin_mini",
            "swin_tiny_patch4_window7_224",
            "transformer",
            1e-3,
            "adamw",
            "timm",
            img_size=32,
            patch_size=2,
            window_size=4,
            embed_dim=48,
            depths=(2, 2, 2),
            num_heads=(2, 4, 8),
        ),
        _scratch("mlp", "mlp", "mlp", 1e-2, note=_MODEL_POOL),
        _scratch("lenet", "lenet", "cnn", 1e-2, note=_MODEL_POOL),
        _scratch("alexnet", "alexnet", "cnn", 1e-2, note=_MODEL_POOL),
        _scratch("vgg11_in", "vgg11", "cnn", 1e-2, note=_MODEL_POOL, norm="instance"),
        _scratch("resnet18_in", "resnet", "cnn", 1e-2, note=_MODEL_POOL, depth=18, norm="instance"),
        _large("resnet18", "resnet18", "cnn"),
        _large("resnet50", "resnet50", "cnn"),
        _large("resnet101", "resnet101", "cnn"),
        _large("mobilenetv2", "mobilenetv2_100", "cnn"),
        _large("deit_tiny", "deit_tiny_patch16_224", "transformer"),
        _large("swin_tiny", "swin_tiny_patch4_window7_224", "transformer"),
        _pretrained("resnet18", "resnet18.a1_in1k", "cnn", 1e-3, _IMAGENET),
        _pretrained("resnet50", "resnet50.a1_in1k", "cnn", 1e-3, _IMAGENET),
        _pretrained("resnet101", "resnet101.a1h_in1k", "cnn", 1e-4, _IMAGENET),
        _pretrained("mobilenetv2", "mobilenetv2_100.ra_in1k", "cnn", 1e-3, _IMAGENET),
        _pretrained("efficientnet_lite0", "tf_efficientnet_lite0.in1k", "cnn", 1e-3, _HALF),
        _pretrained("vit_tiny", "vit_tiny_patch16_224.augreg_in21k_ft_in1k", "transformer", 1e-3, _HALF),
        _pretrained("vit_small", "vit_small_patch16_224.augreg_in21k_ft_in1k", "transformer", 1e-3, _HALF),
        _pretrained("vit_base", "vit_base_patch16_224.augreg2_in21k_ft_in1k", "transformer", 1e-4, _HALF),
        _pretrained("swin_tiny", "swin_tiny_patch4_window7_224.ms_in1k", "transformer", 1e-4, _IMAGENET),
    )
}


def build(evaluator: Evaluator, *, num_classes: int, channels: int, image_size: int, seed: int) -> nn.Module:
    """The evaluator's network on the CPU, images [N,channels,image_size,image_size] -> logits [N,num_classes].

    Everything that is drawn (all weights, or only the fresh head of a pretrained network) comes from `seed`; the global
    random state is left as it was. Raises MabenchError when pretrained weights are neither cached nor reachable, and for an
    architecture or arguments that give no network.
    """
    allowed.check(evaluator)
    try:
        return _built(evaluator, num_classes, channels, image_size, seed)
    except MabenchError:
        raise
    except Exception as error:  # a suite's own arguments: the libraries raise whatever comes up
        raise MabenchError(
            f"{evaluator.name}: {evaluator.architecture} cannot be built with {printable(str(evaluator.arguments), 200)} "
            f"({printable(str(error).partition(chr(10))[0], 160)}). Correct evaluator_fields in the suite."
        ) from error


def _built(evaluator: Evaluator, num_classes: int, channels: int, image_size: int, seed: int) -> nn.Module:
    import torch

    from mabench.networks import architectures as networks

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if evaluator.library == "mabench":
            return networks.build(
                evaluator.architecture, num_classes=num_classes, channels=channels, image_size=image_size, **evaluator.arguments
            )
        return _from_timm(evaluator, num_classes, channels)


def _from_timm(evaluator: Evaluator, num_classes: int, channels: int) -> nn.Module:
    import timm
    import torch
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    if not timm.is_model(evaluator.architecture):
        raise MabenchError(
            f"{evaluator.name}: timm knows no network called {evaluator.architecture}. "
            "List its names: python -c 'import timm; print(*timm.list_models())'"
        )
    arguments: dict[str, Any] = dict(evaluator.arguments)
    cifar_strides = arguments.pop("cifar_strides", False)
    try:
        # no dropout and no drop path: the protocol's only noise is its augmentation
        model: nn.Module = timm.create_model(
            evaluator.architecture,
            pretrained=evaluator.pretrained,
            num_classes=num_classes,
            in_chans=channels,
            drop_rate=0.0,
            drop_path_rate=0.0,
            **arguments,
        )
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, HfHubHTTPError, OSError) as error:
        raise MabenchError(
            f"{evaluator.name}: the pretrained weights timm/{evaluator.architecture} are not in the Hub cache and cannot be "
            f"fetched ({type(error).__name__}). Connect once and run `hf download timm/{evaluator.architecture}`, "
            "or leave this evaluator out with --evaluator or --track."
        ) from error
    if evaluator.pretrained:
        # timm draws some heads (EfficientNet's) so wide that the first gradients wreck the pretrained layers
        head(model).reset_parameters()
    if cifar_strides:
        # stem and first downsampling at stride 1, so that 32 px end as 4 x 4 (the usual CIFAR form of MobileNetV2)
        for name in ("conv_stem", "blocks.1.0.conv_dw"):
            layer = model.get_submodule(name)
            assert isinstance(layer, torch.nn.Conv2d)
            layer.stride = (1, 1)
    return model


def head(model: nn.Module) -> nn.Linear:
    """The last linear layer."""
    from torch import nn

    find: Any = getattr(model, "get_classifier", lambda: model.classifier)  # timm's networks name theirs differently
    layer = find()
    assert isinstance(layer, nn.Linear)
    return layer


def set_batch_norm(model: nn.Module, *, frozen: bool) -> None:
    """Put every batch norm layer into its evaluation (frozen) or training mode; call it after `model.train()`.

    Frozen layers use and keep their running statistics; their scale and shift are still trained.
    """
    from torch.nn.modules.batchnorm import _BatchNorm

    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.train(not frozen)


def has_batch_norm(model: nn.Module) -> bool:
    """Whether any layer is batch norm."""
    from torch.nn.modules.batchnorm import _BatchNorm

    return any(isinstance(module, _BatchNorm) for module in model.modules())


def freezes_batch_norm(recipe: Recipe, evaluator: Evaluator) -> bool:
    """Whether batch norm keeps its running statistics while this evaluator is trained under this recipe."""
    return recipe.batch_norm == "frozen" or (recipe.batch_norm == "frozen-if-pretrained" and evaluator.pretrained)


def flops(model: nn.Module, *, image_size: int, channels: int) -> int:
    """Floating-point operations of one forward pass of one image: 2 x multiply-accumulates of convolutions, linear layers
    and matrix products, counted by PyTorch's own counter."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    model.eval()
    device = next(model.parameters()).device
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, channels, image_size, image_size, device=device))
    return int(counter.get_total_flops())
