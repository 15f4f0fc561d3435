"""The file being filled: what is marked is right, whatever happened to it or its map."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ringrift_dagster.manifest.inventory import CHUNK_SIZE
from ringrift_dagster.transfer.part import Held, PartFile, Revoked, disk_cause
from tests.transfer.fetching import Content, content
from tests.transfer.processes import wait_until

THREE = content(2 * CHUNK_SIZE + 1000)
SMALL = content(5000, 2)


def fill(part: PartFile, of: Content) -> None:
    for index in part.missing():
        assert part.put(index, of.chunk(index))


@pytest.mark.parametrize("of", [THREE, SMALL, Content(b""), Content(bytes(CHUNK_SIZE)), content(CHUNK_SIZE + 1, 3)])
@pytest.mark.parametrize("table", [True, False])
def test_filled_in_any_order_it_is_the_item(tmp_path: Path, of: Content, table: bool) -> None:
    with of.part(tmp_path, table=table) as part:
        for index in reversed(part.missing()):
            assert part.put(index, of.chunk(index))
        assert part.missing() == []
        assert part.bytes_done == of.size
        assert part.digest() == of.sha256
        assert part.path.read_bytes() == of.data


def test_its_names_are_those_that_scans_pass_over(tmp_path: Path) -> None:
    with THREE.part(tmp_path):
        names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [f".some.npz.{THREE.sha256[:12]}.part", f".some.npz.{THREE.sha256[:12]}.part.map"]


def test_nobody_else_reads_it_and_discarding_leaves_nothing(tmp_path: Path) -> None:
    part = THREE.part(tmp_path)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}
    part.discard()
    part.close()
    assert list(tmp_path.iterdir()) == []


def test_wrong_bytes_are_not_taken(tmp_path: Path) -> None:
    with THREE.part(tmp_path) as part:
        assert not part.put(0, THREE.chunk(1))
        assert not part.put(0, THREE.chunk(0)[:-1])
        assert part.missing() == [0, 1, 2]
        assert part.path.stat().st_size == 0


def test_a_writer_takes_a_chunk_in_pieces(tmp_path: Path) -> None:
    with THREE.part(tmp_path) as part:
        writer = part.writer(1)
        chunk = memoryview(THREE.chunk(1))
        for start in range(0, len(chunk), 1_000_001):
            writer.write(chunk[start : start + 1_000_001])
        assert writer.commit()
        assert part.missing() == [0, 2]


@pytest.mark.parametrize("spoilt", ["short", "wrong"])
def test_a_writer_does_not_mark_what_is_not_right(tmp_path: Path, spoilt: str) -> None:
    with THREE.part(tmp_path) as part:
        writer = part.writer(1)
        writer.write(THREE.chunk(0) if spoilt == "wrong" else THREE.chunk(1)[:-1])
        assert not writer.commit()
        assert part.missing() == [0, 1, 2]


def test_a_writer_takes_no_more_than_the_chunk(tmp_path: Path) -> None:
    with THREE.part(tmp_path) as part, pytest.raises(ValueError, match="more bytes"):
        part.writer(2).write(bytes(1001))


def test_a_chunk_has_one_writer(tmp_path: Path) -> None:
    with THREE.part(tmp_path) as part:
        late = part.writer(0)
        late.write(b"wrong")
        assert part.put(0, THREE.chunk(0)) and part.missing() == [1, 2]
        newer = part.writer(1)
        late_too = part.writer(1)
        with pytest.raises(Revoked):
            newer.write(b"x")
        late_too.revoke()
        with pytest.raises(Revoked):
            late_too.commit()


def test_a_writer_outlives_its_part_harmlessly(tmp_path: Path) -> None:
    part = THREE.part(tmp_path)
    writer = part.writer(0)
    part.close()
    with pytest.raises(Revoked):
        writer.write(b"x")


def test_what_was_there_is_there_when_it_is_opened_again(tmp_path: Path) -> None:
    with THREE.part(tmp_path) as part:
        part.put(1, THREE.chunk(1))
    with THREE.part(tmp_path) as part:
        assert part.missing() == [0, 2]
        fill(part, THREE)
        assert part.digest() == THREE.sha256


@pytest.mark.parametrize("told", [b"", b"\1\1\1", b"\0\0\0", b"\1" * 500, b"\xff\2\1", b"\xd8i>"])
def test_with_a_table_the_map_is_not_believed(tmp_path: Path, told: bytes) -> None:
    with THREE.part(tmp_path) as part:
        part.put(1, THREE.chunk(1))
        map_path = part.path.with_name(f"{part.path.name}.map")
    map_path.write_bytes(told)
    with THREE.part(tmp_path) as part:
        assert part.missing() == [0, 2]


def test_damage_on_the_disk_is_found_when_it_is_opened_again(tmp_path: Path) -> None:
    with THREE.part(tmp_path) as part:
        fill(part, THREE)
        path = part.path
    with path.open("r+b") as file:
        file.seek(CHUNK_SIZE + 17)
        file.write(b"damage")
    with THREE.part(tmp_path) as part:
        assert part.missing() == [1]


@pytest.mark.parametrize(("told", "missing"), [(b"\1\0\1", [1]), (b"\1\1", [0, 1, 2]), (b"\1\2\1", [1]), (b"", [0, 1, 2])])
def test_without_a_table_the_map_is_all_there_is(tmp_path: Path, told: bytes, missing: list[int]) -> None:
    with THREE.part(tmp_path, table=False) as part:
        fill(part, THREE)
        map_path = part.path.with_name(f"{part.path.name}.map")
    map_path.write_bytes(told)
    with THREE.part(tmp_path, table=False) as part:
        assert part.missing() == missing


def test_without_a_table_nothing_beyond_the_end_is_believed(tmp_path: Path) -> None:
    with THREE.part(tmp_path, table=False) as part:
        fill(part, THREE)
        os.truncate(part.path, CHUNK_SIZE + 5)
    with THREE.part(tmp_path, table=False) as part:
        assert part.missing() == [1, 2]


def test_forgetting_begins_anew(tmp_path: Path) -> None:
    with THREE.part(tmp_path, table=False) as part:
        for index in range(3):
            part.put(index, bytes(part.length(index)))
        assert part.digest() == hashlib.sha256(bytes(THREE.size)).hexdigest()
        part.forget()
        assert (part.missing(), part.bytes_done) == ([0, 1, 2], 0)
        fill(part, THREE)
        assert part.digest() == THREE.sha256


def test_no_digest_of_what_is_not_whole(tmp_path: Path) -> None:
    with THREE.part(tmp_path) as part, pytest.raises(ValueError, match="missing"):
        part.digest()


def test_only_one_holder_at_a_time(tmp_path: Path) -> None:
    for of in (THREE, SMALL):
        with of.part(tmp_path), pytest.raises(Held):
            of.part(tmp_path)
        with of.part(tmp_path) as part:
            part.discard()


def test_a_table_of_another_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="table"):
        PartFile.open(tmp_path, "some.npz", THREE.sha256, THREE.size, THREE.table[:-32])
    assert list(tmp_path.iterdir()) == []


class TestAdopting:
    """What another hand brought to the path."""

    def test_all_that_is_right_counts(self, tmp_path: Path) -> None:
        with THREE.part(tmp_path) as part:
            part.path.write_bytes(THREE.data)
            assert part.adopt() == 0
            assert part.digest() == THREE.sha256

    def test_a_beginning_counts(self, tmp_path: Path) -> None:
        with THREE.part(tmp_path) as part:
            part.path.write_bytes(THREE.data[: CHUNK_SIZE + 99])
            assert part.adopt() == 2
            assert part.missing() == [1, 2]

    def test_what_became_wrong_does_not(self, tmp_path: Path) -> None:
        with THREE.part(tmp_path) as part:
            fill(part, THREE)
            part.path.write_bytes(bytes(CHUNK_SIZE) + THREE.data[CHUNK_SIZE:])
            assert part.adopt() == 1
            fill(part, THREE)
            assert part.digest() == THREE.sha256

    def test_what_was_hashed_while_it_was_wrong_is_hashed_again(self, tmp_path: Path) -> None:
        with THREE.part(tmp_path) as part:
            part.path.write_bytes(bytes(CHUNK_SIZE))
            part.mark(0)  # as the thread that hashes meets a chunk that was overwritten after it was marked
            assert wait_until(lambda: part._hashed == 1)
            part.path.write_bytes(THREE.data)
            assert part.adopt() == 0
            assert part.digest() == THREE.sha256

    @pytest.mark.parametrize("of", [THREE, SMALL])
    def test_another_file_may_stand_there(self, tmp_path: Path, of: Content) -> None:
        with of.part(tmp_path) as part:
            (tmp_path / "other").write_bytes(of.data)
            (tmp_path / "other").rename(part.path)
            assert part.adopt() == 0
            assert part.digest() == of.sha256
            with pytest.raises(Held):
                of.part(tmp_path)

    def test_no_file_may_stand_there(self, tmp_path: Path) -> None:
        with THREE.part(tmp_path) as part:
            fill(part, THREE)
            part.path.unlink()
            assert part.adopt() == 3
            fill(part, THREE)
            assert part.path.read_bytes() == THREE.data

    def test_what_has_another_name_too_is_never_written_to(self, tmp_path: Path) -> None:
        origin = tmp_path / "origin"
        origin.write_bytes(THREE.data[:-1] + b"?")
        with THREE.part(tmp_path) as part:
            part.path.unlink()
            part.path.hardlink_to(origin)
            assert part.adopt() == 3
            fill(part, THREE)
            assert part.path.read_bytes() == THREE.data
        assert origin.read_bytes() == THREE.data[:-1] + b"?"

    def test_a_link_to_the_right_content_does(self, tmp_path: Path) -> None:
        origin = tmp_path / "origin"
        origin.write_bytes(THREE.data)
        with THREE.part(tmp_path) as part:
            part.path.unlink()
            part.path.hardlink_to(origin)
            assert part.adopt() == 0
            assert part.digest() == THREE.sha256

    def test_what_is_too_long_is_cut(self, tmp_path: Path) -> None:
        with THREE.part(tmp_path) as part:
            part.path.write_bytes(THREE.data + b"more")
            assert part.adopt() == 0
            assert part.path.read_bytes() == THREE.data

    def test_without_a_table_the_size_decides_and_then_the_hash(self, tmp_path: Path) -> None:
        with THREE.part(tmp_path, table=False) as part:
            part.path.write_bytes(THREE.data[:-1])
            assert part.adopt() == 3
            part.path.write_bytes(THREE.data)
            assert part.adopt() == 0
            assert part.digest() == THREE.sha256

    @pytest.mark.parametrize("of", [THREE, SMALL])
    def test_without_a_table_what_was_hashed_before_is_hashed_again(self, tmp_path: Path, of: Content) -> None:
        with of.part(tmp_path, table=False) as part:
            fill(part, of)
            assert part.digest() == of.sha256
            changed = b"?" + of.data[1:]
            part.path.write_bytes(changed)
            assert part.adopt() == 0
            assert part.digest() == hashlib.sha256(changed).hexdigest()

    def test_without_a_table_nothing_counts_of_what_broke_off(self, tmp_path: Path) -> None:
        with THREE.part(tmp_path, table=False) as part:
            part.put(0, THREE.chunk(0))
            part.put(2, THREE.chunk(2))
            stamp = part.stamp()
            assert part.adopt(whole=False, since=stamp) == 1, "nobody wrote anything"
            assert part.missing() == [1]
            with part.path.open("r+b") as file:
                file.write(b"?")
            assert part.adopt(whole=False, since=stamp) == 3


@pytest.mark.parametrize("what", ["part", "map"])
def test_no_link_is_followed_and_no_pipe_opened(tmp_path: Path, what: str) -> None:
    with THREE.part(tmp_path) as part:
        target = part.path if what == "part" else part.path.with_name(f"{part.path.name}.map")
        part.discard()
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    target.symlink_to(victim)
    with pytest.raises(OSError, match=r"symbolic|links"):
        THREE.part(tmp_path)
    target.unlink()
    os.mkfifo(target)
    with pytest.raises(OSError, match="regular"):
        THREE.part(tmp_path)
    assert victim.read_bytes() == b"precious"


def test_causes() -> None:
    failures = [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO]
    causes = [disk_cause(OSError(failure, "")) for failure in failures]
    assert causes == ["no_room", "no_room", "read_only", "read_only", "disk_error"]


FOUR = content(3 * CHUNK_SIZE + 7, 4)


class Filling(RuleBasedStateMachine):
    """Whatever is done to a part, what it says is in it is in it."""

    @initialize(table=st.booleans())
    def begin(self, table: bool) -> None:
        self.table = table
        self.folder = Path(tempfile.mkdtemp())
        self.right: set[int] = set()
        self.writers: dict[int, object] = {}
        self.part = FOUR.part(self.folder, table=table)

    def teardown(self) -> None:
        if hasattr(self, "part"):
            self.part.close()
            shutil.rmtree(self.folder)

    @rule(index=st.integers(0, 3))
    def put_right(self, index: int) -> None:
        assert self.part.put(index, FOUR.chunk(index))
        self.right.add(index)

    @precondition(lambda self: self.table)
    @rule(index=st.integers(0, 3), at=st.integers(0, 6))
    def put_wrong(self, index: int, at: int) -> None:
        data = bytearray(FOUR.chunk(index))
        data[at] ^= 1
        assert not self.part.put(index, data)

    @rule(index=st.integers(0, 3), whole=st.booleans())
    def write(self, index: int, whole: bool) -> None:
        if index in self.right:
            return
        writer, data = self.part.writer(index), FOUR.chunk(index)
        writer.write(data[:5])
        if whole:
            writer.write(data[5:])
        assert writer.commit() == whole
        if whole:
            self.right.add(index)

    @rule()
    def open_again(self) -> None:
        self.part.close()
        self.part = FOUR.part(self.folder, table=self.table)

    @rule()
    def forget(self) -> None:
        self.part.forget()
        self.right = set()

    @precondition(lambda self: self.table)
    @rule(index=st.integers(0, 3))
    def damage_and_adopt(self, index: int) -> None:
        if index in self.right:
            with self.part.path.open("r+b") as file:
                file.seek(index * CHUNK_SIZE)
                file.write(bytes([FOUR.chunk(index)[0] ^ 1]))
        self.part.adopt()
        if index in self.right:
            assert index in self.part.missing()
        self.right = set(range(4)) - set(self.part.missing())

    @precondition(lambda self: len(self.right) == 4)
    @rule()
    def look_at_the_whole(self) -> None:
        assert self.part.digest() == FOUR.sha256

    @invariant()
    def what_is_marked_is_there(self) -> None:
        if not hasattr(self, "part"):
            return
        there = set(range(4)) - set(self.part.missing())
        # With a table, opening finds again what had been forgotten.
        assert self.right <= there if self.table else self.right == there
        self.right = there
        assert self.part.bytes_done == sum(len(FOUR.chunk(index)) for index in there)
        with self.part.path.open("rb") as file:
            for index in there:
                file.seek(index * CHUNK_SIZE)
                assert file.read(len(FOUR.chunk(index))) == FOUR.chunk(index)


TestFilling = Filling.TestCase
TestFilling.settings = settings(max_examples=12, stateful_step_count=12, deadline=None)
