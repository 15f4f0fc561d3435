"""Incident 10: whenever the freshness gate stopped a training job, a bypass was added: --skip-freshness-check, --allow-stale-data,
an autonomous mode that implied it, environment variables, "proceed" on any exception, a fallback that let everything through.

Here a person makes an override, with a name, a reason and an end within a day; it is recorded, shown wherever the config is, and
there is nothing else that a config, a variable, a flag or an error could do.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import ringrift_dagster
from ringrift_dagster.cli.main import COMMANDS, LazyGroup, run
from ringrift_dagster.cli.main import cli as entry
from ringrift_dagster.cluster.hosts import AgeLimits
from ringrift_dagster.home import Home
from ringrift_dagster.manifest import staleness
from ringrift_dagster.manifest.changes import changes_since
from ringrift_dagster.manifest.freshness import of_host
from ringrift_dagster.manifest.store import Store, default_url
from tests.manifest.telling import declared, item, tell

PACKAGE = Path(ringrift_dagster.__file__).parent
BYPASS = re.compile(
    r"(skip|allow|ignore|bypass|disable|force|no)[-_ ]?(the[-_ ])?"
    r"(stale|staleness|fresh|freshness|age|gate|check|checks|canonical|parity)"
    r"|autonomous|pending[-_]gate|(stale|freshness|age|gate)[-_ ]?(skip|allowed|ok|off|disabled|bypass|fallback)",
    re.IGNORECASE,
)
WORDS = re.compile(
    r"(^|_)(STALE|STALENESS|FRESH|FRESHNESS|AGE|HOURS|GATE|CANONICAL|PARITY|SKIP|ALLOW|BYPASS|OVERRIDE|STRICT|AUTONOMOUS)(_|$)"
)
"""None of these is in a variable's name: variables say where things are and who may ask, never what is good."""
HOUR = 3600.0
SIGNED = ["--who", "Ada", "--why", "the cluster moves house", "--hours", "3"]


def sources() -> Iterator[tuple[str, ast.Module]]:
    for path in PACKAGE.rglob("*.py"):
        yield path.relative_to(PACKAGE).as_posix(), ast.parse(path.read_text())


def test_an_override_is_made_by_a_person_recorded_and_shown(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["freshness", "override", "--config", "hex8_2p", *SIGNED, "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert (made["who"], made["why"], made["until"] - made["granted_at"]) == ("Ada", "the cluster moves house", 3 * HOUR)
    with Store.open(default_url(home)) as store:
        kinds = [(change.kind, change.detail.get("who")) for change in changes_since(store, 0)]
    assert ("STALENESS_OVERRIDDEN", "Ada") in kinds
    for command in (["freshness"], ["freshness", "overrides"], ["health"]):
        run(command)
        said = capsys.readouterr().out
        assert "Ada" in said and "the cluster moves house" in said, command


@pytest.mark.parametrize("left_out", ["--config", "--who", "--why", "--hours"])
def test_nothing_of_it_may_be_left_out(home: Home, capsys: pytest.CaptureFixture[str], left_out: str) -> None:
    given = ["--config", "hex8_2p", *SIGNED]
    index = given.index(left_out)
    assert run(["freshness", "override", *given[:index], *given[index + 2 :]]) == 2
    assert left_out in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value"), [("--hours", "25"), ("--hours", "0"), ("--hours", "inf"), ("--who", " "), ("--why", "")]
)
def test_nor_may_it_be_empty_or_last_longer_than_a_day(
    home: Home, capsys: pytest.CaptureFixture[str], option: str, value: str
) -> None:
    given = ["--config", "hex8_2p", *SIGNED]
    given[given.index(option) + 1] = value
    assert run(["freshness", "override", *given]) == 2
    assert capsys.readouterr().err.startswith("ringrift-data: an override ")
    with Store.open(default_url(home)) as store:
        assert not [change for change in changes_since(store, 0) if change.kind == "STALENESS_OVERRIDDEN"]


def test_it_ends_and_does_not_make_old_games_fresh(store: Store) -> None:
    from ringrift_dagster.manifest.overrides import grant

    now = time.time()
    declared(store)
    tell(store, "vast-1", [item("data/training/hex8_2p.npz", "old", newest_game=now - 100 * HOUR)], at=now)
    grant(store, "hex8_2p", who="Ada", why="the cluster moves house", hours=3, at=now)
    during, after = (of_host(store, "vast-1", "hex8_2p", AgeLimits(), now + hours * HOUR) for hours in (1, 3))
    assert during is not None and (during.fresh, during.may_train) == (False, True)
    assert after is not None and (after.fresh, after.may_train, after.override) == (False, False, None)


def test_no_command_has_a_flag_that_could_skip_the_gate() -> None:
    assert isinstance(entry, LazyGroup)
    options = {option for command in every_command(entry) for parameter in command.params for option in parameter.opts}
    assert {"--who", "--why", "--config"} <= options
    assert [option for option in options if BYPASS.search(option)] == []
    gate = list(every_command(entry.get_command(click.Context(entry), "freshness")))
    assert {option for command in gate for parameter in command.params for option in parameter.opts if "age" in option} == set()


def every_command(command: click.Command | None) -> Iterator[click.Command]:
    assert command is not None
    yield command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in COMMANDS if isinstance(command, LazyGroup) else command.list_commands(context):
            yield from every_command(command.get_command(context, name))


def test_no_variable_of_the_environment_could_skip_the_gate() -> None:
    variable = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)+")
    named = {
        node.value
        for _, tree in sources()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and variable.fullmatch(node.value)
    }
    ours = {name for name in named if name.startswith("RINGRIFT_")}
    assert {"RINGRIFT_DATA_HOME", "RINGRIFT_HOSTS_FILE"} <= ours
    assert {name for name in ours if WORDS.search(name)} == set()
    readers = {name for name, tree in sources() if any(_reads_environment(node) for node in ast.walk(tree))}
    judging = {
        "manifest/staleness.py",
        "manifest/overrides.py",
        "manifest/freshness.py",
        "datasets/freshness.py",
        "cluster/topology.py",
    }
    assert not readers & judging
    assert not [name for name in readers if name.startswith(("canonical/", "datasets/", "games/"))]


def _reads_environment(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv", "getenvb", "environb")


def test_no_name_in_the_package_sounds_like_a_bypass() -> None:
    found = set()
    for name, tree in sources():
        for node in ast.walk(tree):
            names = []
            if isinstance(node, ast.arg):
                names = [node.arg]
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names = [node.id]
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                names = [node.target.id]
            found |= {(name, each) for each in names if BYPASS.search(each)}
    assert found == set()


def test_the_gate_takes_nothing_but_evidence_a_limit_the_time_and_a_recorded_override() -> None:
    assert list(inspect.signature(staleness.judge).parameters) == ["newest_game", "limits", "now", "override"]
    for of in (staleness.of_config, staleness.of_item, of_host):
        assert set(inspect.signature(of).parameters) <= {"store", "config", "sha256", "host", "limits", "now"}


def test_no_error_makes_the_gate_proceed() -> None:
    tree = ast.parse(Path(staleness.__file__).read_text())
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Try)], "what goes wrong is the caller's to see"
