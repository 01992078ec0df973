"""Keep the store well: `verify`, `rebuild`, `doctor`, `backup`, `restore`, `migrate`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from longcase.cli import terminal
from longcase.cli.frame import Session, command, finish
from longcase.errors import UsageError
from longcase.model.names import MAIN_TENANT, counted, of_tenant

if TYPE_CHECKING:
    from longcase.app import Longcase
    from longcase.insight.invariants import Finding
    from longcase.insight.verify import Verified

PANEL = "Keep the store"
BROKEN = 6  # exit status: the store is not well
_NUMBER = """
SELECT case_no FROM cases WHERE tenant = :tenant AND workflow = :workflow AND key = :key
ORDER BY (status = 'open') DESC, case_no DESC LIMIT 1
"""
MOST = 1_000  # findings that are printed; the count is whole


def add_to(app: typer.Typer) -> None:
    """Add this group's commands."""
    for function in (verify, rebuild, doctor, backup, restore, migrate):
        command(app, PANEL, every_tenant=function is not rebuild)(function)


def verify(
    session: Session,
    file: Annotated[
        str, typer.Option("--file", metavar="FILE", help="Verify an export instead, by nothing but the file.")
    ] = "",
) -> None:
    """Verify everything stored, of all tenants: each history folds to its row, chains are whole, invariants hold."""
    if file:
        from longcase.cli.archive import verify_file

        return verify_file(session, file)
    with session.open() as longcase, terminal.bar("verifying") as tick:
        cases = finish(_count(longcase.store))
        store: Any = longcase.store
        found = finish(_verified(store, lambda done: tick(done, cases)))
    if session.json:
        terminal.data({"cases": cases, "findings": [asdict(one) for one in found[:MOST]], "count": len(found)})
    else:
        for one in found[:MOST]:
            terminal.line(str(one))
        terminal.line(f"{counted(cases, 'case')}, {counted(len(found), 'finding')}")
        lost = {one.case_no for one in found if one.invariant == "I39"}
        broken = sorted(
            {(one.tenant, one.address) for one in found if one.invariant == "I3" and one.case_no not in lost}
        )
        if broken:
            tenant, address = broken[0]
            terminal.note(session.paste(f"hint: longcase rebuild {address}", _other(session, tenant)))
        if lost:
            terminal.note("hint: a history is not what was recorded; longcase restore BACKUP")
    if found:
        raise typer.Exit(BROKEN)
    return None


def _other(session: Session, tenant: str) -> str | None:
    """Return the tenant that commands must name, None where they reach it anyway."""
    return tenant if tenant != session.of_tenant else None


async def _count(store: Any) -> int:
    return int((await store.query("SELECT count(*) AS cases FROM case_overview"))[0]["cases"])


async def _verified(store: Verified, progress: Callable[[int], None]) -> list[Finding]:
    from longcase.insight.verify import verify as check_everything

    return [finding async for finding in check_everything(store, progress=progress)]


def rebuild(
    session: Session,
    case: Annotated[
        str,
        typer.Argument(metavar="[CASE]", help="workflow/key; every case whose row is not its fold, if none is named."),
    ] = "",
) -> None:
    """Rebuild the row and tasks of a case from its history, which is never changed.

    Without CASE it is every tenant's cases, or those of `--tenant`.
    """
    with session.open() as longcase:
        store: Any = longcase.store
        numbers: dict[int, str] = {}
        if case:
            numbers = {_number(longcase, case): case}
        else:
            broken = finish(_verified(store, lambda done: None))
            numbers = {
                one.case_no: f"{one.address}{of_tenant(one.tenant)}"
                for one in broken
                if one.invariant == "I3" and one.case_no and session.tenant in (None, one.tenant)
            }
        for number in numbers:
            finish(store.rebuild(number))
    if session.json:
        return terminal.data({"rebuilt": list(numbers.values())})
    for address in numbers.values():
        terminal.line(f"{address}: rebuilt from its history")
    if not numbers:
        terminal.line("every row equals the fold of its history; nothing to do")
    return None


def _number(longcase: Longcase, case: str) -> int:
    """Return the number of a case, also of one whose row cannot be read."""
    ref = longcase.service.ref(case)
    found = finish(longcase.store.query(_NUMBER, {"tenant": ref.tenant, "workflow": ref.workflow, "key": ref.key}))
    return int(found[0]["case_no"]) if found else finish(longcase.service.row(case)).case_no


def doctor(session: Session) -> None:
    """Look for what may hurt the store: disk, log, schema, damage, clock, workers, what waits for none, stuck cases.

    It looks at the cases of all tenants.
    """
    from longcase.env import Env
    from longcase.upkeep import examine_store

    found = examine_store(session.store, Env())
    whose = _other(session, MAIN_TENANT)  # a hint names any other tenant by itself
    symptoms = [replace(symptom, hint=session.paste(symptom.hint, whose)) for symptom in found]
    if session.json:
        terminal.data([asdict(symptom) for symptom in symptoms])
    else:
        for symptom in symptoms:
            terminal.line(f"{symptom.level:<7}  {symptom.name}: {symptom.message}")
            if symptom.hint:
                terminal.line(f"         hint: {symptom.hint}")
    if any(symptom.level == "error" for symptom in symptoms):
        raise typer.Exit(BROKEN)


def backup(
    session: Session,
    target: Annotated[str, typer.Argument(metavar="FILE", help="Where to.")],
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Copy the store to a file while it is in use: one committed state, checked."""
    from longcase.opening import store_path
    from longcase.upkeep import backup_store

    with terminal.bar("copying") as tick:
        backup_store(session.store, target, force=force, progress=tick)
    _say(
        session,
        {"backup": target, "of": store_path(session.store)},
        f"{store_path(session.store)} is backed up to {target}",
    )


def restore(
    session: Session,
    source: Annotated[str, typer.Argument(metavar="FILE", help="The backup.")],
    force: Annotated[bool, typer.Option("--force", help="Set aside a store that is there; it is not deleted.")] = False,
) -> None:
    """Put a backup in the place of the store; its workers must be stopped."""
    from longcase.env import Env
    from longcase.opening import store_path
    from longcase.upkeep import restore_store

    with terminal.bar("copying") as tick:
        aside = restore_store(session.store, source, Env(), force=force, progress=tick)
    old = f"; the old store is {aside}" if aside else ""
    value = {"restored": store_path(session.store), "from": source, "set_aside": aside or None}
    _say(session, value, f"{store_path(session.store)} is restored from {source}{old}")


def migrate(
    session: Session,
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; exit status 6 if something is missing.")
    ] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Change nothing; list what would run, with checksums.")] = False,
    sql: Annotated[bool, typer.Option("--sql", help="Change nothing; print the SQL to run by hand.")] = False,
    roles: Annotated[
        bool, typer.Option("--roles", help="Change nothing; print the SQL of PostgreSQL roles with least rights.")
    ] = False,
) -> None:
    """Bring the store to this release's schema, in one transaction; a kill in the middle changes nothing."""
    from longcase.env import Env
    from longcase.upkeep import migrate_store

    if check + plan + sql + roles > 1:
        raise UsageError("--check, --plan, --sql and --roles go one at a time", hint="longcase migrate --plan")
    if sql or roles:
        return _script(session, roles=roles)
    if check or plan:
        return _missing(session, check=check)
    done = migrate_store(session.store, Env())
    told = ", ".join(f"{migration.version:04} {migration.name}" for migration in done) or "nothing to do"
    return _say(session, {"applied": [migration.version for migration in done]}, f"migrated: {told}")


def _script(session: Session, *, roles: bool) -> None:
    from longcase.upkeep import migration_script, roles_script

    text = roles_script() if roles else migration_script(session.store)
    if session.json:
        terminal.data({"sql": text})
    elif text:
        terminal.block(text)
    else:
        terminal.line("-- the schema is this release's; nothing to do")


def _missing(session: Session, *, check: bool) -> None:
    from longcase.upkeep import missing_migrations

    missing = missing_migrations(session.store)
    if session.json:
        listed = [{"version": one.version, "name": one.name, "sha256": one.checksum} for one in missing]
        terminal.data({"missing": listed})
    else:
        for one in missing:
            checksum = "" if check else f", sha256 {one.checksum}"
            terminal.line(f"{one.version:04} {one.name} is missing{checksum}")
        if not missing:
            terminal.line("the schema is this release's; nothing to do")
    if missing and check:
        raise typer.Exit(BROKEN)


def _say(session: Session, value: dict[str, Any], text: str) -> None:
    if session.json:
        terminal.data(value)
    else:
        terminal.line(text)
