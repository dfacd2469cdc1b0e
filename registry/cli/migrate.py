"""The command that brings a database up to date, and what it tells."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from registry.auth.identity import OPERATOR
from registry.cli.running import progress, read_settings, run

if TYPE_CHECKING:
    from registry.migration.values import Plan, Report, StepPlan, StepReport


def migrate(
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done; change nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Bring a database that earlier releases wrote up to date.

    `registry serve` does most of it by itself at start; this looks at everything. May run beside
    everything else, and again after it was interrupted. What cannot be brought up to date is left
    as it is and named; it ends with 1 then.
    """

    async def work() -> None:
        from registry.wiring.migration import migration  # noqa: PLC0415 - heavy imports

        report = None
        async with migration(read_settings(), changes=not dry_run) as migrating:
            plan = await migrating.plan(every=True)
            if not dry_run:
                with progress(plan.total, "Writing") as advanced:
                    report = await migrating.run(plan, OPERATOR, advanced=advanced)
        if as_json:
            typer.echo(json.dumps(_migration_facts(plan, report), indent=2))
        else:
            _tell_migration(plan, report)
        if plan.left if report is None else report.left:
            raise typer.Exit(1)

    run(work)


def _migration_facts(plan: "Plan", report: "Report | None") -> dict[str, Any]:
    done = {} if report is None else {step.step: step for step in report.steps}
    return {
        "dry_run": report is None,
        "steps": [
            {
                "step": step.step,
                "found": len(step.wanted),
                "done": done[step.step].done if step.step in done else 0,
                **_counted(step, done.get(step.step)),
                "left": [
                    {"document": item.place, "name": item.name, "reason": item.reason}
                    for item in (done[step.step].left if step.step in done else step.left)
                ],
                "examples": list(step.examples),
            }
            for step in plan.steps
        ],
    }


def _counted(planned: "StepPlan", made: "StepReport | None") -> dict[str, Any]:
    """Return how many servers and tools a step has to do with, and how many it did."""
    return {
        "servers": {
            "found": len(planned.count.servers),
            "done": 0 if made is None else len(made.count.servers),
        },
        "tools": {
            "found": planned.count.tools,
            "done": 0 if made is None else made.count.tools,
        },
    }


def _tell_migration(plan: "Plan", report: "Report | None") -> None:
    facts = _migration_facts(plan, report)
    heads = f"{'Servers':>7}  {'Done':>7}  {'Tools':>7}  {'Done':>7}  {'Left':>5}"
    typer.echo(f"{'Step':<16}  {heads}  For example")
    for step in facts["steps"]:
        named = ", ".join(step["examples"])
        cells = [step[kind][what] for kind in ("servers", "tools") for what in ("found", "done")]
        counts = "  ".join(f"{count:>7}" for count in cells)
        line = f"{step['step'].replace('_', ' '):<16}  {counts}  {len(step['left']):>5}"
        typer.echo(f"{line}  {named}".rstrip())
    for step in facts["steps"]:
        for item in step["left"]:
            typer.echo(f"{item['document']} {item['name']}: left as it is: {item['reason']}")
    if report is not None:
        told, count = f"{report.done} documents brought up to date", report.count
    else:
        told, count = f"{plan.total} documents would be brought up to date", plan.count
    told = f"{told} ({len(count.servers)} servers, {count.tools} tools)"
    left = plan.left if report is None else report.left
    typer.echo(f"{told}, {len(left)} left as they are", err=True)
