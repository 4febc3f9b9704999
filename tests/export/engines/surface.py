"""Every ``trt.X.Y`` that our code uses, and whether an API has it."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any


def used_names(source: str) -> set[str]:
    """``X.Y`` for every ``trt.X.Y`` and ``self._trt.X.Y`` in Python source; the longest chains only."""
    tree = ast.parse(source)
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    found = set()
    for node in ast.walk(tree):
        parts: list[str] = []
        here: ast.AST = node
        while isinstance(here, ast.Attribute) and here.attr != "_trt":
            parts.append(here.attr)
            here = here.value
        is_library = isinstance(here, ast.Attribute) or (isinstance(here, ast.Name) and here.id == "trt")
        if parts and id(node) not in inner and is_library:
            found.add(".".join(reversed(parts)))
    return found


def names_in(folder: Path) -> set[str]:
    """Those of all modules below a folder."""
    return {name for path in folder.rglob("*.py") for name in used_names(path.read_text(encoding="utf-8"))}


def missing(api: Any, names: set[str]) -> set[str]:
    """The names that ``api`` does not have."""

    def lacks(name: str) -> bool:
        here = api
        for part in name.split("."):
            if not hasattr(here, part):
                return True
            here = getattr(here, part)
        return False

    return {name for name in names if lacks(name)}
