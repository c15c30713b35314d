"""One sentence per line in Markdown: `python dev/sentences.py` rewrites, `--check` fails where a file would change.

Tables, headings, code, quotations and HTML stay as they are. Paragraphs and list items are joined and cut at the ends of sentences.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KEPT_AS_THEY_ARE = ("docs/reference/", "benchmarks/results/", "PROTOCOL.md")  # generated; records; one rule a line
KEPT = re.compile(r"^\s*(#|\||>|<|!!!|===|---|\[[^\]]+\]:|$)")
ITEM = re.compile(r"^(\s*)([-*+]|\d+\.)\s+")
FENCE = re.compile(r"^\s*(```|~~~)")
# a sentence ends in . ! or ?, perhaps closed by a quote or bracket, before something that can begin one
END = re.compile(r"(?<=[.!?])([\"'”)*_]*)\s+(?=[\"'“(*_`\[]*[A-Z0-9`\[(])")
LEAD = re.compile(r"\*\*[^*]+\*\*")  # the bold words that a paragraph begins with stay with its first sentence
ABBREVIATION = re.compile(r"(?:\b(?:e\.g|i\.e|al|vs|Fig|No|cf|approx|etc|Sec|Eq|p|pp)\.|\b[A-Z]\.|^\s*\d+\.)$")


def sentences(text: str) -> list[str]:
    """Cut a paragraph; code spans and links are never cut."""
    guarded = re.sub(r"`[^`]*`|\]\([^)]*\)", lambda found: found[0].replace(" ", "\0"), text)
    parts, start = [], 0
    for found in END.finditer(guarded):
        end = found.end(1)
        if not ABBREVIATION.search(guarded[start : found.start(1)]):
            parts.append(guarded[start:end])
            start = found.end()
    whole: list[str] = []
    for part in (part.strip().replace("\0", " ") for part in (*parts, guarded[start:]) if part.strip()):
        if whole and LEAD.fullmatch(whole[-1]):
            whole[-1] += " " + part
        else:
            whole.append(part)
    return whole


def reflowed(text: str) -> str:
    """The file with one sentence per line."""
    out: list[str] = []
    block: list[str] = []
    indent, first = "", ""

    def flush() -> None:
        if block:
            for number, sentence in enumerate(sentences(" ".join(block))):
                out.append((first if number == 0 else indent) + sentence)
        block.clear()

    fenced = False
    lines = text.splitlines()
    if lines and lines[0] == "---":  # front matter is YAML
        end = lines.index("---", 1) + 1
        out, lines = lines[:end], lines[end:]
    for line in lines:
        if FENCE.match(line):
            flush()
            fenced = not fenced
            out.append(line)
        elif fenced or KEPT.match(line):
            flush()
            out.append(line)
        elif line.startswith("    ") and not block and not (out and ITEM.match(out[-1])):
            out.append(line)  # code by indentation
        elif item := ITEM.match(line):
            flush()
            first, indent = item[0], " " * len(item[0])
            block.append(line[len(item[0]) :].strip())
        else:
            if not block:
                indent = first = line[: len(line) - len(line.lstrip())]
            block.append(line.strip())
    flush()
    return "\n".join(out).rstrip("\n") + "\n"


def main() -> int:
    listed = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    stale = 0
    for name in listed:
        path = ROOT / name
        if name.startswith(KEPT_AS_THEY_ARE) or not path.exists():
            continue
        text = path.read_text(encoding="utf-8")
        new = reflowed(text)
        if new != text:
            stale = 1
            print(f"{name}: not one sentence per line" if "--check" in sys.argv else name)
            if "--check" not in sys.argv:
                path.write_text(new, encoding="utf-8")
    return stale if "--check" in sys.argv else 0


if __name__ == "__main__":
    raise SystemExit(main())
