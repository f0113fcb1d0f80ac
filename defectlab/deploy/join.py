"""Join the runtime and what it needs of the package into one file, which needs NumPy, Pillow and ONNX Runtime alone."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

_PACKAGE = Path(__file__).parents[1]
_ROOT = "defectlab.deploy.program"
_HEAD = '''"""{doc}

Made of the very modules of defectlab {version} that train and evaluate: do not edit it, export again.
"""

from __future__ import annotations

{imports}


{parts}
'''


@dataclass(frozen=True)
class _Part:
    """A statement of a module with the comments before it: what it defines and uses, and whether it is the program's own."""

    source: str
    names: frozenset[str]
    uses: frozenset[str]
    own: bool


def joined_source(version: str) -> str:
    """Return the source of runtime.py: of each module, in order, the definitions that the program comes to need.

    Raises:
        ValueError: a name that stands for different things in two modules, or that is imported in a way that cannot be joined.
    """
    imports: dict[str, str] = {}
    parts: list[_Part] = []
    doc = _collect(_ROOT, imports, parts, set())
    defined: dict[str, _Part] = {}
    for part in parts:
        for name in part.names:
            if name in imports or defined.setdefault(name, part).source != part.source:
                raise ValueError(f"{name} is defined or imported twice by the modules of the runtime: rename one")
    needed: set[str] = set()
    waiting = [name for part in parts if part.own for name in part.names | part.uses]
    while waiting:
        name = waiting.pop()
        if name in defined and name not in needed:
            needed.add(name)
            waiting += defined[name].names | defined[name].uses
    chosen = [part for part in parts if part.own or part.names & needed]
    used = frozenset[str]().union(*(part.uses for part in chosen))
    lines = sorted({line for name, line in imports.items() if name in used})
    sources = dict.fromkeys(part.source for part in chosen)  # what two modules define alike comes once
    return _HEAD.format(doc=doc, version=version, imports="\n".join(lines), parts="\n\n\n".join(sources))


def _collect(module: str, imports: dict[str, str], parts: list[_Part], seen: set[str]) -> str | None:
    """Add the statements of a module after those of the modules that it imports; return its docstring."""
    seen.add(module)
    text = _PACKAGE.joinpath(*module.split(".")[1:]).with_suffix(".py").read_text(encoding="utf-8")
    tree, lines, end = ast.parse(text), text.splitlines(), 0
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("defectlab"):
            if any(alias.asname for alias in node.names):
                raise ValueError(f"{module} imports something of {node.module} by another name: import it by its own")
            if node.module not in seen:
                _collect(str(node.module), imports, parts, seen)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            place = f"from {node.module} " if isinstance(node, ast.ImportFrom) else ""
            for alias in node.names if place != "from __future__ " else ():
                line = f"{place}import {alias.name}" + (f" as {alias.asname}" if alias.asname else "")
                if imports.setdefault((alias.asname or alias.name).split(".")[0], line) != line:
                    raise ValueError(f"{module}: `{line}` means something else in another module: rename one")
        elif not _is_left_out(node):
            parts.append(_part(node, lines, end, module == _ROOT))
        end = node.end_lineno or end
    return ast.get_docstring(tree)


def _is_left_out(node: ast.stmt) -> bool:
    """Return whether a statement says something to readers or type checkers alone."""
    checking = isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    return checking or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))


def _part(node: ast.stmt, lines: list[str], end: int, own: bool) -> _Part:
    """Return a statement, which begins after line `end`."""
    found = list(ast.walk(node))
    if any(isinstance(one, ast.ImportFrom) and str(one.module).startswith("defectlab") for one in found):
        raise ValueError(f"`{lines[node.lineno - 1]}` imports the package inside: import it at the top")
    words = [one for one in found if isinstance(one, ast.Name)]
    names = {one.id for one in words if isinstance(one.ctx, ast.Store)}
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        names = {node.name}
    return _Part(
        "\n".join(lines[end : node.end_lineno]).strip("\n"), frozenset(names), frozenset(one.id for one in words), own
    )
