"""YAML read in one way everywhere: plain types, no key given twice, bounded in size once aliases are followed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from pipeline.core.files import read_text
from pipeline.errors import InputError

LARGEST = 1_000_000  # values in a document, each counted wherever an alias repeats it


class PlainLoader(yaml.SafeLoader):
    """YAML's plain types, but ``1e-3`` and ``inf`` are numbers; YAML 1.1 wants ``1.0e-3`` and ``.inf``."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Refuse a key that a mapping itself gives twice; one that it takes from another by ``<<`` it may override."""
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            name = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else id(key)
            if name in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"key '{key.value}' is given twice", problem_mark=key.start_mark
                )
            seen.add(name)
        return node


PlainLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?((\d+(\.\d*)?|\.\d+)[eE][-+]?\d+|inf)$"), list("-+.0123456789i")
)


def parse(text: str) -> Any:
    """Read one YAML document.

    Raises
    ------
    yaml.YAMLError
        It is no YAML, or a value that YAML allows and nothing holds: a date that does not exist, a number of thousands
        of digits, aliases that repeat each other into millions of values, or nesting without an end.
    """
    loader = PlainLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if _size(node, {}) > LARGEST:
            raise yaml.YAMLError(f"its aliases repeat each other into more than {LARGEST:,} values")
        return loader.construct_document(node)
    except RecursionError as error:
        raise yaml.YAMLError("it is nested too deeply") from error
    except ValueError as error:
        raise yaml.YAMLError(str(error).partition(";")[0]) from error
    except (KeyError, AttributeError, TypeError) as error:  # what a tag makes of text that it does not fit
        raise yaml.YAMLError("a tag with a value that it does not fit") from error
    finally:
        loader.dispose()


def read_yaml(path: str | Path) -> Any:
    """Read a YAML file.

    Raises
    ------
    InputError
        It is missing, no UTF-8 or no YAML; the message names the line.
    """
    path = Path(path)
    try:
        return parse(read_text(path))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; run in the checkout or name it with --params") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: cannot be read as UTF-8 text ({error})") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise InputError(f"{path}{line}: no valid YAML: {getattr(error, 'problem', None) or error}") from error


def _size(node: yaml.Node, known: dict[int, int]) -> int:
    """Values below a node, aliases followed; one inside itself counts as endless."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in known:
        known[id(node)] = LARGEST + 1  # while it is being counted: an alias to itself
        parts = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        known[id(node)] = 1 + sum(_size(part, known) for part in parts)
    return known[id(node)]
