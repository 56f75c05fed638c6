"""Texts in the EXIF block of a JPEG or WebP: our record, and the web UI's line where the web UI looks for it.

The block is written here and not by Pillow, which gives UserComment a type that other readers do not expect.
"""

import struct

from PIL import Image

IMAGE_DESCRIPTION = 0x010E
EXIF_TABLE = 0x8769
USER_COMMENT = 0x9286
_ASCII, _LONG, _UNDEFINED = 2, 4, 7
UNICODE = b"UNICODE\0"
"""What stands before a comment in UTF-16."""
MARK = "adapterhub:"
"""What our record begins with; others write an ImageDescription too."""
MAX_JPEG_BYTES = 65_533
"""A segment of a JPEG holds no more."""


def exif_bytes(record: str, parameters: str) -> bytes:
    """Return an EXIF block with two texts.

    Args:
        record: ASCII; it becomes the ImageDescription, which most tools carry over when they save a picture.
        parameters: Any text; it becomes the UserComment in UTF-16, as the web UI writes it.
    """
    description = f"{MARK}{record}".encode("ascii")
    description += (
        b" " if len(description) % 2 == 0 else b""
    ) + b"\0"  # what follows begins at an even place
    comment = UNICODE + parameters.encode("utf-16-be")
    first = 8 + 2 + 2 * 12 + 4  # behind the header and the first table
    second = first + len(description)
    head = b"MM\0*" + struct.pack(">I", 8)
    table = struct.pack(">H", 2)
    table += struct.pack(">HHII", IMAGE_DESCRIPTION, _ASCII, len(description), first)
    table += struct.pack(">HHII", EXIF_TABLE, _LONG, 1, second)
    inner = struct.pack(">HHHII", 1, USER_COMMENT, _UNDEFINED, len(comment), second + 2 + 12 + 4)
    end = struct.pack(">I", 0)
    return b"Exif\0\0" + head + table + end + description + inner + end + comment


def exif_texts(picture: Image.Image) -> tuple[str, str]:
    """Return the record and the web UI's line of an opened picture; each is empty if there is none.

    Raises:
        Exception: What Pillow raises on a damaged block.
    """
    exif = picture.getexif()
    description = str(exif.get(IMAGE_DESCRIPTION, "")).rstrip("\0 ")
    record = description.removeprefix(MARK) if description.startswith(MARK) else ""
    comment = exif.get_ifd(EXIF_TABLE).get(USER_COMMENT, b"")
    return record, _comment_text(comment) if isinstance(comment, bytes) else ""


def _comment_text(comment: bytes) -> str:
    """Return the text of a UserComment; the web UI writes UTF-16 with the high byte first, others swap it."""
    if not comment.startswith(UNICODE):
        return ""
    comment = comment.removeprefix(UNICODE)
    texts = [comment.decode(codec, "replace") for codec in ("utf-16-be", "utf-16-le")]
    return next((text for text in texts if "Steps: " in text), "")
