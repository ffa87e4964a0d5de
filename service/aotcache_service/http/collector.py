"""Collections of this process: on schedule, and when somebody asks."""

from __future__ import annotations

import logging
import threading
from dataclasses import asdict

import msgspec

from aotcache.errors import AotcacheError, BusyError
from aotcache.protocol.v1.collect import Collect, Collected, Collection, Reconciled
from aotcache.storage.base import DirectStore

from ..index import audit
from ..index.database import Database
from ..metrics import COLLECTED_BYTES, COLLECTED_TREES, COLLECTIONS, REWRITTEN_BYTES
from ..ops import jobs
from ..ops.collect import collect
from ..ops.listing import list_storage
from ..ops.reconcile import reconcile
from ..settings import ServiceSettings

log = logging.getLogger(__name__)

_NAME = "collect"
_LOOK = 300.0  # seconds between two looks whether one is due
_CUT_OFF = "it was cut off: the next one goes on where it was"


class Collector:
    """Replicas take turns by the index: whoever looks first when one is due does it."""

    def __init__(self, settings: ServiceSettings, database: Database, store: DirectStore) -> None:
        self._settings = settings
        self._database = database
        self._store = store
        self._stop = threading.Event()
        self._asked: threading.Thread | None = None
        self._schedule = threading.Thread(target=self._look, name="collect", daemon=True)

    def start(self) -> None:
        if self._settings.collect_hours:
            self._schedule.start()

    def close(self) -> None:
        """What is under way ends with its step, and goes on with the next collection."""
        self._stop.set()
        for thread in (self._schedule, self._asked):
            if thread is not None and thread.is_alive():
                thread.join()

    def begin(self, asked: Collect, noted: int) -> Collection:
        """Start one now. noted: id of the audit's row. Raises BusyError while one is under way,
        here or elsewhere."""
        job = jobs.Job(self._database, _NAME)
        # What is only looked at, or compared, does not keep one on schedule from its turn.
        job.take(0, whole=not (asked.dry_run or asked.reconcile_only))
        self._asked = threading.Thread(
            target=self._asked_for, args=(job, asked, noted), name="collect-asked", daemon=True
        )
        self._asked.start()
        return self.last()

    def last(self) -> Collection:
        running, started, finished, done, report = jobs.last(self._database, _NAME)
        cut_off = not running and finished < started
        return Collection(
            running=running,
            started=started,
            finished=finished,
            done=done,
            report=msgspec.convert(report, Collected) if "deleted_trees" in report else None,
            reconciled=msgspec.convert(report, Reconciled) if "withdrawn" in report else None,
            error=_CUT_OFF if cut_off else str(report.get("error", "")),
        )

    def _look(self) -> None:
        while not self._stop.wait(_LOOK):
            job = jobs.Job(self._database, _NAME)
            try:
                due = job.take(self._settings.collect_hours * 3600)
            except BusyError:
                continue
            except Exception as error:
                log.warning("whether a collection is due is not known: %s", error)
                continue
            if due:
                self._run(job, Collect())

    def _asked_for(self, job: jobs.Job, asked: Collect, noted: int) -> None:
        audit.end(self._database, noted, self._run(job, asked))

    def _run(self, job: jobs.Job, asked: Collect) -> str:
        """How it ended, in words."""
        whole, said = False, ""
        try:
            done = self._do(job, asked)
        except AotcacheError as error:
            log.warning("a collection ended before its end: %s", error)
            job.report = {"error": str(error)}
            COLLECTIONS.labels("failed").inc()
        except Exception:
            log.exception("a collection ended before its end")
            job.report = {"error": "the service has a fault; its log tells more"}
            COLLECTIONS.labels("failed").inc()
        else:
            job.report = asdict(done)
            whole = isinstance(done, Collected) and not done.dry_run
            if isinstance(done, Collected) and whole:
                COLLECTIONS.labels("done").inc()
                COLLECTED_TREES.inc(done.deleted_trees)
                COLLECTED_BYTES.inc(done.deleted_bytes)
                REWRITTEN_BYTES.inc(done.rewritten_bytes)
            said = f"{audit.DONE}: {_words(done)}"
            log.info("a %s ended", _NAME, extra={"report": job.report})
        try:
            job.end(done=whole)
        except Exception as error:
            log.warning("what a collection did is not noted: %s", error)
        return said or f"failed: {job.report['error']}"

    def _do(self, job: jobs.Job, asked: Collect) -> Collected | Reconciled:
        def go_on() -> None:
            self._go_on(job)

        if asked.reconcile_only:
            listing = list_storage(self._store)
            return reconcile(
                self._database, self._store, listing, dry_run=asked.dry_run, go_on=go_on
            )
        return collect(
            self._database,
            self._store,
            asked.keep or self._settings.keep,
            clock=self._database.now,
            grace=self._settings.grace_seconds,
            dry_run=asked.dry_run,
            go_on=go_on,
        )

    def _go_on(self, job: jobs.Job) -> None:
        if self._stop.is_set():
            raise BusyError("the service ends: the next collection goes on")
        job.go_on()


def _words(done: Collected | Reconciled) -> str:
    would = "would be " if done.dry_run else ""
    if isinstance(done, Collected):
        return f"{done.deleted_trees} trees {would}deleted"
    return f"{done.added} manifests {would}added, {len(done.withdrawn)} {would}withdrawn"
