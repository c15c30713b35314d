"""Sets on the Hugging Face Hub: `org/name`, `org/name/path/in/repo.pt`, `hf://datasets/org/name@revision/path` -> files in the Hub cache.

Only names and sizes are looked at here. What is fetched is read as a local path is.
"""

from __future__ import annotations

import glob
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mabench.data import hub
from mabench.errors import MabenchError, first_line
from mabench.schema import Finding
from mabench.sets import beside, keys, pictures, synthetic, tables
from mabench.sets.draft import READABLE

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_PART = r"[A-Za-z0-9][\w.-]*"
_ADDRESS = re.compile(rf"(hf://datasets/)?({_PART}/{_PART})(?:@(refs/(?:pr|convert)/\w+|[^/@]+))?(?:/(.*))?")


@dataclass(frozen=True)
class Source:
    """Where a set came from and where its files lie now."""

    path: Path
    """A file or folder in the Hub cache."""
    address: str
    """org/name, and the path within the repository: what messages and records call it."""
    finding: Finding

    @property
    def name(self) -> str:
        """What the set is called: the repository's name, or that of the file or folder in it."""
        last = PurePosixPath(self.address).name
        return last if self.path.is_dir() else Path(last).stem


def resolve(address: str) -> Source | None:
    """Fetch the set at an address of the Hub; None where `address` is meant as a local path, which always wins.

    Raises MabenchError where the Hub has no such set, does not give it, or holds several there, and for addresses of other kinds.
    """
    _refuse_web_address(address)
    match = _ADDRESS.fullmatch(address.rstrip("/"))
    if match is None or (match[1] is None and _is_local(address)):
        return None
    repo, revision, inside = match[2], match[3], (match[4] or "").strip("/")
    try:
        listing = hub.list_files(repo, revision)
    except MabenchError as refusal:
        if match[1]:
            raise
        raise MabenchError(f"{address}: no such file or folder is here; asked the Hub: {refusal}") from None
    names = [name for name in listing.sizes if not any(map(keys.is_leftover, PurePosixPath(name).parts))]
    target, wanted = _choose(repo, inside, names)
    size = sum(listing.sizes[name] for name in wanted)
    if size > synthetic.max_bytes():
        raise MabenchError(
            f"{address}: {len(wanted)} files of {size:,} bytes, nothing was fetched; condensed sets up to {synthetic.max_bytes():,} bytes are read. "
            f"Name one set in it: {repo}/PATH"
        )
    snapshot = hub.download(repo, [glob.escape(name) for name in wanted], title=address, revision=revision)
    if snapshot.name != listing.commit:
        raise MabenchError(f"{address}: the repository changed while it was fetched. Run the same command again.")
    missing = [name for name in wanted if not (snapshot / name).is_file()]
    if missing:
        raise MabenchError(f"{address}: the Hub cache lacks {first_line(missing)}. Unset HF_HUB_OFFLINE and run again.")
    reason = "Hugging Face Hub" if listing.asked else "the Hub cache, the Hub was not reached"
    finding = Finding(field="source", value=f"{repo}@{listing.commit}", reason=f"{reason}: {len(wanted)} files, {size:,} bytes")
    return Source(snapshot / target, f"{repo}/{target}".rstrip("/"), finding)


def _refuse_web_address(address: str) -> None:
    if match := re.fullmatch(
        rf"(?:https?://)?(?:huggingface\.co|hf\.co)/datasets/({_PART}/{_PART})(?:/(?:resolve|blob|tree)/([^/]+)/?(.*?))?/?(?:\?.*)?",
        address,
    ):
        revision = f"@{match[2]}" if match[2] not in (None, "main") else ""
        rest = f"/{match[3]}" if match[3] else ""
        raise MabenchError(
            f"{address}: is a web address. Name the dataset itself, and it is fetched: mabench check {match[1]}{revision}{rest}"
        )
    scheme = re.match(r"([a-z][a-z0-9+.-]+):/", address, re.IGNORECASE)
    kind = scheme[1].lower() if scheme else ""
    if kind in ("http", "https"):
        raw = re.sub("(github.com/[^/]+/[^/]+)/blob/", r"\1/raw/", address)  # else the page around the file
        fetch = f"curl -LO '{raw}'" if raw.lower().endswith(_set_suffixes()) else "open it in a browser and download the set"
        raise MabenchError(f"{address}: is a web address. Fetch it first, then name the file: {fetch}")
    if kind == "file":
        raise MabenchError(f"{address}: is an address. Name the file itself: mabench check {address[5:].replace('///', '/', 1)}")
    if kind and kind != "hf":
        raise MabenchError(
            f"{address}: is an address of another kind. Fetch it first with a program for {kind}, then name the file."
        )
    if kind and not address.startswith("hf://datasets/"):
        raise MabenchError(
            f"{address}: addresses of sets begin with hf://datasets/. Files of other repositories: hf download OWNER/NAME FILE "
            "--local-dir FOLDER, then name the file."
        )


def _is_local(address: str) -> bool:
    """Whether it exists here, lies in a folder that does, or is called like a file: `runs/set.pt` is nobody's repository."""
    path = Path(address)
    return path.exists() or Path(path.parts[0]).exists() or (len(path.parts) == 2 and address.lower().endswith(_set_suffixes()))


def _set_suffixes() -> tuple[str, ...]:
    return (*beside.ARRAY_SUFFIXES, *ARCHIVES, ".parquet", ".arrow")


def _choose(repo: str, inside: str, names: list[str]) -> tuple[str, list[str]]:
    """The file or folder that the reader is to open, and all files it needs. Raises MabenchError where that is unclear."""
    if inside in names:
        place = PurePosixPath(inside)
        folder = [PurePosixPath(name) for name in names if PurePosixPath(name).parent == place.parent]
        return inside, [inside, *map(str, _beside(place, folder))]
    below = [PurePosixPath(n).relative_to(inside) for n in names if not inside or n.startswith(inside + "/")]
    where = f"{repo}/{inside}".rstrip("/")
    if not below:
        raise MabenchError(f"{where}: {repo} has no such file or folder. It holds: {first_line(names) or 'nothing'}.")
    target, wanted = _choose_below(where, below)
    return str(PurePosixPath(inside) / target), [str(PurePosixPath(inside) / name) for name in wanted]


def _choose_below(where: str, files: list[PurePosixPath]) -> tuple[PurePosixPath, list[PurePosixPath]]:
    """As `_choose`, of a folder; in the order in which `containers` looks for a set."""
    here = PurePosixPath()
    if any(file.name == "state.json" for file in files):
        return here, [file for file in files if file.suffix in (".arrow", ".json")]
    arrays = [file for file in files if file.suffix.lower() in beside.ARRAY_SUFFIXES]
    top = [file for file in arrays if file.parent == here]
    parquet = [file for file in files if file.suffix == ".parquet"]
    images = [file for file in files if file.suffix.lower() in pictures.SUFFIXES]
    if top or (arrays and not parquet and not images):
        _, best = beside.with_images(top or arrays)
        if len(best) != 1:
            raise _several(where, best or arrays)
        return best[0], [best[0], *_beside(best[0], [file for file in arrays if file.parent == best[0].parent])]
    if parquet:
        if len({tables.split_of(file) for file in parquet}) > 1:
            raise _several(where, parquet)
        tables.check_shards(where, parquet, "Run again with a network and without HF_HUB_OFFLINE.")
        return here, parquet
    if len({file.parent for file in images}) > 1 or len(images) > 100:  # else pictures of a page about the set
        return here, images
    archives = [file for file in files if file.name.lower().endswith(ARCHIVES)]
    if len(archives) == 1:
        return archives[0], archives
    if archives:
        raise _several(where, archives)
    if images:
        return here, images
    raise MabenchError(f"{where}: holds no set: {first_line(map(str, files))}. Readable: {READABLE}.")


def _several(where: str, files: list[PurePosixPath]) -> MabenchError:
    return MabenchError(
        f"{where}: holds several sets or tables: {first_line(map(str, files))}. Name one of them, e.g. mabench check {where}/{files[0]}"
    )


def _beside(place: PurePosixPath, folder: list[PurePosixPath]) -> list[PurePosixPath]:
    """Files of the same folder that belong to a file of arrays: labels, a learned rate, and what says whether it is whitened."""
    if place.suffix.lower() not in beside.ARRAY_SUFFIXES:
        return []
    arrays = [file for file in folder if file != place and file.suffix.lower() in beside.ARRAY_SUFFIXES]
    pictured, _ = beside.with_images(arrays)
    whitened = place.name.replace("images_", "images_zca_", 1)
    return [file for file in arrays if file not in pictured or file.name == whitened]
