"""Write the reference pages of `docs/reference/` from the docstrings: Markdown that reads well on a forge and on the site.

    python dev/reference.py            # write
    python dev/reference.py --check    # exit code 1 where a page is out of date

One page per room of `mabench`, and one for `mabench_methods.kit`. Only public names with a docstring appear; nothing is imported.
"""

from __future__ import annotations

import argparse
import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "docs" / "reference"
ROOMS = {  # page -> title, files or folders
    "sets": ("Condensed sets and files", ["mabench/sets", "mabench/data"]),
    "evaluation": ("The public call", ["mabench/evaluation", "mabench/evaluate.py"]),
    "suites": ("Suites, networks and training", ["mabench/suites", "mabench/networks", "mabench/training", "mabench/engine"]),
    "runs": ("Runs and results", ["mabench/runs", "mabench/results"]),
    "papers": ("Papers and methods", ["mabench/papers", "methods/__init__.py", "methods/kit"]),
    "board": ("Submissions, the Hub and the board", ["mabench/board"]),
    "schema": (
        "What reaches disk",
        [
            "mabench/schema.py",
            "mabench/digests.py",
            "mabench/errors.py",
            "mabench/files/__init__.py",
            "mabench/files/pictures.py",
        ],
    ),
}


def files(place: str) -> list[Path]:
    path = ROOT / place
    if path.is_dir():
        return sorted(p for p in path.rglob("*.py"))
    return [path] if path.exists() else []


def dotted(path: Path) -> str:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    if parts[0] == "methods":
        parts[0] = "mabench_methods"
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def text_of(node: ast.AST) -> str:
    """The docstring as a Markdown paragraph: lines joined, shapes and products kept literal."""
    assert isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
    lines = (ast.get_docstring(node) or "").split("\n\n")
    return "\n\n".join(_paragraph(part) for part in lines if part.strip())


def _paragraph(text: str) -> str:
    if any(line.startswith("    ") or line.startswith(">>>") for line in text.splitlines()):
        return "```text\n" + text.rstrip() + "\n```"
    joined = " ".join(line.strip() for line in text.splitlines())
    parts = re.split(r"(`[^`]*`)", joined)
    parts[::2] = [re.sub(r"[\[\]*_<|]", r"\\\g<0>", part) for part in parts[::2]]
    return "".join(parts)


def signature(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    whole = f"{node.name}({ast.unparse(node.args)}){returns}"
    if len(whole) <= 100:
        return whole
    arguments = ast.unparse(node.args)
    inner = ",\n    ".join(_split(arguments))
    return f"{node.name}(\n    {inner},\n){returns}"


def _split(arguments: str) -> list[str]:
    """Arguments at the commas that stand outside brackets and quotes."""
    parts, depth, start, quote = [], 0, 0, ""
    for index, letter in enumerate(arguments):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter in "([{":
            depth += 1
        elif letter in ")]}":
            depth -= 1
        elif letter == "," and not depth:
            parts.append(arguments[start:index].strip())
            start = index + 1
    return [*parts, arguments[start:].strip()]


def fields(node: ast.ClassDef) -> list[str]:
    """Annotated fields of a class with the string that explains them."""
    lines = []
    for item, following in zip(node.body, [*node.body[1:], ast.Pass()], strict=True):
        if not isinstance(item, ast.AnnAssign) or not isinstance(item.target, ast.Name) or item.target.id.startswith("_"):
            continue
        explained = ""
        if (
            isinstance(following, ast.Expr)
            and isinstance(following.value, ast.Constant)
            and isinstance(following.value.value, str)
        ):
            explained = ": " + _paragraph(following.value.value)
        lines.append(f"- `{item.target.id}: {ast.unparse(item.annotation)}`{explained}")
    return lines


def module(path: Path) -> list[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    lines = [f"## `{dotted(path)}`", "", text_of(tree), ""]
    found = False
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if node.name.startswith("_") or not ast.get_docstring(node):
                continue
            found = True
            if isinstance(node, ast.ClassDef):
                bases = f"({', '.join(map(ast.unparse, node.bases))})" if node.bases else ""
                lines += [f"### class `{node.name}{bases}`", "", text_of(node), ""]
                if described := fields(node):
                    lines += [*described, ""]
                for item in node.body:
                    if isinstance(item, ast.FunctionDef) and not item.name.startswith("_") and ast.get_docstring(item):
                        lines += ["```py", signature(item), "```", "", text_of(item), ""]
            else:
                lines += [f"### `{node.name}`", "", "```py", signature(node), "```", "", text_of(node), ""]
    return lines if found or len(text_of(tree)) > 80 else []


def page(title: str, places: list[str]) -> str:
    lines = [f"# {title}", "", "Written by `python dev/reference.py` from the docstrings.", ""]
    for place in places:
        for path in files(place):
            lines += module(path)
    return "\n".join(lines).rstrip() + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    arguments = parser.parse_args()
    stale = []
    for name, (title, places) in ROOMS.items():
        target, text = OUT / f"{name}.md", page(title, places)
        if arguments.check:
            if not target.exists() or target.read_text(encoding="utf-8") != text:
                stale.append(target.relative_to(ROOT).as_posix())
        else:
            OUT.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
    for name in stale:
        print(f"{name} is out of date: run python dev/reference.py")
    return 1 if stale else 0


if __name__ == "__main__":
    raise SystemExit(main())
