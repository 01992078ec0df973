"""What every test may ask for: a store of its own, on each kind of store there is."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from tests.faults.frame import pytest_terminal_summary  # noqa: F401  a hook: prints what the fault tests report
from tests.support.postgres import Databases, Session, session_databases

STORES = ("sqlite", "postgres")
# Nothing is judged by the time it takes: the machine may be busy.
settings.register_profile("longcase", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("longcase")

LEASE_SECONDS = "2"  # a test that kills a worker waits for its lease to lapse


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--stores",
        default=",".join(STORES),
        help="kinds of store on which tests that take one are run, by commas (default: %(default)s)",
    )


def pytest_configure(config: pytest.Config) -> None:
    unknown = set(stores_of(config)) - set(STORES)
    if unknown:
        raise pytest.UsageError(f"--stores {','.join(sorted(unknown))}: expected some of {','.join(STORES)}")
    if not hasattr(config, "workerinput"):  # xdist workers live in the session of the process that started them
        session = Session()
        config.add_cleanup(session.close)


def stores_of(config: pytest.Config) -> list[str]:
    """Return the kinds of store that this run tests."""
    chosen: str = config.getoption("--stores")
    return chosen.split(",")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "store_kind" in metafunc.fixturenames:
        only = {kind for kind in STORES if metafunc.definition.get_closest_marker(f"only_{kind}") is not None}
        kinds = [kind for kind in stores_of(metafunc.config) if only <= {kind}]
        metafunc.parametrize("store_kind", kinds, scope="session")


@pytest.fixture(autouse=True)
def quiet_afterwards() -> Iterator[None]:
    """Take away the log handlers a test has left: they write to a stream that is closed by then."""
    logger = logging.getLogger("longcase")
    before = list(logger.handlers)
    yield
    logger.handlers[:] = before


@pytest.fixture(scope="session")
def databases() -> Iterator[Databases]:
    """Return the maker of databases of this session's PostgreSQL server, which starts at the first call."""
    databases = session_databases()
    yield databases
    databases.close()


@pytest.fixture
def postgres_url(databases: Databases, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Return the URL of a PostgreSQL database that holds an empty store."""
    monkeypatch.setenv("LONGCASE_LEASE_SECONDS", LEASE_SECONDS)
    url = databases.take()
    yield url
    databases.give_back(url)


@pytest.fixture
def store_url(store_kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of an empty store; a test that takes it is run once for each kind of store."""
    if store_kind == "postgres":
        url: str = request.getfixturevalue("postgres_url")
        return url
    return f"sqlite:///{tmp_path / 'cases.db'}"


@pytest.fixture
def each_store(store_kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the simulations of a test live on each kind of store, one after the other."""
    if store_kind == "sqlite":
        yield
        return
    from longcase.testing import Simulation  # only where it is used: most tests need no simulation

    databases: Databases = request.getfixturevalue("databases")
    made: list[str] = []

    def place(_: Simulation) -> str:
        made.append(databases.take())
        return made[-1]

    monkeypatch.setattr(Simulation, "_place", place)
    yield
    for url in made:
        databases.give_back(url)
