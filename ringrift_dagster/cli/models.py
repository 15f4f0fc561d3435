"""`ringrift-data models …`: candidates, their evidence, decisions on them, and what is current."""

from __future__ import annotations

import getpass
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ringrift_dagster.cli.output import BadNews, Exit, Unreadable, as_json, complain, print_json, print_table, progress
from ringrift_dagster.cli.plane import opened, with_hosts_file
from ringrift_dagster.games.config import CONFIG_KEYS, Config, parse_config
from ringrift_dagster.home import Home

if TYPE_CHECKING:
    from ringrift_dagster.models.candidates import Candidate
    from ringrift_dagster.models.evaluation.imported import ImportedEvidence
    from ringrift_dagster.models.promotion.decision import PromotionRules
    from ringrift_dagster.models.promotion.log import Entry
    from ringrift_dagster.models.promotion.promoting import Assessment
    from ringrift_dagster.models.publishing.imported import ImportedPromotion
    from ringrift_dagster.models.publishing.published_set import Publication
    from ringrift_dagster.models.refused import RefusedCheckpoint


class ConfigType(click.ParamType):
    """The key of a config."""

    name = "config"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Config:
        if isinstance(value, Config):
            return value
        try:
            return parse_config(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Date(click.ParamType):
    """A day or a time from 1970 to 9999, UTC unless it says otherwise; a day means its end. In seconds since 1970."""

    name = "date"
    LAST = 253402300799.0
    """The last second of 9999; a fraction more may round to what is no date."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is no date: write it as 2026-11-30 or 2026-11-30T12:00:00+00:00", param, ctx)
        if len(value) <= 10:
            moment += timedelta(days=1, microseconds=-1)
        try:
            moment = moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC)
        except OverflowError:
            moment = None
        if moment is None or moment.year < 1970:
            self.fail(f"{value!r} is not between 1970 and 9999, UTC", param, ctx)
        return min(moment.timestamp(), self.LAST)


class TextType(click.ParamType):
    """One line for the record: 1 to 500 printable characters, not only spaces."""

    name = "text"
    MAX_CHARACTERS = 500

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        # an argument that is not Unicode has surrogates, which are not printable
        if not (value.strip() and value.isprintable() and len(value) <= self.MAX_CHARACTERS):
            self.fail(f"give 1 to {self.MAX_CHARACTERS} printable characters of Unicode", param, ctx)
        return value


def operator() -> str:
    """The user who runs this command, and the host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "unknown"
    return f"{user}@{socket.gethostname()}"


one_config = click.option("--config", required=True, type=ConfigType(), help=f"One of {', '.join(CONFIG_KEYS)}.")
some_config = click.option("--config", type=ConfigType(), help="Only of this config.")
decided_by = click.option("--who", default=operator, type=TextType(), help="Who decides, for the record.  [default: user@host]")
reason_why = click.option("--why", required=True, type=TextType(), help="Why, for the record.")


@click.group()
def models() -> None:
    """Trained models: candidates, their evidence, decisions on them, and what is current."""


@models.command("list")
@some_config
@as_json
def listing(config: Config | None, json_output: bool) -> int:
    """List candidates and current models by config, and checkpoints of hosts that were refused."""
    from ringrift_dagster.models.candidates import candidates, unreadable_records
    from ringrift_dagster.models.promotion.log import DecisionLog
    from ringrift_dagster.models.promotion.promoting import log_path
    from ringrift_dagster.models.refused import refused_checkpoints

    home = Home.from_env()
    refused = [entry for entry in refused_checkpoints(home).values() if config is None or entry.config == config.key]
    rows = []
    keys = [config.key] if config else CONFIG_KEYS
    unreadable = [path for key in keys for path in unreadable_records(home, key)]
    for path in unreadable:
        complain(f"{path}: a record that cannot be read; register its file again")
    with DecisionLog(log_path(home)) as log:
        for key in keys:
            current = log.current(key)
            for candidate in candidates(home, key):
                entry = log.last_about(key, candidate.sha256)
                is_current = current is not None and current.sha256 == candidate.sha256
                state = "current" if is_current else _STATES[entry.kind] if entry else "candidate"
                rows.append({**candidate.model_dump(), "state": state, "decided_at": entry and entry.at})
    if json_output:
        refusals = [entry.model_dump() for entry in refused]
        print_json({"models": rows, "refused_checkpoints": refusals, "unreadable": unreadable})
        return Exit.GOOD
    print_table(
        "Models",
        ["config", "model", "state", "registered", "architecture", "parameters", "training set", "origin"],
        (
            [
                row["config"],
                row["sha256"][:12],
                row["state"],
                _time(row["registered_at"]),
                row["facts"]["architecture"],
                row["facts"]["parameters"],
                (row["training_data_sha256"] or "unknown")[:12],
                row["origin"],
            ]
            for row in rows
        ),
        empty="no candidates: `ringrift-data models register FILE --config CONFIG` takes one in, `ringrift-data models find` those "
        "on hosts",
    )
    _show_refused(refused)
    return Exit.GOOD


_STATES = {"promote": "former", "rollback": "former", "pin": "former", "unpin": "former", "refuse": "refused"}
"""What a model is that is not current, by the last decision on it."""


@models.command()
@click.argument("file", type=click.Path(path_type=Path))
@one_config
@click.option("--training-data", help="The NPZ that it was trained on: the file, or its SHA-256.")
@click.option("--training-began", type=Date(), help="When training began, e.g. 2026-11-30T12:00:00+00:00 (a day: its end).")
@click.option("--origin", type=TextType(), help="Where it comes from, for the record.  [default: the file]")
@decided_by
@as_json
def register(
    file: Path,
    config: Config,
    training_data: str | None,
    training_began: float | None,
    origin: str | None,
    who: str,
    json_output: bool,
) -> int:
    """Take the checkpoint FILE in as a candidate; FILE itself stays as it is.

    Exits with 1 if something disqualifies it; it is registered all the same.
    """
    from ringrift_dagster.models.candidates import RegistrationRefused, qualify
    from ringrift_dagster.models.candidates import register as take_in
    from ringrift_dagster.models.checkpoints.refusals import CheckpointRefused

    home = Home.from_env()
    try:
        candidate = take_in(
            home,
            file,
            config,
            origin=origin or _origin(file),
            who=who,
            training_data_sha256=_data_hash(training_data),
            training_began=training_began,
        )
    except CheckpointRefused as refused:
        if refused.reason == "unreadable":
            raise Unreadable(refused.detail) from refused
        raise BadNews(f"{file}: {refused}") from refused
    except RegistrationRefused as refused:
        raise BadNews(f"{file}: {refused}") from refused
    problems = qualify(home, candidate, max_data_age=_rules(home, config).max_data_age).problems
    if json_output:
        print_json({**candidate.model_dump(), "problems": [asdict(problem) for problem in problems]})
    else:
        click.echo(f"{candidate.sha256} is a candidate of {config.key}")
        print_table("What disqualifies it", ["code", "detail"], ([problem.code, problem.text] for problem in problems))
    return Exit.BAD_NEWS if problems else Exit.GOOD


@models.command("find")
@some_config
@with_hosts_file
@as_json
def find_on_hosts(config: Config | None, hosts_file: Path | None, json_output: bool) -> int:
    """Fetch new checkpoints from hosts, and register them as candidates.

    New are those that the manifest knows and that were neither registered, nor decided on, nor refused. `ringrift-data manifest
    refresh` asks the hosts what they hold now. Exits with 1 if a checkpoint was refused or could not be fetched.
    """
    from ringrift_dagster.transfer.candidates import find_candidates

    with opened(hosts_file) as plane:
        if not plane.cluster.locations():
            raise Unreadable("no hosts file names a host: set $RINGRIFT_HOSTS_FILE, or give --hosts-file")
        searches = [find_candidates(plane, key, who=operator()) for key in ([config.key] if config else CONFIG_KEYS)]
    if json_output:
        print_json({search.config: search.to_dict() for search in searches})
    else:
        registered = [candidate for search in searches for candidate in search.registered]
        print_table(
            "Candidates", ["config", "model", "origin"], ([entry.config, entry.sha256[:12], entry.origin] for entry in registered),
            empty="no new candidates",
        )  # fmt: skip
        _show_refused([refusal for search in searches for refusal in search.refused])
        print_table(
            "Not fetched",
            ["config", "checkpoint", "origin", "cause", "detail"],
            (
                [search.config, missed.sha256[:12], missed.origin, missed.cause, missed.detail]
                for search in searches
                for missed in search.missed
            ),
        )
    if unfetched := sum(len(search.missed) + search.left for search in searches):
        complain(f"{unfetched} checkpoints were not fetched: run this again when their hosts answer")
    return Exit.BAD_NEWS if unfetched or any(search.refused for search in searches) else Exit.GOOD


@models.command()
@click.argument("model")
@some_config
@as_json
def show(model: str, config: Config | None, json_output: bool) -> int:
    """Show MODEL (the beginning of its hash): facts, provenance, evidence, and what a decision would be now."""
    assessment = _assess(model, config)
    history = _history(assessment.candidate.config, assessment.candidate.sha256)
    if json_output:
        print_json({**assessment.to_dict(), "history": [entry.to_dict() for entry in history]})
        return Exit.GOOD
    candidate, data = assessment.candidate, assessment.qualification.training_set
    about = {
        "sha256": candidate.sha256,
        "config": candidate.config,
        "file": assessment.qualification.path,
        "bytes": candidate.bytes,
        **{name.replace("_", " "): value for name, value in candidate.facts.model_dump().items() if name != "config"},
        "registered": f"{_time(candidate.registered_at)} by {candidate.registered_by}",
        "origin": candidate.origin,
        "training began": _time(candidate.training_began),
        "training set": candidate.training_data_sha256,
        "games in it": data and data.games,
        "newest game": data and data.newest_game,
    }
    print_table(f"Model {candidate.sha256[:12]}", ["property", "value"], ([k, v] for k, v in about.items() if v not in (None, "")))
    _show_decision(assessment)
    print_table("Decisions on it", ["decided", "kind", "by", "why"], map(_row, history))
    return Exit.GOOD


@models.command()
@click.option("--candidate", required=True, help="The beginning of the candidate's hash.")
@click.option("--against", default="incumbent,heuristic,random", show_default=True, help="Opponents, separated by commas.")
@one_config
@click.option("--blocks", type=click.IntRange(1, 100_000), help="Play to this many blocks.  [default: what the decision needs]")
@click.option("--workers", type=click.IntRange(1, 64), help="Processes that play.  [default: one a core]")
@as_json
def evaluate(candidate: str, against: str, config: Config, blocks: int | None, workers: int | None, json_output: bool) -> int:
    """Play a candidate against opponents, in blocks: one opening, the candidate once in every seat.

    An incumbent is left out while the config has none. What an interruption loses is played again with the same result.
    """
    from ringrift_dagster.ai.workers import WorkerLost, default_workers
    from ringrift_dagster.games.database import DatabaseUnreadable
    from ringrift_dagster.games.recording import RecordingError
    from ringrift_dagster.models.evaluation.matches import UnknownParticipant
    from ringrift_dagster.models.evaluation.store import ConflictingEvidence
    from ringrift_dagster.models.promotion.decision import INCUMBENT
    from ringrift_dagster.models.promotion.gathering import gather
    from ringrift_dagster.models.promotion.log import DecisionLog
    from ringrift_dagster.models.promotion.promoting import NothingToDo, log_path

    home = Home.from_env()
    chosen = _find(candidate, config)
    opponents = list(dict.fromkeys(name.strip() for name in against.split(",") if name.strip()))
    if not opponents:
        raise click.UsageError("--against names no opponent")
    with DecisionLog(log_path(home)) as log:
        if INCUMBENT in opponents and len(opponents) > 1 and log.current(config.key) is None:
            opponents.remove(INCUMBENT)
    try:
        with progress("blocks") as step:
            played = gather(
                home,
                chosen,
                opponents,
                rules=_rules(home, config),
                blocks=blocks,
                workers=workers or default_workers(),
                progress=step,
            )
    except (NothingToDo, UnknownParticipant) as error:
        raise click.UsageError(str(error)) from error
    except (RecordingError, DatabaseUnreadable, ConflictingEvidence, WorkerLost) as error:
        raise BadNews(f"{error}; what was played before counts: run this again") from error
    assessment = _assess(chosen.sha256, config)
    if json_output:
        print_json({"played": played, **assessment.to_dict()})
    else:
        _show_evidence(assessment, played)
        _show_decision(assessment)
    return Exit.GOOD


@models.command()
@click.option("--candidate", required=True, help="The beginning of the candidate's hash.")
@some_config
@click.option("--dry-run", is_flag=True, help="Say what would be decided; record nothing.")
@decided_by
@as_json
def decide(candidate: str, config: Config | None, dry_run: bool, who: str, json_output: bool) -> int:
    """Decide on a candidate with the evidence that there is: promote it, refuse it, or say what is missing.

    Exits with 0 if it is promoted, with 1 if not.
    """
    from ringrift_dagster.models.promotion.promoting import record

    assessment = _assess(candidate, config)
    entry = None
    if not dry_run:
        with _refusals():
            entry = record(Home.from_env(), assessment, who)
        _publish(decided=entry is not None)
    promoted = assessment.decision.verdict == "promote"
    if json_output:
        print_json({"recorded": entry and entry.id, **assessment.to_dict()})
    else:
        _show_evidence(assessment)
        _show_decision(assessment)
    return Exit.GOOD if promoted else Exit.BAD_NEWS


@models.command()
@one_config
@click.option("--at", type=Date(), help="What was current and known at this time, e.g. 2026-11-30.  [default: now]")
@as_json
def history(config: Config, at: float | None, json_output: bool) -> int:
    """What was current at a time, why, and from which games; and every decision until then.

    Exits with 1 if no model was.
    """
    from ringrift_dagster.models.promotion.log import DecisionLog
    from ringrift_dagster.models.promotion.promoting import log_path

    with DecisionLog(log_path(Home.from_env())) as log:
        current, entries = log.current(config.key, at), log.history(config.key, at)
    if json_output:
        print_json(
            {"config": config.key, "at": at, "current": current and current.to_dict(), "decisions": [e.to_dict() for e in entries]}
        )
        return Exit.GOOD if current else Exit.BAD_NEWS
    when = "now" if at is None else f"at {_time(at)}"
    if current is None:
        click.echo(f"no model of {config.key} was current {when}")
    else:
        promotion = next(e for e in entries if e.sha256 == current.sha256 and e.kind == "promote")
        click.echo(f"{current.sha256} was current for {config.key} {when}, since {_time(current.at)}")
        data = promotion.record.get("training_set") or {}
        click.echo(f"trained on {data.get('games')} games, NPZ {data.get('sha256')}, game digests {data.get('game_digests_root')}")
        click.echo(f"promoted {_time(promotion.at)} by {promotion.who}:\n{promotion.why}")
    print_table(f"Decisions on {config.key}", ["decided", "kind", "by", "why", "model"], (
        [*_row(entry), entry.sha256[:12]] for entry in entries
    ))  # fmt: skip
    return Exit.GOOD if current else Exit.BAD_NEWS


@models.command()
@one_config
@click.option("--to", "model", help="The beginning of the hash of a model that was current before.  [default: the previous one]")
@reason_why
@decided_by
@as_json
def rollback(config: Config, model: str | None, why: str, who: str, json_output: bool) -> int:
    """Make a former model current again. This is a new decision; nothing is forgotten."""
    from ringrift_dagster.models.promotion import promoting

    with _refusals():
        entry = promoting.rollback(Home.from_env(), config, model, who=who, why=why)
    _publish(decided=True)
    return _say(entry, f"{entry.sha256[:12]} is the current model of {config.key} again", json_output)


@models.command()
@one_config
@click.option("--release", is_flag=True, help="Let evidence replace the current model again.")
@reason_why
@decided_by
@as_json
def pin(config: Config, release: bool, why: str, who: str, json_output: bool) -> int:
    """Keep the current model of a config, whatever the evidence says, until it is released."""
    from ringrift_dagster.models.promotion import promoting

    with _refusals():
        entry = promoting.pin(Home.from_env(), config, who=who, why=why, release=release)
    return _say(entry, f"{config.key} is {'no longer pinned' if release else f'pinned to {entry.sha256[:12]}'}", json_output)


@models.command()
@as_json
def publish(json_output: bool) -> int:
    """Write the current models under the names that RingRift's readers look for, where an interruption has prevented it."""
    publication = _publish(decided=False)
    entries = {config: current.model_dump(exclude_defaults=True) for config, current in publication.manifest.models.items()}
    if json_output:
        print_json({"switched": publication.switched, "models": entries})
        return Exit.GOOD
    click.echo("published" if publication.switched else "everything was published already")
    print_table("Current models", ["config", "model", "files"], (
        [config, entry["sha256"][:12], ", ".join(entry["files"])] for config, entry in entries.items()
    ))  # fmt: skip
    return Exit.GOOD


def _publish(*, decided: bool) -> Publication:
    """Publish what is current; `decided` says whether the command has recorded a decision before."""
    from ringrift_dagster.models.promotion.promoting import log_path, publish_current, published_path
    from ringrift_dagster.models.publishing.reasons import PublishingRefused

    home = Home.from_env()
    try:
        publication = publish_current(home)
    except PublishingRefused as error:
        if not decided:
            raise BadNews(str(error)) from error
        raise BadNews(f"the decision stands, but is not published: {error}; then run `ringrift-data models publish`") from error
    for config in publication.superseded:
        later = publication.manifest.models[config]
        promoted = _time(min(later.promoted_at, Date.LAST))
        raise BadNews(
            f"{config} is published with a later promotion: {later.sha256[:12]} of {promoted}, which {log_path(home)} lacks; "
            f"restore that file, or move {published_path(home)} away and run `ringrift-data models publish`"
        )
    return publication


@models.command()
@click.argument("file", type=click.Path(path_type=Path))
@as_json
def evidence(file: Path, json_output: bool) -> int:
    """Show what RingRift recorded: a gauntlet, an Elo database or an export, or promotions. They never count in a decision."""
    from ringrift_dagster.models.evaluation.imported import LACKS, ImportRefused, read_evidence
    from ringrift_dagster.models.publishing.imported import read_promotions

    with suppress(ImportRefused):
        return _show_promotions(read_promotions(file), json_output)
    try:
        entries = read_evidence(file)
    except ImportRefused as error:
        raise Unreadable(str(error)) from error
    if json_output:
        print_json([entry.to_dict() for entry in entries])
        return Exit.GOOD
    print_table(
        "Imported evidence",
        ["model", "config", "opponent", "games", "won", "lost", "drawn", "Elo", "lacks"],
        (
            [
                entry.model,
                entry.config,
                entry.opponent,
                entry.games,
                entry.wins,
                entry.defeats,
                entry.draws,
                entry.elo and f"{entry.elo:.0f}",
                ", ".join(entry.lacks),
            ]
            for entry in entries
        ),
        empty="no results",
    )
    _show_lacks(LACKS, entries)
    return Exit.GOOD


def _show_promotions(promotions: list[ImportedPromotion], json_output: bool) -> int:
    from ringrift_dagster.models.publishing.imported import LACKS

    if json_output:
        print_json([promotion.to_dict() for promotion in promotions])
        return Exit.GOOD
    print_table(
        "Imported promotions",
        ["model", "config", "alias", "promoted", "Elo", "games", "lacks"],
        (
            [
                promotion.model,
                promotion.config,
                promotion.alias,
                _time(promotion.at),
                promotion.elo and f"{promotion.elo:.0f}",
                promotion.games,
                ", ".join(promotion.lacks),
            ]
            for promotion in promotions
        ),
        empty="no promotions",
    )
    _show_lacks(LACKS, promotions)
    return Exit.GOOD


def _show_lacks(meanings: Mapping[str, str], entries: Sequence[ImportedEvidence] | Sequence[ImportedPromotion]) -> None:
    lacking = [code for code in meanings if any(code in entry.lacks for entry in entries)]
    print_table("What it lacks", ["code", "meaning"], ([code, meanings[code]] for code in lacking))


@contextmanager
def _refusals() -> Iterator[None]:
    from ringrift_dagster.models.candidates import UnknownCandidate
    from ringrift_dagster.models.promotion.log import CurrentChanged, Pinned
    from ringrift_dagster.models.promotion.promoting import NothingToDo

    try:
        yield
    except (NothingToDo, CurrentChanged, Pinned) as error:
        raise BadNews(str(error)) from error
    except UnknownCandidate as error:
        raise click.UsageError(str(error)) from error


def _say(entry: Entry, line: str, json_output: bool) -> int:
    if json_output:
        print_json(entry.to_dict())
    else:
        click.echo(line)
    return Exit.GOOD


def _find(prefix: str, config: Config | None) -> Candidate:
    from ringrift_dagster.models.candidates import UnknownCandidate, find

    try:
        return find(Home.from_env(), prefix, config.key if config else None)
    except UnknownCandidate as error:
        raise click.UsageError(str(error)) from error


def _assess(prefix: str, config: Config | None) -> Assessment:
    from ringrift_dagster.datasets.canonical_games import CorruptStore
    from ringrift_dagster.models.promotion.promoting import assess

    home = Home.from_env()
    candidate = _find(prefix, config)
    try:
        return assess(home, candidate, rules=_rules(home, parse_config(candidate.config)))
    except CorruptStore as error:
        raise BadNews(f"whether evaluation games are among the canonical games cannot be determined: {error}") from error


def _history(config: str, sha256: str) -> list[Entry]:
    from ringrift_dagster.models.promotion.log import DecisionLog
    from ringrift_dagster.models.promotion.promoting import log_path

    with DecisionLog(log_path(Home.from_env())) as log:
        return [entry for entry in log.history(config) if entry.sha256 == sha256]


def _rules(home: Home, config: Config) -> PromotionRules:
    """What the hosts file requires of a candidate."""
    from ringrift_dagster.cluster.hosts import HostsFileError
    from ringrift_dagster.manifest.plane import load_cluster
    from ringrift_dagster.models.promotion.decision import rules_of

    try:
        cluster = load_cluster(home, None)
    except HostsFileError as error:
        raise Unreadable(error.problems[0]) from error
    return rules_of(cluster.promotion, cluster.freshness, config.players)


def _data_hash(value: str | None) -> str | None:
    """The hash that is given, or that of the regular file that is."""
    import re

    from ringrift_dagster.datasets.npz_reader import NpzError, file_digest, open_regular

    if value is None or re.fullmatch("[0-9a-f]{64}", value):
        return value
    try:
        with open_regular(Path(value)) as file:
            return file_digest(file)[1]
    except NpzError as error:
        raise Unreadable(f"--training-data: {error}") from error


def _origin(file: Path) -> str:
    """The origin of a checkpoint about which nothing else is known; what is not printable in its name is escaped."""
    name = file.name if file.name.isprintable() else repr(file.name)[1:-1]
    return f"file:{name}"[: TextType.MAX_CHARACTERS]


def _show_refused(refused: Sequence[RefusedCheckpoint]) -> None:
    print_table(
        "Refused checkpoints",
        ["config", "checkpoint", "refused", "reason", "detail", "origin"],
        ([entry.config, entry.sha256[:12], _time(entry.at), entry.reason, entry.detail, entry.origin] for entry in refused),
    )


def _show_evidence(assessment: Assessment, played: dict[str, int] | None = None) -> None:
    print_table(
        f"Evidence about {assessment.candidate.sha256[:12]} on {assessment.candidate.config}",
        ["opponent", "blocks", "score", "void games", "waiting blocks", "played now"],
        (
            [
                name,
                blocks.complete,
                f"{blocks.mean():.3f}" if blocks.complete else "",
                blocks.void,
                blocks.waiting,
                (played or {}).get(name),
            ]
            for name, blocks in assessment.evidence.items()
        ),
    )


def _show_decision(assessment: Assessment) -> None:
    click.echo(assessment.decision.rationale)


def _row(entry: Entry) -> list[object]:
    return [_time(entry.at), entry.kind, entry.who, entry.why]


def _time(at: float | None) -> str | None:
    return None if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")
