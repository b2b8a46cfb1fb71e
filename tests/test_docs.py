"""What README and docs/ say, held against the code."""

import ast
import re

from paths import ROOT


def test_the_life_of_a_request_names_what_exists() -> None:
    """Every `file : function` in the README's table is there; a dotted name is a method."""
    section = (ROOT / "README.md").read_text().split("## Life of a request")[1].split("\n## ")[0]
    named = re.findall(r"`([\w/]+\.py) : ([\w.]+)`", section)
    assert len(named) >= 10
    for file, name in named:
        tree: ast.AST = ast.parse((ROOT / file).read_text())
        for part in name.split("."):
            body = getattr(tree, "body", [])
            found = [node for node in body if getattr(node, "name", None) == part]
            assert found, f"{file} has no {name}"
            tree = found[0]


def test_options_in_the_readme_exist() -> None:
    from antiphon.config.options import OWNER

    table = (ROOT / "README.md").read_text().split("## Options")[1].split("\n## ")[0]
    named = set(re.findall(r"^\| `(\w+)`", table, re.M))
    assert named == set(OWNER) - {"model"}
