"""Events in a file: SQLite in WAL mode."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import ClassVar, final

import apsw

from evenhand.errors import UserError
from evenhand.service.database import Database, DatabaseAway, DatabaseFull, Execute, close_all

# Earlier ones can lose committed pages when two connections write and checkpoint at once: sqlite.org/wal.html#walresetbug
_SOUND = ((3, 51, 3), (3, 50, 7), (3, 44, 6))
_PRAGMAS = (
    "journal_mode=WAL",
    "synchronous=FULL",
    "secure_delete=ON",
    "journal_size_limit=67108864",
    "cache_size=-16000",
)
_AWAY = (
    apsw.IOError,
    apsw.BusyError,
    apsw.LockedError,
    apsw.ProtocolError,
    apsw.ReadOnlyError,
    apsw.PermissionsError,
    apsw.CorruptError,
    apsw.SQLError,
)


@final
class Sqlite(Database):
    """A file in WAL mode; a commit returns once the log is on the disk (synchronous=FULL)."""

    types: ClassVar[Mapping[str, str]] = {
        "big": "INTEGER",
        "real": "REAL",
        "serial": "INTEGER PRIMARY KEY AUTOINCREMENT",
    }
    sought: ClassVar[str] = "SELECT 1 FROM sqlite_master WHERE name = 'events'"

    def __init__(self, path: Path) -> None:
        if not is_sound(apsw.sqlite_lib_version()):
            raise UserError(
                f"SQLite {apsw.sqlite_lib_version()} can damage a database in WAL mode; `pip install -U apsw` brings 3.51.3 or later."
            )
        self.path = path
        self._writers: SimpleQueue[apsw.Connection] = SimpleQueue()
        self._readers: SimpleQueue[apsw.Connection] = SimpleQueue()
        with _sqlite_errors(path):
            self._writers.put(self._open())

    def table(self, columns: Mapping[str, str]) -> str:
        """SQL for the table `given` out of the JSON array in parameter `rows`."""
        return (
            f"(SELECT {', '.join(f'value ->> {name!r} AS {name}' for name in columns)} FROM json_each(:rows)) AS given"
        )

    def scrub(self) -> None:
        """Fold the log into the file, whose pages were overwritten (secure_delete), and cut it off.

        Raises DatabaseAway where a reader kept the log in use for ten seconds; the next call does what is left.
        """
        with _sqlite_errors(self.path):
            connection = self._writers.get()
            try:
                ((busy, _, _),) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            finally:
                self._writers.put(connection)
        if busy:
            raise DatabaseAway(
                f"{self.path}: somebody reads the log, which may still hold erased text; erase once more."
            )

    def close(self) -> None:
        """Close every connection; the last one folds the log into the file."""
        for pool in (self._readers, self._writers):
            close_all(pool)

    @contextmanager
    def _session(self, write: bool) -> Iterator[Execute]:
        pool = self._writers if write else self._readers
        with _sqlite_errors(self.path):
            connection = self._take(write)
            try:
                connection.execute("BEGIN IMMEDIATE" if write else "BEGIN")
                yield lambda sql, values=None: connection.execute(sql, values).fetchall()
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            finally:
                pool.put(connection)

    def _take(self, write: bool) -> apsw.Connection:
        if write:
            return self._writers.get()
        try:
            return self._readers.get_nowait()
        except Empty:
            return self._open()

    def _open(self) -> apsw.Connection:
        connection = apsw.Connection(str(self.path))
        connection.set_busy_timeout(10_000)
        for pragma in _PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")
        return connection


def is_sound(version: str) -> bool:
    """Whether a version of SQLite is free of the WAL-reset bug.

    >>> [is_sound(version) for version in ("3.40.1", "3.44.6", "3.50.7", "3.51.2", "3.51.3", "3.54.1")]
    [False, True, True, False, True, True]
    """
    found = tuple(int(part) for part in version.split(".")[:3])
    return found >= _SOUND[0] or any(found[:2] == sound[:2] and found >= sound for sound in _SOUND[1:])


@contextmanager
def _sqlite_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except apsw.FullError as error:
        raise DatabaseFull(f"{path}: the disk is full; free some space, the service goes on by itself.") from error
    except apsw.CantOpenError as error:
        raise DatabaseAway(f"{path} cannot be opened; its folder must exist and be writable.") from error
    except apsw.NotADBError as error:
        raise UserError(f"{path} is no database; give another file, or move this one away.") from error
    except _AWAY as error:
        raise DatabaseAway(f"{path}: {error}; see whether the file and its disk are well.") from error
