"""What a server keeps: who may do what, and the states of an adapter's files as git would have them."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add columns and tables; what was there before is private."""
    op.add_column("adapter", sa.Column("visibility", sa.String, nullable=False, server_default="private"))
    op.create_index("ix_adapter_visibility", "adapter", ["visibility"])
    op.add_column("adapter", sa.Column("removed", sa.String, nullable=False, server_default=""))
    op.create_table(
        "redirect",
        sa.Column("namespace", sa.String, primary_key=True),
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("adapter_id", sa.Integer, sa.ForeignKey("adapter.id"), nullable=False),
    )
    _create_people()
    _create_states()


def _create_people() -> None:
    op.create_table(
        "namespace",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("title", sa.String, nullable=False),
        sa.Column("quota", sa.Integer, nullable=True),
        sa.Column("created", sa.String, nullable=False),
    )
    op.create_table(
        "membership",
        sa.Column("organisation", sa.String, sa.ForeignKey("namespace.name"), primary_key=True),
        sa.Column("user", sa.String, sa.ForeignKey("namespace.name"), primary_key=True, index=True),
        sa.Column("role", sa.String, nullable=False),
    )
    op.create_table(
        "token",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("user", sa.String, sa.ForeignKey("namespace.name"), nullable=False, index=True),
        sa.Column("label", sa.String, nullable=False),
        sa.Column("sha256", sa.String, nullable=False, unique=True),
        sa.Column("beginning", sa.String, nullable=False),
        sa.Column("scope", sa.String, nullable=False),
        sa.Column("created", sa.String, nullable=False),
        sa.Column("expires", sa.String, nullable=False),
        sa.Column("last_used", sa.String, nullable=False),
    )


def _create_states() -> None:
    op.create_table(
        "hub_commit",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("adapter_id", sa.Integer, sa.ForeignKey("adapter.id"), nullable=False),
        sa.Column("sha", sa.String, nullable=False),
        sa.Column("parent", sa.String, nullable=False),
        sa.Column("number", sa.Integer, nullable=True),
        sa.Column("told", sa.String, nullable=False),
        sa.Column("title", sa.String, nullable=False),
        sa.Column("message", sa.String, nullable=False),
        sa.Column("author", sa.String, nullable=False),
        sa.Column("created", sa.String, nullable=False),
        sa.Column("is_gone", sa.Boolean, nullable=False),
        sa.UniqueConstraint("adapter_id", "sha"),
    )
    op.create_index("ix_hub_commit_number", "hub_commit", ["adapter_id", "number"])
    op.create_table(
        "hub_file",
        sa.Column("commit_id", sa.Integer, sa.ForeignKey("hub_commit.id"), primary_key=True),
        sa.Column("path", sa.String, primary_key=True),
        sa.Column("size", sa.Integer, nullable=False),
        sa.Column("sha256", sa.String, nullable=False, index=True),
        sa.Column("git_sha1", sa.String, nullable=False),
        sa.Column("preview", sa.String, nullable=False),
    )
    op.create_table(
        "hub_branch",
        sa.Column("adapter_id", sa.Integer, sa.ForeignKey("adapter.id"), primary_key=True),
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("commit_id", sa.Integer, sa.ForeignKey("hub_commit.id"), nullable=False),
    )
    op.create_table(
        "upload",
        sa.Column("adapter_id", sa.Integer, sa.ForeignKey("adapter.id"), primary_key=True),
        sa.Column("sha256", sa.String, primary_key=True, index=True),
        sa.Column("size", sa.Integer, nullable=False),
        sa.Column("actor", sa.String, nullable=False),
        sa.Column("created", sa.String, nullable=False),
    )
