"""`doctor`: what is set up on this machine, what is not, and what to do."""

from __future__ import annotations

import os
from typing import Any

import click
from click.core import ParameterSource

from aotcache.cli import options, output
from aotcache.engines.doctor import Finding, Setup, examine
from aotcache.engines.doctor.findings import NOTE, OK, PROBLEM

_COLOURS = {OK: "green", NOTE: "yellow", PROBLEM: "red"}


@click.command()
@options.cache_root
@options.as_json
@options.transfer
def doctor(cache_root: str, as_json: bool, url: str, **others: Any) -> None:
    """Say what is set up here, what is not, and what to do.

    Run it with the engine's own Python, as the engine's user, in the engine's environment. It
    changes nothing, and imports neither torch nor vLLM. Exits with 1 if there is a problem.
    """
    source = click.get_current_context().get_parameter_source("url")
    named = source is not ParameterSource.DEFAULT
    setup = Setup(
        environ=dict(os.environ), cache_root=cache_root, url=url if named else None, **others
    )
    findings = examine(setup)
    problems = sum(finding.level == PROBLEM for finding in findings)
    if as_json:
        output.print_json(findings)
    else:
        _print(findings)
        notes = sum(finding.level == NOTE for finding in findings)
        click.echo(
            f"{problems or 'no'} problem{'s' * (problems != 1)}, "
            f"{notes or 'no'} note{'s' * (notes != 1)}, {len(findings) - problems - notes} ok"
        )
    if problems:
        raise SystemExit(1)


def _print(findings: list[Finding]) -> None:
    """Problems last: they are what is on the screen in the end."""
    for finding in sorted(findings, key=lambda each: (OK, NOTE, PROBLEM).index(each.level)):
        level = click.style(f"{finding.level:<8}", fg=_COLOURS[finding.level])
        click.echo(f"{level} {finding.subject}: {finding.found}")
        if finding.remedy:
            click.echo(f"{'':<8} -> {finding.remedy}")
