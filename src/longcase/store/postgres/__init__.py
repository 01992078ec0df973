"""Cases in one PostgreSQL database: for a fleet of workers and other processes on several machines.

Importing this package imports asyncpg (the extra `postgres`); `app` does so only for a postgresql:// URL.
"""

from longcase.store.postgres.store import PostgresStore, open_postgres

__all__ = ["PostgresStore", "open_postgres"]
