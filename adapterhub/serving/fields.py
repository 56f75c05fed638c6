"""The fields of a JSON body: taken by name and type, and those that nobody takes are refused."""

import base64
import binascii
import io
import json
from collections.abc import Mapping
from typing import Any, TypeVar

from PIL import Image
from starlette.requests import Request

from adapterhub.errors import SettingError
from adapterhub.runtime.start import Picture
from adapterhub.serving.errors import BodyError, BodySizeError, UnknownFieldsError
from adapterhub.serving.limits import RequestLimits

Default = TypeVar("Default")
FORMATS = ("PNG", "JPEG", "WEBP")


class Fields:
    """The fields of a JSON object. `null` counts as left out.

    Args:
        table: The object.
        limits: Of texts and pictures in it.

    Example:
        >>> fields = Fields({"steps": 4, "stpes": 5}, RequestLimits())
        >>> fields.whole("steps", 30), fields.whole("count", 1)
        (4, 1)
        >>> fields.rest()
        {'stpes': 5}
    """

    def __init__(self, table: Mapping[str, Any], limits: RequestLimits) -> None:
        self._table = dict(table)
        self._limits = limits
        self._known: list[str] = []

    def text(self, name: str, default: Default) -> str | Default:
        """Take a text.

        Raises:
            SettingError: It is something else, or too long; as do the others.
        """
        value = self._take(name)
        if value is None:
            return default
        if not isinstance(value, str) or not _is_unicode(value):
            raise SettingError(name, _shown(value), "it must be a text")
        if len(value) > self._limits.letters:
            rule = f"here a text may have {self._limits.letters} at most"
            raise SettingError(name, f"{len(value)} letters long", rule)
        return value

    def whole(self, name: str, default: Default) -> int | Default:
        """Take a whole number."""
        value = self._take(name)
        if value is None:
            return default
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool):
            raise SettingError(name, _shown(value), "it must be a whole number")
        return value

    def number(self, name: str, default: Default) -> float | Default:
        """Take a number."""
        value = self._take(name)
        if value is None:
            return default
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise SettingError(name, _shown(value), "it must be a number")
        return float(value)

    def table(self, name: str) -> dict[str, Any]:
        """Take an object; an empty one if it is left out."""
        value = self._take(name)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise SettingError(name, _shown(value), "it must be an object")
        return value

    def picture(self, name: str, *, mode: str = "RGB") -> Picture | None:
        """Take a picture in base64, with or without `data:...;base64,` before it."""
        value = self._take(name)
        if value is None:
            return None
        if not isinstance(value, str):
            raise SettingError(name, _shown(value), "it must be a picture in base64")
        head, comma, data = value.partition(",")
        text = data if comma and head.startswith("data:") else value
        try:
            opened = Image.open(io.BytesIO(base64.b64decode(text, validate=True)), formats=FORMATS)
            if opened.width * opened.height > self._limits.given_pixels:
                rule = f"here it may have {self._limits.given_pixels} pixels at most"
                raise SettingError(name, f"{opened.width}x{opened.height}", rule)
            opened.load()
            return Picture.of(opened, mode=mode)
        except (binascii.Error, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as exc:
            raise SettingError(name, _shown(value), "it must be a PNG, JPEG or WebP in base64") from exc

    def rest(self) -> dict[str, Any]:
        """Take all that nobody took."""
        rest, self._table = self._table, {}
        return rest

    def end(self) -> None:
        """Check that all fields were taken.

        Raises:
            UnknownFieldsError: Some were not.
        """
        if self._table:
            names = [name.encode("ascii", "backslashreplace").decode() for name in self._table]
            raise UnknownFieldsError(names, self._known)

    def _take(self, name: str) -> Any:
        self._known.append(name)
        return self._table.pop(name, None)


async def read_fields(request: Request, limits: RequestLimits) -> Fields:
    """Read the body of a request.

    Only `application/json` is taken: other types a browser sends for any page, without asking us first.

    Raises:
        BodySizeError: It is too large.
        BodyError: It is no JSON object.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise BodyError(f'its type is "{kind}"')
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length) > limits.body_bytes:
        raise BodySizeError(limits.body_bytes)
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > limits.body_bytes:
            raise BodySizeError(limits.body_bytes)
    try:
        table = json.loads(bytes(body))
    except (ValueError, RecursionError) as exc:
        raise BodyError("it is no JSON") from exc
    if not isinstance(table, dict):
        raise BodyError("it is no JSON object")
    return Fields(table, limits)


def _is_unicode(text: str) -> bool:
    """Say whether a text has no half of a pair of surrogates, which JSON can write and nobody can print."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def _shown(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
