"""Many nodes in one process, a thread each.

    python -m fleet.crowd PLAN RESULT

Says that it is ready, reads from stdin when to begin (seconds of `time.time`), and ends with the
last of its nodes.
"""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

import msgspec

from fleet.node import run
from fleet.plan import Ended, Job, Plan


def main() -> None:
    plan = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Plan)
    ended: list[Ended] = []

    def node(job: Job) -> None:
        ended.append(run(plan, job))

    print("ready", flush=True)
    begin = float(sys.stdin.readline())
    threads = []
    for job in sorted(plan.jobs, key=lambda job: job.at):
        time.sleep(max(0.0, begin + job.at - time.time()))
        thread = threading.Thread(target=node, args=(job,), name=f"node-{job.node}")
        thread.start()
        threads.append(thread)
    for thread in threads:
        thread.join()
    Path(sys.argv[2]).write_bytes(msgspec.json.encode(ended))


if __name__ == "__main__":
    main()
