"""Whatever the Hub's client raises -> a MabenchError that says what to do, and when to try again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from mabench.errors import MabenchError

Kind = Literal["dataset", "space"]

CONFLICTS = 8  # ours: how often somebody else may be faster; each time the work is read, merged and sent again
LONGEST_WAIT_SECONDS = 60.0  # ours: a server that asks for more gets its message shown instead


@contextmanager
def explained(repo: str, kind: Kind = "dataset") -> Iterator[None]:
    """Whatever the Hub's client raises, as a MabenchError with a cure."""
    try:
        yield
    except MabenchError:
        raise
    except failures() as error:
        raise _explain(repo, kind, error) from error


def failures() -> tuple[type[BaseException], ...]:
    """What huggingface_hub raises, its HTTP library included without naming it: that changes with versions."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    # ValueError: a token that is not ASCII, a file name that leads out of the repository
    return (HfHubHTTPError, HFValidationError, OSError, RuntimeError, ValueError, *HfHubHTTPError.__bases__)


def _explain(repo: str, kind: Kind, error: BaseException) -> MabenchError:
    """The first line of `_table` that fits, filled in."""
    from huggingface_hub import constants

    code = status(error)
    text = next(text for fits, text in _table(kind, code) if fits(error))
    values = {
        "repo": repo,
        "kind": kind,
        "said": _first(error),
        "hub": constants.ENDPOINT,
        "code": code,
        "type": type(error).__name__,
    }
    return MabenchError(text.format(**values))


def _table(kind: Kind, code: int | None) -> list[tuple[Callable[[BaseException], bool], str]]:
    """(does it fit, message) by kind of error and by the server's answer; the last line fits everything."""
    from huggingface_hub import errors

    def raised(*kinds: type[BaseException]) -> Callable[[BaseException], bool]:
        return lambda error: isinstance(error, kinds)

    def answered(*codes: int) -> Callable[[BaseException], bool]:
        return lambda error: code in codes

    request = "Open a pull request with --create-pr, or use" if kind == "dataset" else "Name a Space of your own, or use"
    login = "{repo}: no valid Hub token. Log in with: hf auth login, or set HF_TOKEN."
    return [
        (raised(errors.HFValidationError), "--repo {repo}: {said}. Write it as ORG/NAME."),
        (raised(errors.OfflineModeIsEnabled), "{repo}: offline mode is on. Unset HF_HUB_OFFLINE to reach the Hub."),
        (
            raised(errors.LocalEntryNotFoundError),
            "{repo}: not reachable, and the Hub cache has no copy ({said}). Check the network, HF_ENDPOINT and HF_HUB_OFFLINE.",
        ),
        (raised(errors.GatedRepoError), "{repo}: is gated. Accept its terms on {hub}/{kind}s/{repo}, then: hf auth login"),
        (raised(errors.RevisionNotFoundError), "{repo}: has no such revision ({said}). Leave --revision out to get the newest."),
        (raised(errors.LocalTokenNotFoundError), login),
        (
            raised(errors.RepositoryNotFoundError),
            "{repo}: no {kind} repository of this name on {hub} that you may read. Check ORG/NAME; for a private one log in "
            "with: hf auth login, or set HF_TOKEN.",
        ),
        (answered(401), login),
        (answered(403), "{repo}: your token may not write there. " + request + " a token that may write."),
        (
            answered(409, 412),
            f"{{repo}}: others changed it {CONFLICTS} times while this was sent. Nothing was lost; run the same command again.",
        ),
        (answered(429), "{repo}: the Hub asks for a pause ({said}). Run the same command again later; it continues from there."),
        (
            lambda error: code is not None,
            "{repo}: the Hub answered {code} ({said}). Run the same command again; what has arrived is not sent twice.",
        ),
        (
            lambda error: True,
            "{repo}: cannot reach {hub} ({type}: {said}). Check the network and HF_ENDPOINT, and run the same command again; "
            "what has arrived is not sent twice.",
        ),
    ]


def _first(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2] or [type(error).__name__])[:300].rstrip(".")


def status(error: BaseException) -> int | None:
    """The HTTP status behind an error, looked for along its causes; None for a connection that failed."""
    seen: BaseException | None = error
    while seen is not None:
        status = getattr(getattr(seen, "response", None), "status_code", None)
        if isinstance(status, int):
            return status
        seen = seen.__cause__
    return None


def wait(error: BaseException, attempt: int) -> float | None:
    """Seconds until the next attempt, or None where another would fail in the same way."""
    from huggingface_hub.errors import HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled

    code = status(error)
    if isinstance(error, HFValidationError | LocalTokenNotFoundError | OfflineModeIsEnabled):
        return None
    if code in (409, 412):
        return 0.05 * attempt
    if code == 429:
        headers = getattr(getattr(error, "response", None), "headers", {})
        asked = headers.get("Retry-After", "")
        seconds = float(asked) if asked.isdigit() else 2.0**attempt
        return seconds if seconds <= LONGEST_WAIT_SECONDS else None
    if code is not None and code != 408 and code < 500:
        return None
    return 2.0 ** (attempt - 1)
