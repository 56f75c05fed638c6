"""Signing in to the gallery: what a session may, when it ends, and which forms are taken."""

import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest

from adapterhub_registry.server.gallery import sessions
from adapterhub_registry.server.gallery.doors import local_path
from adapterhub_registry.server.people import People
from adapterhub_registry.server.tokens import Tokens
from tests.registry.server.conftest import Served, serving
from tests.registry.server.galleries import Browser, Page, fill


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("gallery")) as served:
        fill(served.registry, tmp_path_factory.mktemp("files"))
        yield served


def signed_in(gallery: Served, user: str = "rita") -> tuple[Browser, int]:
    """A browser with a session of a new token, and the token's number; the form is tried elsewhere."""
    tokens = Tokens(gallery.registry.database)
    _, token = tokens.add(user)
    made = sessions.Sessions(tokens, People(gallery.registry.database), signer_of(gallery))
    text, _ = made.begin(token)
    return Browser(gallery, {sessions.SESSION: text}), token.id


def signer_of(gallery: Served) -> sessions.Signer:
    return sessions.Signer(gallery.registry.home)


def sees_private(browser: Browser) -> bool:
    return browser.get("/acme/glow").status == 200


def test_one_signs_in_with_a_token_and_out_again(gallery: Served) -> None:
    browser = Browser(gallery)
    assert not sees_private(browser)
    answer = browser.sign_in(gallery.tokens["rita"], next="/acme/glow")
    assert (answer.status, answer.headers["location"]) == (303, "/acme/glow")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert gallery.tokens["rita"].removeprefix("ahub_") not in cookie
    assert sees_private(browser)
    page = Page(browser.get("/"))
    assert "rita" in page.text
    copied = Browser(gallery, dict(browser.cookies))
    assert browser.post("/logout", page.fields).status == 303
    assert not browser.session
    assert not sees_private(browser)
    assert not sees_private(copied)  # a copy of the cookie is worth nothing either


def test_a_wrong_token_is_told_and_many_are_stopped(tmp_path: Path) -> None:
    with serving(tmp_path / "home") as served:
        browser = Browser(served)
        answers = [browser.sign_in("ahub_wrong") for _ in range(11)]
        assert {answer.status for answer in answers[:10]} == {400}
        assert "unknown here" in Page(answers[0]).text
        assert answers[10].status == 429
        assert int(answers[10].headers["retry-after"]) > 0
        assert browser.sign_in(served.tokens["rita"]).status == 429
        assert not browser.session


def test_over_tls_the_cookie_goes_by_tls_alone(gallery: Served) -> None:
    browser = Browser(gallery)
    fields = Page(browser.get("/login")).fields
    answer = browser.post(
        "/login", {**fields, "token": gallery.tokens["rita"]}, **{"X-Forwarded-Proto": "https"}
    )
    assert "Secure" in answer.headers["set-cookie"]


def test_a_session_ends_with_its_token(gallery: Served) -> None:
    browser, number = signed_in(gallery)
    assert sees_private(browser)
    Tokens(gallery.registry.database).remove(number)
    assert not sees_private(browser)
    _, again = signed_in(gallery)
    assert again == number  # the database gives the number once more, to another token
    assert not sees_private(browser)


def test_a_session_ends_after_its_hours(gallery: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    browser, _ = signed_in(gallery)
    now = time.time()
    monkeypatch.setattr(sessions.time, "time", lambda: now + sessions.HOLDS_S - 5)
    assert sees_private(browser)
    monkeypatch.setattr(sessions.time, "time", lambda: now + sessions.HOLDS_S + 5)
    assert not sees_private(browser)


def test_a_session_holds_no_longer_than_its_token(gallery: Served) -> None:
    tokens = Tokens(gallery.registry.database)
    _, token = tokens.add("rita", days=1)
    made = sessions.Sessions(tokens, People(gallery.registry.database), signer_of(gallery))
    assert made.begin(token)[1] == sessions.HOLDS_S
    short = sessions.Token(**{**vars(token), "expires": sessions_time(60)})
    assert 50 <= made.begin(short)[1] <= 61


def sessions_time(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + seconds))


def test_a_session_that_was_changed_is_none(gallery: Served) -> None:
    browser, number = signed_in(gallery)
    start, expires, nonce, signature = browser.session.split(".")
    for text in (
        f"{number + 1}.{expires}.{nonce}.{signature}",
        f"{start}.{int(expires) + 1}.{nonce}.{signature}",
        f"{start}.{expires}.{nonce}x.{signature}",
        f"{start}.{expires}.{nonce}.{'0' * 64}",
        f"{'9' * 30}.{expires}.{nonce}.{signature}",
        "....",
        "é.1.2.3",
    ):
        browser.cookies[sessions.SESSION] = text
        assert not sees_private(browser)


def test_forms_from_elsewhere_are_refused(gallery: Served) -> None:
    browser, _ = signed_in(gallery)
    key = Page(browser.get("/")).fields["form_key"]
    stranger, _ = signed_in(gallery)
    foreign = Page(stranger.get("/")).fields["form_key"]
    for values, headers in (
        ({}, {}),
        ({"form_key": "0" * 64}, {}),
        ({"form_key": foreign}, {}),
        ({"form_key": key}, {"Origin": "https://evil.example"}),
        ({"form_key": key}, {"Origin": "null"}),
        ({"form_key": key}, {"Origin": "http://["}),
        ({"form_key": key}, {"Sec-Fetch-Site": "cross-site"}),
    ):
        assert browser.post("/logout", values, **headers).status == 403
        assert browser.post("/upload", values, **headers).status in (400, 403)
    assert sees_private(browser)
    good = {"Origin": gallery.url, "Sec-Fetch-Site": "same-origin"}
    assert browser.post("/logout", {"form_key": key}, **good).status == 303


def test_nobody_is_signed_in_by_a_foreign_form(gallery: Served) -> None:
    fields = Page(Browser(gallery).get("/login")).fields
    answer = Browser(gallery).post("/login", {**fields, "token": gallery.tokens["rita"]})
    assert answer.status == 403
    assert "set-cookie" not in answer.headers
    assert Browser(gallery).post("/login", {**fields, "token": ""}, Origin="http://[").status == 403


@pytest.mark.parametrize(
    "target", ["//evil.example", "https://evil.example", "/\\evil.example", "javascript:1", "/\n/x"]
)
def test_signing_in_leads_to_no_other_host(gallery: Served, target: str) -> None:
    browser, _ = signed_in(gallery)
    answer = browser.get(f"/login?{urlencode({'next': target})}")
    assert answer.headers["location"] == local_path(target) == "/"


def test_a_session_opens_pages_and_no_protocol(gallery: Served) -> None:
    browser, _ = signed_in(gallery, "alice")
    assert browser.get("/api/models/acme/glow").status == 404
    assert browser.get("/v1/adapters/acme/glow").status == 404
    assert browser.get("/api/whoami-v2").status == 401


def test_who_must_sign_in_comes_back_after(gallery: Served) -> None:
    answer = Browser(gallery).get("/upload?name=acme/ink")
    assert (answer.status, answer.headers["location"]) == (303, "/login?next=%2Fupload%3Fname%3Dacme%2Fink")
