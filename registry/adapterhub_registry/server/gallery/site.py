"""What the pages share."""

from dataclasses import dataclass, field

from adapterhub_registry.server.gallery.cache import Pictures
from adapterhub_registry.server.gallery.index import Index
from adapterhub_registry.server.gallery.sessions import Sessions
from adapterhub_registry.server.limits import Limits

SIGN_INS_PER_MINUTE = 10
"""Of one address: enough for who mistypes, too few to guess."""


@dataclass
class Gallery:
    """What the pages share.

    Attributes:
        sessions: Who looks.
        index: Finds adapters.
        pictures: That were asked for last.
        sign_ins: How often somebody may try.
    """

    sessions: Sessions
    index: Index = field(default_factory=Index)
    pictures: Pictures = field(default_factory=Pictures)
    sign_ins: Limits = field(default_factory=lambda: Limits(SIGN_INS_PER_MINUTE))
