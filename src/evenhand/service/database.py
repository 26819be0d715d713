"""What the service asks of a database, whichever it is.

SQL is written once, with `:name` for parameters and a JSON array for many rows at a time: one statement a batch is
what keeps the interpreter's lock free for the service's other threads.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from typing import Any, ClassVar

from evenhand.errors import StorageError
from evenhand.service.schema import NOTHING, TABLES

Row = tuple[Any, ...]
Execute = Callable[..., list[Row]]


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


def close_all(pool: "SimpleQueue[Any]") -> None:
    """Close the connections that nobody uses."""
    with suppress(Empty):
        while True:
            pool.get_nowait().close()
