"""Pages as they are answered: what they show, what they refuse, and what is noted."""

from __future__ import annotations

import html
import re
from urllib.parse import unquote

import pytest
from fastapi.testclient import TestClient

from aotcache.protocol.names import VLLM_AOT
from aotcache.protocol.v1.explain import Explain
from aotcache.protocol.v1.outcomes import Outcome
from aotcache_service.http.context import Context
from aotcache_service.index import misses, tokens
from aotcache_service.index.explain import explain
from aotcache_service.ops import quarantine
from support.indexed import NOW, hit, miss, publish
from support.stored import HASH, PLATFORM, RECIPE

AT = f"/trees/default/{VLLM_AOT}/{HASH}/{PLATFORM.id}"
OTHER = "b" * 64


@pytest.fixture
def page(client: TestClient) -> TestClient:
    """A browser of this machine, where no token was ever made."""
    return client


def text_of(page: TestClient, path: str, status: int = 200) -> str:
    answer = page.get(path)
    assert (answer.status_code, answer.headers["content-type"].partition(";")[0]) == (
        status,
        "text/html",
    ), answer.text
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", answer.text)))


def key_in(page: TestClient, path: str) -> str:
    found = re.search(r'name="key" value="([0-9a-f]{64})"', page.get(path).text)
    assert found, path
    return found[1]


def do(page: TestClient, action: str, at: str = AT, **form: str) -> str:
    """Ask, confirm, and where it leads."""
    key = key_in(page, f"{at}/{action}")
    answer = page.post(f"{at}/{action}", data={"key": key, **form}, follow_redirects=False)
    assert answer.status_code == 303, answer.text
    return answer.headers["location"]


def fill(context: Context) -> None:
    about = {"recipe": RECIPE, "compile_seconds": 42.5, "expected_parts": ("shared", "rank_0_0-d0")}
    publish(context.database, context.store, b"x", **about)
    publish(context.database, context.store, b"other", tree_hash=OTHER, publisher="node-2")
    told = Outcome(
        layout=VLLM_AOT,
        hash=HASH,
        platform=PLATFORM.id,
        part="shared",
        generation=1,
        outcome="loaded",
        node="n7",
        seconds=2.5,
        bytes=1000,
    )
    for _ in range(3):
        quarantine.tell(context.database, context.store, told, token="", nodes=3, now=NOW)


def test_pages_of_an_empty_service(page: TestClient) -> None:
    for path in ("/", "/trees", "/misses", "/audit"):
        assert "aotcache" in text_of(page, path)
    assert "Nothing is stored yet" in text_of(page, "/trees")
    assert page.get("/style.css").headers["content-type"].startswith("text/css")


def test_a_tree_and_all_that_is_known_of_it(page: TestClient, context: Context) -> None:
    fill(context)
    said = text_of(page, AT)
    for piece in (
        RECIPE.model,
        "Not stored yet: rank_0_0-d0",
        "Saved 2 min",  # 3 * 42.5 - 3 * 2.5
        "a compile took 42.5 s",
        "loaded 3",
        "3.0 kB in 7.5 s",
        "n7",
        "node-1",
        PLATFORM.device,
    ):
        assert piece in said, piece
    files = text_of(page, f"{AT}/files")
    assert "1 files" in files
    assert ".py" in files
    assert "not stored" in text_of(page, AT.replace(HASH, "c" * 64), 404)
    for wrong in (
        AT.replace(HASH, "zz"),
        AT.replace("/default/", "/No!/"),
        AT.replace("vllm", "x"),
    ):
        assert "That cannot be" in text_of(page, wrong, 400)


def test_the_list_is_searched_filtered_sorted_and_paged(page: TestClient, context: Context) -> None:
    fill(context)
    short, other = HASH[:16], OTHER[:16]
    for query, shown in (
        ("", {short, other}),
        (f"?search={HASH[:6]}", {short}),
        (f"?search={RECIPE.model[-4:].upper()}", {short}),
        ("?search=nothing-of-the-kind", set()),
        ("?publisher=node-2", {other}),
        (f"?model={RECIPE.model}&engine={RECIPE.engine}", {short}),
        (f"?platform={PLATFORM.id}&layout={VLLM_AOT}", {short, other}),
        ("?pinned=1", set()),
        ("?quarantined=1", set()),
        ("?sort=hash&order=asc", {short, other}),
    ):
        said = text_of(page, f"/trees{query}")
        assert {name for name in (short, other) if name in said} == shown, query
    for number in range(60):
        publish(context.database, context.store, tree_hash=f"{number:064x}", created=NOW + number)
    seen, path = [], "/trees?sort=created&order=asc"
    while path:
        answer = page.get(path).text
        seen += re.findall(r'<a class="mono" href="/trees/default/[^/]+/([0-9a-f]{64})/', answer)
        found = re.search(r'rel="next" href="([^"]+)"', answer)
        path = html.unescape(found[1]) if found else ""
    assert len(seen) == len(set(seen)) == 62
    assert seen[-1] == f"{59:064x}"
    assert "sort is one of" in text_of(page, "/trees?sort=publisher", 400)
    assert "cursor" in text_of(page, "/trees?cursor=xx", 400)


def test_where_somebody_is_and_how_to_go_on(page: TestClient, context: Context) -> None:
    """Also where something went wrong."""
    fill(context)
    for path, status, current in (
        ("/", 200, '<a href="/" aria-current="page">'),
        ("/trees", 200, '<a href="/trees" aria-current="page">'),
        (AT, 200, '<a href="/trees" aria-current="true">'),
        (f"{AT}/explode", 404, '<a href="/trees" aria-current="true">'),
        ("/trees?sort=publisher", 400, '<a href="/trees" aria-current="page">'),
    ):
        answer = page.get(path)
        assert (answer.status_code, answer.text.count("aria-current")) == (
            status,
            2 if path == "/" else 1,  # and the span of time
        ), path
        assert current in answer.text, path
    listed = text_of(page, "/trees")
    assert f"{PLATFORM.device}, torch {PLATFORM.torch}, {PLATFORM.python}" in listed


def test_why_nodes_miss_is_said_once(page: TestClient, context: Context) -> None:
    asked = Explain(layout=VLLM_AOT, hash=OTHER, platform=PLATFORM, node="n1")
    with context.database.write() as db:
        misses.record(db, asked, explain(db, asked), context.database.now())
    said = text_of(page, "/misses")
    assert said.count("unknown hash") == 1
    assert "unknown_hash" not in said
    assert "1 node misses: unknown hash 1 time, last" in said
    assert "unknown hash" in text_of(page, "/")


def test_what_an_operator_does_is_asked_done_and_noted(page: TestClient, context: Context) -> None:
    fill(context)
    assert do(page, "pin") == f"{AT}?done=pin"
    assert "It is pinned now" in text_of(page, f"{AT}?done=pin")
    assert HASH[:16] in text_of(page, "/trees?pinned=1")
    key = key_in(page, f"{AT}/delete")
    assert page.post(f"{AT}/delete", data={"key": key}).status_code == 409
    do(page, "unpin")
    do(page, "quarantine", reason="driver 590 crashes")
    assert miss(context.database).reason == "quarantined"
    assert HASH[:16] in text_of(page, "/trees?quarantined=1")
    assert "quarantined 1 missing" in text_of(page, f"/trees?search={HASH[:8]}")
    do(page, "pin")
    do(page, "unpin")
    assert "driver 590 crashes" in text_of(page, AT)
    do(page, "release")
    assert HASH[:16] in text_of(page, "/trees")
    assert do(page, "delete") == "/trees?done=delete"
    assert text_of(page, AT, 404)
    noted = text_of(page, "/audit")
    for action in ("pin", "unpin", "quarantine", "release", "delete"):
        assert f" {action} default/{VLLM_AOT}/{HASH}" in noted, action
    assert "reason driver 590 crashes" in noted
    assert "no action" in text_of(page, AT.replace(HASH, OTHER) + "/explode", 404)


@pytest.mark.parametrize("action", ["pin", "delete", "quarantine"])
def test_a_form_of_somebody_else_does_nothing(
    page: TestClient, context: Context, action: str
) -> None:
    fill(context)
    key = key_in(page, f"{AT}/{action}")
    at, form = f"{AT}/{action}", {"reason": "x"} if action == "quarantine" else {}
    refused = (
        page.post(at, data={**form, "key": ""}),
        page.post(at, data={**form, "key": "0" * 64}),
        page.post(at, data={**form, "key": key}, headers={"Origin": "https://evil.example"}),
        page.post(at, data={**form, "key": key}, headers={"Sec-Fetch-Site": "cross-site"}),
        page.post(at, data={**form, "key": key}, headers={"Host": "evil.example"}),
    )
    assert [answer.status_code for answer in refused] == [403] * len(refused)
    wrong = (
        page.post(at, json={**form, "key": key}),
        page.post(at, data={**form, "key": key, "more": "1"}),
        page.post(
            at, content=b"\xff=\xfe", headers={"Content-Type": "application/x-www-form-urlencoded"}
        ),
    )
    assert [answer.status_code for answer in wrong] == [400] * len(wrong)
    page.cookies.clear()
    assert page.post(at, data={**form, "key": key}).status_code == 403
    assert HASH[:16] in text_of(page, "/trees")
    assert HASH[:16] not in text_of(page, "/trees?pinned=1")
    assert "Nothing yet" in text_of(page, "/audit")


def test_another_name_of_this_machine_is_not_let_in(page: TestClient) -> None:
    for host, status in (
        ("evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("10.0.0.1", 403),
        ("localhost:8750", 200),
        ("[::1]:8750", 200),
        ("127.0.0.2", 200),
    ):
        assert page.get("/trees", headers={"Host": host}).status_code == status, host


def make_token(context: Context, scope: str = "admin", namespaces: tuple[str, ...] = ("*",)) -> str:
    with context.database.write() as db:
        made = tokens.create(db, name="n", scope=scope, namespaces=namespaces, now=NOW)
    return made.text


def test_sign_in(page: TestClient, context: Context) -> None:
    fill(context)
    admin, reader = make_token(context), make_token(context, "read")
    for path in ("/", "/trees", AT, "/misses", "/audit", f"{AT}/delete"):
        answer = page.get(path, follow_redirects=False)
        assert answer.status_code == 303
        assert unquote(answer.headers["location"]) == f"/sign-in?to={path}"
        assert HASH[:16] not in answer.text
    assert page.post(f"{AT}/pin", data={}, follow_redirects=False).status_code == 303
    for wrong in ("", "no token", reader, admin[:-1] + "_"):
        refused = page.post("/sign-in", data={"token": wrong})
        assert refused.status_code == 403
        assert not wrong or wrong not in refused.text
        assert "set-cookie" not in refused.headers
    entered = page.post(f"/sign-in?to={AT}", data={"token": admin}, follow_redirects=False)
    assert (entered.status_code, entered.headers["location"]) == (303, AT)
    said = entered.headers["set-cookie"].lower()
    assert all(word in said for word in ("httponly", "samesite=lax", "path=/"))
    assert admin[-43:].lower() not in said
    assert "42.5 s" in text_of(page, AT)
    do(page, "pin")
    assert f"pin default/{VLLM_AOT}" in (noted := text_of(page, "/audit"))
    assert admin.split("_")[1] in noted
    # Elsewhere it is shown to nobody, and a token's end is that of whom it signed in.
    key = key_in(page, "/")
    assert page.post("/sign-out", data={"key": key}, follow_redirects=False).status_code == 303
    assert page.get("/trees", follow_redirects=False).status_code == 303
    page.post("/sign-in", data={"token": admin})
    assert page.get("/trees", follow_redirects=False).status_code == 200
    with context.database.write() as db:
        tokens.revoke(db, admin.split("_")[1], NOW)
    assert page.get("/trees", follow_redirects=False).status_code == 303


@pytest.mark.parametrize("to", ["https://evil.example/", "//evil.example", "/\\evil.example", ""])
def test_signing_in_leads_nowhere_else(page: TestClient, context: Context, to: str) -> None:
    admin = make_token(context)
    entered = page.post(
        "/sign-in", params={"to": to}, data={"token": admin}, follow_redirects=False
    )
    assert entered.headers["location"] == "/"


def test_an_admin_of_one_namespace_sees_no_other(page: TestClient, context: Context) -> None:
    fill(context)
    publish(context.database, context.store, tree_hash="c" * 64, namespace="team-a")
    page.post("/sign-in", data={"token": make_token(context, namespaces=("team-a",))})
    said = text_of(page, "/trees")
    assert "c" * 16 in said
    for foreign in (HASH[:16], RECIPE.model, "node-2"):
        assert foreign not in said
    for action in ("", "/files", "/pin", "/delete"):
        assert "may not" in text_of(page, AT + action, 403)
    key = key_in(page, "/")
    assert page.post(f"{AT}/delete", data={"key": key}).status_code == 403
    assert "Trees 1" in text_of(page, "/")


HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"


def test_what_is_hostile_is_shown_as_text(page: TestClient, context: Context) -> None:
    from dataclasses import replace

    recipe = replace(RECIPE, model=HOSTILE)
    publish(context.database, context.store, b"x", recipe=recipe, publisher=HOSTILE)
    told = Outcome(
        layout=VLLM_AOT,
        hash=HASH,
        platform=PLATFORM.id,
        part="shared",
        generation=1,
        outcome="load_failed",
        node=HOSTILE,
        reason=HOSTILE,
    )
    quarantine.tell(context.database, context.store, told, token="", nodes=1, now=NOW)
    asked = Explain(layout=VLLM_AOT, hash=OTHER, platform=PLATFORM, recipe=recipe, node=HOSTILE)
    with context.database.write() as db:
        misses.record(db, asked, explain(db, asked), NOW)
    paths = [
        "/",
        "/trees?quarantined=1",
        AT,
        "/misses",
        f"{AT}/release",
        f"/trees?search={HOSTILE}",
    ]
    paths += [
        f"/trees?{name}={HOSTILE}" for name in ("model", "publisher", "sort", "cursor", "done")
    ]
    for path in paths:
        answer = page.get(path)
        assert answer.headers["content-type"].startswith("text/html")
        assert "<script" not in answer.text, path
        assert "<img" not in answer.text, path
        assert "script-src" not in answer.headers["content-security-policy"]
        assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert HOSTILE in html.unescape(page.get(AT).text)


def test_a_website_in_a_browser_here_is_not_let_in(page: TestClient, context: Context) -> None:
    """Under a name of its own that leads to this machine, or from its own pages."""
    fill(context)
    away = f"/v1/trees/{HASH}"
    for headers in (
        {"Host": "evil.example:8750"},
        {"Host": "127.0.0.1.evil.example"},
        {"Host": "evil.example:99999"},
        {"Host": "["},
        {"Sec-Fetch-Site": "cross-site"},
        {"Origin": "http://evil.example"},
        {"Origin": "http://["},
    ):
        assert page.delete(away, headers=headers).status_code == 403, headers
        assert page.post("/v1/collect", json={}, headers=headers).status_code == 403, headers
    assert page.get("/v1/trees", headers={"Host": "evil.example"}).status_code == 403
    assert page.get("/v1/trees").json()["trees"]
    # With a token it may have any name, as behind a proxy.
    token = {"Authorization": f"Bearer {make_token(context)}", "Host": "cache.example"}
    assert page.get("/v1/trees", headers=token).status_code == 200


def test_behind_a_proxy_that_ends_tls(page: TestClient, context: Context) -> None:
    admin = {"token": make_token(context)}
    for headers in (
        {"X-Forwarded-Proto": "https", "Host": "cache.example"},
        {"Sec-Fetch-Site": "same-origin", "Origin": "https://cache.example"},
    ):
        entered = page.post("/sign-in", data=admin, headers=headers, follow_redirects=False)
        assert entered.status_code == 303
        assert "; Secure" in entered.headers["set-cookie"]
        cookie = entered.headers["set-cookie"].partition(";")[0]
        later = page.get("/trees", headers={"Cookie": cookie, "Host": "cache.example"})
        assert (later.status_code, "set-cookie" in later.headers) == (200, False)


def test_what_fails_is_noted_too(page: TestClient, context: Context) -> None:
    fill(context)
    do(page, "pin")
    key = key_in(page, f"{AT}/delete")
    assert page.post(f"{AT}/delete", data={"key": key}).status_code == 409
    assert "failed: default/vllm-aot" in text_of(page, "/audit")
    page.delete(f"/v1/trees/{HASH}")
    assert text_of(page, "/audit").count("failed: ") == 2


def test_an_earlier_generation_is_served(page: TestClient, context: Context) -> None:
    fill(context)
    assert "Serve an earlier generation" not in text_of(page, AT)
    publish(context.database, context.store, b"grown", generation=2)
    publish(context.database, context.store, b"more", generation=3)
    assert "Serve an earlier generation" in text_of(page, AT)
    key = key_in(page, f"{AT}/earlier")
    for after, status in (("x", 400), ("3", 404), ("99999999", 404)):
        form = {"key": key, "reason": "slow", "part": "shared", "after": after}
        assert page.post(f"{AT}/earlier", data=form).status_code == status, after
    do(page, "earlier", part="shared", after="1", reason="slow")
    assert hit(context.database).parts[0].generation == 1
    said = text_of(page, AT)
    assert "quarantined from generation 2 up to generation 3" in said
    do(page, "release")
    assert hit(context.database).parts[0].generation == 3


def test_wrong_requests_get_a_page(page: TestClient) -> None:
    cursor = "WyJoYXNoIiwiZGVzYyIsIlx1ZDgwMCIsMV0"  # a lone surrogate
    assert "That cannot be" in text_of(page, f"/trees?sort=hash&cursor={cursor}", 400)
    assert "That cannot be" in text_of(page, "/audit?before=x", 422)
