"""The pages in a real browser, on a real service that real publishes filled."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from aotcache.errors import PinnedError
from aotcache.net.http import HttpClient
from aotcache.probe.trees import FoundTree
from aotcache.protocol.names import VLLM_AOT
from aotcache.protocol.v1.collect import Collect, Keep
from aotcache.protocol.v1.explain import Explain
from aotcache.protocol.v1.lookup import Lookup
from aotcache.protocol.v1.outcomes import Outcome
from aotcache.protocol.v1.quarantine import Quarantine
from aotcache.remote.index import Index
from aotcache.storage import http_store
from aotcache.sync.site import Site
from aotcache_service.index import history
from aotcache_service.index.database import Database
from support.browser import chromium, violations
from support.site import Service, aotcache, printed, publish_tree, run
from support.small import add, record, small_tree
from support.trees import H100, RECIPE

_OWN = "document.title='owned'"
HOSTILE = f"""<script>{_OWN}</script>"'><img src=x onerror="{_OWN}">"""
MODELS = ("org/llama-3-70b", "org/qwen3-32b", "org/mixtral-8x22b")
TROUBLED = "org/deepseek-v3"
DRIFTING = "org/phi-4"
RAY = "env.VLLM_RAY_BUNDLE_INDICES"
FACTORS = {"code": "b1946ac92492d234", "config": "591785b794601e21", "env": "2cd6ee2c70b0bde5"}
FACTORS |= {"env.VLLM_USE_DEEP_GEMM": "1", "env.VLLM_FUSED_MOE_CHUNK_SIZE": "16384", RAY: "0,1"}
WIDE = {"width": 1400, "height": 900}
HOUR = 3600


@dataclass
class Filled:
    service: Service
    token: str
    trees: dict[str, FoundTree]

    @property
    def url(self) -> str:
        return self.service.url

    def site(self) -> Site:
        """With the admin's token."""
        client = HttpClient(self.url, token=self.token)
        return replace(self.service.site(), index=Index(client), store=http_store(client))

    def at(self, model: str) -> str:
        return f"/trees/default/{VLLM_AOT}/{self.trees[model].hash}/{H100.id}"


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Filled]:
    home = tmp_path_factory.mktemp("pages")
    with run(home / "service") as service:
        site, trees = service.site(), {}
        for number, model in enumerate(MODELS):
            recipe = replace(RECIPE, model=model)
            ranks = (0, 1) if number == 0 else (0,)
            tree = small_tree(home / model[:5], name=model, ranks=ranks, cpp=True, recipe=recipe)
            for rank in ranks:
                part = f"rank_{rank}_0-d{rank}"
                about = {"compile_seconds": 184.2 + number, "hash_factors": FACTORS}
                record(Path(tree.path), part, recipe=recipe, **about)
            publish_tree(site, tree)
            trees[model] = tree
            for back in range(number + 1):
                _use(site.index, tree, node=f"node-{back}")
        trees[TROUBLED] = _trouble(site, home / "trouble")
        trees |= _drift(site, home / "drift")
        _miss(site.index)
        _yesterday(service.data)
        _until_counted(site.index)
        words = ("token", "create", "--data-dir", str(service.data), "--scope", "admin", "--json")
        words += ("--namespace", "*")
        yield Filled(service, str(printed(aotcache(*words))["token"]), trees)


def _use(index: Index, tree: FoundTree, node: str) -> None:
    about: dict[str, Any] = {"layout": tree.layout, "hash": tree.hash}
    index.lookup(Lookup(**about, platform=H100))
    about |= {"platform": H100.id, "generation": 1, "seconds": 0.8, "bytes": 40_000, "node": node}
    index.outcome(Outcome(**about, part="rank_0_0-d0", outcome="loaded"))


def _trouble(site: Site, home: Path) -> FoundTree:
    """Two ranks of four, one of which crashed; the kernels are those of an earlier generation."""
    recipe = replace(RECIPE, model=TROUBLED, tensor_parallel_size=4)
    tree = small_tree(home, name=TROUBLED, ranks=(0, 1), cpp=True, recipe=recipe)
    every = ("shared", *(f"rank_{rank}_0-d{rank}" for rank in range(4)))
    for part in every[1:3]:
        record(Path(tree.path), part, recipe=recipe, expected_parts=every, compile_seconds=903.0)
    publish_tree(site, tree)
    add(tree.path, "inductor_cache/zz/czzgrown.py", b"# grown\n" * 900)
    publish_tree(site, tree)
    about = {"layout": tree.layout, "hash": tree.hash}
    for node in ("gpu-1", "gpu-2", "gpu-3"):
        told = {"platform": H100.id, "generation": 1, "node": node, "reason": "SIGSEGV"}
        site.index.outcome(Outcome(**about, **told, part=every[2], outcome="crashed"))
    site.index.quarantine(
        Quarantine(**about, part="shared", after=1, reason="kernels of the second are slower")
    )
    return tree


def _drift(site: Site, home: Path) -> dict[str, FoundTree]:
    """A recipe with many hashes, one of them pinned."""
    recipe, trees = replace(RECIPE, model=DRIFTING), {}
    for number in range(4):
        name = f"{DRIFTING} {number}"
        trees[name] = small_tree(home / str(number), name=name, cpp=True, recipe=recipe)
        publish_tree(site, trees[name])
    kept = trees[f"{DRIFTING} 0"].hash
    site.index.pin(kept)
    with suppress(PinnedError):
        site.index.delete(kept)
    return trees


def _until_counted(index: Index) -> None:
    """Lookups are written after seconds; and a collection has ended."""
    end = time.monotonic() + 60
    state = index.collect(Collect(keep=Keep(days=30)))
    while state.running:
        state = index.collection()
    while not any(tree.lookups for tree in index.trees().trees):
        assert time.monotonic() < end
        time.sleep(0.1)


def _miss(index: Index) -> None:
    for number in range(14):
        indices = f"{2 * number + 2},{2 * number + 3}"
        asked = Explain(
            layout=VLLM_AOT,
            hash=f"{number:064x}",
            platform=H100,
            recipe=replace(RECIPE, model=MODELS[0]),
            hash_factors=FACTORS | {"env": f"{number:016x}", RAY: indices},
            node=f"ray-{number}",
        )
        index.explain(asked)
    for node in ("dev-1", "dev-2"):
        new = replace(RECIPE, model="org/never-published")
        index.explain(Explain(layout=VLLM_AOT, hash="e" * 64, platform=H100, recipe=new, node=node))
    for number in range(40):
        asked = Explain(
            layout=VLLM_AOT,
            hash="f" * 64,
            platform=replace(H100, torch="2.14.0+cu130"),
            recipe=replace(RECIPE, model=MODELS[0]),
            node=f"gpu-{number}",
        )
        index.explain(asked)


def _yesterday(data: Path) -> None:
    """What the last days were like; only the charts know."""
    database = Database(f"sqlite:///{data}/index.sqlite3")
    hour = int(time.time()) // HOUR * HOUR
    amounts: dict[history.Place, float] = {}
    for back in range(1, 24 * 7):
        busy = 1 + (back * 7 % 24) + (back % 5)
        for what, value in (
            (history.HIT, 40 * busy),
            (history.MISS + "unknown_hash", 3 * busy),
            (history.MISS + "other_platform", back % 3),
            (history.OUTCOME + "loaded", 11 * busy),
            (history.OUTCOME + "load_failed", back % 2),
            (history.SAVED, 700.0 * busy),
            (history.PULLED, 4e9 * busy),
            (history.PUBLISHED, 5e8 * (back % 4)),
            (history.STORED, 9e10 - back * 3e8),
        ):
            amounts["default", hour - back * HOUR, what] = float(value)
    with database.write() as db:
        history.add(db, amounts)
    database.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture
def page(browser: Browser, filled: Filled) -> Iterator[Page]:
    """Signed in."""
    context = browser.new_context(base_url=filled.url, viewport=WIDE)
    found = context.new_page()
    sign_in(found, filled.token)
    yield found
    context.close()


def sign_in(page: Page, token: str) -> None:
    page.goto("/")
    page.get_by_label("Admin token").fill(token)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("button", name="Sign out")).to_be_visible()


def listed(page: Page) -> Locator:
    """To be expected, not read: a form's answer may still be on its way."""
    return page.locator("tbody th a.mono")


def hashes(page: Page, count: int) -> list[str]:
    expect(listed(page)).to_have_count(count)
    return [text.strip() for text in listed(page).all_inner_texts()]


PAGES = (
    "overview",
    "trees",
    "tree",
    "trouble",
    "confirm",
    "files",
    "misses",
    "audit",
    "sign-in",
    "error",
)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_each_page_in_both_themes(
    browser: Browser, filled: Filled, tmp_path: Path, theme: Any
) -> None:
    """AOTCACHE_SCREENSHOTS: the folder that they are kept in."""
    kept = Path(os.environ.get("AOTCACHE_SCREENSHOTS") or tmp_path)
    at = filled.at(MODELS[0])
    context = browser.new_context(base_url=filled.url, viewport=WIDE, color_scheme=theme)
    page = context.new_page()
    page.goto("/sign-in")
    wrong: dict[str, list[str]] = {"sign-in": violations(page)}
    page.screenshot(path=kept / f"sign-in-{theme}.png", full_page=True)
    sign_in(page, filled.token)
    trouble = filled.at(TROUBLED)
    addresses = ("/", "/trees", at, trouble, f"{at}/quarantine", f"{at}/files", "/misses", "/audit")
    for name, path in zip(PAGES, addresses, strict=False):
        page.goto(path)
        wrong[name] = violations(page)
        page.screenshot(path=kept / f"{name}-{theme}.png", full_page=True)
    page.goto(at.replace("default", "none"))
    wrong["error"] = violations(page)
    page.screenshot(path=kept / f"error-{theme}.png", full_page=True)
    context.close()
    assert set(wrong) == set(PAGES)
    assert {name: found for name, found in wrong.items() if found} == {}


def test_what_is_wrong_is_said(page: Page, filled: Filled) -> None:
    page.goto(filled.at(TROUBLED))
    said = page.locator("main").inner_text()
    for piece in (
        "Stored, and not served: rank_1_0-d1",
        "Not stored yet: rank_2_0-d2, rank_3_0-d3",
        "shared is quarantined from generation 2 up to generation 2",
        "gpu-3: crashed (SIGSEGV)",
    ):
        assert piece in said, piece
    states = page.locator("table").first.locator("td:nth-child(3)").all_inner_texts()
    assert states == ["served", "quarantined", "quarantined", "served"]
    page.goto("/")
    drift = page.get_by_role("region", name="One recipe, many hashes")
    assert re.search(rf"{DRIFTING}\t{H100.device}.*\t4\t1", drift.inner_text(), re.DOTALL)
    expect(page.get_by_text("1 pinned")).to_be_visible()
    page.goto("/misses")
    headings = page.get_by_role("heading", level=2)
    expect(headings).to_have_text(
        [
            "40 nodes miss: platform torch differs",
            f"14 nodes miss: {RAY} differs",
            "2 nodes miss: unknown hash",
        ]
    )


def test_sign_in_and_out(browser: Browser, filled: Filled) -> None:
    context = browser.new_context(base_url=filled.url)
    page = context.new_page()
    page.goto(filled.at(MODELS[0]))
    assert page.url.startswith(f"{filled.url}/sign-in")
    page.get_by_label("Admin token").fill("wrong")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_contain_text("refused")
    page.get_by_label("Admin token").fill(filled.token)
    page.get_by_role("button", name="Sign in").click()
    expect(page).to_have_url(filled.url + filled.at(MODELS[0]))
    (cookie,) = context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Lax")
    assert filled.token[-43:] not in json.dumps(context.storage_state())
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_label("Admin token")).to_be_visible()
    page.goto("/trees")
    assert "/sign-in" in page.url
    context.close()


def test_search_sort_and_filter(page: Page, filled: Filled) -> None:
    page.get_by_role("link", name="Trees").click()
    every = {tree.hash[:16] for tree in filled.trees.values()}
    assert set(hashes(page, len(every))) == every
    page.get_by_label("Hash or model").fill("QWEN")
    page.get_by_role("button", name="Show").click()
    expect(listed(page)).to_have_text([filled.trees[MODELS[1]].hash[:16]])
    page.get_by_label("Hash or model").fill(filled.trees[MODELS[2]].hash[:10])
    page.get_by_label("Hash or model").press("Enter")
    expect(listed(page)).to_have_text([filled.trees[MODELS[2]].hash[:16]])
    page.get_by_role("link", name="Clear").click()
    page.get_by_role("combobox", name="Model").select_option(MODELS[0])
    page.get_by_role("button", name="Show").click()
    expect(listed(page)).to_have_text([filled.trees[MODELS[0]].hash[:16]])
    page.goto("/trees")
    page.get_by_role("link", name="Hash", exact=True).click()
    expect(listed(page)).to_have_text(sorted(every, reverse=True))
    page.get_by_role("link", name=re.compile("^Hash")).click()
    expect(listed(page)).to_have_text(sorted(every))
    expect(page.locator("th[aria-sort]")).to_have_attribute("aria-sort", "ascending")


def test_pin_quarantine_release_and_delete(page: Page, filled: Filled) -> None:
    at = filled.at(MODELS[2])

    def act(action: str) -> None:
        page.goto(at)
        page.get_by_role("link", name=action, exact=True).click()
        if action == "Quarantine":
            page.get_by_label("Reason").fill("driver 590 crashes")
        page.get_by_role("button", name=action, exact=True).click()
        expect(page.get_by_role("status")).to_be_visible()

    page.goto(at)
    page.get_by_role("link", name="Pin").click()
    page.get_by_role("link", name="No, go back").click()
    page.wait_for_url(filled.url + at)
    assert page.get_by_text("pinned", exact=True).count() == 0
    act("Pin")
    assert "pinned now" in page.get_by_role("status").inner_text()
    assert page.get_by_role("link", name="Delete").count() == 0
    act("Unpin")
    act("Quarantine")
    assert "driver 590 crashes" in page.content()
    page.goto("/trees?quarantined=1")
    wanted = {filled.trees[model].hash[:16] for model in (MODELS[2], TROUBLED)}
    assert set(hashes(page, 2)) == wanted
    act("Release")
    assert "served again" in page.get_by_role("status").inner_text()
    act("Delete")
    assert page.url.endswith("/trees?done=delete")
    assert filled.trees[MODELS[2]].hash[:16] not in hashes(page, len(filled.trees) - 1)
    page.get_by_role("link", name="Audit").click()
    page.wait_for_url("**/audit")
    said = page.locator("tbody").inner_text()
    for action in ("pin", "unpin", "quarantine", "release", "delete"):
        assert re.search(rf"\b{action}\t.*{filled.trees[MODELS[2]].hash}", said), action


def test_a_form_of_another_website_is_refused(page: Page, filled: Filled) -> None:
    """Signed in, and lured to a page that posts to this service."""
    at = filled.url + filled.at(MODELS[1]) + "/delete"
    port = filled.url.rpartition(":")[2]
    page.route(
        "http://evil.localhost/",
        lambda route: route.fulfill(
            content_type="text/html",
            body=f'<form method="post" action="{at}"><button>win</button></form>',
        ),
    )
    page.goto("http://evil.localhost/")
    page.get_by_role("button").click()
    page.wait_for_url(f"**:{port}/**")
    assert "another website" in page.content() or "/sign-in" in page.url
    page.goto(filled.at(MODELS[1]))
    assert page.get_by_role("link", name="Delete").count() == 1


def test_a_hostile_name_is_text(page: Page, filled: Filled, tmp_path: Path) -> None:
    recipe = replace(RECIPE, model=HOSTILE)
    tree = small_tree(tmp_path, name="hostile", cpp=True, recipe=recipe)
    publish_tree(filled.site(), tree)
    filled.trees[HOSTILE] = tree
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("dialog", lambda dialog: said.append(dialog.message))
    for path in ("/", "/trees", filled.at(HOSTILE), filled.at(HOSTILE) + "/delete", "/misses"):
        page.goto(path)
        assert "owned" not in page.title()
        assert page.locator("main img, main script").count() == 0
    page.goto(filled.at(HOSTILE))
    assert HOSTILE in page.locator("main").inner_text()
    assert said == []


def test_by_keyboard_alone(page: Page, filled: Filled) -> None:
    page.goto("/trees")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to content"
    page.keyboard.press("Enter")
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.className") == "mono":
            break
    page.keyboard.press("Enter")
    page.wait_for_url(f"{filled.url}/trees/default/**")


def test_a_narrow_screen_does_not_scroll_sideways(browser: Browser, filled: Filled) -> None:
    context = browser.new_context(base_url=filled.url, viewport={"width": 390, "height": 800})
    page = context.new_page()
    sign_in(page, filled.token)
    for path in ("/", "/trees", filled.at(TROUBLED), "/misses", "/audit"):
        page.goto(path)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, path
    context.close()


def test_a_page_of_many(page: Page, filled: Filled, tmp_path: Path) -> None:
    for number in range(60):
        tree = small_tree(tmp_path / f"{number}", name=f"many {number}", model_bytes=100)
        publish_tree(filled.site(), tree)
    page.goto("/trees?sort=created&order=desc")
    first = hashes(page, 50)
    page.get_by_role("link", name="Next page").click()
    expect(listed(page).first).not_to_have_text(first[0])
    second = [text.strip() for text in listed(page).all_inner_texts()]
    assert len(second) >= 10
    assert not set(first) & set(second)
    page.get_by_role("link", name="First page").click()
    expect(listed(page)).to_have_text(first)
