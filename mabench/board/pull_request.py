"""One submission, or a pull request of the Hub with one, before it is taken: every gate, what changed, and who may change it.

`review.py` does the same for folders of submissions in a git checkout, and asks the gates that stand here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mabench.board import gates, labels
from mabench.board import submission as submissions
from mabench.board.gates import Gate, gate
from mabench.board.names import skeleton
from mabench.board.submission import AUDIT, BOARD, CARD, Submission, has_sets
from mabench.errors import MabenchError, first_line

if TYPE_CHECKING:
    from huggingface_hub import HfApi

MARK = "<!-- mabench review -->"
"""By this line a bot finds its own comment again."""


@dataclass(frozen=True)
class Review:
    """What a review found. `accepted` where no gate is closed."""

    slug: str
    gates: tuple[Gate, ...]
    tier: str = ""

    @property
    def accepted(self) -> bool:
        return not any(each.refusals for each in self.gates)

    def markdown(self) -> str:
        """The review as a comment; a stranger's text in it is shown and does nothing."""
        from mabench.board.hub.cards import shown

        lines = [
            f"## {shown(self.slug)}: {'every gate is open' if self.accepted else 'refused'}",
            "",
            "| gate | found |",
            "|---|---|",
        ]
        lines += [f"| {each.name} | {'**refused**' if each.refusals else shown(each.found)} |" for each in self.gates]
        lines += ["", *(f"- **{each.name}**: {shown(text)}" for each in self.gates for text in each.refusals)]
        if self.tier:
            lines += ["", f"Tier, computed from the re-runs in it: {self.tier}."]
        return "\n".join(lines).rstrip() + "\n"


def review(
    folder: Path,
    *,
    before: Submission | None = None,
    account: str | None = None,
    images: bool = True,
    features: bool = False,
    board: Path | None = None,
) -> Review:
    """Review the submission in `folder`.

    before: the submission as the board has it; None for a new one. account: who sends the change, where that is known: then
    every new line of the log must be his. images: also run the gates that look at the set, with torch and the real dataset.
    features: with them, report what the images are like in the features of a pretrained network.
    board: the folder of all submissions, where that is not the folder's own.
    """
    try:
        submission = submissions.read(folder)
        if submission is None:
            raise MabenchError(f"{folder}: the submission is incomplete: it has no {AUDIT}.")
    except MabenchError as error:
        return Review(folder.name, (Gate("folder", "refused", (str(error),)),))
    passed = [
        Gate(
            "folder", f"{len(submission.records)} records, {len(submission.reruns)} re-runs, {len(submission.audit)} log entries"
        ),
        *gates.of_submission(submission, has_set=has_sets(folder, submission), folder=folder),
        grown(submission, before),
        allowed(submission, before, account),
        unique(submission, board or folder.parent, is_new=before is None),
        contents(folder, submission),
    ]
    if images:
        here = {name: sha for name, sha in submission.set_files.items() if (folder / name).is_file()}
        passed += [each for name, sha in here.items() for each in _of_images(submission, folder / name, sha, features)]
        absent = sorted(set(submission.set_files) - set(here))
        passed += [gate("first steps", f"not checked: {first_line(absent)} is not here", [])] if absent else []
    return Review(submission.slug, tuple(passed), submission.tier)


def _of_images(submission: Submission, place: Path, sha256: str, features: bool) -> list[Gate]:
    from mabench import data
    from mabench.board import features as likeness
    from mabench.board import probes, rechecks
    from mabench.sets import synthetic

    try:
        labels.check(place.parent, submission)
        synthetic_set = replace(
            synthetic.load(place), labels_folder=place.parent / labels.folder_of(submission.sets.index(sha256) + 1)
        )
    except MabenchError as error:
        return [Gate("set", "refused", (str(error),))]

    def like_real() -> Gate:
        splits = (data.load(synthetic_set.dataset, split) for split in ("test", "train"))
        return likeness.as_gate(synthetic_set.decoded()[0], *splits)

    records = [r for r in submission.records.values() if r.cell.set_sha256 == sha256]
    soft = {name for name, record in submission.records.items() if record.cell.set_sha256 == sha256}
    harder = [r for n, r in submission.hardened.items() if n in soft and synthetic_set.label_kind == "soft"]
    return [
        probes.pixels(synthetic_set, place),
        *probes.of_set(synthetic_set, records, submission.card),
        gates.attempted(rechecks.NAME, lambda: rechecks.first_steps(synthetic_set, records)),
        *([gates.attempted(likeness.NAME, like_real)] if features else []),
        *(rechecks.of_hardened(synthetic_set.hardened(), harder) if harder else []),
    ]


def contents(folder: Path, submission: Submission) -> Gate:
    """The submission's folder holds plain files that the log or the records name, and nothing else."""
    named = {*submission.files, *submission.set_files}
    places = {each.folder for each in labels.needed(submission)}
    problems, count = [], 0
    for count, path in enumerate(folder.rglob("*"), 1):
        name = path.relative_to(folder).as_posix()
        if count > submissions.MAX_FILES:
            problems = [f"more than {submissions.MAX_FILES:,} files. Remove those that the log does not name."]
            break
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            problems.append(f"{name}: not a plain file. Remove it.")
        elif path.is_file() and name not in named and not (name.rpartition("/")[0] in places and labels.is_file_of_labels(name)):
            problems.append(f"{name}: neither the log nor a record names it. Remove it.")
    return gate("contents", f"{count} files and folders, all of them named", problems)


def grown(after: Submission, before: Submission | None) -> Gate:
    """The log only grew, and no file that it names was replaced."""
    if before is None:
        return gate("log", "new submission", [])
    problems = []
    if after.audit[: len(before.audit)] != before.audit:
        problems.append("the log was shortened or changed: its earlier entries must stay as they are.")
    if after.sets[: len(before.sets)] != before.sets:
        problems.append("the set is another: submit it under a slug of its own.")
    replaced = [name for name, content in before.files.items() if name not in (AUDIT, CARD) and after.files.get(name) != content]
    if replaced:
        problems.append(f"{first_line(replaced)}: replaced or removed. Records that were submitted stay.")
    return gate("log", f"{len(after.audit) - len(before.audit)} new entries", problems)


def allowed(after: Submission, before: Submission | None, account: str | None) -> Gate:
    """New entries are by the account that sends them, and only the owner or a maintainer changes card, records and decisions."""
    new = after.audit[len(before.audit) if before is not None else 0 :]
    owners, maintainers = (before or after).owners, after.board.maintainers
    problems = []
    for entry in new:
        name = skeleton(entry.who)
        if account is not None and entry.who != account:
            problems.append(f"an entry by {entry.who!r}, sent by {account!r}. Entries are made by the account that sends them.")
        if entry.action != "re-run" and name not in owners | maintainers:
            problems.append(
                f"{entry.action} by {entry.who!r}: only {after.audit[0].who!r} or a maintainer may. Anybody may re-run it."
            )
    return gate("account", account or "not known", problems)


def unique(submission: Submission, root: Path, *, is_new: bool = True) -> Gate:
    """No new submission holds the set of somebody else's."""
    others = gates.same_set(root, submission.slug, submission.sets)
    problems = [
        f"the same set is {other.slug} by {first_line(other.card.authors)}: they share one rank. Link it in the card's note, or withdraw one."
        for other in others.values()
        if is_new and other.owners != submission.owners
    ]
    return gate("unique", f"same set as {first_line(others)}" if others else "no other submission holds this set", problems)


def changed_paths(paths: Mapping[str, bytes | None] | list[str], slug: str) -> Gate:
    """A pull request touches one submission and nothing else."""
    outside = sorted(path for path in paths if not path.startswith(f"{submissions.FOLDER}/{slug}/"))
    text = f"{first_line(outside)}: outside of {submissions.FOLDER}/{slug}/. A pull request holds one submission; {BOARD} is a maintainer's."
    return gate("files", f"{len(list(paths))} files of {slug}", [text] if outside else [])


def of_pull_request(repo: str, number: int, scratch: Path, *, images: bool = True) -> Review:
    """Review a pull request of a Hub repository: its files are fetched into `scratch` and read as data only.

    What it changes is taken against the commit that it branched off; what it changes it to is judged against the board of today.
    Raises MabenchError for everything that the Hub may answer.
    """
    from huggingface_hub import HfApi, snapshot_download

    from mabench.board.hub import client
    from mabench.board.hub.errors import explained

    api, revision = HfApi(), f"refs/pr/{number}"
    with explained(repo):
        account = api.get_discussion_details(repo, number, repo_type="dataset").author
        before, after = (_blobs(api, repo, at) for at in (_branched_off(api, repo, revision), revision))
        changed = sorted(path for path in {*before, *after} if before.get(path) != after.get(path))
        slugs = sorted(
            {path.split("/")[1] for path in changed if path.startswith(f"{submissions.FOLDER}/") and path.count("/") > 1}
        )
        if len(slugs) != 1:
            return Review(
                f"{repo}#{number}", (gate("files", "", [f"touches {len(slugs)} submissions: {first_line(slugs) or 'none'}"]),)
            )
        slug = submissions.check_slug(slugs[0])
        if why := client.too_large(repo, slug, revision).get(slug):  # before anything is fetched
            return Review(slug, (gate("files", "", [why]),))
        for side, at in (("main", "main"), ("request", revision)):
            # the board's own list is main's: a request cannot bring maintainers along; main's sets and labels stay where they are
            patterns = [f"{submissions.FOLDER}/{slug}/*"] if side == "request" else client.small_files("*")
            snapshot_download(repo, repo_type="dataset", revision=at, allow_patterns=patterns, local_dir=scratch / side)
    base, place = scratch / "main" / submissions.FOLDER, scratch / "request" / submissions.FOLDER
    if (base / BOARD).is_file():
        (place / BOARD).write_bytes((base / BOARD).read_bytes())
    known = submissions.read(base / slug)
    found = review(place / slug, before=known, account=account, images=images, board=base)
    return Review(slug, (changed_paths(changed, slug), *found.gates), found.tier)


def _blobs(api: HfApi, repo: str, revision: str) -> dict[str, str]:
    """Path -> git id of every file at this revision."""
    tree = api.list_repo_tree(repo, recursive=True, repo_type="dataset", revision=revision)
    return {entry.path: entry.blob_id for entry in tree if hasattr(entry, "blob_id")}


def _branched_off(api: HfApi, repo: str, revision: str) -> str:
    """The newest commit of a pull request that main has too."""
    main = {commit.commit_id for commit in api.list_repo_commits(repo, repo_type="dataset")}
    own = api.list_repo_commits(repo, repo_type="dataset", revision=revision)
    return next((commit.commit_id for commit in own if commit.commit_id in main), "main")


def opened(repo: str) -> list[int]:
    """Numbers of the open pull requests, oldest first."""
    from huggingface_hub import HfApi

    from mabench.board.hub.errors import explained

    with explained(repo):
        found = HfApi().get_repo_discussions(repo, repo_type="dataset", discussion_type="pull_request", discussion_status="open")
        return sorted(discussion.num for discussion in found)


def post(repo: str, number: int, text: str) -> None:
    """Say `text` in the pull request: one comment of this account, which is edited when the review changes."""
    from huggingface_hub import DiscussionComment, HfApi

    from mabench.board.hub.errors import explained

    api, content = HfApi(), f"{MARK}\n{text}"
    with explained(repo):
        account = api.whoami()["name"]
        events = api.get_discussion_details(repo, number, repo_type="dataset").events
        said = [e for e in events if isinstance(e, DiscussionComment) and e.author == account and e.content.startswith(MARK)]
        if not said:
            api.comment_discussion(repo, number, content, repo_type="dataset")
        elif said[-1].content != content:
            api.edit_discussion_comment(repo, number, said[-1].id, content, repo_type="dataset")
