"""Incident 9: the tolerated age of data went from 1 h to 4, 48 and 168 h, in code, environment and flags. Eight of twelve configs
got worse, by up to 185 Elo, before anybody noticed.

Here the hosts file is the only source of the limit. It takes no week, what is wider than usual is said, what is misspelt or out of
bounds keeps the file from being used, and nothing in code, environment or on a command line sets another.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

import ringrift_dagster
from ringrift_dagster.cluster.hosts import HostsFileError, load_hosts
from ringrift_dagster.cluster.topology import AgeLimits, Cluster

PACKAGE = Path(ringrift_dagster.__file__).parent
SOURCE = "cluster/topology.py"
AGES = frozenset({"age", "ages", "hours", "days", "stale", "staleness", "fresh", "freshness", "old", "older"})
LIMITS = frozenset(
    {"max", "maximum", "warn", "warning", "fail", "limit", "limits", "threshold", "tolerance", "tolerated", "allowed"}
)
OF_OTHER_THINGS = frozenset({"node/app.py", "models/candidates.py", "models/promotion/decision.py"})
"""Where `max_age` is that of an answer about what a disk holds, or of evaluation games; `max_data_age` is what the source says."""


def load(tmp_path: Path, section: str) -> Cluster:
    path = tmp_path / "distributed_hosts.yaml"
    path.write_text(f"hosts: {{}}\n{section}")
    return load_hosts(path)


def test_without_a_word_of_the_file_games_of_two_days_are_the_oldest(tmp_path: Path) -> None:
    for section in ("", "freshness:\n", "freshness: {}\n"):
        cluster = load(tmp_path, section)
        assert (cluster.freshness.warn_hours, cluster.freshness.fail_hours, cluster.warnings) == (24, 48, ())


def test_a_limit_that_is_wider_than_usual_is_said(tmp_path: Path) -> None:
    assert load(tmp_path, "freshness: {warn_hours: 2, fail_hours: 12.5}\n").warnings == ()
    cluster = load(tmp_path, "freshness:\n  warn_hours: 24\n  fail_hours: 72\n")
    assert cluster.freshness.fail.total_seconds() == 72 * 3600
    (warning,) = cluster.warnings
    assert warning.endswith(":4: freshness.fail_hours: 72 h is wider than the usual 48 h: older games enter training")


@pytest.mark.parametrize(
    ("section", "line", "what"),
    [
        ("freshness: {fail_hours: 168}", 2, "freshness.fail_hours: must be less than 168, not 168"),
        ("freshness: {fail_hours: 2000}", 2, "freshness.fail_hours: must be less than 168, not 2000"),
        ("freshness:\n  warn_hours: 0\n", 3, "freshness.warn_hours: must be greater than 0, not 0"),
        ("freshness:\n  fail_hours: .inf\n", 3, "freshness.fail_hours: must be a finite number, not inf"),
        ("freshness:\n  fail_hours: '12'\n", 3, "freshness.fail_hours: must be a number, not '12'"),
        ("freshness:\n  fail_hours: true\n", 3, "freshness.fail_hours: must be a number, not true"),
        ("freshness:\n  fail_hours: 12\n", 3, "freshness.fail_hours: must be at least warn_hours (24)"),
        ("freshness:\n  fail_hour: 12\n", 3, "freshness.fail_hour: is not known here, not 12"),
        ("freshness: [24, 48]", 2, "freshness: must be a mapping"),
    ],
)
def test_a_wrong_limit_keeps_the_file_from_being_used(tmp_path: Path, section: str, line: int, what: str) -> None:
    with pytest.raises(HostsFileError) as caught:
        load(tmp_path, section)
    (problem,) = caught.value.problems
    assert f":{line}: {what}" in problem


def test_nobody_can_build_limits_of_a_week_either() -> None:
    with pytest.raises(ValidationError):
        AgeLimits(warn_hours=24, fail_hours=168)


def test_nothing_else_in_the_package_sets_a_limit_of_age() -> None:
    found = {path.relative_to(PACKAGE).as_posix(): names for path in PACKAGE.rglob("*.py") if (names := sorted(_limits(path)))}
    assert {name: names for name, names in found.items() if name not in OF_OTHER_THINGS} == {SOURCE: ["fail_hours", "warn_hours"]}


def _limits(path: Path) -> Iterator[str]:
    """Names that sound like a limit of age and are given a number: by assignment, as a field, or as a parameter's default."""
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
        yield from (name for name, value in given if _is_limit(name) and _has_number(value))


def _is_limit(name: str) -> bool:
    words = set(name.lower().split("_"))
    return bool(words & AGES and words & LIMITS)


def _has_number(value: ast.expr | None) -> bool:
    """Whether a positive number is in it, wherever: `Field(default=24)`, `timedelta(hours=24)`. Zero sets no limit."""
    numbers = (node.value for node in ast.walk(value) if isinstance(node, ast.Constant)) if value is not None else ()
    return any(isinstance(number, int | float) and not isinstance(number, bool) and number > 0 for number in numbers)
