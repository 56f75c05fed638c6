"""The rows of the database; values that leave the package are in `manifest`."""

from sqlmodel import Field, Index, SQLModel, UniqueConstraint


class AdapterRow(SQLModel, table=True):
    """A named line of versions, and what of it may change."""

    __tablename__ = "adapter"  # pyright: ignore[reportAssignmentType]
    __table_args__ = (UniqueConstraint("namespace", "name"), Index("ix_adapter_updated", "updated", "id"))
    id: int | None = Field(default=None, primary_key=True)
    namespace: str
    name: str
    title: str = ""
    description: str = ""
    card: str = ""
    kind: str = "other"
    created: str
    updated: str = ""
    head_id: int | None = None
    settings: str = "{}"
    visibility: str = Field(default="private", index=True)
    removed: str = ""
    """When; or `draft`, if it waits for its first version; empty for one that is there."""


class VersionRow(SQLModel, table=True):
    """One version; its number and digest stay for ever."""

    __tablename__ = "version"  # pyright: ignore[reportAssignmentType]
    __table_args__ = (UniqueConstraint("adapter_id", "number"), UniqueConstraint("adapter_id", "digest"))
    id: int | None = Field(default=None, primary_key=True)
    adapter_id: int = Field(foreign_key="adapter.id", index=True)
    number: int
    digest: str = Field(index=True)
    manifest: str
    state: str = "published"
    yank_reason: str = ""
    message: str = ""
    author: str = ""
    created: str
    architecture: str = ""
    algorithm: str = ""
    licence: str = ""
    operation: str = ""
    ranks: str = ""
    payload_digest: str = Field(default="", index=True)
    parameters: int = 0
    size: int = 0
    alphas: str = ""
    targets: str = ""
    metrics: str = "{}"
    linked: str = ""


class FileHashRow(SQLModel, table=True):
    """The hashes under which other tools know a payload file."""

    __tablename__ = "file_hash"  # pyright: ignore[reportAssignmentType]
    version_id: int = Field(foreign_key="version.id", primary_key=True)
    path: str = Field(primary_key=True)
    sha256: str = Field(index=True)
    data_sha256: str = Field(index=True)
    autov1: str = Field(index=True)


class ParentRow(SQLModel, table=True):
    """A version, by its digest, that another one was made of."""

    __tablename__ = "parent"  # pyright: ignore[reportAssignmentType]
    version_id: int = Field(foreign_key="version.id", primary_key=True)
    position: int = Field(primary_key=True)
    digest: str = Field(index=True)
    name: str = ""
    weight: str = ""


class DocumentRow(SQLModel, table=True):
    """A file that lies beside a version and is no payload: the training config, the data manifest."""

    __tablename__ = "document"  # pyright: ignore[reportAssignmentType]
    __table_args__ = (UniqueConstraint("version_id", "name"),)
    id: int | None = Field(default=None, primary_key=True)
    version_id: int = Field(foreign_key="version.id", index=True)
    name: str
    sha256: str = Field(index=True)
    size: int


class PreviewRow(SQLModel, table=True):
    """A picture that shows a version."""

    __tablename__ = "preview"  # pyright: ignore[reportAssignmentType]
    __table_args__ = (UniqueConstraint("version_id", "sha256"),)
    id: int | None = Field(default=None, primary_key=True)
    version_id: int = Field(foreign_key="version.id", index=True)
    sha256: str = Field(index=True)
    size: int
    prompt: str = ""
    seed: int | None = None
    settings: str = "{}"


class TagRow(SQLModel, table=True):
    """A label of an adapter."""

    __tablename__ = "tag"  # pyright: ignore[reportAssignmentType]
    adapter_id: int = Field(foreign_key="adapter.id", primary_key=True)
    tag: str = Field(primary_key=True, index=True)


class AliasRow(SQLModel, table=True):
    """A movable pointer to a version."""

    __tablename__ = "alias"  # pyright: ignore[reportAssignmentType]
    adapter_id: int = Field(foreign_key="adapter.id", primary_key=True)
    name: str = Field(primary_key=True)
    number: int


class AdoptedRow(SQLModel, table=True):
    """A file of another tool that is a version here, as it was when it was last read."""

    __tablename__ = "adopted"  # pyright: ignore[reportAssignmentType]
    path: str = Field(primary_key=True)
    inode: int
    size: int
    mtime_ns: int
    version: str


class CondemnedRow(SQLModel, table=True):
    """A blob that no version needs, and since when; it goes after the grace time, unless one needs it."""

    __tablename__ = "condemned"  # pyright: ignore[reportAssignmentType]
    sha256: str = Field(primary_key=True)
    since: str


class RemoteRow(SQLModel, table=True):
    """Another registry."""

    __tablename__ = "remote"  # pyright: ignore[reportAssignmentType]
    name: str = Field(primary_key=True)
    url: str


class EventRow(SQLModel, table=True):
    """One change of the registry."""

    __tablename__ = "event"  # pyright: ignore[reportAssignmentType]
    id: int | None = Field(default=None, primary_key=True)
    time: str
    actor: str
    action: str
    subject: str
    detail: str = "{}"


class RedirectRow(SQLModel, table=True):
    """A name that an adapter had before it was moved; no other adapter gets it."""

    __tablename__ = "redirect"  # pyright: ignore[reportAssignmentType]
    namespace: str = Field(primary_key=True)
    name: str = Field(primary_key=True)
    adapter_id: int = Field(foreign_key="adapter.id")


class NamespaceRow(SQLModel, table=True):
    """A user or an organisation, and how many bytes its adapters may hold."""

    __tablename__ = "namespace"  # pyright: ignore[reportAssignmentType]
    name: str = Field(primary_key=True)
    kind: str
    title: str = ""
    quota: int | None = None
    created: str


class MembershipRow(SQLModel, table=True):
    """What a user may do in an organisation."""

    __tablename__ = "membership"  # pyright: ignore[reportAssignmentType]
    organisation: str = Field(primary_key=True, foreign_key="namespace.name")
    user: str = Field(primary_key=True, foreign_key="namespace.name", index=True)
    role: str


class TokenRow(SQLModel, table=True):
    """A token, of which only the digest is kept, and the beginning to tell it by."""

    __tablename__ = "token"  # pyright: ignore[reportAssignmentType]
    id: int | None = Field(default=None, primary_key=True)
    user: str = Field(foreign_key="namespace.name", index=True)
    label: str = ""
    sha256: str = Field(unique=True)
    beginning: str
    scope: str
    created: str
    expires: str = ""
    last_used: str = ""


class CommitRow(SQLModel, table=True):
    """One state of all files of an adapter, as a Hugging Face client sees it.

    `number` is the version whose payload it holds, `told` a digest of what was said of the adapter then.
    """

    __tablename__ = "hub_commit"  # pyright: ignore[reportAssignmentType]
    __table_args__ = (
        UniqueConstraint("adapter_id", "sha"),
        Index("ix_hub_commit_number", "adapter_id", "number"),
    )
    id: int | None = Field(default=None, primary_key=True)
    adapter_id: int = Field(foreign_key="adapter.id")
    sha: str
    parent: str = ""
    number: int | None = None
    told: str = ""
    title: str = ""
    message: str = ""
    author: str = ""
    created: str
    is_gone: bool = False


class CommitFileRow(SQLModel, table=True):
    """A file of a commit; `git_sha1` is empty for one that git would keep by Git LFS."""

    __tablename__ = "hub_file"  # pyright: ignore[reportAssignmentType]
    commit_id: int = Field(foreign_key="hub_commit.id", primary_key=True)
    path: str = Field(primary_key=True)
    size: int
    sha256: str = Field(index=True)
    git_sha1: str = ""
    preview: str = ""


class BranchRow(SQLModel, table=True):
    """Where a branch stands."""

    __tablename__ = "hub_branch"  # pyright: ignore[reportAssignmentType]
    adapter_id: int = Field(foreign_key="adapter.id", primary_key=True)
    name: str = Field(primary_key=True)
    commit_id: int = Field(foreign_key="hub_commit.id")


class UploadRow(SQLModel, table=True):
    """A blob that was uploaded for an adapter, and that no commit names yet."""

    __tablename__ = "upload"  # pyright: ignore[reportAssignmentType]
    adapter_id: int = Field(foreign_key="adapter.id", primary_key=True)
    sha256: str = Field(primary_key=True, index=True)
    size: int
    actor: str
    created: str
