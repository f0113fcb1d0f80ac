"""Join the runtime and what it needs of the package into one file, which needs NumPy, Pillow and ONNX Runtime alone."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from importlib.util import find_spec
from pathlib import Path

_ROOT = "defectlab.deploy.runtime"
_HEAD = '''"""{doc}

Made of the very modules of defectlab {version} that train and evaluate: do not edit it, export again.
"""

from __future__ import annotations

'''


def joined_source(version: str) -> str:
    """Return the source of runtime.py: of each module, in order, the definitions that the program comes to need.

    Raises:
        ValueError: two modules define different things by one name, or one imports the package inside a function.
    """
    modules = {}
    waiting = [_ROOT]
    while waiting:
        name = waiting.pop()
        if name not in modules:
            modules[name] = _Module(name)
            waiting += modules[name].needs
    order = list(TopologicalSorter({name: module.needs for name, module in modules.items()}).static_order())
    kept = _reachable(modules)
    imports: dict[str, str] = {}
    parts: list[str] = []
    taken: dict[str, str] = {}
    for name in order:
        module = modules[name]
        chosen = [part for part in module.parts if kept[name] & part.names or not part.names]
        chosen = [part for part in chosen if part.names or name == _ROOT]
        for part in chosen:
            source = part.source
            if any(taken.get(own, source) != source for own in part.names):
                raise ValueError(f"{name} and another module both define {', '.join(part.names)}: rename one")
            if not part.names or not part.names <= set(taken):
                parts.append(source)
            taken |= dict.fromkeys(part.names, source)
        used = set().union(*(part.uses for part in chosen)) if chosen else set()
        for own, line in module.imports.items():
            if own in used and imports.setdefault(own, line) != line:
                raise ValueError(f"{name} imports {own} from elsewhere than another module: rename one")
    if clash := imports.keys() & taken.keys():
        raise ValueError(f"imported and defined: {', '.join(sorted(clash))}: rename one")
    head = _HEAD.format(doc=ast.get_docstring(modules[_ROOT].tree), version=version)
    return head + "\n".join(sorted(set(imports.values()))) + "\n\n\n" + "\n\n\n".join(parts) + "\n"


class _Part:
    """A statement of a module: what it defines, what it uses, and its lines with the comments before it."""

    def __init__(self, node: ast.stmt, lines: list[str], first: int) -> None:
        assert node.end_lineno is not None
        self.source = "\n".join(lines[first : node.end_lineno]).strip("\n")
        found = list(ast.walk(node))
        stored = {one.id for one in found if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store)}
        named = isinstance(node, ast.FunctionDef | ast.ClassDef)
        own = {node.name} if isinstance(node, ast.FunctionDef | ast.ClassDef) else stored
        self.names: set[str] = own if named or isinstance(node, ast.Assign | ast.AnnAssign) else set()
        self.uses = {one.id for one in found if isinstance(one, ast.Name)}
        if any(isinstance(one, ast.ImportFrom) and (one.module or "").startswith("defectlab") for one in found):
            raise ValueError(f"line {node.lineno} imports the package inside a function: import it at the top")


class _Module:
    """A module of the package: its imports, and its other statements."""

    def __init__(self, name: str) -> None:
        spec = find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        text = Path(spec.origin).read_text(encoding="utf-8")
        self.tree = ast.parse(text)
        self.imports: dict[str, str] = {}  # line by name, of other packages
        self.ours: dict[str, tuple[str, str]] = {}  # module and its name there, by the name here
        self.parts: list[_Part] = []
        lines, first = text.splitlines(), 0
        for node in self.tree.body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                self._take(node)
            elif not _is_left_out(node):
                self.parts.append(_Part(node, lines, _with_comments(node, lines, first)))
            assert node.end_lineno is not None
            first = node.end_lineno

    @property
    def needs(self) -> list[str]:
        """Return the modules of the package that it imports."""
        return sorted({module for module, _ in self.ours.values()})

    def _take(self, node: ast.Import | ast.ImportFrom) -> None:
        for alias in node.names:
            own = alias.asname or alias.name
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("defectlab"):
                if alias.asname is not None:
                    raise ValueError(f"{node.module}.{alias.name} is imported by another name: import it by its own")
                self.ours[own] = (str(node.module), alias.name)
            elif not (isinstance(node, ast.ImportFrom) and node.module == "__future__"):
                what = alias.name if alias.asname is None else f"{alias.name} as {alias.asname}"
                line = f"import {what}" if isinstance(node, ast.Import) else f"from {node.module} import {what}"
                self.imports[own.split(".")[0]] = line


def _is_left_out(node: ast.stmt) -> bool:
    """Return whether a statement says something to readers or type checkers alone."""
    checking = isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    return checking or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))


def _with_comments(node: ast.stmt, lines: list[str], after: int) -> int:
    """Return the index of the first line of a statement, with its decorators and the comments before it."""
    decorators = node.decorator_list if isinstance(node, ast.FunctionDef | ast.ClassDef) else []
    first = min([node.lineno, *(one.lineno for one in decorators)]) - 1
    while first > after and lines[first - 1].startswith("#"):
        first -= 1
    return first


def _reachable(modules: dict[str, _Module]) -> dict[str, set[str]]:
    """Return the names of each module that the program comes to need: all of its own, and what these use."""
    kept: dict[str, set[str]] = {name: set() for name in modules}
    waiting = [(_ROOT, use) for part in modules[_ROOT].parts for use in (*part.names, *part.uses)]
    while waiting:
        name, own = waiting.pop()
        module = modules[name]
        if own in module.ours:
            waiting.append(module.ours[own])
        elif own not in kept[name]:
            defining = [part for part in module.parts if own in part.names]
            if defining:
                kept[name] |= {own}
                waiting += [(name, use) for part in defining for use in (*part.uses, *part.names)]
    return kept
