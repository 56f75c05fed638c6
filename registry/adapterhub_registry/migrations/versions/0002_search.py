"""What is searched by: facts of versions, hashes of files, parents, and a full-text index of adapters."""

import json

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

FACTS = ("architecture", "algorithm", "licence", "operation", "ranks", "payload_digest")


def upgrade() -> None:
    """Add columns and tables, and fill them from the manifests; hashes are filled when first asked for."""
    for name in FACTS:
        op.add_column("version", sa.Column(name, sa.String, nullable=False, server_default=""))
    for name in ("parameters", "size"):
        op.add_column("version", sa.Column(name, sa.Integer, nullable=False, server_default="0"))
    op.create_index("ix_version_payload_digest", "version", ["payload_digest"])
    op.add_column("adapter", sa.Column("head_id", sa.Integer, nullable=True))
    op.add_column("adapter", sa.Column("updated", sa.String, nullable=False, server_default=""))
    op.create_index("ix_adapter_updated", "adapter", ["updated", "id"])
    op.create_table(
        "file_hash",
        sa.Column("version_id", sa.Integer, sa.ForeignKey("version.id"), primary_key=True),
        sa.Column("path", sa.String, primary_key=True),
        sa.Column("sha256", sa.String, nullable=False, index=True),
        sa.Column("data_sha256", sa.String, nullable=False, index=True),
        sa.Column("autov1", sa.String, nullable=False, index=True),
    )
    op.create_table(
        "parent",
        sa.Column("version_id", sa.Integer, sa.ForeignKey("version.id"), primary_key=True),
        sa.Column("position", sa.Integer, primary_key=True),
        sa.Column("digest", sa.String, nullable=False, index=True),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("weight", sa.String, nullable=False),
    )
    op.create_table(
        "adopted",
        sa.Column("path", sa.String, primary_key=True),
        sa.Column("inode", sa.Integer, nullable=False),
        sa.Column("size", sa.Integer, nullable=False),
        sa.Column("mtime_ns", sa.Integer, nullable=False),
        sa.Column("version", sa.String, nullable=False),
    )
    op.execute(
        "CREATE VIRTUAL TABLE search USING fts5(name, title, description, triggers, tags, "
        "tokenize = 'unicode61 remove_diacritics 2', prefix = '2 3')"
    )
    _fill(op.get_bind())


def _fill(connection: sa.Connection) -> None:
    for row in connection.execute(sa.text("SELECT id, manifest FROM version")).all():
        manifest = json.loads(row.manifest)
        lineage = manifest["lineage"]
        facts = {
            "id": row.id,
            "architecture": manifest["architecture"],
            "algorithm": manifest["algorithm"],
            "licence": manifest["licence"],
            "operation": lineage.get("operation", ""),
            "size": sum(file["size"] for file in manifest["files"]),
        }
        connection.execute(
            sa.text(
                "UPDATE version SET architecture = :architecture, algorithm = :algorithm, "
                "licence = :licence, operation = :operation, size = :size WHERE id = :id"
            ),
            facts,
        )
        position = 1
        while f"parent.{position}" in lineage:
            connection.execute(
                sa.text("INSERT INTO parent VALUES (:id, :position, :digest, :name, :weight)"),
                {
                    "id": row.id,
                    "position": position,
                    "digest": lineage[f"parent.{position}"],
                    "name": lineage.get(f"parent.{position}.name", ""),
                    "weight": lineage.get(f"parent.{position}.weight", ""),
                },
            )
            position += 1
    connection.execute(
        sa.text(
            "UPDATE adapter SET updated = created, head_id = (SELECT id FROM version WHERE "
            "version.adapter_id = adapter.id AND state = 'published' ORDER BY number DESC LIMIT 1)"
        )
    )
    for row in connection.execute(sa.text("SELECT * FROM adapter")).all():
        tags = connection.execute(
            sa.text("SELECT tag FROM tag WHERE adapter_id = :id ORDER BY tag"), {"id": row.id}
        ).scalars()
        head = connection.execute(
            sa.text("SELECT manifest FROM version WHERE id = :id"), {"id": row.head_id}
        ).scalar()
        triggers: list[str] = json.loads(head)["trigger_words"] if head else []
        connection.execute(
            sa.text(
                "INSERT INTO search (rowid, name, title, description, triggers, tags) "
                "VALUES (:id, :name, :title, :description, :triggers, :tags)"
            ),
            {
                "id": row.id,
                "name": f"{row.namespace}/{row.name}",
                "title": row.title,
                "description": row.description,
                "triggers": " ".join(triggers),
                "tags": " ".join(tags),
            },
        )
