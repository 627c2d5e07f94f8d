"""YAML in which nothing is lost and nothing multiplies."""

from __future__ import annotations

import yaml

_LONGEST = 2**20
_MOST_VALUES = 100_000
# libyaml's takes a tenth of the time; the other one says better what is wrong.
_FAST: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class GivenTwice(ValueError):
    """A key is given twice, of which YAML would keep the last. `str()` goes on from the file."""


def load_yaml(text: str) -> object:
    """Returns what YAML holds.

    Raises:
        GivenTwice: A key is, in one place (`train:` and again `train:`) or spelt in two ways
            (`train: {epochs: 3}` and `train.epochs: 5`).
        ValueError: It is too long, or stands for too much: aliases multiply, or hold themselves.
        yaml.YAMLError: It is no YAML.
    """
    if len(text) > _LONGEST:
        raise ValueError(f"it has more than {_LONGEST} characters")
    try:
        return _loaded(text, _FAST)
    except (yaml.YAMLError, UnicodeEncodeError):
        return _loaded(text, yaml.SafeLoader)


def _loaded(text: str, loader_class: type[yaml.SafeLoader]) -> object:
    loader = loader_class(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if _expanded_size(node, {}) > _MOST_VALUES:
            raise ValueError(f"it stands for more than {_MOST_VALUES} values")
        _refuse_repeated(node, "", {})
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _expanded_size(node: yaml.Node, known: dict[int, float]) -> float:
    """Returns how many values a node stands for once its aliases are followed."""
    if id(node) not in known:
        known[id(node)] = float("inf")  # until known: a node may hold itself
        parts = node.value if isinstance(node, yaml.CollectionNode) else []
        pairs = (part if isinstance(part, tuple) else (part,) for part in parts)
        known[id(node)] = 1 + sum(_expanded_size(each, known) for pair in pairs for each in pair)
    return known[id(node)]


def _refuse_repeated(node: yaml.Node, prefix: str, lines: dict[str, int]) -> None:
    """Raises `GivenTwice`; `lines` says where each full key so far is."""
    if isinstance(node, yaml.SequenceNode):
        for each in node.value:
            _refuse_repeated(each, "", {})
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
            continue
        name, line = f"{prefix}{key.value}", key.start_mark.line + 1
        if name in lines:
            where = (
                f"in lines {lines[name]} and {line}" if line != lines[name] else f"in line {line}"
            )
            raise GivenTwice(
                f"gives {name} twice, {where}; YAML would keep the last alone: join them"
            )
        lines[name] = line
        _refuse_repeated(value, f"{name}.", lines)
