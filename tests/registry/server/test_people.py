"""Users, organisations and tokens: who there is, and what the database keeps of it."""

import json
from pathlib import Path

import pytest

from adapterhub_cli.main import main
from adapterhub_registry.errors import FieldError, ReferenceSyntaxError
from adapterhub_registry.rows import now
from adapterhub_registry.server.errors import PersonNotFoundError, TokenNotFoundError
from adapterhub_registry.server.people import People
from adapterhub_registry.server.tokens import Tokens
from adapterhub_registry.store import Registry
from adapterhub_registry.tables import TokenRow


@pytest.fixture
def people(home: Path) -> People:
    """Alice, who owns acme, in which Bob writes."""
    people = People(Registry(home).database)
    people.add_user("Alice", title="Alice A.")
    people.add_user("bob", quota=1000)
    people.add_organisation("acme", owner="alice")
    people.set_member("acme", "bob", "writer")
    return people


def test_a_user_owns_the_namespace_of_that_name_and_has_the_roles_of_organisations(people: People) -> None:
    assert people.roles("alice") == {"alice": "owner", "acme": "owner"}
    assert people.roles("bob") == {"bob": "owner", "acme": "writer"}
    assert [(item.name, item.kind, item.quota) for item in people.namespaces()] == [
        ("acme", "organisation", None),
        ("alice", "user", None),
        ("bob", "user", 1000),
    ]
    people.remove_member("acme", "bob")
    assert people.members("acme") == {"alice": "owner"}


def test_an_organisation_always_has_an_owner(people: People) -> None:
    for change in (
        lambda: people.remove_member("acme", "alice"),
        lambda: people.set_member("acme", "alice", "reader"),
        lambda: people.remove("alice", "user"),
    ):
        with pytest.raises(FieldError, match="no other owner"):
            change()
    people.set_member("acme", "bob", "owner")
    people.remove("alice", "user")
    assert people.members("acme") == {"bob": "owner"}


@pytest.mark.parametrize("name", ["acme", "ALICE", "api", "v1"])
def test_a_name_that_is_taken_or_means_something_else_is_refused(people: People, name: str) -> None:
    with pytest.raises(FieldError):
        people.add_user(name)


@pytest.mark.parametrize("name", ["", "..", "a/b", "a--b", "x.git", "é"])
def test_a_name_that_is_no_name_is_refused(people: People, name: str) -> None:
    with pytest.raises(ReferenceSyntaxError):
        people.add_user(name)


def test_who_is_not_there_is_named(people: People) -> None:
    with pytest.raises(PersonNotFoundError) as caught:
        people.set_member("acme", "carol", "reader")
    assert (caught.value.name, caught.value.kind, caught.value.code) == ("carol", "user", "person-not-found")
    with pytest.raises(PersonNotFoundError):
        people.remove("alice", "organisation")
    with pytest.raises(FieldError, match="role"):
        people.set_member("acme", "bob", "king")


@pytest.mark.usefixtures("people")
def test_of_a_token_the_registry_keeps_the_digest_alone(home: Path) -> None:
    tokens = Tokens(Registry(home).database)
    text, made = tokens.add("alice", label="laptop")
    assert text.startswith("ahub_")
    assert len(text) == len("ahub_") + 43  # 256 bits in base64
    found = tokens.find(text)
    assert found is not None
    assert (found.user, found.scope, found.label) == ("alice", "write", "laptop")
    assert tokens.list("alice")[0].last_used != ""
    for path in home.glob("registry.db*"):
        assert text.encode() not in path.read_bytes()
        assert text[12:].encode() not in path.read_bytes()
    tokens.remove(made.id)
    assert tokens.find(text) is None
    with pytest.raises(TokenNotFoundError):
        tokens.remove(made.id)


@pytest.mark.usefixtures("people")
def test_a_token_expires(home: Path) -> None:
    registry = Registry(home)
    tokens = Tokens(registry.database)
    text, made = tokens.add("bob", scope="read", days=1)
    assert tokens.find(text) is not None
    assert tokens.any()
    with registry.database.writing() as session:
        row = session.get_one(TokenRow, made.id)
        row.expires = now()
        session.add(row)
    assert tokens.find(text) is None
    assert not tokens.any()


def test_a_removed_user_has_no_tokens(people: People, home: Path) -> None:
    tokens = Tokens(Registry(home).database)
    text, _ = tokens.add("bob")
    people.remove("bob", "user")
    assert tokens.find(text) is None
    assert people.members("acme") == {"alice": "owner"}


def test_the_commands_say_and_do_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    def run(*words: str) -> str:
        assert main(["admin", *words]) == 0
        return capsys.readouterr().out

    assert json.loads(run("user", "add", "alice", "--quota", "20MB", "--json"))["quota"] == 20_000_000
    run("user", "add", "bob")
    run("org", "add", "acme", "--owner", "alice")
    run("org", "member", "acme", "bob", "reader")
    (shown,) = json.loads(run("org", "list", "--json"))
    assert shown["members"] == {"alice": "owner", "bob": "reader"}
    run("quota", "alice", "none")
    assert [row["quota"] for row in json.loads(run("user", "list", "--json"))] == [None, None]
    text = run("token", "add", "alice", "--scope", "read", "--days", "3", "--quiet").strip()
    assert Tokens(Registry().database).find(text) is not None
    listed = run("token", "list", "--json")
    assert text not in listed
    assert json.loads(listed)[0]["beginning"] == text[:9]
    run("token", "remove", "1")
    assert Tokens(Registry().database).find(text) is None
    run("org", "remove", "acme")
    run("user", "remove", "bob")
    assert main(["admin", "user", "remove", "bob"]) == 1
    assert 'no user "bob"' in capsys.readouterr().err
    assert main(["admin", "quota", "alice", "much"]) == 2
