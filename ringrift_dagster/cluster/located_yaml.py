"""YAML that knows at which line each of its values stands, read within bounds.

Only text to plain values belongs here, whatever they mean. Nothing but the standard scalar types is ever built; a key that stands
twice is a problem, not the last one winning.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

MAX_BYTES = 1 << 20
MAX_VALUES = 100_000
"""Values of one file, counted again wherever an alias repeats them."""
MAX_DEPTH = 20

Where = tuple[str | int, ...]
"""The keys and positions that lead to a value."""

_SCALARS = {
    "tag:yaml.org,2002:null": "construct_yaml_null",
    "tag:yaml.org,2002:bool": "construct_yaml_bool",
    "tag:yaml.org,2002:int": "construct_yaml_int",
    "tag:yaml.org,2002:float": "construct_yaml_float",
    "tag:yaml.org,2002:str": "construct_yaml_str",
    # Nothing in these files is a date, and text that looks like one is text.
    "tag:yaml.org,2002:timestamp": "construct_yaml_str",
}
_MERGE = "tag:yaml.org,2002:merge"


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a file."""

    line: int
    where: Where
    what: str


@dataclass
class Located:
    """A document's values, and the line (from 1) of each. Lists are tuples; what is a problem is not among the values."""

    value: Any = None
    lines: dict[Where, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def line(self, where: Where) -> int:
        """The line of a value or, where it is not written, of the nearest one around it."""
        while where and where not in self.lines:
            where = where[:-1]
        return self.lines.get(where, 1)


def read(path: Path) -> Located:
    """The one document of a file. Never raises: a file that cannot be read is a problem at line 1."""
    try:
        if path.exists() and not path.is_file():
            return _failed(1, "not a file")
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        return _failed(1, f"cannot be read: {getattr(error, 'strerror', None) or error}")
    if len(raw) > MAX_BYTES:
        return _failed(1, f"more than {MAX_BYTES:,} bytes")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return _failed(raw.count(b"\n", 0, error.start) + 1, "not UTF-8")
    return parse(text)


def parse(text: str) -> Located:
    """The one document of a text."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.reader.ReaderError as error:
        return _failed(text.count("\n", 0, error.position) + 1, "a character that YAML does not allow")
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        detail = ", ".join(part for part in (error.context, error.problem) if part)
        return _failed(mark.line + 1 if mark else 1, f"not YAML: {detail}")
    except RecursionError:
        return _failed(1, "nested too deeply")
    if root is None:
        return Located(lines={(): 1})
    walk = _Walk()
    try:
        walk.document.value = walk.value(root, (), root.start_mark.line + 1)
    except _TooMuch as error:
        return _failed(error.line, error.what)
    return walk.document


class _TooMuch(Exception):
    def __init__(self, line: int, what: str) -> None:
        super().__init__(what)
        self.line = line
        self.what = what


class _Walk:
    """Turns nodes into values, and remembers lines and problems on the way."""

    def __init__(self) -> None:
        self.document = Located()
        self._left = MAX_VALUES
        self._scalars = yaml.constructor.SafeConstructor()

    def value(self, node: yaml.Node, where: Where, line: int) -> Any:
        self._count(node, len(where))
        self.document.lines[where] = line
        if isinstance(node, yaml.MappingNode):
            result: dict[str, Any] = {}
            self._fill(result, node, where, len(where))
            return result
        if isinstance(node, yaml.SequenceNode):
            return tuple(self.value(item, (*where, index), _line(item)) for index, item in enumerate(node.value))
        return self._scalar(node, where)

    def _fill(self, result: dict[str, Any], node: yaml.MappingNode, where: Where, depth: int) -> None:
        """Add a mapping's entries, then those that it merges in (`<<`) and has not itself."""
        own: set[str] = set()
        merged: list[yaml.Node] = []
        for key_node, value_node in node.value:
            if key_node.tag == _MERGE:
                merged += value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
                continue
            key = self._scalar(key_node, where) if isinstance(key_node, yaml.ScalarNode) else None
            if not isinstance(key, str):
                self._problem(_line(key_node), where, "a key that is not text")
            elif key in own:
                self._problem(_line(key_node), (*where, key), f"stands twice, first at line {self.document.line((*where, key))}")
            elif key not in result:
                result[key] = self.value(value_node, (*where, key), _line(key_node))
            if isinstance(key, str):
                own.add(key)
        for source in merged:
            self._count(source, depth)
            if isinstance(source, yaml.MappingNode):
                self._fill(result, source, where, depth + 1)
            else:
                self._problem(_line(source), where, "`<<` takes a mapping")

    def _count(self, node: yaml.Node, depth: int) -> None:
        self._left -= 1
        if self._left < 0:
            raise _TooMuch(_line(node), f"more than {MAX_VALUES:,} values; aliases count each time")
        if depth > MAX_DEPTH:
            raise _TooMuch(_line(node), "nested too deeply")

    def _scalar(self, node: yaml.Node, where: Where) -> Any:
        construct = _SCALARS.get(node.tag)
        if construct is None or not isinstance(node, yaml.ScalarNode):
            self._problem(_line(node), where, f"unsupported tag {node.tag}")
            return None
        try:
            return getattr(self._scalars, construct)(node)
        except (ValueError, LookupError, ArithmeticError, yaml.YAMLError):
            # A forced tag (`!!int x`, `!!bool x`, `!!int` alone) or a number beyond what Python reads.
            self._problem(_line(node), where, f"no {node.tag.rpartition(':')[2]}")
            return None

    def _problem(self, line: int, where: Where, what: str) -> None:
        self.document.problems.append(Problem(line, where, what))


def _line(node: yaml.Node) -> int:
    return node.start_mark.line + 1


def _failed(line: int, what: str) -> Located:
    return Located(problems=[Problem(line, (), what)])
