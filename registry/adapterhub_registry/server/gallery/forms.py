"""Forms as browsers send them: fields in memory under a cap, files on the disk while they come in."""

import re
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO
from urllib.parse import parse_qs

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from adapterhub_registry.server.bodies import pieces, read_body
from adapterhub_registry.server.errors import RefusalError
from adapterhub_registry.staging import new_draft

MAX_FIELDS, MAX_FIELD_BYTES, MAX_HEADER_BYTES = 200, 1 << 20, 8 << 10
MAX_FORM_BYTES = 4 << 30
BOUNDARY = re.compile(r'multipart/form-data\s*;.*?boundary="?([0-9A-Za-z\'()+_,./:=? -]{1,70}?)"?\s*$', re.I)
PARAMETER = re.compile(r'(name|filename)="([^"]*)"')
ESCAPES = {"%22": '"', "%0D": "\r", "%0A": "\n"}
"""How browsers write what cannot stand between quotes."""


@dataclass(frozen=True)
class FormFile:
    """A file of a form.

    Attributes:
        name: As it is called on the other machine; never a path here.
        path: Where it lies meanwhile.
        size: Bytes.
    """

    name: str
    path: Path
    size: int


@dataclass
class Form:
    """What was sent.

    Attributes:
        fields: Name to texts.
        files: Name to files, those left out that the user did not choose.
    """

    fields: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    files: dict[str, list[FormFile]] = field(default_factory=dict[str, list[FormFile]])

    def text(self, name: str) -> str:
        """Return the text of a field; empty if there is none."""
        return self.fields.get(name, [""])[0].replace("\r\n", "\n").strip()


async def read_form(request: Request) -> Form:
    """Return the fields of a short form without files.

    Raises:
        RefusalError: It is too large, or no form.
    """
    content = await read_body(request, most=MAX_FIELD_BYTES)
    try:
        text = content.decode()
        return Form(parse_qs(text, keep_blank_values=True, max_num_fields=MAX_FIELDS))
    except ValueError as exc:
        raise malformed() from exc


async def receive_form(request: Request, staging: Path, stack: ExitStack, *, most: int) -> Form:
    """Return a form with files, which lie in `staging` until the stack is closed.

    Args:
        request: The request.
        staging: Where files go.
        stack: Removes them.
        most: How many bytes it may have.

    Raises:
        RefusalError: It is too large, cut off, or no such form.
        OSError: The disk is full.
    """
    match = BOUNDARY.match(request.headers.get("content-type", ""))
    if match is None:
        raise malformed()
    parser = FormParser(match[1].encode(), staging, stack)
    async for piece in pieces(request, most=most):
        await run_in_threadpool(parser.feed, piece)
    return parser.finish()


class FormParser:
    """Takes a multipart form apart, whatever pieces it comes in.

    Args:
        boundary: From the header of the request.
        staging: Where files go.
        stack: Removes them.
    """

    def __init__(self, boundary: bytes, staging: Path, stack: ExitStack) -> None:
        self._delimiter = b"\r\n--" + boundary
        self._staging, self._stack = staging, stack
        self._held = bytearray(b"\r\n")  # the first delimiter may be the very beginning
        self._state, self._parts, self._bytes = "before", 0, 0
        self._name, self._filename = "", ""
        self._text: bytearray | None = None
        self._file: tuple[Path, BinaryIO] | None = None
        self._form = Form()

    def feed(self, piece: bytes | bytearray) -> None:
        """Take the next piece.

        Raises:
            RefusalError: It is no form, or a field is too large.
        """
        self._held += piece
        while self._step():
            pass

    def finish(self) -> Form:
        """Return the form.

        Raises:
            RefusalError: Its end is missing.
        """
        if self._state != "end":
            raise malformed()
        return self._form

    def _step(self) -> bool:
        """Go on as far as one delimiter; False if more must come first."""
        if self._state == "end":
            self._held.clear()
            return False
        if self._state == "delimiter":
            if len(self._held) < 2:
                return False
            mark = bytes(self._held[:2])
            del self._held[:2]
            if mark not in (b"--", b"\r\n"):
                raise malformed()
            self._state = "end" if mark == b"--" else "header"
            return True
        if self._state == "header":
            end = self._held.find(b"\r\n\r\n")
            if end > MAX_HEADER_BYTES or (end < 0 and len(self._held) > MAX_HEADER_BYTES):
                raise malformed()
            if end < 0:
                return False
            self._open(bytes(self._held[:end]).decode("utf-8", "replace"))
            del self._held[: end + 4]
            self._state = "body"
            return True
        return self._take()

    def _take(self) -> bool:
        """Take what comes before the next delimiter."""
        end = self._held.find(self._delimiter)
        stop = end if end >= 0 else max(0, len(self._held) - len(self._delimiter) + 1)
        if self._state == "body":
            self._write(bytes(self._held[:stop]))
        del self._held[:stop]
        if end < 0:
            return False
        del self._held[: len(self._delimiter)]
        if self._state == "body":
            self._close()
        self._state = "delimiter"
        return True

    def _open(self, header: str) -> None:
        self._parts += 1
        lines = [line for line in header.split("\r\n") if line.lower().startswith("content-disposition:")]
        found = dict(PARAMETER.findall(lines[0])) if lines else {}
        if self._parts > MAX_FIELDS or "name" not in found:
            raise malformed()
        self._name, self._filename = _plain(found["name"]), _plain(found.get("filename", ""))
        self._text = self._file = None
        if "filename" in found:
            self._file = self._stack.enter_context(new_draft(self._staging))
        else:
            self._text = bytearray()

    def _write(self, content: bytes) -> None:
        if self._file is not None:
            self._file[1].write(content)
        elif self._text is not None:
            self._bytes += len(content)
            if self._bytes > MAX_FIELD_BYTES:
                raise RefusalError(413, f"the texts of the form have more than {MAX_FIELD_BYTES:,} bytes")
            self._text += content

    def _close(self) -> None:
        if self._file is not None:
            path, file = self._file
            file.flush()
            if self._filename:
                name = re.split(r"[/\\]", self._filename)[-1]
                self._form.files.setdefault(self._name, []).append(FormFile(name, path, file.tell()))
        elif self._text is not None:
            text = self._text.decode("utf-8", "replace")
            self._form.fields.setdefault(self._name, []).append(text)


def malformed() -> RefusalError:
    """Return the answer for what is no form."""
    return RefusalError(400, "what was sent is no form of this page; open the page again, and send it anew")


def _plain(text: str) -> str:
    for written, letter in ESCAPES.items():
        text = text.replace(written, letter)
    return text
