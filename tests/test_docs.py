"""What README and docs/ say, held against the code: names, links, commands, generated parts."""

import ast
import json
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import draw_architecture
import draw_layouts
import draw_throughput
import make_tables
import pytest
import typer.main
from paths import RECORDINGS, ROOT
from source_tree import tracked

from antiphon.attention.registry import BACKENDS
from antiphon.cli.app import app

README = (ROOT / "README.md").read_text()
PAGES = tracked("*.md")
OF_USERS = [page for page in PAGES if "results" not in page.parts]  # results are history
MODULES_OF_EXAMPLES = (
    "antiphon",
    "antiphon.client",
    "antiphon.client.policy",
    "antiphon.compat.faster_whisper",
    "antiphon.jobs.ray_data",
    "openai",
)
COMMANDS: Any = typer.main.get_command(app)
NAMED = re.compile(r"`([\w/]+\.py) : ([\w.]+)`")


def section(heading: str) -> str:
    return README.split(f"\n## {heading}\n")[1].split("\n## ")[0]


def has(file: str, name: str) -> bool:
    """Whether a file defines `name`; a dotted one is a method or an attribute of a class."""
    body = ast.parse((ROOT / file).read_text()).body
    for part in name.split("."):
        nodes = [node for node in body if part in names(node)]
        if not nodes:
            return False
        body = getattr(nodes[0], "body", [])
    return True


def names(node: ast.AST) -> set[str]:
    """What a statement defines: a function, a class or a variable."""
    if isinstance(node, ast.Assign):
        return {target.id for target in node.targets if isinstance(target, ast.Name)}
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return {node.target.id}
    return {getattr(node, "name", "")}


@pytest.mark.parametrize(("file", "name"), NAMED.findall(section("Life of a request")))
def test_the_life_of_a_request_names_what_exists(file: str, name: str) -> None:
    assert has(file, name), f"{file} has no {name}"


def test_the_life_of_a_request_goes_all_the_way() -> None:
    names = [name for _, name in NAMED.findall(section("Life of a request"))]
    assert names[0] == "Engine.generate"
    assert names[-1] == "completion_output"
    assert len(names) >= 20


def test_folders_of_the_layout_exist() -> None:
    folders = re.findall(r"([a-z]+)/(?= )", section("Layout"))
    missing = [folder for folder in folders if not list(ROOT.glob(f"**/{folder}"))]
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert missing == []
    assert packages - set(folders) == set()


def test_the_picture_of_the_architecture_is_drawn_from_what_exists() -> None:
    assert draw_architecture.PICTURE.read_text() == draw_architecture.draw()
    for box in draw_architecture.BOXES:
        assert has(*box.source.split(" : ")), f"{box.title}: no {box.source}"


def test_the_picture_of_layouts_names_options_that_exist() -> None:
    assert draw_layouts.PICTURE.read_text() == draw_layouts.draw()
    options = (ROOT / "docs" / "options.md").read_text()
    for layout in draw_layouts.LAYOUTS:
        for name in re.findall(r"([a-z_]+)=", layout.options):
            assert f"`{name}`" in options, name


def test_the_plot_is_drawn_from_the_results() -> None:
    assert draw_throughput.PICTURE.read_text() == draw_throughput.draw()


@pytest.mark.parametrize("page", sorted({page for page, _ in make_tables.BLOCKS}))
def test_tables_are_made_from_the_code(page: str) -> None:
    remedy = "run `python docs/make_tables.py`"
    assert (ROOT / "docs" / page).read_text() == make_tables.made(page), remedy


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"\w+:", target):
            continue  # another site
        file, _, anchor = target.partition("#")
        linked = (page.parent / file).resolve() if file else page
        assert linked.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in anchors(linked), f"{page.name} links to {target}"


def anchors(page: Path) -> set[str]:
    """Of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_scripts_that_docstrings_name_exist() -> None:
    command = re.compile(r"python3? ((?:benchmarks|docs|examples|tests)/[\w/]+\.py)")
    named = {(path, file) for path in tracked("*.py") for file in command.findall(path.read_text())}
    assert [pair for pair in named if not (ROOT / pair[1]).is_file()] == []


@pytest.mark.parametrize("page", OF_USERS, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_and_files_that_are_named_exist(page: Path) -> None:
    text = page.read_text()
    files = re.findall(r"python ([\w/]+\.py)", text)
    files += re.findall(r"`([\w/]+/[\w.]+\.(?:py|md|yml|json))`", text)
    missing = [file for file in files if "NAME" not in file and not (ROOT / file).is_file()]
    missing += [f"{file} : {name}" for file, name in NAMED.findall(text) if not has(file, name)]
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"(?:^ {4}|`)make ([\w-]+)", text, re.M)
    missing += [target for target in targets if f"\n{target}:" not in makefile]
    assert missing == []


def test_attention_backends_are_counted_right() -> None:
    words = ("seven", "eight", "nine", "ten", "eleven", "twelve")
    right = words[len(BACKENDS) - 7]
    counts = [re.findall(r"(\w+) attention\s+backends", page.read_text()) for page in OF_USERS]
    assert {count for of_page in counts for count in of_page if count in words} == {right}


@pytest.mark.parametrize("page", OF_USERS, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_of_antiphon_have_the_flags_that_are_shown(page: Path) -> None:
    shown = re.findall(r"(?:^ {4}|\| |`)antiphon ([^`\n]+)", page.read_text(), re.M)
    for line in shown:
        words = line.split(" #")[0].split()
        command = COMMANDS
        while words and (inner := getattr(command, "commands", {}).get(words[0])) is not None:
            command, words = inner, words[1:]
        flags = {flag for parameter in command.params for flag in parameter.opts}
        flags |= {flag for parameter in command.params for flag in parameter.secondary_opts}
        shown_flags = {word.split("=")[0] for word in words if re.match(r"--?[a-z]", word)}
        assert shown_flags <= flags | {"--help"}, f"antiphon {line}"


@pytest.mark.parametrize("page", OF_USERS, ids=lambda page: str(page.relative_to(ROOT)))
def test_examples_in_python_import_what_exists(page: Path) -> None:
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.S):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom):
                assert node.module in MODULES_OF_EXAMPLES
                module = import_module(node.module)
                assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


def test_every_page_can_be_reached_from_the_readme() -> None:
    linked = {ROOT / target.split("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", README)}
    assert {page for page in OF_USERS if page.name != "README.md"} - linked == set()


def test_the_output_of_the_demo_is_what_the_recordings_say() -> None:
    said: dict[str, str] = json.loads((RECORDINGS / "expected.json").read_text())
    heard = dict(re.findall(r"^(\w+\.\w+) +[\d.]+ s  \w\w  (.*)$", README, re.M))
    assert heard.keys() == said.keys()
    for name, text in heard.items():
        assert text == said[name] or said[name].startswith(text.removesuffix(" …"))


def test_cells_of_the_readme_are_short() -> None:
    """A table is skimmed: what needs more than 40 words goes to docs/."""
    cells = [cell for line in README.splitlines() if line[:1] == "|" for cell in line.split("|")]
    assert [cell for cell in cells if len(cell.split()) > 40] == []


@pytest.mark.parametrize("page", OF_USERS, ids=lambda page: page.name)
def test_lines_of_prose_are_short(page: Path) -> None:
    """At most 100 columns, but for tables and code."""
    prose = re.sub(r"^ *```.*?^ *```", "", page.read_text(), flags=re.M | re.S).splitlines()
    assert [
        line for line in prose if len(line) > 100 and line[:1] != "|" and line[:4] != "    "
    ] == []
