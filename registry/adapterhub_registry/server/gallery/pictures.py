"""Pictures for pages: previews, which the registry made anew when they came, in the size that shows."""

import io

from PIL import Image
from starlette.responses import Response

from adapterhub_registry.errors import BlobMissingError
from adapterhub_registry.server.calls import Call
from adapterhub_registry.server.errors import RefusalError
from adapterhub_registry.server.hub_files import is_known

SIZES = {"card": 640, "large": 1600}
"""The longer side, in pixels, at most."""
SMALL = 256
"""Smaller pictures are drawn larger with sharp pixels, which browsers would smear."""
QUALITY = 84
SHOWN = """
    SELECT 1 FROM preview JOIN version ON version.id = version_id
    WHERE preview.sha256 = ? AND adapter_id = ? AND state <> 'deleted'"""


def show_picture(call: Call) -> Response:
    """Send a preview of the adapter, by its digest, as WebP; `size` is `card` or `large`."""
    sha256, size = call.part("sha256"), call.request.query_params.get("size", "large")
    with call.registry.database.snapshot() as read:
        if size not in SIZES or not read(SHOWN, [sha256, call.hosted.id]):
            raise RefusalError(404, f"{call.hosted.adapter} has no such picture", code="EntryNotFound")
    headers = {
        "ETag": f'"{sha256}-{size}"',
        "Cache-Control": "private, max-age=86400",
        "Content-Security-Policy": "default-src 'none'",
    }
    if is_known(call.request.headers.get("if-none-match", ""), f"{sha256}-{size}"):
        return Response(status_code=304, headers=headers)
    pictures = call.site.gallery.pictures
    content = pictures.find(sha256, size)
    if content is None:
        with pictures.making:
            content = pictures.find(sha256, size) or _made(call, sha256, SIZES[size])
        pictures.keep(sha256, size, content)
    return Response(content, headers=headers, media_type="image/webp")


def _made(call: Call, sha256: str, longest: int) -> bytes:
    path, buffer = call.registry.blobs.path(sha256), io.BytesIO()
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            shown: Image.Image = picture
            if max(picture.size) <= SMALL:
                times = max(1, longest // max(picture.size))
                picture.load()
                shown = picture.resize(
                    (picture.width * times, picture.height * times), Image.Resampling.NEAREST
                )
                shown.save(buffer, "WEBP", lossless=True)
            else:
                picture.thumbnail((longest, longest), Image.Resampling.LANCZOS)
                shown.save(buffer, "WEBP", quality=QUALITY)
    except OSError as exc:
        raise BlobMissingError(sha256, str(path)) from exc
    return buffer.getvalue()
