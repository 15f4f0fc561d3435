"""RingRift's names in a tree: what the manifest says, completed whenever it was interrupted, and nothing of others is lost."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st

from ringrift_dagster.models.manifest import Current, note
from ringrift_dagster.models.publishing import files, tree_names
from ringrift_dagster.models.publishing.names import meta_name, model_names, sidecar_name
from ringrift_dagster.models.publishing.published_set import ModelFile
from ringrift_dagster.models.publishing.reasons import PublishingRefused
from ringrift_dagster.models.publishing.tree_names import LinkedNames, check_names, link_names
from tests.models.publishing.making import model_bytes, model_file

CONFIG = "square8_2p"
CANONICAL, BEST, SHORT = model_names(CONFIG)
SOMEBODY = b"PK somebody's own weights"


class Host:
    """A RingRift tree, and models that have arrived on its host."""

    def __init__(self, root: Path) -> None:
        self.tree, self.models, self._arrived = root / "tree", root / "tree" / "models", root / "arrived"
        self.models.mkdir(parents=True)
        self.files: dict[str, ModelFile] = {}

    def promote(self, text: str, at: float, config: str = CONFIG, *, arrived: bool = True) -> ModelFile:
        model = model_file(self._arrived, text, at)
        if arrived:
            self.files[model.current.sha256] = model
        note(self.tree, config, model.current)
        return model

    def find(self, _: str, current: Current) -> Path | None:
        model = self.files.get(current.sha256)
        return model.path if model is not None else None

    def link(self) -> LinkedNames:
        return link_names(self.tree, self.find)

    def contents(self) -> dict[str, bytes]:
        return {name: (self.models / name).read_bytes() for name in model_names(CONFIG)}


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_the_promoted_model_is_under_all_names_with_sidecars(host: Host) -> None:
    host.promote("one", 1.0)
    result = host.link()
    assert (result.linked, result.kept, result.findings) == (model_names(CONFIG), (), ())
    assert set(host.contents().values()) == {model_bytes("one")}
    assert check_names(host.tree) == []
    assert host.link() == LinkedNames()
    assert not any(path.is_symlink() for path in host.models.iterdir())


def test_a_later_promotion_takes_the_place_of_the_one_before_and_leaves_nothing_else(host: Host) -> None:
    host.promote("one", 1.0)
    host.link()
    host.promote("two", 2.0)
    assert host.link().kept == ()
    assert set(host.contents().values()) == {model_bytes("two")}
    names = {*model_names(CONFIG), *map(sidecar_name, model_names(CONFIG)), *map(meta_name, model_names(CONFIG))}
    assert {path.name for path in host.models.iterdir()} - names == {".model_names.lock", ".published_models"}


def test_what_is_linked_shares_nothing_with_what_arrived(host: Host) -> None:
    model = host.promote("one", 1.0)
    host.link()
    (host.models / CANONICAL).write_bytes(b"PK in place")  # as RingRift's auto_promote.py copies
    assert model.path.read_bytes() == model_bytes("one")


def test_a_model_that_has_not_arrived_leaves_the_names_as_they_are(host: Host) -> None:
    host.promote("one", 1.0)
    host.link()
    model = host.promote("two", 2.0, arrived=False)
    assert [finding.code for finding in host.link().findings] == ["no_content"]
    assert set(host.contents().values()) == {model_bytes("one")}
    host.files[model.current.sha256] = model
    assert host.link().findings == ()
    assert set(host.contents().values()) == {model_bytes("two")}


def test_bytes_that_are_not_the_promoted_ones_get_no_name_and_keep_no_other_config_from_its_own(host: Host) -> None:
    host.promote("one", 1.0)
    host.link()
    host.promote("two", 2.0).path.write_bytes(model_bytes("three"))
    host.promote("six", 2.0, "square8_4p")
    assert [finding.code for finding in host.link().findings] == ["hash_mismatch"]
    assert set(host.contents().values()) == {model_bytes("one")}
    assert (host.models / "ringrift_best_sq8_4p.pth").read_bytes() == model_bytes("six")


def test_a_file_that_somebody_put_there_is_kept(host: Host) -> None:
    (host.models / CANONICAL).write_bytes(SOMEBODY)
    (host.models / "canonical_square8_2p.meta.json").write_text('{"alias_id": "canonical_square8_2p", "elo_rating": 1625.8}')
    host.promote("one", 1.0)
    result = host.link()
    digest = hashlib.sha256(SOMEBODY).hexdigest()[:12]
    assert (host.models / f"{CANONICAL}.replaced-{digest}").read_bytes() == SOMEBODY
    (kept_meta,) = host.models.glob("canonical_square8_2p.meta.json.replaced-*")
    assert json.loads(kept_meta.read_text())["elo_rating"] == 1625.8
    assert result.kept == (f"{CANONICAL}.replaced-{digest}", kept_meta.name)
    assert check_names(host.tree) == []


def test_what_is_kept_or_on_its_way_is_no_model_for_ringrift(host: Host) -> None:
    for name in model_names(CONFIG):
        (host.models / name).write_bytes(SOMEBODY)
    host.promote("one", 1.0)
    host.link()
    assert sorted(path.name for path in host.models.glob("**/*.pth")) == sorted(model_names(CONFIG))


def test_a_model_that_ringrift_promoted_in_place_is_kept_and_replaced(host: Host) -> None:
    host.promote("one", 1.0)
    host.link()
    (host.models / CANONICAL).write_bytes(SOMEBODY)  # the other names are links to it
    assert {finding.code for finding in check_names(host.tree)} == {"hash_mismatch"}
    kept = host.link().kept
    assert len(kept) == 3
    assert {(host.models / name).read_bytes() for name in kept} == {SOMEBODY}
    assert set(host.contents().values()) == {model_bytes("one")}


def test_links_of_ringrift_become_files_and_what_they_lead_to_stays(host: Host) -> None:
    elsewhere = host.models / "thesis.pth"
    elsewhere.write_bytes(SOMEBODY)
    (host.models / CANONICAL).symlink_to("thesis.pth")
    (host.models / BEST).symlink_to(CANONICAL)
    (host.models / SHORT).symlink_to("nowhere.pth")
    host.promote("one", 1.0)
    assert host.link().findings == ()
    assert check_names(host.tree) == []
    assert elsewhere.read_bytes() == SOMEBODY
    assert {str(path.readlink()) for path in host.models.iterdir() if path.is_symlink()} == {"thesis.pth", CANONICAL, "nowhere.pth"}


def test_a_tree_that_is_not_there_is_not_made(host: Host, tmp_path: Path) -> None:
    with pytest.raises(PublishingRefused, match="unreadable"):
        link_names(tmp_path / "unmounted", host.find)
    assert not (tmp_path / "unmounted").exists()


def test_a_directory_under_a_name_is_reported(host: Host) -> None:
    (host.models / CANONICAL).mkdir()
    (host.models / CANONICAL / "file").write_text("mine")
    host.promote("one", 1.0)
    for _ in range(2):
        (finding,) = host.link().findings
        assert finding.code == "unreadable"
        assert "move it away" in finding.text
    assert (host.models / CANONICAL / "file").read_text() == "mine"
    assert {(host.models / name).read_bytes() for name in (BEST, SHORT)} == {model_bytes("one")}


@pytest.mark.parametrize("bad", [meta_name(CANONICAL), sidecar_name(BEST), f".{BEST}.part", f".{CANONICAL}.copying", SHORT])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_one_name_that_cannot_be_written_keeps_no_other_from_being_linked(host: Host, bad: str, make: Callable[..., None]) -> None:
    host.promote("one", 1.0)
    make(host.models / bad)
    result = host.link()
    names = [name for name in model_names(CONFIG) if Path(name).stem not in bad]
    assert len(names) == 2
    assert {(host.models / name).read_bytes() for name in names} == {model_bytes("one")}
    for name in names:
        assert not [finding for finding in check_names(host.tree) if name in finding.name]
        assert name in result.linked
    if result.findings:
        assert [finding.code for finding in result.findings] == ["unreadable"]
        (host.models / bad).unlink() if make is os.mkfifo else (host.models / bad).rmdir()
    assert host.link().findings == ()
    assert check_names(host.tree) == []


def test_a_file_that_has_the_right_bytes_gets_its_sidecar(host: Host) -> None:
    host.promote("one", 1.0)
    (host.models / BEST).write_bytes(model_bytes("one"))
    (host.models / sidecar_name(BEST)).write_text("garbage")
    assert host.link().kept == ()
    assert check_names(host.tree) == []


def test_files_for_apples_gpus_that_hide_the_promoted_model_are_reported(host: Host) -> None:
    host.promote("one", 1.0)
    host.link()
    (host.models / "ringrift_best_sq8_2p_mps.pth").write_bytes(SOMEBODY)
    assert [(finding.code, finding.name) for finding in check_names(host.tree)] == [("shadowed", SHORT)]


def test_a_host_that_was_away_ends_with_what_the_others_have(host: Host, tmp_path: Path) -> None:
    away = Host(tmp_path / "away")
    models = []
    for at, text in enumerate("abc", start=1):
        models.append(host.promote(text, float(at)))
        host.link()
    for model in (models[2], models[0], models[1]):  # what happened meanwhile, in any order
        away.files[model.current.sha256] = model
        note(away.tree, CONFIG, model.current)
        away.link()
    assert away.contents() == host.contents()
    assert {path.name for path in away.models.iterdir()} == {path.name for path in host.models.iterdir()}


def test_one_after_the_other_in_a_tree(host: Host) -> None:
    host.promote("one", 1.0)
    with FileLock(host.models / ".model_names.lock"), pytest.raises(PublishingRefused, match=r"busy: .*try again"):
        link_names(host.tree, host.find, timeout=0.0)


def test_where_names_cannot_be_exchanged_others_files_are_kept_all_the_same(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(first: Path, _: Path) -> None:
        raise files.ExchangeUnsupported(errno.EINVAL, os.strerror(errno.EINVAL), str(first))

    monkeypatch.setattr(tree_names, "exchange", refuse)
    host.promote("one", 1.0)
    host.link()
    host.promote("two", 2.0)
    (host.models / SHORT).unlink()
    (host.models / SHORT).write_bytes(SOMEBODY)
    (kept,) = host.link().kept
    assert (host.models / kept).read_bytes() == SOMEBODY
    assert check_names(host.tree) == []
    assert set(host.contents().values()) == {model_bytes("two")}


def test_a_file_that_is_put_there_in_the_last_moment_is_kept(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.promote("one", 1.0)
    host.link()
    host.promote("two", 2.0)
    real = files.exchange

    def late(first: Path, second: Path) -> None:
        if second.name == SHORT:
            (host.models / "upload").write_bytes(SOMEBODY)
            (host.models / "upload").replace(second)
        real(first, second)

    monkeypatch.setattr(tree_names, "exchange", late)
    (kept,) = host.link().kept
    assert (host.models / kept).read_bytes() == SOMEBODY
    assert set(host.contents().values()) == {model_bytes("two")}


def test_after_every_step_no_file_contradicts_its_sidecar(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.promote("one", 1.0)
    host.link()
    whole = {hashlib.sha256(model_bytes(text)).hexdigest() for text in ("one", "two")}
    states: list[tuple[bool, ...]] = []

    def watched(real: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **kwargs: object) -> object:
            result = real(*args, **kwargs)
            present = []
            for name in model_names(CONFIG):
                digest = hashlib.sha256((host.models / name).read_bytes()).hexdigest()
                assert digest in whole
                side = host.models / sidecar_name(name)
                present.append(side.exists())
                assert not side.exists() or side.read_text() == f"{digest}  {name}\n"
            states.append(tuple(present))
            return result

        return call

    for name in ("unlink", "rename", "replace", "link", "write"):
        monkeypatch.setattr(os, name, watched(getattr(os, name)))
    monkeypatch.setattr(tree_names, "exchange", watched(files.exchange))
    host.promote("two", 2.0)
    host.link()
    assert {(False, True, True), (True, False, True), (True, True, False), (True, True, True)} == set(states)


Step = tuple[str, str, int]


@settings(max_examples=20)
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["promote", "somebody", "in place", "remove", "link"]),
            st.sampled_from(model_names(CONFIG)),
            st.integers(0, 3),
        ),
        max_size=8,
    )
)
def test_whatever_others_do_the_names_are_right_in_the_end_and_their_files_kept(
    tmp_path_factory: pytest.TempPathFactory, steps: list[Step]
) -> None:
    host = Host(tmp_path_factory.mktemp("host"))
    host.promote("0", 1.0)
    foreign: set[bytes] = set()
    last = "0"
    for at, (what, name, number) in enumerate(steps, start=2):
        content = b"PK somebody %d" % number
        path = host.models / name
        if what == "promote":
            last = str(number)
            host.promote(last, float(at))
        elif what == "somebody":
            host.link()  # so that what stands there is kept or ours
            path.unlink()
            path.write_bytes(content)
            foreign.add(content)
        elif what == "in place" and path.exists():
            host.link()
            path.write_bytes(content)
            foreign.add(content)
        elif what == "remove":
            path.unlink(missing_ok=True)
            foreign.clear()  # what they remove themselves, nobody keeps
        else:
            host.link()
    assert host.link().findings == ()
    assert check_names(host.tree) == []
    assert set(host.contents().values()) == {model_bytes(last)}
    assert foreign <= {file.read_bytes() for file in host.models.iterdir()}
