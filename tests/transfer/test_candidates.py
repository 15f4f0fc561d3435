"""Checkpoints on hosts become candidates: each content once, what is refused never again, what nobody gives the next time."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from ringrift_dagster.games.config import parse_config
from ringrift_dagster.home import Home
from ringrift_dagster.manifest.inventory import ItemType, Soundness
from ringrift_dagster.manifest.plane import open_plane
from ringrift_dagster.manifest.schema import items
from ringrift_dagster.manifest.store import Store
from ringrift_dagster.models.candidates import candidates, directory, qualify, register
from ringrift_dagster.models.promotion.log import DecisionLog
from ringrift_dagster.models.promotion.promoting import log_path
from ringrift_dagster.models.refused import refused_checkpoints
from ringrift_dagster.transfer import candidates as module
from ringrift_dagster.transfer.candidates import CheckpointSearch, find_candidates, new_checkpoints
from tests.manifest.telling import declared, dies, digest_of, item, tell
from tests.models.checkpoints.files import archive
from tests.models.making import model_file
from tests.transfer.field import Field, running_field

CONFIG = "square8_2p"
NAME = f"models/candidate_{CONFIG}.pth"
ROOM = "sync_routing: {max_disk_usage_percent: 99, min_free_disk_percent: 0}\n"
HOSTILE = archive(b"\x80\x02cos\nsystem\n(S'true'\ntR.")


@contextmanager
def trainers(root: Path) -> Iterator[Field]:
    """Two hosts that train."""
    with running_field(root, {"gpu-1": "", "gpu-2": ""}, sections=ROOM) as running:
        yield running


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Field]:
    with trainers(tmp_path_factory.mktemp("trainers")) as field:
        yield field


@pytest.fixture
def field(running: Field, tmp_path: Path) -> Iterator[Field]:
    """The hosts without files, and a home of the test's own."""
    for host in running.agents:
        shutil.rmtree(running.root / host / "models", ignore_errors=True)
        shutil.rmtree(running.root / host / "checkpoints", ignore_errors=True)
    with open_plane(Home(tmp_path / "home"), hosts_file=running.root / "hosts.yaml") as plane:
        yield replace(running, plane=plane)


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[Field]:
    """Hosts of the test's own, which it may kill."""
    with trainers(tmp_path) as field:
        yield field


def model(root: Path, seed: int, config: str = CONFIG, /, **metadata: object) -> bytes:
    return model_file(root / "model.pth", config, seed, **metadata).read_bytes()


def find(field: Field, config: str = CONFIG, **bounds: float) -> CheckpointSearch:
    return find_candidates(field.plane, config, who="test", **bounds)  # type: ignore[arg-type]


def hashes(field: Field, config: str = CONFIG) -> set[str]:
    return {entry.sha256 for entry in candidates(field.plane.home, config)}


def counts(search: CheckpointSearch) -> tuple[int, int, int, int]:
    return len(search.registered), len(search.refused), len(search.missed), search.left


def test_what_lies_on_hosts_becomes_candidates_each_content_once(field: Field, tmp_path: Path) -> None:
    """Two hosts with the same bytes are one candidate; one name with other weights is another."""
    data = "5" * 64
    common, own = (
        model(tmp_path, seed, training_data_sha256=data, training_info={"started_at": "2026-11-30T12:00:00+00:00"})
        for seed in (1, 2)
    )
    sha256 = field.put("gpu-1", common, NAME)
    field.put("gpu-2", common, f"checkpoints/{CONFIG}/epoch_9.pth")
    other = field.put("gpu-2", own, NAME)
    field.refresh()
    search = find(field)
    assert (counts(search), hashes(field)) == ((2, 0, 0, 0), {sha256, other})
    found = next(entry for entry in search.registered if entry.sha256 == other)
    assert (found.origin, found.registered_by, found.config) == (f"gpu-2: {NAME}", "test", CONFIG)
    assert (found.training_data_sha256, found.training_began) == (data, 1_796_040_000.0)
    assert (directory(field.plane.home, CONFIG) / found.file).read_bytes() == own
    assert counts(find(field)) == (0, 0, 0, 0)
    assert list((field.plane.home.models / "fetched" / CONFIG).iterdir()) == []


def test_a_hostile_file_is_refused_with_its_reason_and_never_fetched_again(field: Field, tmp_path: Path) -> None:
    sha256 = field.put("gpu-1", HOSTILE, NAME)
    field.refresh()
    search = find(field)
    (refused,) = search.refused
    assert (counts(search), refused.sha256, refused.reason) == ((0, 1, 0, 0), sha256, "forbidden_global")
    assert (refused.origin, refused.config) == (f"gpu-1: {NAME}", CONFIG)
    assert refused_checkpoints(field.plane.home) == {sha256: refused}
    field.put("gpu-2", HOSTILE, NAME)
    good = field.put("gpu-2", model(tmp_path, 3), f"models/candidate_{CONFIG}_b.pth")
    field.refresh()
    assert counts(find(field)) == (1, 0, 0, 0)
    assert hashes(field) == {good}


def test_of_two_hosts_the_one_that_lives_gives_it(mortal: Field, tmp_path: Path) -> None:
    data = model(tmp_path, 1)
    for host in ("gpu-1", "gpu-2"):
        sha256 = mortal.put(host, data, NAME)
    mortal.refresh()
    mortal.agents["gpu-1"].kill()
    assert [entry.origin for entry in find(mortal).registered] == [f"gpu-2: {NAME}"]
    assert hashes(mortal) == {sha256}


def test_where_nobody_answers_nothing_is_recorded_and_it_is_asked_for_again(mortal: Field, tmp_path: Path) -> None:
    sha256 = mortal.put("gpu-1", model(tmp_path, 1), NAME)
    mortal.put("gpu-1", model(tmp_path, 2), f"models/candidate_{CONFIG}_b.pth")
    mortal.refresh()
    mortal.agents["gpu-1"].kill()
    search = find(mortal)
    assert counts(search) == (0, 0, 2, 0)
    assert {entry.cause for entry in search.missed} == {"no_source"}
    assert search.missed[1].detail == "no answer from gpu-1"  # it is not asked again for the second one
    assert (hashes(mortal), refused_checkpoints(mortal.plane.home)) == (set(), {})
    mortal.restart("gpu-1")
    mortal.refresh()
    assert counts(find(mortal)) == (2, 0, 0, 0)
    assert sha256 in hashes(mortal)


def test_a_file_that_changed_under_its_name_is_not_taken_for_the_other(field: Field, tmp_path: Path) -> None:
    old = field.put("gpu-1", model(tmp_path, 1), NAME)
    field.refresh()
    new = field.put("gpu-1", model(tmp_path, 2), NAME)
    assert counts(find(field)) == (0, 0, 1, 0)
    field.refresh()
    assert counts(find(field)) == (1, 0, 0, 0)
    assert (old in hashes(field), hashes(field)) == (False, {new})


def test_a_name_of_another_config_than_the_content_does_not_decide(field: Field, tmp_path: Path) -> None:
    """It is a candidate of the config that it is called after, and disqualified there: nothing promotes it."""
    field.put("gpu-1", model(tmp_path, 1, "square8_3p"), NAME)
    untold = model(tmp_path, 2, CONFIG, board_type=None, num_players=None, config={})
    field.put("gpu-1", untold, "checkpoints/epoch_10.pth")
    field.refresh()
    (found,) = find(field).registered
    problems = {problem.code for problem in qualify(field.plane.home, found).problems}
    assert {"config_mismatch", "provenance_unknown", "training_time_unknown"} <= problems
    assert new_checkpoints(field.plane.home, field.plane.store) == {}  # what no name gives a config is left alone


def test_a_time_that_no_record_takes_holds_up_no_other_file(field: Field, tmp_path: Path) -> None:
    for number, date in enumerate(("1900-01-01", "9999-12-31", "2026-11-30")):
        field.put("gpu-1", model(tmp_path, number, training_info={"started_at": date}), f"models/candidate_{CONFIG}_{number}.pth")
    field.refresh()
    search = find(field)
    assert counts(search) == (3, 0, 0, 0)
    assert [entry.training_began is None for entry in search.registered] == [True, True, False]


def test_what_the_manifest_contradicts_itself_about_holds_up_no_other_file(field: Field, tmp_path: Path) -> None:
    sha256 = field.put("gpu-1", model(tmp_path, 1), NAME)
    good = field.put("gpu-1", model(tmp_path, 2), f"models/candidate_{CONFIG}_b.pth")
    field.refresh()
    with field.plane.store.writing() as writer:
        writer.connection.execute(sa.update(items).where(items.c.sha256 == bytes.fromhex(sha256)).values(size=0))
    search = find(field)
    assert (counts(search), search.missed[0].sha256, search.missed[0].cause) == ((1, 0, 1, 0), sha256, "failed")
    assert hashes(field) == {good}


def test_bounds_leave_the_rest_for_the_next_search(field: Field, tmp_path: Path) -> None:
    sizes = set()
    for seed in range(3):
        data = model(tmp_path, seed)
        sizes.add(len(data))
        field.put("gpu-1", data, f"models/candidate_{CONFIG}_{seed}.pth")
    field.refresh()
    (size,) = sizes
    assert counts(find(field, max_new=1)) == (1, 0, 0, 2)
    assert counts(find(field, max_bytes=size)) == (1, 0, 0, 1)
    assert counts(find(field, seconds=0)) == (0, 0, 0, 1)
    assert counts(find(field)) == (1, 0, 0, 0)


def test_a_disk_that_is_full_enough_and_a_file_too_large_are_said(
    field: Field, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    field.put("gpu-1", model(tmp_path, 1), NAME)
    field.refresh()
    monkeypatch.setattr(module, "COPIES", 10**9)
    (missed,) = find(field).missed
    assert (missed.cause, missed.origin) == ("no_room", f"gpu-1: {NAME}")
    monkeypatch.setattr(module, "MAX_CHECKPOINT_BYTES", 1)
    search = find(field, max_bytes=1)
    assert ([entry.cause for entry in search.missed], search.left) == (["too_large"], 0)
    assert refused_checkpoints(field.plane.home) == {}


def test_registered_decided_and_promoted_models_are_not_new(store: Store, home: Home, tmp_path: Path) -> None:
    declared(store)
    file = model_file(tmp_path / "model.pth", CONFIG, 1)
    registered = register(home, file, parse_config(CONFIG), origin="test", who="test").sha256
    facts = {"type": ItemType.CHECKPOINT, "config": CONFIG, "soundness": Soundness.UNSOUND}
    found = [item(f"models/candidate_{name}.pth", name, **facts) for name in ("promoted", "refused", "new")]
    found.append(item("models/candidate_r.pth", "r", **facts).model_copy(update={"sha256": registered}))
    found.append(item("models/canonical.pth", "shipped", **facts | {"type": ItemType.MODEL}))
    found.append(item("models/candidate_h.pth", "hex", **facts | {"config": "hex8_4p"}))
    found.append(item("models/candidate_u.pth", "unknown", **facts | {"config": None}))
    tell(store, "vast-1", found, at=1.0)
    with DecisionLog(log_path(home)) as log:
        log.append(CONFIG, "promote", digest_of("promoted"), who="anna", why="test", expected=None)
        log.append(CONFIG, "refuse", digest_of("refused"), who="anna", why="test", expected=digest_of("promoted"))
    new = new_checkpoints(home, store)
    assert {config: [(entry.sha256, entry.reachable) for entry in entries] for config, entries in new.items()} == {
        CONFIG: [(digest_of("new"), True)],
        "hex8_4p": [(digest_of("hex"), True)],
    }
    dies(store, "vast-1", at=time.time())
    assert not new_checkpoints(home, store)[CONFIG][0].reachable
    tell(store, "vast-1", at=time.time() + 100)
    assert new_checkpoints(home, store) == {}
