"""The documentation is true: its commands parse, its links lead somewhere, its Python runs, its figures are the measured ones."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from fnmatch import filter as matching
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean
from types import ModuleType

import click
import pytest
from builders import BUNDLED
from support.pages import FENCE, PAGES, ROOT, calls, commands, page

import mabench
from mabench import suites
from mabench.cli.main import main
from mabench.data import SECOND, describe
from mabench.errors import MabenchError
from mabench.results import baselines, works
from mabench.results import paper_tables as papers
from mabench.results.scoring import half_width, spread
from mabench.runs.folder import read_records
from mabench_methods import METHODS, presets

REFERENCE = sorted(p.relative_to(ROOT).as_posix() for p in ROOT.glob("docs/reference/*.md"))


def parse(arguments: list[str], *, whole: bool) -> click.Context:
    """The innermost context of these arguments. Raises click's error for what the command does not take; runs nothing."""
    arguments = ["1" if word == "N" else word for word in arguments]  # a number for the reader to fill in
    arguments = [re.sub(r"\$\{SLURM_ARRAY_\w+\}", "1", word) for word in arguments]  # ... or for Slurm
    command: click.Command = main
    context = click.Context(main, info_name="mabench")
    while isinstance(command, click.Group):
        if not arguments or arguments[0] in ("--help", "-h", "--version"):
            return context
        found = command.get_command(context, arguments[0])
        if found is None:
            raise click.UsageError(f"no command '{arguments[0]}'")
        command, arguments = found, arguments[1:]
        if isinstance(command, click.Group):
            context = click.Context(command, parent=context)
    if "--help" in arguments or "-h" in arguments:
        return context
    try:
        return command.make_context(command.name, list(arguments), parent=context)
    except click.MissingParameter:
        if whole:
            raise
        return context


def commands_of(group: click.Group, name: str) -> Iterator[tuple[str, click.Command]]:
    """Every command of a group and of the groups in it."""
    for key, command in group.commands.items():
        yield f"{name} {key}", command
        if isinstance(command, click.Group):
            yield from commands_of(command, f"{name} {key}")


def placeholder(text: str) -> bool:
    """NAME, SUITE, …: for the reader to fill in."""
    return text in ("…", "...") or re.fullmatch(r"[A-Z][A-Z@_.-]*", text) is not None


@pytest.mark.parametrize("name", PAGES)
def test_every_command_parses_and_names_what_exists(name: str) -> None:
    for arguments, whole in commands(page(name)):
        said = f"{name}: mabench {shlex.join(arguments)}"
        try:
            values = parse(arguments, whole=whole).params
        except click.UsageError as error:
            pytest.fail(f"{said}: {error.format_message()}")
        wanted = values.get("suite_names") or ([values["suite"]] if values.get("suite") else [])
        loaded_suites = [suites.load(s) for s in wanted if not placeholder(s) and not s.endswith(".toml")]
        names = [e.name for loaded_suite in loaded_suites for track in loaded_suite.evaluators.values() for e in track]
        for glob in values.get("evaluators") or ():
            assert not loaded_suites or placeholder(glob) or matching(names, glob), said
        for track in values.get("tracks") or ():
            assert placeholder(track) or all(track in loaded_suite.evaluators for loaded_suite in loaded_suites), said
        method = values.get("method")
        if isinstance(method, str) and not placeholder(method):
            if method.endswith(".py"):
                continue
            assert method in METHODS, said
            if values.get("preset") and not placeholder(values["preset"]):
                assert values["preset"] in presets(method), said


def test_a_wrong_command_would_be_noticed() -> None:
    text = "```\nmabench eval a.pt --siute x\n```\n`mabench evaluate a.pt` and `mabench reproduce`\n```\nmabench pack a.pt\n```\n"
    found = list(commands(text))
    assert [whole for _, whole in found] == [True, True, False, False]
    for arguments, whole in found[:3]:
        with pytest.raises(click.UsageError):
            parse(arguments, whole=whole)
    parse(found[3][0], whole=False)
    with_shell = (
        "```bash\nOMP_NUM_THREADS=1 srun .venv/bin/mabench list suites && mabench demo  # mabench nothing\ncd mabench\n```"
    )
    assert [arguments for arguments, _ in commands(with_shell)] == [["list", "suites"], ["demo"]]


def test_there_are_commands_to_check() -> None:
    assert sum(1 for name in PAGES for _ in commands(page(name))) > 50


# -- other commands ----------------------------------------------------------------------------------------------------------

CHECKED = ("make", "python", ".venv/bin/python", "pip", "bash", ".ci/run")
SHELL = {"cd", "eval", "hf", "ray", "scontrol", "sleep", "source", "trap", "wait", "hostname", "cut", "head", "docker"}
"""Commands of other programs in blocks; what is typed of them is short, and read here by a person when the list grows."""


def other_commands(text: str) -> Iterator[list[str]]:
    """The words of every command but mabench's, in blocks of shell, and in prose where it begins with one that is checked."""
    text = re.sub(r"^    (?=[a-z])", "", text, flags=re.M)  # an indented block
    for language, block in FENCE.findall(text):
        if language in ("", "bash", "sh", "shell", "console"):
            for line in block.replace("\\\n", " ").splitlines():
                if re.match(r"(\$ )?[.A-Za-z]", line) and not re.match(r"\S+ {4,}\S", line):  # not a printed table
                    yield from calls(line.strip().removeprefix("$ "))
    for line in re.findall(r"`([^`\n]+)`", FENCE.sub("", text)):
        words = line.split()
        if words[0] in CHECKED and len(words) > 1:
            yield from calls(line)


def script(words: list[str]) -> None:
    """Check a call of Python: the file is there and takes these flags, the module can be found, the test exists."""
    if words[:2] == ["-m", "pytest"]:
        for word in words[2:]:
            assert not word.startswith("tests/") or (ROOT / word).is_file(), word
        if "-k" in words:
            (file,) = [word for word in words if word.startswith("tests/")]
            assert words[words.index("-k") + 1] in page(file), words
    elif words[0] == "-m":
        assert find_spec(words[1]) is not None, words[1]
    else:
        source = page(words[0])
        source += page("benchmarks/background.py") if "from background import" in source else ""
        for flag in (word for word in words[1:] if word.startswith("--") and word != "--help"):
            assert f'"{flag}"' in source, f"{words[0]} {flag}"


def installation(words: list[str]) -> None:
    """Check a call of pip: this package under its own name, version and extras, and files that are there."""
    project = tomllib.loads(page("pyproject.toml"))["project"]
    for word in words[1:]:
        if word.startswith(("dist/", ".[")):
            extras = re.findall(r"\[(.+)\]$", word)
            assert set(extras) <= set(project["optional-dependencies"]), word
            assert not word.startswith("dist/") or word.startswith(
                f"dist/{project['name']}-{mabench.__version__}-py3-none-any.whl"
            )
        elif word == "constraints.txt":
            assert (ROOT / word).is_file()


@pytest.mark.parametrize("name", PAGES)
def test_every_other_command_is_known(name: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", page("Makefile"), re.M))
    for words in other_commands(page(name)):
        program, rest = words[0], words[1:]
        if program == "make":
            assert set(rest) <= targets, f"{name}: {shlex.join(words)}"
        elif program in ("python", ".venv/bin/python"):
            script(rest)
        elif program == "pip":
            installation(rest)
        elif program == ".ci/run":
            assert (ROOT / program).is_file()
        else:
            known = program in SHELL or program.rpartition("/")[2] in ("mabench", "timeout") or program.startswith("--")
            assert known or not program[0].isalpha() or "(" in program or "=" in program or "$" in program, (
                f"{name}: {shlex.join(words)}"
            )


def test_a_wrong_command_of_another_program_would_be_noticed() -> None:
    text = "```\nmake demos\nVERBOSE=1 python benchmarks/rates.py SUITE OUT --trak scratch\n```\n`python -m mabench.nothing` and `pip`\n"
    made, ran, module = other_commands(text)
    assert made == ["make", "demos"]
    with pytest.raises(AssertionError, match="--trak"):
        script(ran[1:])
    with pytest.raises(AssertionError, match=r"mabench\.nothing"):
        script(module[1:])
    with pytest.raises(AssertionError, match="rays"):
        installation(["install", ".[rays]"])


def slurm_scripts() -> tuple[str, str]:
    """A job array, and a Ray cluster."""
    array, ray = (block for _, block in FENCE.findall(page("docs/cluster.md")) if block.startswith("#!/bin/bash"))
    return array, ray


def test_the_scripts_for_slurm_are_valid_shell() -> None:
    for block in slurm_scripts():
        assert subprocess.run(["bash", "-n"], input=block, text=True, capture_output=True).stderr == ""


def test_the_job_array_runs_every_cell_once(tmp_path: Path) -> None:
    """The script as it stands, with the variables that Slurm sets, on a small set; then once more, as after a second `sbatch`."""
    (tmp_path / "mabench").write_text(f'#!/bin/sh\nexec {sys.executable} -m mabench.cli.main "$@" --device cpu\n')
    (tmp_path / "mabench").chmod(0o755)
    array, _ = slurm_scripts()
    small = array.replace("my_set.pt --suite cifar10-agnostic", f"{BUNDLED} --suite digits-agnostic --evaluator mlp* --seeds 0,1")
    said = []
    for task in (1, 2, 2):
        given = {"SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_ARRAY_TASK_ID": str(task), "SLURM_ARRAY_TASK_COUNT": "2"}
        given["PATH"] = f"{tmp_path}:{os.environ['PATH']}"
        done = subprocess.run(["bash"], input=small, text=True, capture_output=True, env=os.environ | given)
        assert done.returncode == 0, done.stderr
        said.append(done.stderr)
    assert [record.cell.seed for record in read_records(tmp_path / "out")] == [0, 1]
    assert "measuring" in said[0] and "measuring" not in said[1], "the second task reads what the first measured"
    assert "1 of 1 runs were finished before" in said[2]


@pytest.mark.parametrize(
    ("name", "command"), list(commands_of(main, "mabench")), ids=lambda value: value if isinstance(value, str) else ""
)
def test_the_examples_of_help_parse(name: str, command: click.Command) -> None:
    """Every command has examples, each of them of this command."""
    if isinstance(command, click.Group):
        return
    text = command.get_help(click.Context(command, info_name=name)).partition("Example:\n")[2]
    examples = list(commands(f"```\n{text}\n```"))
    assert examples
    assert any(f"mabench {shlex.join(arguments)}".startswith(name) for arguments, _ in examples)
    for arguments, whole in examples:
        parse(arguments, whole=whole)


# -- links -------------------------------------------------------------------------------------------------------------------


def anchors(text: str) -> set[str]:
    """Anchors of a page's headings, as both GitHub and the site make them."""
    titles = re.findall(r"^#+ +(.+?)\s*$", FENCE.sub("", text), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("name", PAGES)
def test_every_relative_link_leads_somewhere(name: str) -> None:
    text = re.sub(r"`[^`\n]+`", "", FENCE.sub("", page(name)))
    for target in re.findall(r"\[[^\]]+\]\(([^()\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        path = Path(os.path.normpath(ROOT / Path(name).parent / file)) if file else ROOT / name
        assert path.exists(), f"{name}: {target}"
        if anchor and path.suffix == ".md":
            assert anchor in anchors(path.read_text(encoding="utf-8")), f"{name}: {target}"


PLACES = {
    "http://127.0.0.1:8000/",
    "https://arxiv.org/abs/0000.00000",
    "https://github.com/me/my-method",
    "https://my-lab-leaderboard.static.hf.space",
}
"""Addresses for the reader to replace, and that of a page served on this machine."""


@pytest.mark.parametrize("name", PAGES)
def test_every_address_is_that_of_a_work_it_names(name: str) -> None:
    """Papers are cited by the addresses that `paper.toml` has; a link that is a method's name leads to that method's paper."""
    known = {work.url: work.name for work in works.read(papers.INSTALLED)}
    known |= {address: each.title for each in SECOND.values() for address in (each.source, each.paper)}
    text = page(name)
    assert set(re.findall(r"https?://[^\s)>\"'`;]+", text)) <= set(known) | PLACES, name
    for label, address in re.findall(r"\[([^\]]+)\]\((https?://[^)\s]+)\)", text):
        assert label == known[address] or label not in known.values(), f"{name}: {label}"


# -- Python ------------------------------------------------------------------------------------------------------------------

WITH_PYTHON = [name for name in PAGES if "```python" in page(name)]


@pytest.mark.parametrize("name", WITH_PYTHON)
def test_every_block_of_python_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order and in one namespace, as a reader would type them, in a folder that has only the sets of `submissions/`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "submissions").symlink_to(ROOT / "submissions")  # sets that `mabench pull` would have fetched
    namespace = ModuleType("documentation")
    monkeypatch.setitem(sys.modules, "documentation", namespace)  # dataclasses look their module up
    text = page(name)
    for match in FENCE.finditer(text):
        if match[1] == "python":
            lines = "\n" * text.count("\n", 0, match.start(2))  # so that a traceback gives the page's line
            exec(compile(lines + match[2], str(ROOT / name), "exec"), vars(namespace))


@pytest.mark.parametrize("name", [name for name in PAGES if "```toml" in page(name)])
def test_every_block_of_toml_is_toml(name: str, tmp_path: Path) -> None:
    for language, block in FENCE.findall(page(name)):
        if language == "toml":
            value = tomllib.loads(block)
            if "tracks" in value:
                (tmp_path / "suite.toml").write_text(block)
                assert not suites.load(str(tmp_path / "suite.toml")).released
            for table in value.get("table", []):
                assert papers.PaperTable.model_validate(table).values


# -- what is said ----------------------------------------------------------------------------------------------------------


def test_the_flags_that_override_a_guess_are_all_explained() -> None:
    text = page("docs/your-set.md")
    for command in ("check", "pack", "eval"):
        for parameter in main.commands[command].params:
            if isinstance(parameter, click.Option):
                assert any(re.search(rf"[ `]{option}[` ]", text) for option in parameter.opts), parameter.opts


def test_the_flags_of_reproduce_are_all_explained() -> None:
    text = page("docs/reproduce.md")
    for parameter in main.commands["reproduce"].params:
        if isinstance(parameter, click.Option):
            assert any(re.search(rf"[ `]{option}[` ]", text) for option in parameter.opts), parameter.opts


def test_the_figures_of_the_scoring_page_are_those_that_were_measured() -> None:
    text, results = page("docs/scoring.md"), ROOT / "benchmarks" / "results"
    record = json.loads((results / "cifar10-agnostic_convnet3_ipc10_epyc-1-thread_202611.json").read_text())
    top = max(hits for _, hits in record["curve"])
    best, last = 100 * top / record["total"], 100 * record["curve"][-1][1] / record["total"]
    epoch = next(e for e, hits in record["curve"] if hits == top)
    plateau = 100 * fmean(hits for _, hits in record["curve"][-20:]) / record["total"]
    assert f"best {best:.2f} at epoch {epoch:,}, plateau {plateau:.2f}, last {last:.2f}." in text

    lite = json.loads((results / "cifar10-lite_ipc10_epyc-2-threads_202611.json").read_text())
    cells = [c for c in lite["cells"] if c["evaluator"] == "efficientnet_lite0-pretrained"]
    chosen, final = [c["acc_best"] for c in cells], [c["acc_last"] for c in cells]
    listed = [", ".join(f"{v:.4f}" for v in values) for values in (chosen, final)]
    assert f"best, last = [{listed[0]}], [{listed[1]}]" in text
    deviation, half = spread(chosen, "unbiased"), half_width(chosen)
    assert deviation is not None and half is not None
    assert f"# {100 * fmean(chosen):.2f} ({100 * deviation:.2f})" in text and f"# {100 * fmean(final):.2f}\n" in text
    assert f"# {100 * half:.2f}" in text


def test_the_figures_of_the_seeds_page_are_those_that_were_measured() -> None:
    text = page("docs/evidence/seeds.md")
    sets = json.loads((ROOT / "benchmarks/results/seed_attack_epyc_202611.json").read_text())["sets"]
    for name, kinds in sets.items():
        for found in kinds.values():
            runs, gap = ", ".join(f"{value:.1f}" for value in found["official"]), fmean(found["official"]) - fmean(found["fresh"])
            assert (
                f"| {runs} | {fmean(found['fresh']):.1f} (" in text and f"| {gap:+.2f} ± {found['standard_error']:.2f} |" in text
            ), name
            assert len(found["fresh"]) == 20
    known, bound = sets["made for the official seeds"]["fixed"], sets["made for the official seeds"]["set"]
    assert known["gap"] > 3 * known["standard_error"] and abs(bound["gap"]) < 2 * bound["standard_error"]


def test_the_figures_of_the_trust_page_are_those_that_were_simulated() -> None:
    text, panels = (
        page("docs/evidence/trust.md"),
        json.loads((ROOT / "benchmarks/results/verify_power.json").read_text())["panels"],
    )
    for name, found in panels.items():
        lies = [
            f"{found[f'{when}: largest lie{scattered}']:.2f}"
            for when in ("before", "now")
            for scattered in ("", ", seeds scattered")
        ]
        shares = [f"{found[f'now: honest, {what} %']:.1f}" for what in ("agrees", "refused")]
        assert f"| {name} | {' | '.join([*lies, *shares])} |" in text
        assert found["now: largest lie"] <= 1.5 and found["now: largest lie, seeds scattered"] <= 1.5
    measured = [name.partition("@")[0] for name in suites.released() if baselines.run_spreads(suites.load(name))]
    assert f"spread is measured so far for {' and '.join(f'`{name}`' for name in measured)} only." in text


def test_the_figures_of_the_reproduction_page_are_those_that_were_measured() -> None:
    path = ROOT / "benchmarks" / "results" / "cifar10-modelpool_ipc10_epyc-1-thread_202611.json"
    runs = [c["acc_last"] for c in json.loads(path.read_text())["cells"] if c["evaluator"] == "convnet3-scratch"]
    (paper,) = {
        t.values["convnet3-scratch"][0] for t in papers.tables("model-pool") if t.ipc == 10 and "convnet3-scratch" in t.values
    }
    assert len(runs) == 10
    assert f"the paper's ConvNet is {paper:.2f} and ours {100 * fmean(runs):.2f} (ten runs each)" in page("docs/reproduce.md")


def test_the_protocol_names_every_suite() -> None:
    """Its table has a row for each: by name, by a pattern, or by what differs from the first name of the row."""
    cells = [line.split("|")[1] for line in page("PROTOCOL.md").splitlines() if line.startswith("| `")]
    rows = [re.findall(r"`([^`]+)`", cell) for cell in cells]
    patterns = [name if "@" in name else name + row[0].partition("-")[2] for row in rows for name in row]
    released = list(suites.released())
    assert not [pattern for pattern in patterns if not matching(released, pattern)]
    assert not set(released) - {name for pattern in patterns for name in matching(released, pattern)}


def test_a_method_with_a_row_has_been_run() -> None:
    """The validation page calls no method unrun that made a set of this board."""
    (row,) = re.findall(r"^\| (.+?) \| nothing on real CIFAR-10 yet", page("docs/validation.md"), re.M)
    cards = [tomllib.loads(path.read_text(encoding="utf-8")) for path in ROOT.glob("submissions/*/card.toml")]
    assert row and not set(row.split(", ")) & {card.get("method") for card in cards}


def test_the_table_of_gates_has_every_gate() -> None:
    cells = re.findall(r"^\| ([a-z ,]+) \|", page("submissions/README.md"), re.M)
    listed = {name for cell in cells for name in cell.split(", ")}
    found = set()
    for path in (ROOT / "mabench" / "board").glob("*.py"):
        found |= set(re.findall(r'\b(?:[Gg]ate|attempted)\(\s*"([a-z ]+)"', path.read_text(encoding="utf-8")))
    assert not found - listed - {"published"}  # which refuses nothing


def test_a_wrong_description_of_a_dataset_names_the_page_that_explains_it(tmp_path: Path) -> None:
    (tmp_path / "d.toml").write_text('name = "d"\nside = 32\n')
    with pytest.raises(MabenchError, match=r"unknown fields: side; missing: classes, image_size.*exactly one of") as refused:
        describe(tmp_path / "d.toml")
    (named,) = re.findall(r"docs/[\w-]+\.md", str(refused.value))
    assert {"classes", "image_size", "folder", "hub_repo"} <= set(re.findall(r"^(\w+) =", page(named), re.M))


# -- the site ----------------------------------------------------------------------------------------------------------------


def test_the_site_builds_strictly_and_asks_no_network(tmp_path: Path) -> None:
    for needed in ("mkdocs", "material"):
        pytest.importorskip(needed, reason="the extra `docs` is not installed: make docs")
    site = tmp_path / "site"
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(site)],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    for path in site.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        loaded = re.findall(r'<(?:script|img|iframe|source)[^>]*\ssrc="?([^"\s>]+)', text)
        loaded += re.findall(r'<link(?![^>]*rel="?(?:canonical|next|prev))[^>]*href="?([^"\s>]+)', text)
        assert not [address for address in loaded if re.match(r"(?:[a-z]+:)?//", address)], path
    for path in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(?:https?:)?//|@import", path.read_text(encoding="utf-8")), path
    assert "mabench_methods.kit" in (site / "reference" / "papers.html").read_text(encoding="utf-8")


# -- words -------------------------------------------------------------------------------------------------------------------

UNUSED = re.compile(
    r"\b(goes on|a line a row|exams?|examiners?|sits?|sitting|mend(?:s|ed|ing)?|foretells?|afresh|bears?|sought)\b|\b(?:a|each|every|one|whole|last|best|of) looks?\b"
    r"|(?<!there )\bis no (?!longer|more|better|other|one)\w+",
    re.I,
)
"""What CONTRIBUTING.md lists as not used."""


@pytest.mark.parametrize(
    "name",
    [name for name in PAGES + REFERENCE if name not in ("CONTRIBUTING.md", "docs/results.md")],
)
def test_the_words_are_plain(name: str) -> None:
    found = [m[0] for m in UNUSED.finditer(re.sub(r"`[^`\n]+`", "", FENCE.sub("", page(name))))]
    assert not found, f"{name}: {found}"


@pytest.mark.parametrize("name", suites.released())
def test_the_words_of_suites_are_plain(name: str) -> None:
    suite = suites.load(name).suite
    assert not UNUSED.findall(f"{suite.title} {suite.measures}")


@pytest.mark.parametrize(
    ("name", "command"), list(commands_of(main, "mabench")), ids=lambda value: value if isinstance(value, str) else ""
)
def test_the_words_of_help_are_plain(name: str, command: click.Command) -> None:
    text = command.get_help(click.Context(command, info_name=name))
    assert not UNUSED.findall(text), f"{name}: {UNUSED.findall(text)}"


def test_the_words_of_messages_are_plain() -> None:
    """Every text in the code that is not documentation: what a command may print, and the pages of the board."""
    allowed = {"bear", "look"}  # a class of CIFAR-100; the name of a stream of random numbers, which results depend on
    for path in sorted([*(ROOT / "mabench").rglob("*.py"), *(ROOT / "methods").rglob("*.py")]):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        documentation = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in documentation:
                found = {m[0].lower() for m in UNUSED.finditer(node.value)} - allowed
                assert not found, f"{path.relative_to(ROOT)}:{node.lineno}: {found}"
    for path in (ROOT / "mabench" / "board" / "site" / "templates").glob("*.j2"):
        assert not UNUSED.findall(path.read_text(encoding="utf-8")), path.name


def test_files_that_pages_name_exist() -> None:
    """In backquotes: a path of this repository."""
    for name in PAGES:
        for path in re.findall(
            r"`((?:mabench|methods|tests|benchmarks|docs|dev)/[\w/.-]+\.(?:py|toml|json|md|txt))(?:::\w+)?`", page(name)
        ):
            assert (ROOT / path).exists() or (path == "mabench/suites/NAME@2.toml"), f"{name}: {path}"


def test_the_notebook_runs_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    notebook = json.loads((ROOT / "docs" / "quick-start.ipynb").read_text(encoding="utf-8"))
    namespace = ModuleType("notebook")
    for cell in notebook["cells"]:
        assert not cell.get("outputs"), "outputs are not kept"
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), "quick-start.ipynb", "exec"), vars(namespace))
    assert (tmp_path / "digits.safetensors").exists()
