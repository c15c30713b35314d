"""The pages that readers see, and the commands that stand in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    p.relative_to(ROOT).as_posix()
    for pattern in (
        "*.md",
        "docs/*.md",
        "docs/evidence/*.md",
        "methods/README.md",
        "methods/*/README.md",
        "benchmarks/*.md",
        "leaderboard/README.md",
        "submissions/*.md",
    )
    for p in ROOT.glob(pattern)
)
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.M | re.S)
STARTERS = {"time", "nohup", "exec", "srun", "do", "then", "env", "sudo"}  # words that run what follows


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def calls(line: str) -> Iterator[list[str]]:
    """The words of every command in one line of shell, without variables and words like `time` before it."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>()")
    lexer.whitespace_split = True
    lexer.commenters = "#"
    call: list[str] = []
    for token in [*lexer, ";"]:
        if token and set(token) <= set("|&;<>()"):
            words = list(call)
            while words and (words[0] in STARTERS or re.fullmatch(r"[A-Z_]+=.*", words[0]) or words[0].startswith("-")):
                words.pop(0)
            if words:
                yield words
            call = []
        else:
            call.append(token)


def spoken(line: str) -> Iterator[list[str]]:
    """The arguments of every call of mabench in one line of shell."""
    for words in calls(line):
        place = next((i for i, word in enumerate(words) if word.rpartition("/")[2] == "mabench"), -1)
        if place == 0 or (place > 0 and words[0] == "timeout"):
            yield words[place + 1 :]


def commands(text: str) -> Iterator[tuple[list[str], bool]]:
    """(arguments, whether it stands in a block) of every call of mabench; prose may name a command without its arguments."""
    for language, block in FENCE.findall(text):
        if language in ("", "bash", "sh", "shell", "console"):
            for line in block.replace("\\\n", " ").splitlines():
                if "mabench" in line:
                    yield from ((found, True) for found in spoken(line.strip().removeprefix("$ ")))
    for line in re.findall(r"`([^`\n]+)`", FENCE.sub("", text)):
        if re.match(r"mabench [a-z-]", line):
            yield from ((found, False) for found in spoken(line))
