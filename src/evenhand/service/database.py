"""Two databases behind one small interface: SQLite in a file, PostgreSQL by URL.

SQL is written once, with `:name` for parameters and a JSON array for many rows at a time: one statement a batch is
what keeps the interpreter's lock free for the service's other threads.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, ClassVar, final

import apsw

from evenhand.errors import StorageError, UserError
from evenhand.service.schema import NOTHING, TABLES

Row = tuple[Any, ...]
Execute = Callable[..., list[Row]]

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


class DatabaseFull(StorageError):
    """The disk that the database lies on has no room; what was acknowledged is safe."""


class DatabaseAway(StorageError):
    """The database cannot be reached or fails; what was acknowledged is safe."""


class Database(ABC):
    """Connections to one database. Any thread may use it; one writes at a time."""

    types: ClassVar[Mapping[str, str]]
    # What keeps services that start at once from making the tables at once.
    turn: ClassVar[str] = "SELECT 1"
    # A row where there is a table of events.
    sought: ClassVar[str]

    @contextmanager
    def reading(self) -> Iterator[Execute]:
        """A snapshot to read from: the function given runs a statement and returns its rows."""
        with self._session(write=False) as execute:
            yield execute

    @contextmanager
    def writing(self) -> Iterator[Execute]:
        """One transaction that is durable when the block is left, and undone where it raises."""
        with self._session(write=True) as execute:
            yield execute

    @abstractmethod
    def table(self, columns: Mapping[str, str]) -> str:
        """SQL for a table `given` of `columns` (name to type) out of the JSON array of objects in parameter `rows`."""

    @abstractmethod
    def scrub(self) -> None:
        """Let the database's files forget what was deleted or overwritten, as far as the database can."""

    @abstractmethod
    def close(self) -> None:
        """Close every connection."""

    @abstractmethod
    def _session(self, write: bool) -> Any: ...

    def begun(self) -> bool:
        """Whether its tables were made before."""
        with self.reading() as execute:
            return bool(execute(self.sought))

    def create(self) -> None:
        """Make the tables where they are missing, each in its own transaction: one that held several locks could meet a
        service that writes already, and each would wait for the other."""
        for statement in TABLES:
            with self.writing() as execute:
                execute(self.turn)
                execute(statement.format(nothing=NOTHING, **self.types))


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
            _close_all(pool)

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


@final
class Postgres(Database):
    """A PostgreSQL server. Services on many machines may share it: the chain's head is locked by row."""

    types: ClassVar[Mapping[str, str]] = {
        "big": "BIGINT",
        "real": "DOUBLE PRECISION",
        "serial": "BIGSERIAL PRIMARY KEY",
    }
    turn: ClassVar[str] = "SELECT pg_advisory_xact_lock(71028871)"
    sought: ClassVar[str] = "SELECT 1 WHERE to_regclass('events') IS NOT NULL"

    def __init__(self, url: str) -> None:
        try:
            import psycopg  # noqa: PLC0415
        except ImportError as error:
            raise UserError("PostgreSQL needs the extra: pip install 'evenhand[postgres]'.") from error
        self._psycopg = psycopg
        self._url = url
        self._free: SimpleQueue[Any] = SimpleQueue()

    def table(self, columns: Mapping[str, str]) -> str:
        """SQL for the table `given` out of the JSON array in parameter `rows`."""
        typed = ", ".join(f"{name} {kind.format(**self.types)}" for name, kind in columns.items())
        return f"(SELECT * FROM json_to_recordset(CAST(:rows AS json)) AS given({typed})) AS given"

    def scrub(self) -> None:
        """Give the space of dead rows back for use; the server overwrites it in time, its log and backups are its own."""
        with self._errors():
            connection = self._take()
            try:
                connection.execute("VACUUM events")
            finally:
                self._free.put(connection)

    def close(self) -> None:
        """Close every connection."""
        _close_all(self._free)

    @contextmanager
    def _session(self, write: bool) -> Iterator[Execute]:
        with self._errors():
            connection = self._take()
            try:
                with connection.transaction():
                    if not write:
                        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
                    yield lambda sql, values=None: _rows(connection.execute(_percent(sql), values))
            except self._psycopg.errors.ReadOnlySqlTransaction:
                connection.close()  # its server writes no more, and a new connection may find the one that does
                raise
            finally:
                if not connection.closed:
                    self._free.put(connection)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        found = self._psycopg
        try:
            yield
        except found.errors.DiskFull as error:
            raise DatabaseFull(f"the database server's disk is full ({_line(error)}); free some space.") from error
        except found.OperationalError as error:
            raise DatabaseAway(f"the database cannot be reached ({_line(error)}); start it, or see its log.") from error
        except (found.InternalError, found.ProgrammingError, found.InterfaceError) as error:
            raise DatabaseAway(f"the database fails ({_line(error)}); see its log.") from error

    def _take(self) -> Any:
        with suppress(Empty):
            while (connection := self._free.get_nowait()).closed:
                pass
            return connection
        return self._psycopg.connect(self._url, autocommit=True, connect_timeout=3)


def open_database(place: str, make: bool = True) -> Database:
    """The database behind a `postgresql://` URL or in a file, with its tables; raises DatabaseAway, UserError.

    Where `make` is False it must be one that a service has begun; tables that came later are added even then.
    """
    if "://" in place and not place.startswith(("postgresql://", "postgres://")):
        raise UserError(
            f"{place.partition('://')[0]}:// is no database that evenhand knows; use postgresql:// or a file."
        )
    database: Database = Postgres(place) if "://" in place else Sqlite(Path(place))
    try:
        if not make and not database.begun():
            where = "the database" if "://" in place else place
            raise UserError(f"{where} holds no events of `evenhand monitor`; give the folder or URL of one that does.")
        database.create()
    except BaseException:
        database.close()
        raise
    return database


def is_sound(version: str) -> bool:
    """Whether a version of SQLite is free of the WAL-reset bug.

    >>> [is_sound(version) for version in ("3.40.1", "3.44.6", "3.50.7", "3.51.2", "3.51.3", "3.54.1")]
    [False, True, True, False, True, True]
    """
    found = tuple(int(part) for part in version.split(".")[:3])
    return found >= _SOUND[0] or any(found[:2] == sound[:2] and found >= sound for sound in _SOUND[1:])


def _close_all(pool: "SimpleQueue[Any]") -> None:
    with suppress(Empty):
        while True:
            pool.get_nowait().close()


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


@cache
def _percent(sql: str) -> str:
    """`:name` as psycopg spells it."""
    return re.sub(r"(?<!:):([a-z_]+)", r"%(\1)s", sql.replace("%", "%%"))


def _rows(cursor: Any) -> list[Row]:
    return list(cursor.fetchall()) if cursor.description else []


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
