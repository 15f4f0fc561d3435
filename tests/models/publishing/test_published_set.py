"""The published set: all of it or nothing, the latest promotion of a config, and only bytes that are what the manifest says."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st

from ringrift_dagster.games.config import CONFIG_KEYS, UnknownConfig
from ringrift_dagster.models.publishing import files, published_set
from ringrift_dagster.models.publishing.names import meta_name, model_names, sidecar_name
from ringrift_dagster.models.publishing.published_set import MANIFEST, ModelFile, check_set, open_set, publish, read_set
from ringrift_dagster.models.publishing.reasons import PublishingRefused
from tests.models.publishing.making import model_bytes, model_file

CONFIG, NAME = "square8_2p", "ringrift_best_sq8_2p.pth"
Make = Callable[..., ModelFile]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Make a model file by its text and the time of its promotion."""
    return lambda text, at=1.0: model_file(tmp_path / "candidates", text, at)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "home" / "published"


def identities(directory: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of modification of every file: unchanged if nothing was written."""
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in directory.iterdir()}


def test_all_twelve_configs_are_published_with_their_names_and_sidecars(directory: Path, make: Make) -> None:
    models = {config: make(config) for config in CONFIG_KEYS}
    published = publish(directory, models)
    assert published.changed == tuple(sorted(CONFIG_KEYS))
    assert check_set(directory) == []
    names = [name for config in CONFIG_KEYS for name in model_names(config)]
    assert {path.name for path in directory.iterdir()} == {
        MANIFEST,
        *names,
        *map(sidecar_name, names),
        *map(meta_name, names),
    }
    for config in CONFIG_KEYS:
        assert {(directory / name).read_bytes() for name in model_names(config)} == {model_bytes(config)}
    assert not any(path.is_symlink() for path in directory.iterdir())
    assert read_set(directory) == published.manifest


def test_publishing_what_is_published_changes_nothing(directory: Path, make: Make) -> None:
    models = {config: make(config) for config in ("hex8_2p", CONFIG)}
    publish(directory, models)
    before = (directory.stat().st_ino, identities(directory))
    again = publish(directory, models)
    assert (again.switched, again.changed, again.superseded) == (False, (), ())
    assert (directory.stat().st_ino, identities(directory)) == before


def test_configs_that_are_not_given_keep_their_model_without_a_copy(directory: Path, make: Make) -> None:
    publish(directory, {config: make(config) for config in CONFIG_KEYS})
    before = identities(directory)
    published = publish(directory, {CONFIG: make("new", 2.0)})
    assert published.changed == (CONFIG,)
    assert check_set(directory) == []
    after = identities(directory)
    kept = [name for config in CONFIG_KEYS if config != CONFIG for name in model_names(config)]
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    assert (directory / NAME).read_bytes() == model_bytes("new")


def test_published_files_share_nothing_with_the_candidate(directory: Path, make: Make) -> None:
    model = make("one")
    publish(directory, {CONFIG: model})
    with model.path.open("r+b") as file:  # as RingRift's scripts write into model files
        file.write(b"damaged")
    assert check_set(directory) == []
    assert stat.S_IMODE((directory / NAME).stat().st_mode) & 0o222 == 0


@settings(max_examples=15)
@given(order=st.permutations([(CONFIG, 1), (CONFIG, 2), (CONFIG, 3), ("hex8_2p", 1), ("hex8_2p", 2)]))
def test_the_latest_promotion_counts_in_whatever_order_they_come(
    tmp_path_factory: pytest.TempPathFactory, order: list[tuple[str, int]]
) -> None:
    root = tmp_path_factory.mktemp("set")
    for config, number in order:
        result = publish(root / "published", {config: model_file(root, f"{config} {number}", float(number))})
        assert result.superseded in ((), (config,))
    contents = {config: current.model for config, current in read_set(root / "published").models.items()}
    assert contents == {CONFIG: f"{CONFIG} 3", "hex8_2p": "hex8_2p 2"}
    assert check_set(root / "published") == []


def test_two_promotions_at_once_are_both_published(directory: Path, make: Make) -> None:
    models = [{config: make(f"{config} {number}", float(number))} for config in ("hex8_2p", CONFIG) for number in range(1, 5)]
    start = threading.Barrier(len(models))
    problems: list[Exception] = []

    def run(given: dict[str, ModelFile]) -> None:
        start.wait()
        try:
            publish(directory, given)
        except Exception as error:
            problems.append(error)

    threads = [threading.Thread(target=run, args=(given,)) for given in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert {config: current.model for config, current in read_set(directory).models.items()} == {
        "hex8_2p": "hex8_2p 4",
        CONFIG: f"{CONFIG} 4",
    }
    assert check_set(directory) == []


def test_a_publisher_that_finds_another_one_at_work_says_so(directory: Path, make: Make) -> None:
    directory.parent.mkdir(parents=True)
    with FileLock(directory.with_name(".published.lock")), pytest.raises(PublishingRefused, match=r"busy: .*try again"):
        publish(directory, {CONFIG: make("one")}, timeout=0.0)


def test_a_reader_with_the_directory_open_keeps_its_generation(directory: Path, make: Make) -> None:
    publish(directory, {CONFIG: make("one")})
    with open_set(directory) as opened:
        publish(directory, {CONFIG: make("two", 2.0)})
        assert opened.check() == []
        with opened.open(NAME) as descriptor:
            assert os.read(descriptor, 1 << 20) == model_bytes("one")
    assert (directory / NAME).read_bytes() == model_bytes("two")


def test_a_rollback_is_a_later_promotion_of_an_earlier_model(directory: Path, make: Make) -> None:
    first, second = make("one", 1.0), make("two", 2.0)
    publish(directory, {CONFIG: first})
    publish(directory, {CONFIG: second})
    back = ModelFile(first.current.model_copy(update={"promoted_at": 3.0, "decision": "3"}), first.path)
    assert publish(directory, {CONFIG: back}).changed == (CONFIG,)
    assert (directory / NAME).read_bytes() == model_bytes("one")
    assert read_set(directory).models[CONFIG].decision == "3"


def test_bytes_that_are_not_the_promoted_ones_are_not_published(directory: Path, make: Make) -> None:
    publish(directory, {CONFIG: make("one")})
    before = identities(directory)
    other = make("two", 2.0)
    other.path.write_bytes(model_bytes("three"))  # the same name and size
    with pytest.raises(PublishingRefused, match="hash_mismatch"):
        publish(directory, {CONFIG: other, "hex8_2p": make("four", 2.0)})
    assert identities(directory) == before
    assert sorted(path.name for path in directory.parent.iterdir()) == [".published.lock", "published"]


@pytest.mark.parametrize(
    ("reason", "content"),
    [("not_torch", b"\x08\x07 onnx"), ("not_torch", b""), ("no_content", None)],
    ids=["onnx", "empty", "missing"],
)
def test_what_no_reader_could_load_is_refused(directory: Path, make: Make, reason: str, content: bytes | None) -> None:
    model = make("one")
    model.path.unlink()
    if content is not None:
        model.path.write_bytes(content)
    with pytest.raises(PublishingRefused, match=reason):
        publish(directory, {CONFIG: model})
    assert not directory.exists()


def test_a_symbolic_link_is_no_model_file(directory: Path, make: Make) -> None:
    model = make("one")
    moved = model.path.rename(model.path.with_name("elsewhere.pth"))
    model.path.symlink_to(moved)
    with pytest.raises(PublishingRefused, match="no_content"):
        publish(directory, {CONFIG: model})


def test_a_config_that_is_none_is_refused(directory: Path, make: Make) -> None:
    with pytest.raises(UnknownConfig):
        publish(directory, {"hex9_2p": make("one")})


def test_a_directory_of_somebody_else_is_left_alone(directory: Path, make: Make) -> None:
    directory.mkdir(parents=True)
    (directory / "thesis.pth").write_bytes(b"years of work")
    with pytest.raises(PublishingRefused, match=r"not_a_set: .*thesis\.pth.*move them away"):
        publish(directory, {CONFIG: make("one")})
    assert [path.name for path in directory.iterdir()] == ["thesis.pth"]


@pytest.mark.parametrize("name", [".published.next", ".published.previous", "published"])
@pytest.mark.parametrize("what", ["link", "dangling link", "file"])
def test_what_is_no_directory_where_generations_are_is_to_be_moved_away(
    directory: Path, make: Make, tmp_path: Path, name: str, what: str
) -> None:
    path = directory.with_name(name)
    path.parent.mkdir(parents=True)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "thesis.pth").write_bytes(b"years of work")
    if what == "file":
        path.write_bytes(b"mine")
    else:
        path.symlink_to(elsewhere if what == "link" else tmp_path / "nowhere")
    with pytest.raises(PublishingRefused, match=r"move it away|name the directory itself") as refused:
        publish(directory, {CONFIG: make("one")})
    assert str(path) in str(refused.value)
    assert (path.read_bytes() == b"mine") if what == "file" else path.is_symlink()
    assert (elsewhere / "thesis.pth").exists()


def test_a_file_that_somebody_added_is_not_thrown_away(directory: Path, make: Make) -> None:
    publish(directory, {CONFIG: make("one")})
    (directory / "notes.txt").write_text("mine")
    with pytest.raises(PublishingRefused, match=r"unexpected_file: .*notes\.txt"):
        publish(directory, {CONFIG: make("two", 2.0)})
    assert (directory / "notes.txt").read_text() == "mine"
    assert [finding.code for finding in check_set(directory)] == ["unexpected_file"]


def test_an_empty_directory_and_a_link_to_one(directory: Path, make: Make, tmp_path: Path) -> None:
    directory.mkdir(parents=True)
    assert publish(directory, {CONFIG: make("one")}).switched
    (tmp_path / "link").symlink_to(directory)
    with pytest.raises(PublishingRefused, match="symbolic_link"):
        publish(tmp_path / "link", {CONFIG: make("two", 2.0)})


def _damage(code: str, directory: Path) -> None:
    target = directory / NAME
    side = directory / sidecar_name(NAME)
    if code == "missing_file":
        target.unlink()
    elif code == "symbolic_link":
        target.unlink()
        target.symlink_to("canonical_square8_2p.pth")
    elif code == "not_a_file":
        target.unlink()
        os.mkfifo(target)
    elif code == "hash_mismatch":
        target.unlink()
        target.write_bytes(model_bytes("one")[:-1] + b"!")
    elif code == "no_sidecar":
        side.unlink()
    elif code == "wrong_sidecar":
        side.unlink()
        side.write_text(f"{'0' * 64}  {NAME}\n")
    elif code == "no_meta":
        (directory / meta_name(NAME)).unlink()
    else:
        (directory / meta_name(NAME)).unlink()
        (directory / meta_name(NAME)).write_text("{}")


@pytest.mark.parametrize(
    "code",
    ["missing_file", "symbolic_link", "not_a_file", "hash_mismatch", "no_sidecar", "wrong_sidecar", "no_meta", "wrong_meta"],
)
def test_damage_is_reported_by_its_code_and_made_good(directory: Path, make: Make, code: str) -> None:
    model = make("one")
    publish(directory, {CONFIG: model, "hex8_2p": make("other")})
    _damage(code, directory)
    assert [finding.code for finding in check_set(directory)] == [code]
    repaired = publish(directory, {CONFIG: model})
    assert (repaired.switched, repaired.changed) == (True, ())
    assert check_set(directory) == []


def test_a_model_all_of_whose_names_are_damaged_has_to_be_given(directory: Path, make: Make) -> None:
    model = make("one")
    publish(directory, {CONFIG: model})
    (directory / NAME).chmod(0o644)
    with (directory / NAME).open("r+b") as file:  # hard links: all names of the config
        file.seek(100)
        file.write(b"damage")
    assert {finding.code for finding in check_set(directory)} == {"hash_mismatch"}
    with pytest.raises(PublishingRefused, match=r"no_content: square8_2p"):
        publish(directory, {"hex8_2p": make("other", 2.0)})
    publish(directory, {CONFIG: model, "hex8_2p": make("other", 2.0)})
    assert check_set(directory) == []


def test_a_set_without_a_manifest_is_none(directory: Path, make: Make, tmp_path: Path) -> None:
    publish(directory, {CONFIG: make("one")})
    (directory / MANIFEST).unlink()
    for place in (directory, tmp_path / "nowhere"):
        with pytest.raises(PublishingRefused, match="not_a_set"):
            read_set(place)
    with pytest.raises(PublishingRefused, match="not_a_set"):
        publish(directory, {CONFIG: make("one")})


def test_where_directories_cannot_be_exchanged_nothing_is_begun(
    directory: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(first: Path, _: Path) -> None:
        raise files.ExchangeUnsupported(errno.EINVAL, os.strerror(errno.EINVAL), str(first))

    monkeypatch.setattr(published_set, "exchange", refuse)
    with pytest.raises(PublishingRefused, match=r"no_exchange: .*cannot exchange directories.*choose another"):
        publish(directory, {CONFIG: make("one")})
    assert [path.name for path in directory.parent.iterdir()] == [".published.lock"]


def test_without_hard_links_files_are_copied(directory: Path, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    publish(directory, {CONFIG: make("one")})
    publish(directory, {"hex8_2p": make("two")})
    assert check_set(directory) == []
    assert (directory / NAME).stat().st_nlink == 1


def test_everything_is_on_disk_before_it_is_switched_and_the_switch_after(
    directory: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(directory, {"hex8_2p": make("old")})
    present = {path.stat().st_ino for path in directory.iterdir()}
    synced: list[int] = []
    at_switch: list[set[int]] = []
    real_fsync, real_exchange = os.fsync, files.exchange

    def fsync(descriptor: int) -> None:
        real_fsync(descriptor)
        synced.append(os.fstat(descriptor).st_ino)

    def exchange(first: Path, second: Path) -> None:
        if second == directory:
            staged = {path.stat().st_ino for path in first.iterdir()} | {first.stat().st_ino}
            at_switch.append(staged - present - set(synced))
            synced.clear()
        real_exchange(first, second)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(published_set, "exchange", exchange)
    publish(directory, {CONFIG: make("new")})
    assert at_switch == [set()]
    assert synced == [directory.parent.stat().st_ino]


def test_a_publication_that_fails_at_any_call_of_the_system_leaves_one_of_two_sets(
    directory: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(directory, {CONFIG: make("old"), "hex8_2p": make("kept")})
    calls = failing = refused = 0

    def fails_once(real: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **kwargs: object) -> object:
            nonlocal calls
            calls += 1
            if calls == failing:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*args, **kwargs)

        return call

    for name in ("write", "fsync", "mkdir", "rename", "link"):
        monkeypatch.setattr(os, name, fails_once(getattr(os, name)))
    monkeypatch.setattr(published_set, "exchange", fails_once(files.exchange))
    while calls >= failing:
        before = read_set(directory).models
        failing += 1
        calls = 0
        given = make(f"new {failing}", 1.0 + failing)
        try:
            publish(directory, {CONFIG: given})
        except PublishingRefused as error:
            refused += 1
            assert "No space left" in str(error)
        assert check_set(directory) == []
        after = read_set(directory).models
        assert after[CONFIG].sha256 in (before[CONFIG].sha256, given.current.sha256)
        assert after["hex8_2p"] == before["hex8_2p"]
    assert refused > 20
