"""`ringrift-data ai …`: the AI registry: RingRift's AI types, their capabilities, and contradictions in its difficulty ladders."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from ringrift_dagster.ai.engine_modes import EngineMode, engine_mode
from ringrift_dagster.ai.ladders import Rung, contradictions, difficulties_of, difficulties_text, problems, rungs_of, unacknowledged
from ringrift_dagster.ai.registry import AI_TYPES, ALIASES, FLAGS, AIType, Alias, UnknownAI, resolve
from ringrift_dagster.cli.output import Exit, Unreadable, as_json, print_json, print_table


@click.group()
def ai() -> None:
    """RingRift's AI types, their capabilities, and contradictions in its difficulty ladders."""


@ai.command("list")
@as_json
def listing(json_output: bool) -> int:
    """Every AI type of RingRift with status, capabilities and difficulties, and the names that stand for one."""
    if json_output:
        print_json({"types": [described(entry) for entry in AI_TYPES.values()], "aliases": [asdict(a) for a in ALIASES.values()]})
        return Exit.GOOD
    print_table(
        "AI types",
        ["name", "version", "status", "capabilities", "boards", "difficulties", "played by us"],
        (
            [
                entry.name,
                entry.version or "none",
                entry.status,
                flags(entry),
                ", ".join(entry.boards),
                difficulties_text(entry.name),
                "yes" if entry.playable else "",
            ]
            for entry in AI_TYPES.values()
        ),
    )
    print_table(
        "Names that are no AI types",
        ["name", "stands for", "meaning", "source"],
        ([alias.name, alias.ai, alias.meaning, alias.source] for alias in ALIASES.values()),
    )
    return Exit.GOOD


@ai.command()
@click.argument("name")
@as_json
def show(name: str, json_output: bool) -> int:
    """Everything recorded about NAME: an AI type, an alias, a tournament agent such as mcts_100, or an engine mode."""
    entry = _lookup(name)
    if isinstance(entry, AIType):
        _show_type(entry, json_output)
    elif json_output:
        kind = "alias" if isinstance(entry, Alias) else "engine mode"
        print_json({"kind": kind, **asdict(entry)})
    elif isinstance(entry, Alias):
        click.echo(f"{entry.name} is no AI type: {entry.ai or 'the AI depends on the game'}, {entry.meaning} ({entry.source})")
    else:
        plays = ", ".join(entry.types) or "types that vary"
        click.echo(f"{entry.name} is an engine mode: plays {plays}{entry.meaning and f'; {entry.meaning}'} ({entry.source})")
    return Exit.GOOD


@ai.command()
@as_json
def check(json_output: bool) -> int:
    """Check the registry, and list where RingRift's ladders, registry and code contradict each other.

    RingRift's contradictions are known and listed. Exits with 1 if the registry is inconsistent in itself, or if one appears or
    disappears that is not acknowledged.
    """
    faults = [*problems(), *unacknowledged()]
    known = contradictions()
    if json_output:
        print_json({"consistent": not faults, "problems": faults, "contradictions": [asdict(entry) for entry in known]})
    else:
        print_table("Problems", ["problem"], ([line] for line in faults))
        print_table(
            "Contradictions in RingRift, all acknowledged" if not faults else "Contradictions in RingRift",
            ["code", "about", "detail"],
            ([entry.code, entry.subject, entry.detail] for entry in known),
        )
        state = "consistent" if not faults else f"inconsistent: {len(faults)} problems"
        click.echo(f"the registry is {state}; RingRift contradicts itself in {len(known)} ways")
    return Exit.BAD_NEWS if faults else Exit.GOOD


def described(entry: AIType) -> dict[str, Any]:
    """An AI type as JSON."""
    return {
        **asdict(entry),
        "playable": entry.playable,
        "players": entry.players,
        "difficulties": difficulties_of(entry.name),
        "aliases": [alias.name for alias in ALIASES.values() if alias.ai == entry.name],
    }


def flags(entry: AIType) -> str:
    """The capability flags that are set, in words."""
    return ", ".join(flag.replace("_", " ") for flag in FLAGS if getattr(entry, flag))


def _show_type(entry: AIType, json_output: bool) -> None:
    rungs = rungs_of(entry.name)
    if json_output:
        print_json({"kind": "type", **described(entry), "rungs": [asdict(rung) for rung in rungs]})
        return
    about = {
        "name": entry.name,
        "title": entry.title,
        "version": entry.version or "none",
        "status": entry.status,
        "description": entry.description,
        "capabilities": flags(entry),
        "plays": entry.domain,
        "difficulties": difficulties_text(entry.name),
        "aliases": ", ".join(described(entry)["aliases"]),
        "deprecation": entry.deprecation,
        "our own policy": entry.own_policy or "none",
        "RingRift's games cannot be replayed": entry.obstacle,
    }
    print_table(entry.title, ["field", "value"], ([name, value] for name, value in about.items() if value))
    print_table(
        "Rungs", ["ladder", "difficulty", "boards", "players", "randomness", "ms", "network", "model", "if"], map(_rung, rungs)
    )


def _rung(rung: Rung) -> list[object]:
    return [
        rung.ladder,
        rung.difficulty,
        ", ".join(rung.boards),
        ", ".join(map(str, rung.players)),
        f"{rung.randomness:g}",
        rung.think_ms,
        "yes" if rung.network else "no",
        rung.model,
        rung.switch,
    ]


def _lookup(name: str) -> AIType | Alias | EngineMode:
    """The AI type, alias or engine mode that a name stands for. Raises Unreadable if there is none."""
    try:
        entry = resolve(name)
    except UnknownAI as error:
        if mode := engine_mode(name):
            return mode
        raise Unreadable(f"{error}; `ringrift-data ai list` shows all") from error
    if entry is None:
        raise Unreadable("no name is given; `ringrift-data ai list` shows all")
    return entry
