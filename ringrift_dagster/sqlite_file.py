"""Opening this project's own SQLite files, which several processes share. What is in them belongs to the modules that use them."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

WAIT_SECONDS = 60.0
"""How long a writer waits for another."""


def open_shared(path: Path, schema: str) -> sqlite3.Connection:
    """Open a file in WAL mode and apply `schema`, statements that make what is not there yet.

    Raises sqlite3.Error, with a note that names the file, and OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        connection = sqlite3.connect(path.absolute(), timeout=WAIT_SECONDS)
    except sqlite3.Error as error:
        name_file(error, path)
        raise
    give_up = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.executescript(schema)
            return connection
        except sqlite3.OperationalError as error:
            # SQLite's own waiting does not cover the switch to WAL, which two processes may want of a new file at once.
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > give_up:
                connection.close()
                name_file(error, path)
                raise
            time.sleep(0.02)
        except BaseException as error:
            connection.close()
            name_file(error, path)
            raise


def name_file(error: object, path: Path) -> None:
    """Note on an error of SQLite, which does not say it itself, of which file it is. Of several notes the first holds."""
    if isinstance(error, sqlite3.Error):
        error.add_note(str(path))
