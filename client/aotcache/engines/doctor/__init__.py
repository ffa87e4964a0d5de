"""What is set up on this machine, what is not, and what to do. Imports neither torch nor vLLM,
changes nothing, and raises nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from aotcache.engines.doctor.disk import check_root
from aotcache.engines.doctor.engine import check_engine, check_platform
from aotcache.engines.doctor.environment import check_environment
from aotcache.engines.doctor.findings import Finding, Setup, problem
from aotcache.engines.doctor.hashing import check_hashing
from aotcache.engines.doctor.installed import Installed, read_installed
from aotcache.engines.doctor.service import check_service, check_storage
from aotcache.engines.doctor.trees import check_trees
from aotcache.engines.doctor.trust import check_trust

__all__ = ["Finding", "Setup", "examine", "run_check"]

SECONDS = 30.0  # that one check may take

Check = Callable[[], Iterable[Finding]]


def examine(setup: Setup) -> list[Finding]:
    """All findings, by subject."""
    findings: list[Finding] = []
    try:
        installed = read_installed()
    except Exception as error:
        findings.append(_failed("vllm", error))
        installed = Installed()
    checks: list[tuple[str, Check]] = [
        ("service", lambda: check_service(setup)),
        ("storage", lambda: check_storage(setup)),
        ("trust", lambda: check_trust(setup)),
        ("vllm", lambda: check_engine(installed, setup.environ)),
        ("platform", lambda: check_platform(installed)),
        ("environment", lambda: check_environment(setup.environ, installed)),
        ("cache root", lambda: check_root(setup.cache_root)),
        ("trees", lambda: check_trees(setup.cache_root)),
    ]
    if vllm := installed.vllm:
        checks.append(("hash", lambda: check_hashing(setup.environ, vllm)))
    for subject, check in checks:
        findings += run_check(subject, check)
    return findings


def run_check(subject: str, check: Check, seconds: float = SECONDS) -> list[Finding]:
    """What one check finds. One that fails or does not end is a finding too, after what it had
    found until then."""
    found: list[Finding] = []

    def run() -> None:
        try:
            for finding in check():
                found.append(finding)  # one by one: what came before an error is kept
        except Exception as error:
            found.append(_failed(subject, error))

    # Nothing stops a name server or a dead network mount that does not answer: a daemon thread may
    # be left waiting for it.
    thread = threading.Thread(target=run, name=f"aotcache-doctor-{subject}", daemon=True)
    thread.start()
    thread.join(seconds)
    if not thread.is_alive():
        return found
    return [
        *found,
        problem(
            subject,
            f"could not be examined within {seconds:.0f} s: something does not answer",
            "look at the network, at name resolution, and at mounts of other machines",
        ),
    ]


def _failed(subject: str, error: Exception) -> Finding:
    return problem(
        subject,
        f"could not be examined: {type(error).__name__}: {error}",
        "if it is not plain from this what is wrong, please report it",
    )
