"""Look at definitions: `check`, `deploy check`, `describe`, `map`."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from longcase.cli import terminal
from longcase.cli.frame import Session, command, finish
from longcase.errors import NotFoundError, UsageError
from longcase.model.names import counted, of_tenant
from longcase.nearest import nearest

if TYPE_CHECKING:
    from longcase.model.finding import Finding

PANEL = "Look at definitions"
HELD = 5  # exit status: some cases would not be moved by this code
MOST = 200  # cases that are printed; the count is whole, and --json has them all
_APP_ARGUMENT = Annotated[
    str | None,
    typer.Argument(metavar="APP", help="Module or file with the workflows; LONGCASE_APP.", show_default=False),
]


def add_to(app: typer.Typer) -> None:
    """Add this group's commands."""
    command(app, PANEL)(check)
    command(app, PANEL, every_tenant=True)(deploy)
    command(app, PANEL)(describe)
    command(app, PANEL, "map", every_tenant=True)(show_map)


def check(session: Session, app: _APP_ARGUMENT = None) -> None:
    """Check definitions: everything that could break a running case, with file and line, all at once."""
    found = [finding for name in _names(session, app) for finding in _findings(name)]
    errors = sum(finding.severity == "error" for finding in found)
    if session.json:
        terminal.data([finding.to_json() for finding in found])
    else:
        for finding in found:
            terminal.block(str(finding))
        if found:
            terminal.note(f"{counted(errors, 'error')}, {counted(len(found) - errors, 'warning')}")
    if errors:
        raise typer.Exit(2)


def _findings(name: str) -> list[Finding]:
    from longcase.cli.loading import AppNotFound, import_app
    from longcase.model.activity import Activity
    from longcase.model.check import check_module
    from longcase.model.check.importing import import_findings
    from longcase.model.decision import Decision
    from longcase.model.workflow import Workflow

    try:
        module = import_app(name)
    except (AppNotFound, UsageError):
        raise
    except Exception as error:
        return import_findings(error, name)
    if not any(isinstance(thing, Workflow | Activity | Decision) for thing in vars(module).values()):
        raise UsageError(f"{name} declares no workflow", hint="longcase check onboarding.py")
    return check_module(module)


def _names(session: Session, app: str | None) -> list[str]:
    import os

    from longcase.cli.loading import VARIABLE, likely_app

    spec = app or session.app or os.environ.get(VARIABLE) or ""
    names = [name.strip() for name in spec.split(",") if name.strip()]
    if not names:
        raise UsageError(
            "no module is named, expected the file with the workflows",
            hint=f"{likely_app()} as an argument, or {VARIABLE}={likely_app()}",
        )
    return names


class DeployAction(StrEnum):
    """What `deploy` can do; nothing is installed by it."""

    check = "check"


def deploy(
    session: Session,
    action: Annotated[DeployAction, typer.Argument(help="check: replay the open cases, write nothing.")],
    app: _APP_ARGUMENT = None,
    workflow: Annotated[str, typer.Option("--workflow", "-w", help="Only cases of this workflow.")] = "",
) -> None:
    """Before a deploy: replay every open case of the store, of all tenants, on this code; name those it would hold.

    Reads only; the workers of the code that runs now may go on. Status 5 if a case would be held. Code that has
    none of the workflows of the open cases is refused: nothing would have been checked.
    """
    session.app = ",".join(_names(session, app))
    with session.open(code=True) as longcase:
        found = finish(longcase.rehearse(workflow))
    if found.not_loaded and not (found.fits or found.held or found.in_incident):
        names = ", ".join(found.not_loaded)
        raise UsageError(
            f"no open case was checked: the store's are of {names}, {session.app} has none of these",
            hint=f"longcase deploy check with the module that declares {next(iter(found.not_loaded))}",
        )
    if session.json:
        terminal.data(found.to_json())
    else:
        for one in found.held[:MOST]:
            line = one.details.get("line") or ""
            place = f"{one.case}{of_tenant(one.tenant)} in {one.stage}, visit {one.visit}"
            terminal.line(f"{place}: {one.kind}: {one.why}")
            if line:
                terminal.line(f"  at {line}")
        if len(found.held) > MOST:
            terminal.line(f"... and {len(found.held) - MOST} more; --json lists all")
        terminal.line(f"{_open_cases(found.fits)} on, {len(found.held)} would be held")
        if found.in_incident:
            terminal.note(f"at an incident already, and not replayed: {counted(found.in_incident, 'case')}")
        for name, cases in found.not_loaded.items():
            terminal.note(f"not replayed: {counted(cases, 'case')} of {name}, a workflow this code does not have")
    if found.held:
        raise typer.Exit(HELD)


def _open_cases(count: int) -> str:
    return f"{counted(count, 'open case')} {'goes' if count == 1 else 'go'}"


def describe(
    session: Session,
    app: _APP_ARGUMENT = None,
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="One workflow, activity or decision.")] = "",
) -> None:
    """Describe what is declared: input, output, effect, owner, policies of activities; stages, signals."""
    from longcase.cli.loading import load_app
    from longcase.insight.describe import describe_module

    told = [describe_module(load_app(spec)) for spec in _names(session, app)]
    if name:
        kinds = ("workflows", "activities", "decisions")
        declared = told
        told = [{**one, **{kind: [t for t in one[kind] if t["name"] == name] for kind in kinds}} for one in told]
        if not any(one[kind] for one in told for kind in kinds):
            raise _undescribed(name, declared, app or session.app or "")
    if session.json:
        return terminal.data(told[0] if len(told) == 1 else told)
    for one in told:
        _print_described(one)
    return None


def _print_described(one: dict[str, Any]) -> None:
    for workflow in one["workflows"]:
        terminal.line(
            f"workflow {workflow['name']}: {workflow['object']} by {workflow['key']},"
            f" owner {workflow['owner']}, {workflow['expect']}"
        )
        terminal.table(
            ["STAGE", "OWNER", "EXPECTED", "GOAL"],
            [[s["name"], s["owner"], s["expect"], s["goal"]] for s in workflow["stages"]],
        )
        many = workflow["history"]
        terminal.line(
            f"history: a visit warns at {many['visit_warns']:,} events and stops at {many['visit_stops']:,},"
            f" a case at {many['case_warns']:,} and {many['case_stops']:,}"
        )
        for path in workflow["exception_paths"]:
            during = path["during"] if isinstance(path["during"], str) else ", ".join(path["during"])
            terminal.line(f"on {path['on']}: {path['name']}, owner {path['owner']}, during {during}")
        for handler in workflow["handlers"]:
            during = handler["during"] if isinstance(handler["during"], str) else ", ".join(handler["during"])
            terminal.line(
                f"on {handler['on']}, interrupts no: {handler['name']}, owner {handler['owner']}, beside {during}"
            )
        for signal in workflow["signals"]:
            terminal.line(
                f"signal {signal['name']}: {', '.join(signal['body'].get('properties', {}))}; owner {signal['owner']}"
            )
        terminal.line()
    for activity in one["activities"]:
        terminal.line(f"activity {activity['name']}{': ' + activity['goal'] if activity['goal'] else ''}")
        terminal.facts(
            [
                ("  input", activity["input_text"]),
                ("  output", activity["output_text"]),
                ("  effect", activity["effect"] + ", verified" * activity["verify"]),
                ("  owner", activity["owner"]),
                ("  system", activity["system"]),
                ("  retry", activity["retry"]),
                ("  timeouts", ", ".join(f"{n.replace('_', '-')} {t}" for n, t in activity["timeouts"].items())),
                ("  key", activity["idempotency_key"]),
                ("  undo", activity["undo"]),
                ("  undoes", activity["undoes"]),
                ("  limits", ", ".join(f"{n} {v}" for n, v in activity["limits"].items())),
                ("  on cancel", activity["on_cancel"]),
            ]
        )
        terminal.line()
    for decision in one["decisions"]:
        terminal.line(f"decision {decision['name']}: {decision['question']}")
        terminal.facts(
            [
                ("  answers", ", ".join(decision["answers"])),
                ("  policy", decision["policy"]),
                ("  owner", decision["owner"]),
            ]
        )
        terminal.line()


def _undescribed(name: str, told: list[dict[str, Any]], app: str) -> NotFoundError:
    """Say that a name is none of those that `describe` takes, and what it is or may have been."""
    for workflow in (workflow for one in told for workflow in one["workflows"]):
        for what, inside in (("stage", "stages"), ("exception path", "exception_paths"), ("handler", "handlers"),
                             ("signal", "signals")):  # fmt: skip
            if any(part["name"] == name for part in workflow[inside]):
                return NotFoundError(
                    f"{name} is a {what} of {workflow['name']}; a workflow, an activity or a decision is described",
                    hint=f"longcase describe {app} {workflow['name']}",
                )
    names = [part["name"] for one in told for kind in ("workflows", "activities", "decisions") for part in one[kind]]
    near = nearest(name, names)
    return NotFoundError(
        f"nothing is declared by the name {name}",
        hint=f"did you mean {near[0]}?" if near else f"there: {', '.join(names)}",
    )


def show_map(
    session: Session,
    app: _APP_ARGUMENT = None,
    workflow: Annotated[str, typer.Option("--workflow", "-w", help="Only this workflow.")] = "",
    mermaid: Annotated[bool, typer.Option("--mermaid", help="As Mermaid text.")] = False,
    conform: Annotated[
        bool, typer.Option("--conform", help="Compare every stored event with the map of its visit.")
    ] = False,
) -> None:
    """Show the map that is read from the code; `--conform` proves a store against it, the cases of all tenants."""
    if conform:
        return _conform(session, workflow)
    from longcase.app import collect
    from longcase.cli.loading import load_app
    from longcase.model.map import compile_map
    from longcase.model.map.render_mermaid import render_mermaid
    from longcase.model.map.render_text import render_text

    workflows = collect([load_app(name) for name in _names(session, app)])
    chosen = [one for one in workflows if not workflow or one.name == workflow]
    if not chosen:
        raise NotFoundError(f"no workflow {workflow} there", hint=f"there: {', '.join(one.name for one in workflows)}")
    maps = [compile_map(one)[0] for one in chosen]
    if session.json:
        return terminal.data([{**one.to_json(), "fingerprint": one.fingerprint} for one in maps])
    for one in maps:
        terminal.block((render_mermaid if mermaid else render_text)(one))
    return None


def _conform(session: Session, workflow: str) -> None:
    from longcase.insight.conform import conform
    from longcase.service.queries import check_workflow

    with session.open() as longcase:
        if workflow:
            finish(check_workflow(longcase.store, None, workflow, ()))
        found = finish(conform(longcase.store, workflow))
    if session.json:
        terminal.data(found.to_json())
    else:
        terminal.line(
            f"{counted(found.events, 'event')} of {counted(found.cases, 'case')}, {found.placed} with a place:"
            f" {found.off_map} off the map"
        )
        for row in found.off:
            terminal.line(
                f"  {row['address']}{of_tenant(row['tenant'])} event {row['seq']}, {row['type']} at {row['node']}: "
                f"not on map {row['map']}"
            )
        terminal.line(f"order: {counted(found.out_of_order, 'finding')}")
        for row in found.order:
            terminal.line(f"  {row['address']}{of_tenant(row['tenant'])} visit {row['visit']}: {row['what']}")
        for damage in found.damaged:
            terminal.line(f"damaged: {damage}")
        if found.damaged:
            terminal.note("hint: longcase restore BACKUP: the order of the visits on that map is not looked at")
    if found.off_map:
        raise typer.Exit(5)
    if found.damaged:
        raise typer.Exit(6)
