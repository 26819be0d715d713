"""Where events are kept: a file, or a `postgresql://` URL."""

from pathlib import Path

from evenhand.errors import UserError
from evenhand.service.database import Database
from evenhand.service.postgres import Postgres
from evenhand.service.sqlite import Sqlite


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
