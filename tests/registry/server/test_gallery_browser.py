"""The gallery in a real browser: what people do, whether everybody can, and on a phone."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from adapterhub_registry.server.gallery.sessions import SESSION
from tests.registry.conftest import weights_bytes
from tests.registry.server.conftest import Served, serving
from tests.registry.server.galleries import fill

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("gallery")) as served:
        fill(served.registry, tmp_path_factory.mktemp("files"))
        yield served


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Browser, gallery: Served) -> Iterator[Page]:
    """A page of a new visitor, on which nothing may go wrong and nothing may come from elsewhere."""
    context = chromium.new_context(base_url=gallery.url)
    found = context.new_page()
    wrong: list[str] = []
    found.on("pageerror", lambda error: wrong.append(str(error)))
    found.on(
        "console", lambda said: wrong.append(said.text) if "Content Security Policy" in said.text else None
    )
    found.on(
        "request", lambda asked: wrong.append(asked.url) if not asked.url.startswith(gallery.url) else None
    )
    yield found
    context.close()
    assert wrong == []


def sign_in(page: Page, gallery: Served, user: str) -> None:
    page.goto("/login")
    page.get_by_label("Token").fill(gallery.tokens[user])
    page.locator("main").get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/")


def names(page: Page) -> list[str]:
    return page.locator(".card .name").all_inner_texts()


def test_one_searches_and_narrows(page: Page) -> None:
    page.goto("/")
    assert sorted(names(page)) == ["acme/corgi", "acme/ink", "acme/paper"]
    page.get_by_role("searchbox", name="Search adapters").fill("ink")
    page.keyboard.press("Enter")
    page.wait_for_url("**/?q=ink*")
    assert names(page) == ["acme/ink"]
    page.goto("/")
    page.get_by_role("complementary").get_by_role("link", name="style 2 adapters").click()
    page.wait_for_url("**/?kind=style*")
    page.get_by_role("complementary").get_by_role("link", name="CC0-1.0").click()
    page.wait_for_url("**licence=CC0-1.0*")
    assert names(page) == ["acme/paper"]
    page.get_by_role("link", name="Remove the filter kind style").click()
    page.wait_for_url(lambda url: "kind" not in url)
    assert sorted(names(page)) == ["acme/corgi", "acme/paper"]
    assert (
        page.locator(".card img").first.evaluate(
            "picture => picture.decode().then(() => picture.naturalWidth)"
        )
        == 640
    )


def test_an_adapter_page_has_tabs_and_copies(page: Page) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.goto("/acme/ink")
    page.get_by_role("button", name="Copy wash").click()
    expect(page.get_by_role("status")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == "wash"
    expect(page.get_by_role("tabpanel")).to_contain_text("adapterhub generate")
    page.get_by_role("tab", name="Command line").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="diffusers")).to_be_focused()
    expect(page.get_by_role("tabpanel")).to_contain_text("load_lora_weights")
    page.get_by_text("things changed").click()
    expect(page.get_by_role("table")).to_contain_text("MIT")


def test_two_are_compared(page: Page) -> None:
    page.goto("/acme/ink")
    page.get_by_role("complementary").get_by_role("link", name="Compare").click()
    page.get_by_label("Second").fill("acme/corgi")
    page.get_by_role("button", name="Compare").click()
    expect(page.get_by_role("table")).to_contain_text("corgiword")
    expect(page.get_by_role("row", name="trigger words (differs)")).to_be_visible()


def test_one_signs_in_uploads_and_signs_out(page: Page, gallery: Served, tmp_path: Path) -> None:
    (tmp_path / "new.safetensors").write_bytes(weights_bytes(800))
    Image.new("RGB", (60, 60), (0, 120, 90)).save(tmp_path / "new.jpg")
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    sign_in(page, gallery, "bob")
    assert "acme/glow" in names(page)
    page.get_by_role("link", name="Upload").click()
    page.get_by_role("combobox", name="Namespace").select_option("acme")
    page.get_by_label("Name", exact=True).fill("sea-glass")
    page.get_by_label("Weights").set_input_files(tmp_path / "bad.safetensors")
    page.get_by_label("Trigger words").fill("seaglass")
    page.get_by_role("button", name="Publish").click()
    expect(page.get_by_role("alert")).to_contain_text("bad.safetensors")
    page.get_by_label("Weights").set_input_files(tmp_path / "new.safetensors")
    page.locator("input[name=pictures]").set_input_files(tmp_path / "new.jpg")
    page.get_by_role("button", name="Publish").click()
    page.wait_for_url("**/acme/sea-glass?version=1")
    expect(page.get_by_role("complementary")).to_contain_text("seaglass")
    assert (
        page.locator("figure img").evaluate("picture => picture.decode().then(() => picture.naturalWidth)")
        >= 60
    )
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url("**/")
    assert "acme/sea-glass" not in names(page)
    assert not [found for found in page.context.cookies() if found["name"] == SESSION]
    page.goto("/acme/sea-glass")
    expect(page.get_by_role("heading", level=1)).to_have_text("There is nothing here")


def test_the_next_page_comes_into_the_same_one(chromium: Browser, tmp_path: Path) -> None:
    with serving(tmp_path / "home") as served:
        for number in range(26):
            (tmp_path / "w.safetensors").write_bytes(weights_bytes(number))
            name = served.registry.add(tmp_path / "w.safetensors", name=f"acme/a{number:02}").name
            served.registry.set_visibility(name, "public")
        page = chromium.new_page()
        page.goto(f"{served.url}/?sort=name")
        assert len(names(page)) == 24
        page.get_by_role("link", name="Show more").click()
        expect(page.locator(".card")).to_have_count(26)
        expect(page.get_by_role("link", name="Show more")).to_have_count(0)
        assert names(page) == sorted(names(page))
        page.close()


def test_dark_is_chosen_and_stays(page: Page) -> None:
    page.emulate_media(color_scheme="light")
    page.goto("/")

    def ground() -> str:
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    light = ground()
    page.get_by_role("button", name="Dark or light").click()
    dark = ground()
    page.goto("/acme/ink")
    assert ground() == dark != light


def test_pages_work_without_script_and_by_keyboard(chromium: Browser, gallery: Served) -> None:
    context = chromium.new_context(base_url=gallery.url, java_script_enabled=False)
    page = context.new_page()
    page.goto("/")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.get_by_role("searchbox").fill("corgi")
    page.keyboard.press("Enter")
    page.wait_for_url("**q=corgi*")
    page.get_by_role("link", name="Corgi", exact=True).click()
    expect(page.get_by_role("heading", name="diffusers")).to_be_visible()
    context.close()


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_everybody_can_use_every_page(chromium: Browser, gallery: Served, scheme: str, width: int) -> None:
    context = chromium.new_context(
        base_url=gallery.url,
        color_scheme="dark" if scheme == "dark" else "light",
        viewport={"width": width, "height": 844},
    )
    page = context.new_page()
    addresses = ["/?tag=soft", "/acme/ink", "/compare?first=acme/ink%401&second=acme/ink%402", "/login"]
    for address in [*addresses, "/upload", "/none/such"]:
        if address == "/upload":
            sign_in(page, gallery, "bob")
        page.goto(address)
        for closed in page.locator("details:not([open]) > summary:visible").all():
            closed.click()
        found = Axe().run(page).response["violations"]
        wrong = [
            (item["id"], item["nodes"][0]["html"])
            for item in found
            if item["impact"] in ("serious", "critical")
        ]
        assert wrong == [], address
        assert page.evaluate("document.documentElement.scrollWidth") <= width, address
    context.close()
