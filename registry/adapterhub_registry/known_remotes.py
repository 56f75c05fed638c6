"""The remotes that a registry knows: names and URLs, in its database."""

import re

from sqlmodel import col, select

from adapterhub_registry.database import Database
from adapterhub_registry.errors import FieldError, RemoteError
from adapterhub_registry.references import NAME
from adapterhub_registry.remotes import open_remote
from adapterhub_registry.rows import log_event
from adapterhub_registry.settings import RegistrySettings
from adapterhub_registry.tables import RemoteRow

HUB = "hf"
"""The remote that is always there."""
NO_REMOTES = "there is none yet; add one with: adapterhub remote add NAME URL"


def list_remotes(database: Database) -> dict[str, str]:
    """Return name to URL, by name."""
    with database.reading() as session:
        rows = session.exec(select(RemoteRow).order_by(col(RemoteRow.name)))
        return {row.name: row.url for row in rows}


def add_remote(database: Database, name: str, url: str) -> None:
    """Remember a remote; see `Registry.add_remote`."""
    if not re.fullmatch(NAME, name):
        raise FieldError("remote", name, "letters, digits, '.', '_' or '-', lower case")
    if name == HUB:
        raise FieldError("remote", name, "it means the Hugging Face Hub, or what HF_ENDPOINT says")
    open_remote(name, url).check()
    with database.writing() as session:
        session.merge(RemoteRow(name=name, url=url))
        log_event(session, "remote-add", name, {"url": url})


def remove_remote(database: Database, name: str) -> None:
    """Forget a remote; see `Registry.remove_remote`."""
    remote_url(database, name)
    with database.writing() as session:
        session.delete(session.get_one(RemoteRow, name))
        log_event(session, "remote-remove", name, {})


def only_remote(database: Database) -> str:
    """Return the remote that `ADAPTERHUB_REMOTE` names, or the one there is; see `Registry.only_remote`."""
    known, chosen = list(list_remotes(database)), RegistrySettings.from_environment().remote
    if chosen:
        return chosen
    if len(known) != 1:
        listed = f"name one of {', '.join(known)}" if known else NO_REMOTES
        raise RemoteError("", listed)
    return known[0]


def remote_url(database: Database, name: str) -> str:
    """Return a remote's URL; `RemoteError` if there is none of that name."""
    known = list_remotes(database)
    if name not in known:
        listed = f"remotes: {', '.join(known)}" if known else NO_REMOTES
        raise RemoteError(name, f"there is no remote of that name; {listed}")
    return known[name]
