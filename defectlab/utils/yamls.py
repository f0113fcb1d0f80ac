"""Read YAML strictly: plain values, no key twice, nothing that grows beyond its text."""

from pathlib import Path
from typing import Any

import yaml

from defectlab.errors import InputError

_MOST_NODES = 100_000  # of a document with its aliases written out
_PLAIN = {f"tag:yaml.org,2002:{kind}" for kind in ("map", "seq", "str", "int", "float", "bool", "null", "merge")}


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice, of which YAML would keep the last; a date is a text."""

    yaml_implicit_resolvers = {  # noqa: RUF012 (declared by PyYAML)
        first: [(tag, pattern) for tag, pattern in resolvers if tag in _PLAIN]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_mapping_node(self, anchor: Any) -> Any:
        """Compose a mapping whose keys differ."""
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key.value} stands there twice", problem_mark=key.start_mark
                )
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else id(key))
        return node

    def get_single_node(self) -> Any:
        """Compose the document; one that holds itself, or whose aliases blow up, is refused."""
        node = super().get_single_node()
        if node is not None and _count(node, {}) > _MOST_NODES:
            raise yaml.MarkedYAMLError(problem=f"it has more than {_MOST_NODES} values", problem_mark=node.start_mark)
        return node


def _count(node: Any, known: dict[int, int | None]) -> int:
    """Count the nodes of a tree, each as often as aliases name it."""
    if id(node) not in known:
        known[id(node)] = None
        inner = () if isinstance(node, yaml.ScalarNode) else node.value
        if node.tag not in _PLAIN:
            raise yaml.MarkedYAMLError(
                problem=f"the tag {node.tag} is none of a plain value", problem_mark=node.start_mark
            )
        parts = [part for item in inner for part in (item if isinstance(item, tuple) else (item,))]
        known[id(node)] = 1 + sum(_count(part, known) for part in parts)
    count = known[id(node)]
    if count is None:
        raise yaml.MarkedYAMLError(problem="it holds itself", problem_mark=node.start_mark)
    return count


def parse_yaml(text: str, name: str) -> Any:
    """Parse YAML of plain values.

    Raises:
        InputError: `name` is no valid YAML, has a key twice, or holds a tag.
    """
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a number of more digits than Python reads
        raise InputError(f"{name} is no valid YAML: {' '.join(str(error).split())[:300]}") from None
    except RecursionError:
        raise InputError(f"{name} is no valid YAML: its brackets are nested too deep") from None


def read_yaml(path: Path) -> Any:
    """Read a YAML file; InputError as `parse_yaml`, or where it cannot be read."""
    try:
        if not path.is_file():  # a pipe would be waited for
            raise InputError(f"{path} is no file: expected a YAML file")
        return parse_yaml(path.read_text(encoding="utf-8-sig"), str(path))
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no valid YAML: it is not UTF-8 ({error.reason})") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
