"""Cases in one SQLite file: for one machine and several processes (app, worker, CLI, console)."""

from longcase.store.sqlite.store import SqliteStore, open_sqlite

__all__ = ["SqliteStore", "open_sqlite"]
