"""One consistent copy of a SQLite database that may be in use: the program `snapshots` starts in a process of
its own.

A process of its own, because closing any file of a database drops all POSIX locks its process holds on it,
and because a copy that hangs can then be killed. Run as a script, without the package: only the standard
library belongs here.
"""

from __future__ import annotations

import sqlite3
import sys
from pathlib import Path

EXIT_UNREADABLE = 3
EXIT_NO_ROOM = 4


def back_up(source: Path, target: Path) -> None:
    """Copy `source`, to its last commit, into the new self-contained file `target`, and check the copy.

    The source is opened read-only and never checkpointed. Raises sqlite3.Error.
    """
    with sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True, timeout=30) as reader:
        copy = sqlite3.connect(target)
        reader.backup(copy, pages=-1)
        copy.execute("PRAGMA journal_mode=DELETE")
        verdict = copy.execute("PRAGMA quick_check(1)").fetchone()[0]
        copy.close()
    reader.close()
    if verdict != "ok":
        raise sqlite3.DatabaseError(verdict)


def main(source: str, target: str) -> int:
    """Exit code 0, EXIT_UNREADABLE or EXIT_NO_ROOM; what went wrong goes to stderr in one line."""
    try:
        back_up(Path(source), Path(target))
    except sqlite3.Error as error:
        print(" ".join(str(error).split())[:300], file=sys.stderr)
        return EXIT_NO_ROOM if error.sqlite_errorname == "SQLITE_FULL" else EXIT_UNREADABLE
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
