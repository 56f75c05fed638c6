"""What is said of versions and previews beyond what is searched by, and blobs that wait to be collected."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add columns and one table; facts of old versions are filled when first asked for."""
    for name in ("alphas", "targets", "linked"):
        op.add_column("version", sa.Column(name, sa.String, nullable=False, server_default=""))
    op.add_column("version", sa.Column("metrics", sa.String, nullable=False, server_default="{}"))
    op.add_column("adapter", sa.Column("settings", sa.String, nullable=False, server_default="{}"))
    op.add_column("preview", sa.Column("settings", sa.String, nullable=False, server_default="{}"))
    op.create_table(
        "condemned",
        sa.Column("sha256", sa.String, primary_key=True),
        sa.Column("since", sa.String, nullable=False),
    )
