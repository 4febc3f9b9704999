"""What the documentation points to is there: pages, headings, pictures, and the modules that ARCHITECTURE.md names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = (*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md")))
PACKAGES = ("pnseg_runtime", "pnseg_train", "pnseg_export")


def prose_of(page: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^ *```.*?^ *```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchor_of(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").strip().lower()
    return re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")


def anchors_of(page: Path) -> set[str]:
    """All anchors of a page."""
    text = prose_of(page)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {*map(anchor_of, headings), *re.findall(r'<a id="([^"]+)"', text)}


def broken_links(page: Path) -> Iterator[str]:
    """Links of a page into the project that lead nowhere."""
    for link in re.findall(r"\]\(([^)\s]+)\)", prose_of(page)):
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        if "://" not in link and (not target.exists() or (anchor and anchor not in anchors_of(target))):
            yield link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_within_the_project_lead_somewhere(page):
    assert not list(broken_links(page))


def test_a_link_to_a_page_or_a_heading_that_is_not_there_is_told(tmp_path):
    (tmp_path / "b.md").write_text("# `pnseg x`: one, *two*\n\n<a id='c'></a><a id=\"d\"></a>\n\n```\n# not one\n```\n")
    page = tmp_path / "a.md"
    good = "[1](b.md) [2](b.md#pnseg-x-one-two) [3](b.md#d) [4](https://a.b/c#d)"
    page.write_text(f"# a\n\n{good} [5](#a) [6](c.md) [7](b.md#not-one) [8](#b)\n")
    assert list(broken_links(page)) == ["c.md", "b.md#not-one", "#b"]


def test_every_page_can_be_reached_from_the_readme():
    linked = re.findall(r"\]\(([^)#\s]+)", prose_of(ROOT / "README.md"))
    assert {page for page in PAGES if page.parent.name != "benchmarks"} <= {
        ROOT / name for name in ("README.md", *linked)
    }


def test_the_modules_that_the_architecture_names_are_there_and_none_of_the_packages_is_left_out():
    named = set(re.findall(r"\b\w+\.(?:py|cu)\b", (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")))
    folders = (*PACKAGES, "benchmarks", "tests")
    there = {path.name for folder in folders for path in (ROOT / folder).rglob("*.*")} | {"hatch_build.py"}
    modules = {path.name for package in PACKAGES for path in (ROOT / package).glob("*.py")} - {"__init__.py"}
    assert named <= there
    assert modules <= named
