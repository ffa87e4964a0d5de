"""What an operator sees: metrics that say what really happened, and a log in which the lines of one
request are found together, on both sides."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from aotcache.errors import StorageUnavailableError
from aotcache.net.http import HttpClient
from aotcache.protocol.v1.collect import Collect, Keep
from aotcache.protocol.v1.lookup import Lookup, Miss
from aotcache.protocol.v1.outcomes import Outcome
from aotcache.remote.index import Index
from support.site import Service, aotcache, printed, publish_tree, pull_tree, run
from support.small import small_tree
from support.stored import OTHER_PLATFORM
from support.trees import H100

DASHBOARD = Path(__file__).parents[2] / "deploy" / "grafana" / "aotcache.json"


def metrics(url: str, token: str = "") -> dict[tuple[str, ...], float]:
    """By name and labels, as the official parser reads them."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    answer = httpx2.get(f"{url}/metrics", headers=headers)
    assert answer.status_code == 200, answer.text
    return {
        (sample.name, *(f"{name}={value}" for name, value in sorted(sample.labels.items()))): (
            sample.value
        )
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def test_metrics_say_what_happened(service: Service, tmp_path: Path) -> None:
    tree = small_tree(tmp_path / "publisher")
    site = service.site()
    published = publish_tree(site, tree)
    pulled = pull_tree(site, tree, H100, tmp_path / "node")
    assert not isinstance(pulled, Miss)
    unknown = Lookup(layout=tree.layout, hash="0" * 64, platform=H100)
    elsewhere = Lookup(layout=tree.layout, hash=tree.hash, platform=OTHER_PLATFORM)
    for asked in (unknown, unknown, elsewhere):
        assert isinstance(site.index.lookup(asked), Miss)
    for outcome, seconds, size in (("loaded", 1.5, 1000), ("loaded", 0.5, 200), ("crashed", 1, 0)):
        site.index.outcome(
            Outcome(
                layout=tree.layout,
                hash=tree.hash,
                platform=published.tree.platform,
                part="rank_0_0-d0",
                generation=1,
                outcome=outcome,
                seconds=seconds,
                bytes=size,
            )
        )
    stored = {found.key: found.size for found in site.store.list("default/packs/")}
    found = metrics(service.url)
    for name, value in {
        ("aotcache_lookups_total", "by=hash", "reason=", "result=hit"): 1,
        ("aotcache_lookups_total", "by=hash", "reason=unknown_hash", "result=miss"): 2,
        ("aotcache_lookups_total", "by=hash", "reason=other_platform", "result=miss"): 1,
        ("aotcache_outcomes_total", "outcome=loaded"): 2,
        ("aotcache_outcomes_total", "outcome=crashed"): 1,
        ("aotcache_pull_seconds_total",): 3.0,
        ("aotcache_pull_bytes_total",): 1200,
        ("aotcache_published_parts_total",): 2,
        ("aotcache_published_bytes_total",): sum(stored.values()),
        ("aotcache_publish_seconds_count",): 1,
        ("aotcache_object_bytes_total", "direction=out"): pulled.moved_bytes
        + sum(o.size for o in site.store.list("default/trees/")),
        ("aotcache_trees",): 1,
        ("aotcache_parts",): 2,
        ("aotcache_pinned_trees",): 0,
        ("aotcache_quarantined_parts",): 0,
        ("aotcache_packs", "state=live"): len(stored),
        ("aotcache_pack_bytes", "state=live"): sum(stored.values()),
        ("aotcache_packs", "state=condemned"): 0,
        ("aotcache_requests_total", "method=POST", "route=/v1/lookup", "status=200"): 1,
        ("aotcache_requests_total", "method=POST", "route=/v1/lookup", "status=404"): 3,
        ("aotcache_request_seconds_count", "method=POST", "route=/v1/outcomes"): 3,
    }.items():
        assert found[name] == value, name
    assert found["aotcache_publish_seconds_sum",] + 1 > 0
    state = site.index.collect(Collect(keep=Keep(bytes=1)))
    while state.running:
        state = site.index.collection()
    found = metrics(service.url)
    assert found["aotcache_collections_total", "result=done"] == 1
    assert found["aotcache_collected_trees_total",] == 1
    assert found["aotcache_collected_bytes_total",] == 0, "their grace is not over"


def test_metrics_are_for_who_may_read_everything(service: Service) -> None:
    made = [
        printed(aotcache("token", "create", "--data-dir", str(service.data), "--json", *words))
        for words in (("--namespace", "*"), ())
    ]
    every, some = (one["token"] for one in made)
    assert httpx2.get(f"{service.url}/metrics").status_code == 401
    answer = httpx2.get(f"{service.url}/metrics", headers={"Authorization": f"Bearer {some}"})
    assert answer.status_code == 403
    assert metrics(service.url, every)["aotcache_trees",] == 0


def test_nobody_makes_up_labels(service: Service) -> None:
    for number in range(20):
        for method in ("GET", "PROPFIND"):
            httpx2.request(method, f"{service.url}/v1/made-up/{number}")
    names = {name for name in metrics(service.url) if "other" in str(name)}
    assert ("aotcache_requests_total", "method=other", "route=other", "status=404") in names
    assert not any("made-up" in str(name) or "PROPFIND" in str(name) for name in names)


def said(service: Service, **about: object) -> list[dict[str, Any]]:
    """The log's lines with these values, once there is one: a request's comes after its answer."""
    end = time.monotonic() + 20
    while True:
        lines = service.log.read_text().splitlines()
        every = [json.loads(line) for line in lines if line.startswith("{")]
        found = [one for one in every if about.items() <= one.items()]
        if found or time.monotonic() > end:
            return found
        time.sleep(0.02)


@pytest.fixture
def with_json(tmp_path: Path) -> Any:
    with run(tmp_path / "service", env={"AOTCACHE_LOG_FORMAT": "json"}) as found:
        yield found


def test_a_request_is_found_on_both_sides(with_json: Service, tmp_path: Path) -> None:
    tree = small_tree(tmp_path / "publisher")
    publish_tree(with_json.site(), tree)
    env = {"AOTCACHE_URL": with_json.url}
    aotcache("rm", tree.hash, "--yes", env=env)
    (line,) = said(with_json, method="DELETE")
    assert re.fullmatch(r"[0-9a-f]{12}-\d+", line["request_id"])
    assert (line["path"], line["status"]) == (f"/v1/trees/{tree.hash}", 200)
    assert line["level"] == "INFO"
    assert 0 < line["seconds"] < 60
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4}", line["time"])
    # What was done meanwhile carries it too.
    (deleted,) = (one for one in said(with_json) if one["message"].startswith("deleted default/"))
    assert deleted["request_id"] == line["request_id"]
    # Lookups and reads are told of only where they are refused.
    assert not any("/v1/lookup" in one.get("path", "") for one in said(with_json))


def test_who_is_refused_is_in_the_log(with_json: Service) -> None:
    words = ("token", "create", "--data-dir", str(with_json.data), "--json")
    made = printed(aotcache(*words))
    for token, path, status in (
        ("aotc_nonsense", "/v1/trees", 401),
        (made["token"], "/v1/collect", 403),
    ):
        headers = {"Authorization": f"Bearer {token}", "X-Request-Id": f"mine-{status}"}
        answer = httpx2.get(f"{with_json.url}{path}", headers=headers)
        assert (answer.status_code, answer.headers["x-request-id"]) == (status, f"mine-{status}")
        (line,) = said(with_json, request_id=f"mine-{status}")
        assert (line["level"], line["status"]) == ("WARNING", status)
        assert line["token"] == (made["id"] if status == 403 else "")
    assert made["token"] not in with_json.log.read_text()


@pytest.mark.parametrize("made_up", ["a b", "x" * 65, "a\u00e9", '"}{"', ""])
def test_an_id_that_is_none_is_not_taken(with_json: Service, made_up: str) -> None:
    headers = {"X-Request-Id": made_up.encode("latin-1")}
    answer = httpx2.get(f"{with_json.url}/livez", headers=headers)
    assert re.fullmatch(r"[0-9a-f]{16}", answer.headers["x-request-id"])


def test_an_error_names_the_line_of_the_log(with_json: Service, tmp_path: Path) -> None:
    """A node's line leads to the service's."""
    tree = small_tree(tmp_path / "publisher")
    publish_tree(with_json.site(), tree)
    (with_json.data / "objects").rename(with_json.data / "gone")
    index = Index(HttpClient(with_json.url, retries=0))
    with pytest.raises(StorageUnavailableError, match=r"\(request [0-9a-f]{12}-1\)") as caught:
        index.delete(tree.hash)
    (number,) = re.findall(r"request (\S+)\)", str(caught.value))
    assert said(with_json, request_id=number, status=503)


def test_the_dashboard_asks_for_metrics_that_there_are(service: Service) -> None:
    known = {name[0] for name in metrics(service.url)}
    text = httpx2.get(f"{service.url}/metrics").text
    known |= {f"{name}_total" for name in re.findall(r"# TYPE (\w+?)(?:_total)? counter", text)}
    known |= {f"{name}_bucket" for name in re.findall(r"# TYPE (\w+) histogram", text)}
    board = json.loads(DASHBOARD.read_text())
    asked = [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]
    assert len(asked) >= 10
    used = {name for query in asked for name in re.findall(r"aotcache_\w+", query)}
    assert used <= known | {"aotcache_job_finished_timestamp_seconds"}, used - known


# What `opentelemetry-instrument` does, with spans into a file.
TRACED = """
import os, runpy, sys
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor
provider = TracerProvider()
file = open(os.environ["SPANS"], "a")
exporter = ConsoleSpanExporter(out=file, formatter=lambda span: span.to_json(indent=None) + "\\n")
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)
sys.argv[0] = "aotcache"
runpy.run_module("aotcache", run_name="__main__")
"""


def test_a_trace_goes_from_node_to_service(tmp_path: Path) -> None:
    tree = small_tree(tmp_path / "publisher")
    platform = tmp_path / "h100.json"
    platform.write_bytes(msgspec.json.encode(H100))
    spans = {side: tmp_path / side for side in ("service", "node")}
    command = (sys.executable, "-c", TRACED)
    with run(tmp_path / "data", command=command, env={"SPANS": str(spans["service"])}) as service:
        publish_tree(service.site(), tree)
        words = [
            "pull",
            tree.hash,
            "--platform",
            str(platform),
            "--cache-root",
            str(tmp_path / "n"),
        ]
        env = {
            "AOTCACHE_URL": service.url,
            "AOTCACHE_TRUST": "unsigned",
            "SPANS": str(spans["node"]),
        }
        subprocess.run([*command, *words], env={**os.environ, **env}, check=True, timeout=60)
    (pulled,) = (json.loads(line) for line in spans["node"].read_text().splitlines())
    assert pulled["name"] == "aotcache.pull"
    assert pulled["attributes"]["aotcache.hash"] == tree.hash
    served = [json.loads(line) for line in spans["service"].read_text().splitlines()]
    (lookup,) = (
        one
        for one in served
        if one["name"].startswith("POST /v1/lookup") and one["kind"] == "SpanKind.SERVER"
    )
    assert lookup["context"]["trace_id"] == pulled["context"]["trace_id"]
    assert lookup["parent_id"] == pulled["context"]["span_id"]
