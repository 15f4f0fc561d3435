"""Disk thresholds of 70 and of 90, in more than ten files, starved the whole pipeline."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import ringrift_dagster
from ringrift_dagster.cluster.hosts import load_hosts
from ringrift_dagster.cluster.topology import SyncRouting, Thresholds

PACKAGE = Path(ringrift_dagster.__file__).parent
SOURCE = PACKAGE / "cluster" / "topology.py"
LIMIT = re.compile(
    r"(disk|usage|free).*(percent|pct|threshold|ratio|fraction)|(percent|pct|threshold).*(disk|usage|free)|replication_(target|factor)"
    r"|(min|max|target)_(copies|replicas)",
    re.IGNORECASE,
)


@pytest.mark.parametrize(("maximum", "free", "full"), [(70, 15, 70), (85, 15, 85), (90, 15, 85), (90, 5, 90)])
def test_what_the_file_says_is_what_everything_sees(tmp_path: Path, maximum: int, free: int, full: int) -> None:
    path = tmp_path / "distributed_hosts.yaml"
    path.write_text(
        f"sync_routing: {{max_disk_usage_percent: {maximum}, min_free_disk_percent: {free}, replication_target: 5}}\nhosts: {{}}\n"
    )
    cluster = load_hosts(path)
    limits = cluster.thresholds
    assert (limits.max_disk_usage_percent, limits.full_at_percent, limits.replication_target) == (maximum, full, 5)
    assert len(cluster.warnings) == (maximum > full), "limits that contradict each other are shown, and the stricter holds"


def test_a_disk_above_the_old_limit_still_takes_what_fits() -> None:
    """At 80 % full, the component that believed in 70 refused what the others had room for."""
    terabyte = 10**12
    limits = Thresholds()
    assert limits.has_room(total=terabyte, free=terabyte // 5, size=10**9)
    assert not limits.has_room(total=terabyte, free=terabyte // 5, size=terabyte // 10)


def test_nothing_else_in_the_package_sets_a_limit() -> None:
    assert set(SyncRouting.model_fields) >= set(Thresholds.model_fields)
    found = {path.relative_to(PACKAGE).as_posix(): names for path in PACKAGE.rglob("*.py") if (names := sorted(_limits(path)))}
    assert found == {SOURCE.relative_to(PACKAGE).as_posix(): sorted(Thresholds.model_fields)}


def _limits(path: Path) -> Iterator[str]:
    """Names that sound like one of these limits and are given a number: by assignment, as a field or as a parameter."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.AnnAssign | ast.Assign):
            targets = [node.target] if isinstance(node, ast.AnnAssign) else node.targets
            given = [(getattr(target, "id", getattr(target, "attr", "")), node.value) for target in targets]
        elif isinstance(node, ast.arguments):
            positional = [*node.posonlyargs, *node.args]
            given = [(a.arg, d) for a, d in zip(positional[len(positional) - len(node.defaults) :], node.defaults, strict=True)]
            given += [(argument.arg, default) for argument, default in zip(node.kwonlyargs, node.kw_defaults, strict=True)]
        else:
            continue
        yield from (name for name, value in given if LIMIT.search(name) and _is_number(value))


def _is_number(value: ast.expr | None) -> bool:
    return isinstance(value, ast.Constant) and isinstance(value.value, int | float) and not isinstance(value.value, bool)
