"""Installed packages, read and never imported: importing torch or vLLM takes seconds and may touch
a device."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator
from importlib.util import find_spec


def package_directory(name: str) -> str | None:
    """Where this Python would import the package from; None: it has none. `name` has no dot."""
    spec = find_spec(name)
    # A directory that just has the name, in the current one for example, is no package of code.
    if spec is None or not spec.has_location or not spec.submodule_search_locations:
        return None
    return spec.submodule_search_locations[0]


def parse(*path: str) -> ast.Module:
    """Raises OSError, SyntaxError or ValueError where there is no such source."""
    with open(os.path.join(*path), "rb") as file:
        return ast.parse(file.read())


def assigned(tree: ast.Module, name: str) -> Iterator[ast.expr]:
    """Every value that is assigned to a plain name, in functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            targets = node.targets
        elif isinstance(node, ast.AnnAssign):
            targets = [node.target]
        else:
            continue
        if node.value is not None and any(
            isinstance(target, ast.Name) and target.id == name for target in targets
        ):
            yield node.value


def texts(tree: ast.Module, name: str) -> set[str] | None:
    """The string constants of the set, list, tuple, or keys of the dict that `name` is; None where
    it is none of these."""
    for value in assigned(tree, name):
        if isinstance(value, ast.Set | ast.List | ast.Tuple):
            items: list[ast.expr | None] = [*value.elts]
        elif isinstance(value, ast.Dict):
            items = value.keys
        else:
            continue
        return {
            item.value
            for item in items
            if isinstance(item, ast.Constant) and isinstance(item.value, str)
        }
    return None


def version_in(*path: str) -> str:
    """The `__version__` that a source file assigns; empty where there is none."""
    try:
        values = list(assigned(parse(*path), "__version__"))
    except (OSError, SyntaxError, ValueError):
        return ""
    for value in values:
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            return value.value
    return ""


def release(version: str) -> tuple[int, int]:
    """(2, 13) of `2.13.0+cpu`; (0, 0) where a version does not begin so."""
    found = re.match(r"(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else (0, 0)
