"""A transfer that broke about a hundred times left a file of pieces that did not belong together, under its final name."""

from __future__ import annotations

import base64
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ringrift_dagster.manifest.inventory import CHUNK_SIZE, ItemType
from ringrift_dagster.manifest.sources.hashing import hash_file
from ringrift_dagster.transfer.part import PartFile
from ringrift_dagster.transfer.publish import NotPublished, publish
from tests.transfer.arrivals import ordered

PATH = "models/hex8_2p_1.onnx"
# Writes chunks into the part at random, some of them from another version of the file, until it is killed or all are there.
TRANSFER = """
import random, sys
from pathlib import Path
from ringrift_dagster.transfer.part import PartFile

folder, name, sha256, size, table, good, bad, seed = sys.argv[1:]
chooser = random.Random(int(seed))
chunk = 4 << 20
sources = [Path(good).read_bytes(), Path(bad).read_bytes()]
part = PartFile.open(Path(folder), name, sha256, int(size), bytes.fromhex(table) or None)
print("opened", flush=True)
missing = part.missing()
chooser.shuffle(missing)
for index in missing:
    content = sources[chooser.random() < 0.5][index * chunk : (index + 1) * chunk]
    writer = part.writer(index)
    for start in range(0, len(content), 1 << 18):
        writer.write(content[start : start + (1 << 18)])
        if chooser.random() < 0.02:
            print("broken", flush=True)
            sys.stdin.read()
    writer.commit()
print("complete", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("known", [True, False], ids=["with a chunk table", "without one"])
def test_only_the_whole_file_ever_has_its_name(known: bool, tmp_path: Path) -> None:
    chooser = random.Random(3)
    good, bad = tmp_path / "good", tmp_path / "bad"
    content = chooser.randbytes(5 * CHUNK_SIZE + 12345)
    good.write_bytes(content)
    bad.write_bytes(chooser.randbytes(len(content)))
    hashed = hash_file(str(good))
    table = hashed.chunks if known else b""
    root = tmp_path / "tree"
    target = root / PATH
    target.parent.mkdir(parents=True)
    item = ordered(content, ItemType.MODEL, target.name, chunks=base64.b64encode(table).decode() if known else None)
    for seed in range(12):
        arguments = [str(target.parent), item.name, item.sha256, str(item.size), table.hex(), str(good), str(bad), str(seed)]
        with subprocess.Popen(
            [sys.executable, "-c", TRANSFER, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as transfer:
            assert transfer.stdout is not None
            assert transfer.stdout.readline() == "opened\n"
            assert transfer.stdout.readline() in ("broken\n", "complete\n")
            transfer.send_signal(signal.SIGKILL)
        assert not target.exists()
        with PartFile.open(target.parent, item.name, item.sha256, item.size, table or None) as part:
            if not part.missing():
                stitched = part.path.read_bytes() != content
                if not stitched:
                    break
                with pytest.raises(NotPublished) as refused:
                    publish(part, item, root, PATH)
                assert refused.value.cause == "wrong_bytes"
                part.forget()
        assert not target.exists()
    with PartFile.open(target.parent, item.name, item.sha256, item.size, table or None) as part:
        if not known:
            part.forget()  # nobody can tell which chunks are right
        for index in part.missing():
            assert part.put(index, content[index * CHUNK_SIZE : (index + 1) * CHUNK_SIZE])
        publish(part, item, root, PATH)
    assert target.read_bytes() == content
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_a_whole_file_of_two_versions_by_another_program_is_no_file(tmp_path: Path) -> None:
    """What a program such as rsync left in the part may have any size and be of anything."""
    content = random.Random(4).randbytes(CHUNK_SIZE + 5)
    (tmp_path / "good").write_bytes(content)
    hashed = hash_file(str(tmp_path / "good"))
    item = ordered(content, ItemType.MODEL, "hex8_2p_1.onnx")
    (tmp_path / "models").mkdir()
    for left in (content[:-1] + b"?", b"?" + content[1:], content[: CHUNK_SIZE // 2] * 3, content + b"more"):
        with PartFile.open(tmp_path / "models", item.name, item.sha256, item.size, hashed.chunks) as part:
            part.path.write_bytes(left)
            wrong = part.adopt()
            assert wrong == len(part.missing())
            if not wrong:  # all that was asked for, and more behind it
                publish(part, item, tmp_path, PATH)
                assert (tmp_path / PATH).read_bytes() == content
            else:
                assert not (tmp_path / PATH).exists()
