"""A property called as a method broke every sync backend, and a method was called that never existed: mocks had both.

Here every name that the package uses of itself is looked up in the real thing: what is imported, attributes of modules, of `self`,
and of parameters whose class is ours.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import pkgutil
import textwrap
import types
import typing
from collections.abc import Iterator
from contextlib import suppress
from functools import cache, cached_property
from typing import Any

import pytest
from urllib3.connection import HTTPConnection

import ringrift_dagster

PACKAGE = "ringrift_dagster"
MODULES = sorted(
    found.name
    for found in pkgutil.walk_packages(ringrift_dagster.__path__, f"{PACKAGE}.")
    if ".migrations" not in found.name and ".demo_data" not in found.name
)
MIXED_INTO = {"_Watched": HTTPConnection.__mro__}
"""Classes that are nothing by themselves, and what they are part of."""
Function = ast.FunctionDef | ast.AsyncFunctionDef


def mistakes(module: types.ModuleType) -> list[str]:
    """Names that a module uses and that are not there, or are called and cannot be."""
    tree = ast.parse(inspect.getsource(module))
    found = [*_imports(tree), *_attributes_of_modules(tree, module)]
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and isinstance(cls := getattr(module, node.name, None), type):
            for method in (each for each in node.body if isinstance(each, Function)):
                found += _uses(method, {"self": cls} if _takes_self(method) else {})
                found += _uses(method, _classes_of_parameters(inspect.getattr_static(cls, method.name), method))
        elif isinstance(node, Function):
            found += _uses(node, _classes_of_parameters(getattr(module, node.name, None), node))
    return [f"{module.__name__}:{line}: {what}" for line, what in found]


def _imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Imports of our own, wherever they stand."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PACKAGE):
            module = importlib.import_module(node.module or "")
            for alias in node.names:
                if not hasattr(module, alias.name) and f"{node.module}.{alias.name}" not in MODULES:
                    yield node.lineno, f"{node.module} has no {alias.name}"


def _attributes_of_modules(tree: ast.AST, module: types.ModuleType) -> Iterator[tuple[int, str]]:
    rebound = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    rebound |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    written_only = {id(part) for each in ast.walk(tree) for part in _annotation(each)}
    for node in ast.walk(tree):
        if id(node) in written_only:
            continue
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id not in rebound:
            named = vars(module).get(node.value.id)
            if isinstance(named, types.ModuleType) and not hasattr(named, node.attr):
                yield node.lineno, f"{named.__name__} has no {node.attr}"


def _annotation(node: ast.AST) -> Iterator[ast.AST]:
    """All of a node's annotations: they are never evaluated."""
    for field in ("annotation", "returns"):
        if isinstance(written := getattr(node, field, None), ast.AST):
            yield from ast.walk(written)


def _takes_self(method: Function) -> bool:
    return bool(method.args.args) and method.args.args[0].arg == "self"


def _classes_of_parameters(function: Any, node: Function) -> dict[str, type]:
    """Parameters whose class is one of ours, and that are not given another value."""
    function = inspect.unwrap(getattr(function, "__func__", function)) if function is not None else None
    if not isinstance(function, types.FunctionType):
        return {}
    hints = {name: _evaluated(written, function) for name, written in function.__annotations__.items() if name != "return"}
    rebound = {each.id for each in ast.walk(node) if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)}
    ours = {name: cls for name, hint in hints.items() if (cls := _only_class(hint)) and name not in rebound}
    return {name: cls for name, cls in ours.items() if cls.__module__.startswith((PACKAGE, __name__))}


def _evaluated(written: Any, function: types.FunctionType) -> Any:
    """An annotation; None if it is imported for type checking only."""
    try:
        return eval(written, function.__globals__) if isinstance(written, str) else written
    except (NameError, AttributeError):
        return None


def _only_class(hint: Any) -> type | None:
    """The class that a hint is, also where None is possible."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        classes = [each for each in typing.get_args(hint) if each is not type(None)]
        return _only_class(classes[0]) if len(classes) == 1 else None
    return hint if isinstance(hint, type) else None


def _uses(function: Function, classes: dict[str, type]) -> Iterator[tuple[int, str]]:
    """Attributes of what is of a known class: each has to be there, and to be callable where it is called."""
    for node in ast.walk(function):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in classes:
            cls = classes[node.value.id]
            if node.attr not in _members(cls) and not hasattr(cls, "__getattr__"):
                yield node.lineno, f"{cls.__name__} has no {node.attr}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
            known = classes.get(node.func.value.id)
            if known is not None and (told := _property_that_gives(known, node.func.attr)) and "Callable" not in told:
                yield node.lineno, f"{known.__name__}.{node.func.attr} is a property of {told}, and called"


def _property_that_gives(cls: type, name: str) -> str | None:
    """The annotation of a property; None if it is something else."""
    told = inspect.getattr_static(cls, name, None)
    getter = told.fget if isinstance(told, property) else told.func if isinstance(told, cached_property) else None
    return str(inspect.signature(getter).return_annotation) if getter else None


@cache
def _members(cls: type) -> frozenset[str]:
    """What instances of a class have."""
    names = set(dir(cls))
    for each in (*cls.__mro__, *MIXED_INTO.get(cls.__name__, ())):
        names |= set(getattr(each, "__annotations__", {})) | set(getattr(each, "model_fields", {}))
        names |= {field.name for field in dataclasses.fields(each)} if dataclasses.is_dataclass(each) else set()
        with suppress(OSError, TypeError):  # what is built in has no source
            names |= _assigned(ast.parse(textwrap.dedent(inspect.getsource(each))))
    return frozenset(names)


def _assigned(tree: ast.AST) -> set[str]:
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and isinstance(node.value, ast.Name)
    }


@pytest.mark.parametrize("name", MODULES)
def test_everything_that_is_used_is_there(name: str) -> None:
    assert mistakes(importlib.import_module(name)) == []


class Backend:
    """With both mistakes of the incident, and what looks like them."""

    def __init__(self) -> None:
        self.started = 1

    @property
    def is_running(self) -> bool:
        return self.started > 0

    def sync(self) -> object:
        return self.is_running() and self.started and self.push_everything()  # type: ignore[operator, attr-defined]


def use(backend: Backend | None, other: Any) -> object:
    return backend and (backend.is_running, backend.stopped, other.anything(), textwrap.nothing)  # type: ignore[attr-defined]


def test_the_mistakes_of_the_incident_would_be_found() -> None:
    found = [line.partition(": ")[2] for line in mistakes(importlib.import_module(__name__))]
    assert sorted(found) == [
        "Backend has no push_everything",
        "Backend has no stopped",
        "Backend.is_running is a property of bool, and called",
        "textwrap has no nothing",
    ]
