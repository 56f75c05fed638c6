"""Addresses that are good for one upload, for clients that send no token with it."""

import hashlib
import hmac
import os
import secrets
import time
from pathlib import Path
from urllib.parse import urlencode

from adapterhub_registry.errors import OutputError

KEY_FILE = "server.key"
KEY_BYTES = 32
HOLDS_S = 3600


class Signer:
    """Signs addresses with a key that lies in the home, readable by its owner alone.

    Args:
        home: Of the registry.

    Raises:
        OutputError: The key cannot be written or read.
    """

    def __init__(self, home: Path) -> None:
        path = home / KEY_FILE
        try:
            try:
                descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            except FileExistsError:
                pass
            else:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(secrets.token_bytes(KEY_BYTES))
            self._key = path.read_bytes()
        except OSError as exc:
            raise OutputError(path, exc.strerror or str(exc)) from exc
        if len(self._key) != KEY_BYTES:
            raise OutputError(path, "it is no key; remove it, and a new one is made")

    def sign(self, path: str, **values: str | int) -> str:
        """Return a path with values and a signature behind it, which holds for an hour."""
        table = {name: str(value) for name, value in values.items()}
        table["expires"] = str(int(time.time()) + HOLDS_S)
        return f"{path}?{urlencode({**table, 'signature': self._signature(path, table)})}"

    def is_signed(self, path: str, table: dict[str, str]) -> bool:
        """Say whether the values behind a path are those that were signed, and still hold."""
        values = dict(table)
        found = values.pop("signature", "")
        expires = values.get("expires", "")
        is_right = hmac.compare_digest(found.encode(), self._signature(path, values).encode())
        return is_right and expires.isdecimal() and int(expires) >= time.time()

    def signature(self, purpose: str, text: str) -> str:
        """Return what only this server can say of a text; of one purpose, it is nothing for another."""
        return hmac.new(self._key, f"{purpose}\0{text}".encode(), hashlib.sha256).hexdigest()

    def _signature(self, path: str, table: dict[str, str]) -> str:
        text = f"{path}\n{urlencode(sorted(table.items()))}"
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()
