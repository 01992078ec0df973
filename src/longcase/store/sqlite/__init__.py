"""Cases in one SQLite file: for one machine and several processes (app, worker, CLI, console)."""

from longcase.store.sqlite.doctor import Symptom, doctor
from longcase.store.sqlite.maintenance import backup, migrate, plan, restore
from longcase.store.sqlite.store import SqliteStore, open_sqlite

__all__ = ["SqliteStore", "Symptom", "backup", "doctor", "migrate", "open_sqlite", "plan", "restore"]
