"""Users, organisations, and who may do what in which namespace."""

from collections.abc import Mapping
from dataclasses import dataclass

from sqlmodel import Session, col, delete, select

from adapterhub_registry.database import Database
from adapterhub_registry.errors import FieldError
from adapterhub_registry.references import check_name
from adapterhub_registry.rows import log_event, now
from adapterhub_registry.server.errors import PersonNotFoundError
from adapterhub_registry.tables import MembershipRow, NamespaceRow, TokenRow

ROLES = ("reader", "writer", "owner")
"""Each may do what those before it may."""
USER, ORGANISATION = "user", "organisation"
RESERVED = frozenset(
    {"api", "datasets", "docs", "healthz", "login", "metrics", "models", "settings", "spaces", "static", "v1"}
    | {
        "xet",
        "admin",
        "search",
        "organizations",
        "new",
        "upload",
        "compare",
        "blobs",
        "favicon.ico",
        "robots.txt",
        "openapi.json",
    }
)
"""First parts of addresses that mean something else."""


@dataclass(frozen=True)
class Namespace:
    """A user or an organisation: what stands before the `/` of an adapter's name.

    Attributes:
        name: In lower case.
        kind: `user` or `organisation`.
        title: The name for people.
        quota: How many bytes its adapters may hold; None means any number.
        created: UTC time, ISO 8601.
    """

    name: str
    kind: str
    title: str
    quota: int | None
    created: str


class People:
    """Who there is, in the registry's database.

    Args:
        database: Of the registry.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def add_user(self, name: str, *, title: str = "", quota: int | None = None) -> Namespace:
        """Add a user, who owns the namespace of that name.

        Raises:
            ReferenceSyntaxError: It is no name.
            FieldError: The name is taken, or means something else; or the quota is negative.
        """
        return self._add(name, USER, title, quota)

    def add_organisation(
        self, name: str, *, owner: str, title: str = "", quota: int | None = None
    ) -> Namespace:
        """Add an organisation with its first owner; it raises what `add_user` raises.

        Raises:
            PersonNotFoundError: There is no such user.
        """
        return self._add(name, ORGANISATION, title, quota, owner=owner.lower())

    def namespaces(self, kind: str | None = None) -> list[Namespace]:
        """Return users and organisations, or those of one kind, by name."""
        query = "SELECT name, kind, title, quota, created FROM namespace"
        with self._database.snapshot() as read:
            rows = read(f"{query} ORDER BY name")
        return [found for row in rows if (found := Namespace(*row)).kind == (kind or found.kind)]

    def show(self, name: str) -> Namespace | None:
        """Return a user or an organisation, if there is one of that name."""
        query = "SELECT name, kind, title, quota, created FROM namespace WHERE name = ?"
        with self._database.snapshot() as read:
            rows = read(query, [name.lower()])
        return Namespace(*rows[0]) if rows else None

    def remove(self, name: str, kind: str) -> None:
        """Remove a user with the tokens, or an organisation; adapters stay, and nobody owns them.

        Raises:
            PersonNotFoundError: There is none of that name and kind.
            FieldError: The user is the only owner of an organisation.
        """
        name = name.lower()
        with self._database.writing() as session:
            row = _require(session, name, kind)
            for organisation in session.exec(
                select(MembershipRow.organisation).where(
                    MembershipRow.user == name, MembershipRow.role == "owner"
                )
            ).all():
                _keep_an_owner(session, organisation, name)
            session.exec(delete(TokenRow).where(col(TokenRow.user) == name))
            session.exec(
                delete(MembershipRow).where(
                    (col(MembershipRow.user) == name) | (col(MembershipRow.organisation) == name)
                )
            )
            session.delete(row)
            log_event(session, f"{kind}-remove", name, {})

    def set_quota(self, name: str, quota: int | None) -> None:
        """Say how many bytes the adapters of a namespace may hold; None means any number.

        Raises:
            PersonNotFoundError: There is no such user or organisation.
            FieldError: It is negative.
        """
        _check_quota(quota)
        with self._database.writing() as session:
            row = session.get(NamespaceRow, name.lower())
            if row is None:
                raise PersonNotFoundError(name, USER)
            log_event(session, "quota", row.name, {"before": row.quota, "after": quota})
            row.quota = quota
            session.add(row)

    def set_member(self, organisation: str, user: str, role: str) -> None:
        """Let a user be reader, writer or owner in an organisation.

        Raises:
            PersonNotFoundError: There is no such organisation or user.
            FieldError: There is no such role, or no owner would be left.
        """
        organisation, user = organisation.lower(), user.lower()
        if role not in ROLES:
            raise FieldError("role", role, f"one of {', '.join(ROLES)}")
        with self._database.writing() as session:
            _require(session, organisation, ORGANISATION)
            _require(session, user, USER)
            if role != "owner":
                _keep_an_owner(session, organisation, user)
            session.merge(MembershipRow(organisation=organisation, user=user, role=role))
            log_event(session, "member", organisation, {"user": user, "role": role})

    def remove_member(self, organisation: str, user: str) -> None:
        """Take a user out of an organisation; one who is not in it is left alone.

        Raises:
            FieldError: No owner would be left.
        """
        organisation, user = organisation.lower(), user.lower()
        with self._database.writing() as session:
            _require(session, organisation, ORGANISATION)
            _keep_an_owner(session, organisation, user)
            if (row := session.get(MembershipRow, (organisation, user))) is not None:
                session.delete(row)
                log_event(session, "member", organisation, {"user": user, "role": ""})

    def members(self, organisation: str) -> Mapping[str, str]:
        """Return user to role."""
        query = "SELECT user, role FROM membership WHERE organisation = ? ORDER BY user"
        with self._database.snapshot() as read:
            return dict(read(query, [organisation.lower()]))

    def roles(self, user: str) -> Mapping[str, str]:
        """Return the namespaces in which a user is something, the user's own among them, with the role."""
        query = "SELECT organisation, role FROM membership WHERE user = ? ORDER BY organisation"
        with self._database.snapshot() as read:
            return {user: "owner", **dict(read(query, [user]))}

    def _add(
        self, name: str, kind: str, title: str, quota: int | None, *, owner: str | None = None
    ) -> Namespace:
        check_name(name, name)
        _check_quota(quota)
        folded = name.lower()
        if folded in RESERVED:
            raise FieldError("name", name, "addresses of the server begin with it; take another")
        with self._database.writing() as session:
            if session.get(NamespaceRow, folded) is not None:
                raise FieldError("name", name, "there is a user or an organisation of that name")
            row = NamespaceRow(name=folded, kind=kind, title=title or name, quota=quota, created=now())
            session.add(row)
            session.flush()
            if owner is not None:
                _require(session, owner, USER)
                session.add(MembershipRow(organisation=folded, user=owner, role="owner"))
            log_event(session, f"{kind}-add", folded, {"quota": quota})
        return Namespace(row.name, row.kind, row.title, row.quota, row.created)


def _check_quota(quota: int | None) -> None:
    if quota is not None and quota < 0:
        raise FieldError("quota", str(quota), "a number of bytes, 0 or more")


def _require(session: Session, name: str, kind: str) -> NamespaceRow:
    row = session.get(NamespaceRow, name)
    if row is None or row.kind != kind:
        raise PersonNotFoundError(name, kind)
    return row


def _keep_an_owner(session: Session, organisation: str, user: str) -> None:
    """Refuse to take the last owner away."""
    owners = session.exec(
        select(MembershipRow.user).where(
            MembershipRow.organisation == organisation, MembershipRow.role == "owner"
        )
    ).all()
    if list(owners) == [user]:
        raise FieldError("user", user, f"{organisation} has no other owner; make somebody else one first")
