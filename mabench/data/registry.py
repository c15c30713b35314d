"""What is known of every real dataset before it is read: one entry each. Imports no torch, reads nothing until asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from mabench.errors import MabenchError
from mabench.files import read_toml

Split = Literal["train", "test"]


@dataclass(frozen=True)
class Dataset:
    """What is known about a real dataset before it is read. Adding a dataset = adding an entry to `DATASETS`, or a TOML file."""

    name: str
    num_classes: int
    image_size: int
    """Side in pixels, square."""
    mean: tuple[float, ...]
    """Per-channel mean of pixels in [0,1]: the field's usual normalisation."""
    std: tuple[float, ...]
    train_size: int
    """Number of images; 0 = not published (the source's rows are still counted against `source_rows`)."""
    test_size: int
    title: str
    class_names: tuple[str, ...] = ()
    """In label order; empty where the field goes by number or WordNet id, see `class_name`."""
    channels: int = 3
    hub_repo: str | None = None
    """Dataset repository on the Hugging Face Hub; None = comes with a library, or lies in `folder`."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Split -> glob pattern of its parquet files in the repository, or its sub-folder of `folder`."""
    image_column: str = "image"
    label_column: str = "label"
    class_indices: tuple[int, ...] | None = None
    """The repository's labels that are kept, in the order of the new labels: the new label is the position in this list."""
    source_rows: Mapping[str, int] = field(default_factory=dict)
    """Split -> rows in the repository's files, where that is not the split's size."""
    resize_side: int | None = None
    """Short side after an antialiased bilinear resize, before the centre crop to `image_size`; None = stored at that size."""
    digests: Mapping[str, str] = field(default_factory=dict)
    """Split -> pinned order-independent sha256 of `content_digests`; a split that is absent is not pinned."""
    aliases: tuple[str, ...] = ()
    """What names of files call it, beside `name`; letters and digits only."""
    wordnet: str = ""
    """Which list of WordNet ids `class_indices` points into (`imagenet1k`), or which is its own; empty = it has none."""
    pixel_std: tuple[float, ...] = ()
    """Standard deviation of all pixels, where the field's `std` is another number; see `spread`."""
    folder: Path | None = None
    """Of a dataset of the user's own: images by class, one folder a split."""

    def size(self, split: Split) -> int:
        """Number of images of a split; 0 = not published."""
        return self.train_size if split == "train" else self.test_size

    def class_name(self, label: int) -> str:
        """The class's name, else its WordNet id, else its number as text."""
        names = self.class_names or self.wordnet_ids
        return names[label] if names else str(label)

    @property
    def wordnet_ids(self) -> tuple[str, ...]:
        """The classes' WordNet ids in label order; empty where the dataset has none. Folders go by these, never by sorting."""
        if not self.wordnet:
            return ()
        ids = _wordnet(self.wordnet)
        return ids if self.wordnet == self.name or self.class_indices is None else tuple(ids[k] for k in self.class_indices)

    @property
    def spread(self) -> tuple[float, ...]:
        """Standard deviation of all pixels in [0,1], by channel."""
        return self.pixel_std or self.std

    @property
    def shape(self) -> tuple[int, int, int]:
        """[C,H,W] of an image."""
        return self.channels, self.image_size, self.image_size


@cache
def _wordnet(name: str) -> tuple[str, ...]:
    return tuple(resources.files(__package__).joinpath(f"{name}_wordnet.txt").read_text().split())


_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # torchvision's ImageNet weights
_ILSVRC: dict[str, Any] = dict(
    hub_repo="ILSVRC/imagenet-1k",
    files={"train": "data/train-*.parquet", "test": "data/validation-*.parquet"},
    wordnet="imagenet1k",
    source_rows={"train": 1_281_167, "test": 50_000},
)
_CIFAR10_NAMES = "airplane automobile bird cat deer dog frog horse ship truck"
_CIFAR100_NAMES = (
    "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle "
    "caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish "
    "forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle "
    "mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine "
    "possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar "
    "sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale "
    "willow_tree wolf woman worm"
)
_FASHION_NAMES = "t-shirt_top trouser pullover dress coat sandal shirt sneaker bag ankle_boot"


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split()))


# ImageNet-100: the hundred classes that contrastive multiview coding drew (arXiv 1906.05849), in the order of their ids
_IMAGENET100 = _numbers(
    "15 45 54 57 64 74 90 99 119 120 122 131 137 151 155 157 158 166 167 169 176 180 209 211 222 228 234 236 242 246 267 268 272 "
    "275 277 281 299 305 313 317 331 342 368 374 407 421 431 449 452 455 479 494 498 503 508 544 560 570 592 593 599 606 608 619 "
    "620 653 659 662 665 667 674 682 703 708 717 724 748 758 765 766 772 775 796 798 830 854 857 858 872 876 882 904 908 936 938 "
    "953 959 960 993 994"
)
# The Hub's copy gives 18 classes the WordNet id of a word with the same spelling (Chihuahua the state, a goose that is eaten), so its
# labels run in another order than the sorted ids of the original archive, which the field's sets follow.
_TINY_ON_THE_HUB = _numbers(
    "0 1 2 3 4 5 6 7 8 9 10 170 11 12 13 14 198 15 16 17 18 19 20 21 187 22 23 24 25 26 27 28 29 30 31 32 33 93 184 34 35 36 37 38 "
    "39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 185 57 58 59 60 61 62 63 64 65 66 67 68 69 70 71 72 194 73 74 75 76 77 "
    "78 79 80 197 81 82 83 84 85 86 87 88 89 90 171 91 92 94 95 96 97 98 99 100 101 102 103 104 105 106 107 108 109 110 111 112 "
    "113 196 114 115 116 117 118 119 120 121 122 186 123 124 125 126 127 128 166 129 130 131 132 133 134 135 136 137 138 139 140 "
    "141 142 143 144 145 146 147 148 149 150 151 152 153 154 155 156 157 158 159 160 161 162 163 164 165 172 167 168 169 173 174 "
    "175 176 195 199 177 178 179 180 181 182 183 188 189 190 191 192 193"
)


def _imagenet_ten(name: str, title: str, train_size: int, classes: dict[str, int]) -> tuple[Dataset, Dataset]:
    """Ten classes of ImageNet-1k at 128 pixels, as trajectory matching has them, and at 224, as diffusion methods do.

    Class lists and order: MTT (arXiv 2203.11932), released code, `utils.py`; the same as in the id lists of diffusion methods.
    """
    common: dict[str, Any] = {**_ILSVRC, "class_indices": tuple(classes.values()), "aliases": (name,)}
    names = tuple(classes)
    return (
        Dataset(name, 10, 128, _IMAGENET_MEAN, _IMAGENET_STD, train_size, 500, title, names, resize_side=128, **common),
        Dataset(
            f"{name}224",
            10,
            224,
            _IMAGENET_MEAN,
            _IMAGENET_STD,
            train_size,
            500,
            f"{title}, 224 px",
            names,
            resize_side=256,
            **common,
        ),
    )


def _grey(name: str, title: str, mean: float, std: float, names: tuple[str, ...], **fields: Any) -> Dataset:
    """28 px, one channel; mean and std: DC's released code (arXiv 2006.05929)."""
    return Dataset(name, 10, 28, (mean,), (std,), 60_000, 10_000, title, names, channels=1, **fields)


DATASETS: dict[str, Dataset] = {
    d.name: d
    for d in (
        Dataset(
            "cifar10", 10, 32, (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010),  # DC's released code (arXiv 2006.05929)
            50_000, 10_000, "CIFAR-10", tuple(_CIFAR10_NAMES.split()), hub_repo="uoft-cs/cifar10", image_column="img",
            files={s: f"plain_text/{s}-*.parquet" for s in ("train", "test")}, pixel_std=(0.2470, 0.2435, 0.2616),
            digests={  # computed from the original archive, whose published md5 sums matched
                "train": "55a61f79a40ece2ceda9fb5f9f7078f6ea2fc4952489cef56682bcf92cfcc260",
                "test": "325704b01eb92e1e2a6215ae6a916bb7db7de054af0c496be1c7be2e0fcfbf5f",
            },
        ),
        Dataset(
            "cifar100", 100, 32, (0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762),  # DSA's released code (arXiv 2102.08259)
            50_000, 10_000, "CIFAR-100", tuple(_CIFAR100_NAMES.split()), hub_repo="uoft-cs/cifar100", image_column="img",
            label_column="fine_label", files={s: f"cifar100/{s}-*.parquet" for s in ("train", "test")},
        ),
        Dataset(  # DC's released code; labels are the digits
            "svhn", 10, 32, (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970), 73_257, 26_032, "SVHN", tuple("0123456789"),
            hub_repo="ufldl-stanford/svhn", files={s: f"cropped_digits/{s}-*.parquet" for s in ("train", "test")},
        ),
        _grey("mnist", "MNIST", 0.1307, 0.3081, tuple("0123456789"), hub_repo="ylecun/mnist",
              files={s: f"mnist/{s}-*.parquet" for s in ("train", "test")}),
        _grey("fashionmnist", "FashionMNIST", 0.2861, 0.3530, tuple(_FASHION_NAMES.split()),
              hub_repo="zalando-datasets/fashion_mnist", aliases=("fmnist", "fashion"),
              files={s: f"fashion_mnist/{s}-*.parquet" for s in ("train", "test")}),
        Dataset(  # its own test split has no public labels: the field tests on `valid`
            "tinyimagenet", 200, 64, _IMAGENET_MEAN, _IMAGENET_STD, 100_000, 10_000, "Tiny ImageNet", aliases=("tiny",),
            hub_repo="zh-plus/tiny-imagenet", files={"train": "data/train-*.parquet", "test": "data/valid-*.parquet"},
            wordnet="tinyimagenet", class_indices=_TINY_ON_THE_HUB,
        ),
        Dataset(  # 256 and 224: the usual evaluation crop since arXiv 1512.03385
            "imagenet1k", 1000, 224, _IMAGENET_MEAN, _IMAGENET_STD, 1_281_167, 50_000, "ImageNet-1k", resize_side=256,
            aliases=("ilsvrc", "in1k", "imagenet"), **_ILSVRC,
        ),
        Dataset(
            "imagenet100", 100, 224, _IMAGENET_MEAN, _IMAGENET_STD, 0, 5_000, "ImageNet-100", resize_side=256, aliases=("in100",),
            class_indices=_IMAGENET100, **_ILSVRC,
        ),
        *_imagenet_ten("imagenette", "ImageNette", 12_894, {  # size: fastai/imagenette, first version (the unchanged split)
            "tench": 0, "english_springer": 217, "cassette_player": 482, "chain_saw": 491, "church": 497, "french_horn": 566,
            "garbage_truck": 569, "gas_pump": 571, "golf_ball": 574, "parachute": 701}),
        *_imagenet_ten("imagewoof", "ImageWoof", 12_454, {  # size: as above
            "australian_terrier": 193, "border_terrier": 182, "samoyed": 258, "beagle": 162, "shih_tzu": 155,
            "english_foxhound": 167, "rhodesian_ridgeback": 159, "dingo": 273, "golden_retriever": 207,
            "old_english_sheepdog": 229}),
        *_imagenet_ten("imagefruit", "ImageFruit", 0, {
            "pineapple": 953, "banana": 954, "strawberry": 949, "orange": 950, "lemon": 951, "pomegranate": 957, "fig": 952,
            "bell_pepper": 945, "cucumber": 943, "green_apple": 948}),
        *_imagenet_ten("imagemeow", "ImageMeow", 0, {
            "tabby_cat": 281, "tiger_cat": 282, "persian_cat": 283, "siamese_cat": 284, "egyptian_cat": 285, "lion": 291,
            "tiger": 292, "jaguar": 290, "snow_leopard": 289, "lynx": 287}),
        *_imagenet_ten("imagesquawk", "ImageSquawk", 0, {
            "peacock": 84, "flamingo": 130, "macaw": 88, "pelican": 144, "king_penguin": 145, "bald_eagle": 22, "toucan": 96,
            "ostrich": 9, "black_swan": 100, "cockatoo": 89}),
        *_imagenet_ten("imageyellow", "ImageYellow", 0, {
            "bee": 309, "ladys_slipper": 986, "banana": 954, "lemon": 951, "corn": 987, "school_bus": 779, "honeycomb": 599,
            "lion": 291, "garden_spider": 72, "goldfinch": 11}),
        Dataset(
            "digits", 10, 32, (0.3060,) * 3, (0.3228,) * 3,  # ours: computed on the train split
            1297, 500, "digits", tuple("0123456789"),
            digests={  # ours: scikit-learn 1.9, Pillow 13
                "train": "9b471893020553bd0bf9852b019567ec73fae444c1443980b70eb04dcc15893c",
                "test": "62c529ea987fdbebbdf3e01f99bab2d1344889ca9a978d32b00c438ff6a5699b",
            },
        ),
    )
}  # fmt: skip


def describe(path: Path) -> Dataset:
    """Add the dataset that a TOML file describes to `DATASETS` and return it.

    Fields: name, classes (names in label order), image_size, mean, std; then folder (with sub-folders train and test, each with a
    folder of images a class) or hub_repo with files, image_column and label_column. Optional: title, channels, resize_side.
    Raises MabenchError for a field that is missing, unknown or of another type, and for a name that is taken.
    """
    cure = "Describe a dataset with name, classes, image_size, mean, std, and folder or hub_repo: docs/add-a-dataset.md has an example."
    raw = read_toml(path, cure)
    allowed = {"name", "classes", "image_size", "mean", "std", "folder", "hub_repo", "files", "image_column", "label_column"}
    allowed |= {"title", "channels", "resize_side"}
    unknown = sorted(set(raw) - allowed)
    missing = sorted({"name", "classes", "image_size", "mean", "std"} - set(raw))
    if unknown or missing or ("folder" in raw) == ("hub_repo" in raw):
        wrong = [
            f"{what} {', '.join(fields)}" for what, fields in (("unknown fields:", unknown), ("missing:", missing)) if fields
        ]
        wrong += ["exactly one of folder and hub_repo is needed"] if ("folder" in raw) == ("hub_repo" in raw) else []
        raise MabenchError(f"{path}: {'; '.join(wrong)}. {cure}")
    try:
        name, classes = str(raw["name"]), tuple(map(str, raw["classes"]))
        known = DATASETS.get(name)
        if known is not None and not (known.folder or known.title.endswith("(described)")):
            raise MabenchError(f"{path}: the name '{name}' is taken by {known.title}. Choose another.")
        folder = (path.parent / str(raw["folder"])).resolve() if "folder" in raw else None
        files = raw.get("files", {"train": "train", "test": "test"} if folder else {})
        optional = {k: raw[k] for k in ("channels", "resize_side", "hub_repo", "image_column", "label_column") if k in raw}
        entry = Dataset(
            name, len(classes), int(raw["image_size"]), tuple(map(float, raw["mean"])), tuple(map(float, raw["std"])), 0, 0,
            f"{raw.get('title', name)} (described)", classes, files={str(k): str(v) for k, v in files.items()}, folder=folder,
            **optional,
        )  # fmt: skip
    except (TypeError, ValueError, AttributeError) as error:
        raise MabenchError(f"{path}: {error}. {cure}") from error
    if not entry.channels == len(entry.mean) == len(entry.std) or set(entry.files) != {"train", "test"}:
        raise MabenchError(f"{path}: {entry.channels} channels need as many mean and std, and files need train and test. {cure}")
    DATASETS[name] = entry
    return entry
