"""Publishing that is killed with SIGKILL again and again, while another process reads all the time.

`python -m tests.models.publishing.crashing {set|names|switch} {line|moment} KILLS SEED` prints what happened as JSON. `line` kills
at a line of the package's code that is drawn from all that a publication runs, `moment` after a time drawn from its duration.
It is a process of its own, without threads, since it forks.
"""

from __future__ import annotations

import json
import os
import random
import select
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from itertools import count
from pathlib import Path
from types import FrameType
from typing import Any

import ringrift_dagster.models.publishing as package
from ringrift_dagster.models.manifest import ModelManifest, note, read
from ringrift_dagster.models.publishing.names import model_names, sidecar_name
from ringrift_dagster.models.publishing.published_set import ModelFile, check_set, open_set, publish, read_set
from ringrift_dagster.models.publishing.tree_names import check_names, link_names
from tests.models.publishing.making import model_bytes, model_file

CONFIGS = ("hex8_2p", "square8_2p", "hexagonal_4p")
SIZE = 20_000
PACKAGE = str(Path(package.__file__).parent)
Work = Callable[[], object]


def run_until(work: Work, line: int | None = None, seconds: float | None = None) -> tuple[bool, int]:
    """Run something in a process, killed before a line of the package's code or after a time.

    Gives whether it was killed, and otherwise how many lines it ran.
    """
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        lines = count(1)

        def trace(frame: FrameType, event: str, _: object) -> Any:
            if not frame.f_code.co_filename.startswith(PACKAGE):
                return None
            if event == "line" and next(lines) == line:
                os.kill(os.getpid(), signal.SIGKILL)
            return trace

        code = 1
        try:
            if seconds is None:
                sys.settrace(trace)
            work()
            sys.settrace(None)
            os.write(writer, str(next(lines) - 1).encode())
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(writer)
    if seconds is not None and not select.select([reader], [], [], seconds)[0]:
        os.kill(child, signal.SIGKILL)
    ran = os.read(reader, 20)
    os.close(reader)
    status = os.waitpid(child, 0)[1]
    assert os.WIFEXITED(status) == bool(ran), status
    return not ran, int(ran or 0)


class Reader:
    """A process that looks at files all the time, and says at the end how often and what was wrong."""

    def __init__(self, look: Callable[[], tuple[str, list[str]]]) -> None:
        self._stop_reader, self._stop_writer = os.pipe()
        self._result, result = os.pipe()
        self._child = os.fork()
        if self._child == 0:
            os.close(self._stop_writer)
            looks, seen, problems = 0, set(), []
            try:
                while not select.select([self._stop_reader], [], [], 0)[0]:
                    state, found = look()
                    looks += 1
                    seen.add(state)
                    problems += found
            except BaseException:
                problems.append(traceback.format_exc())
            os.write(result, json.dumps({"looks": looks, "states": len(seen), "problems": problems[:5]}).encode())
            os._exit(0)
        os.close(result)
        os.close(self._stop_reader)

    def stop(self) -> dict[str, Any]:
        os.close(self._stop_writer)
        answer = os.read(self._result, 1 << 16)
        os.waitpid(self._child, 0)
        return json.loads(answer)


def look_at_set(directory: Path) -> tuple[str, list[str]]:
    """What the set is, and all that is wrong with it."""
    with open_set(directory) as opened:
        state = json.dumps({config: current.sha256 for config, current in opened.manifest.models.items()})
    return state, [str(finding) for finding in check_set(directory)]


def look_at_names(models: Path, contents: dict[str, str]) -> tuple[str, list[str]]:
    """What the names are, and files that are not whole or contradict a sidecar that stayed the same meanwhile."""
    state, problems = [], []
    for name in (name for config in CONFIGS for name in model_names(config)):
        before = _content(models / sidecar_name(name))
        digest = sha256(_content(models / name) or b"").hexdigest()
        after = _content(models / sidecar_name(name))
        state.append(digest)
        if digest not in contents:
            problems.append(f"{name} has unknown bytes")
        if before is not None and before == after and before.split()[0].decode() != digest:
            problems.append(f"{name} contradicts its sidecar")
    return str(state), problems


def crash_set(root: Path, kills: int, kill: Killer, draw: random.Random) -> dict[str, Any]:
    """Kill publications and rollbacks of a set: after each the set is the one before or the one after."""
    directory, models = root / "published", root / "models"
    publish(directory, {config: model_file(models, f"{config} 0", 1.0, SIZE) for config in CONFIGS})
    reader = Reader(lambda: look_at_set(directory))
    outcomes = {"before": 0, "after": 0, "finished": 0}
    numbers, killed = count(2), 0
    while killed < kills:
        number = next(numbers)
        chosen = draw.sample(CONFIGS, draw.randint(1, len(CONFIGS)))
        # three contents a config, so that a third of the promotions are rollbacks to a model that was there
        given = {config: model_file(models, f"{config} {draw.randrange(3)}", float(number), SIZE) for config in chosen}
        before = read_set(directory)
        was_killed = kill(lambda given=given: publish(directory, given))
        after = read_set(directory)
        entries = {config: file.current.model_copy(update={"files": model_names(config)}) for config, file in given.items()}
        wanted = ModelManifest(models={**before.models, **entries})
        assert after in (before, wanted)
        assert check_set(directory) == []
        outcomes["finished" if not was_killed else "after" if after == wanted else "before"] += 1
        killed += was_killed
        if draw.random() < 0.5:
            assert publish(directory, given).manifest == read_set(directory) == wanted
    publish(directory, {config: model_file(models, f"{config} last", float(next(numbers)), SIZE) for config in CONFIGS})
    assert sorted(path.name for path in root.iterdir()) == [".published.lock", ".published.previous", "models", "published"]
    return {"killed": killed, **outcomes, "reader": reader.stop()}


def crash_names(root: Path, kills: int, kill: Killer, draw: random.Random) -> dict[str, Any]:
    """Kill the linking of names in a tree, into which somebody else puts files too: it is completed, and nothing is lost."""
    tree, store = root / "tree", root / "store"
    files: dict[str, ModelFile] = {}
    for config in CONFIGS:
        for variant in range(3):
            file = model_file(store, f"{config} {variant}", 1.0, SIZE)
            files[file.current.sha256] = file
    known = dict.fromkeys(files, "ours")
    others = {f"somebody {number}": model_bytes(f"somebody {number}", SIZE) for number in range(20)}
    known |= {sha256(content).hexdigest(): name for name, content in others.items()}
    for config in CONFIGS:
        note(tree, config, model_file(store, f"{config} 0", 1.0, SIZE).current)
    link_names(tree, lambda _, current: files[current.sha256].path)
    reader = Reader(lambda: look_at_names(tree / "models", known))
    numbers, killed, finished = count(2), 0, 0
    put: set[str] = set()
    while killed < kills:
        number = next(numbers)
        for config in draw.sample(CONFIGS, draw.randint(1, len(CONFIGS))):
            note(tree, config, model_file(store, f"{config} {draw.randrange(3)}", float(number), SIZE).current)
        if draw.random() < 0.3:
            _, content = draw.choice(sorted(others.items()))
            target = tree / "models" / draw.choice(model_names(draw.choice(CONFIGS)))
            (root / "other").write_bytes(content)
            target.with_name(sidecar_name(target.name)).unlink(missing_ok=True)
            (root / "other").replace(target)
            put.add(sha256(content).hexdigest())
        was_killed = kill(lambda: link_names(tree, lambda _, current: files[current.sha256].path))
        killed += was_killed
        finished += not was_killed
        present = {sha256(path.read_bytes()).hexdigest() for path in (tree / "models").iterdir()}
        assert put <= present, "a file of somebody else is lost"
        if draw.random() < 0.5:
            result = link_names(tree, lambda _, current: files[current.sha256].path)
            assert result.findings == ()
            assert check_names(tree) == []
    assert link_names(tree, lambda _, current: files[current.sha256].path).findings == ()
    assert check_names(tree) == []
    assert {config: current.sha256 for config, current in read(tree).models.items()} == {
        config: sha256((tree / "models" / model_names(config)[-1]).read_bytes()).hexdigest() for config in CONFIGS
    }
    assert not [path.name for path in (tree / "models").iterdir() if path.name.endswith((".part", ".copying"))]
    return {"killed": killed, "finished": finished, "put by others": len(put), "reader": reader.stop()}


def crash_switch(root: Path, kills: int, *unused: object) -> dict[str, Any]:
    """Kill the same publication at each of its last lines: first the set is the one before, from some line on the one after."""
    directory, config = root / "published", "hex8_2p"
    files = [model_file(root / "models", text, float(at)) for at, text in enumerate("ab")]
    publish(directory, {config: files[0]})
    publish(directory, {config: files[1]})
    again = {config: ModelFile(files[0].current.model_copy(update={"promoted_at": 2.0}), files[0].path)}
    _, line = run_until(lambda: publish(directory, again))
    line -= kills
    states, killed = "", True
    while killed:
        line += 1
        before = read_set(directory)
        file = next(file for file in files if file.current.sha256 != before.models[config].sha256)
        given = {config: ModelFile(file.current.model_copy(update={"promoted_at": 2.0 + line}), file.path)}
        killed, _ = run_until(lambda given=given: publish(directory, given), line=line)
        states += "b" if read_set(directory) == before else "a"
        assert check_set(directory) == []
        publish(directory, given)
    return {"states": states}


class Killer:
    """Runs something and kills it at a line or a moment that is drawn from what the longest run so far had."""

    def __init__(self, how: str, draw: random.Random) -> None:
        self._by_line = how == "line"
        self._draw = draw
        self._most: float = 0

    def __call__(self, work: Work) -> bool:
        """Whether it was killed; the first run is not."""
        if self._by_line:
            killed, lines = run_until(work, line=self._draw.randint(1, int(self._most)) if self._most else None)
        else:
            started = time.perf_counter()
            killed, _ = run_until(work, seconds=self._draw.uniform(0, self._most) if self._most else 60.0)
            lines = time.perf_counter() - started
        if not killed:
            self._most = max(self._most, lines)
        return killed


def _content(path: Path) -> bytes | None:
    with suppress(FileNotFoundError):
        return path.read_bytes()
    return None


def main() -> None:
    what, how, kills, seed = sys.argv[1:]
    scenario = {"set": crash_set, "names": crash_names, "switch": crash_switch}[what]
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as root:
        draw = random.Random(int(seed))
        result = scenario(Path(root), int(kills), Killer(how, draw), draw)
    print(json.dumps({**result, "seconds": round(time.perf_counter() - started, 1)}))


if __name__ == "__main__":
    main()
