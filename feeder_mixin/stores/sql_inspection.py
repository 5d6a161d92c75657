"""What an SQL store looks like from outside: clock, rights, table, types of the values.

Called by ``feeder doctor`` only. Nothing here writes.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from feeder_mixin.schema import MEASUREMENT
from feeder_mixin.stores.sql import TABLE, SqlStore

_SQLITE_WORDS: Final = {"real": "float", "text": "string"}


def ask_time_s(store: SqlStore) -> float | None:
    """Return the server's time in seconds since the epoch; None for SQLite, which has no server."""
    with store.read_connection() as connection:
        if connection is None or connection.dialect.name == "sqlite":
            return None
        return float(
            connection.execute(
                sa.select(sa.extract("epoch", sa.func.clock_timestamp()))
            ).scalar_one()
        )


def has_table(store: SqlStore) -> bool:
    """Return whether the table of records is there."""
    with store.read_connection() as connection:
        return connection is not None and sa.inspect(connection).has_table(MEASUREMENT)


def may_write(store: SqlStore) -> bool:
    """Return whether this user may add records, the first ones included."""
    with store.read_connection() as connection:
        if connection is None:
            return False
        if connection.dialect.name == "sqlite":
            path = Path(connection.exec_driver_sql("PRAGMA database_list").one()[2])
            return os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)
        may = (
            sa.func.has_table_privilege(MEASUREMENT, "INSERT")
            if sa.inspect(connection).has_table(MEASUREMENT)
            else sa.func.has_schema_privilege(sa.func.current_schema(), "CREATE")
        )
        return bool(connection.execute(sa.select(may)).scalar_one())


def field_types(store: SqlStore, feeder_id: str) -> dict[str, set[str]]:
    """Return field name -> types of its values (``float``, ``integer``, ``string``, ...).

    SQLite takes any value in any column, so the feeder's rows are asked: a field without a value has
    no type. Elsewhere the column's type stands for all.
    """
    with store.read_connection() as connection:
        inspector = None if connection is None else sa.inspect(connection)
        if connection is None or inspector is None or not inspector.has_table(MEASUREMENT):
            return {}
        keys = {column.name for column in TABLE.columns if not column.nullable}
        columns = [c for c in inspector.get_columns(MEASUREMENT) if c["name"] not in keys]
        if connection.dialect.name != "sqlite":
            return {
                c["name"]: {"float" if isinstance(c["type"], sa.Float) else str(c["type"]).lower()}
                for c in columns
            }
        names = [c["name"] for c in columns]
        kinds = [sa.func.group_concat(sa.func.typeof(sa.column(n)).distinct()) for n in names]
        query = sa.select(*kinds).select_from(TABLE).where(TABLE.c.feeder_id == feeder_id)
        found = connection.execute(query).one()
    return {
        name: {_SQLITE_WORDS.get(word, word) for word in (text or "").split(",")} - {"null", ""}
        for name, text in zip(names, found, strict=True)
    }
