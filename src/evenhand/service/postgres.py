"""Events on a PostgreSQL server, which services on many machines may share."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from queue import Empty, SimpleQueue
from typing import Any, ClassVar, final

from evenhand.errors import UserError
from evenhand.service.database import Database, DatabaseAway, DatabaseFull, Execute, Row, close_all


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
        close_all(self._free)

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


@cache
def _percent(sql: str) -> str:
    """`:name` as psycopg spells it."""
    return re.sub(r"(?<!:):([a-z_]+)", r"%(\1)s", sql.replace("%", "%%"))


def _rows(cursor: Any) -> list[Row]:
    return list(cursor.fetchall()) if cursor.description else []


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
