"""API keys: made once, kept as hashes, revoked for good."""

import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass
from datetime import UTC, datetime

from sdxl_lightning_mcp.database import Database
from sdxl_lightning_mcp.errors import SettingsError

PREFIX = "sdxl_"


@dataclass(frozen=True)
class Key:
    """A key as it is kept: the secret itself is known to whoever was given it."""

    id: str
    name: str
    created: datetime
    revoked: datetime | None


class Keys:
    """The keys on record. Every method may wait for the disk: call them off the event loop.

    All raise StorageError where the record cannot be used.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, name: str) -> tuple[Key, str]:
        """Makes a key; its text is returned here and never again."""
        key = Key(secrets.token_hex(4), name, datetime.now(UTC), None)
        # 256 random bits: nobody finds them by trying, so a plain hash is enough.
        text = f"{PREFIX}{key.id}_{secrets.token_urlsafe(32)}"
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT INTO keys VALUES (?, ?, ?, ?, NULL)",
                (key.id, name, _hash(text), key.created.timestamp()),
            )
        return key, text

    def revoke(self, key_id: str) -> Key:
        """Ends a key's validity, at once also in servers that run.

        Raises:
            SettingsError: There is no such key.
        """
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE keys SET revoked = ? WHERE id = ? AND revoked IS NULL",
                (time.time(), key_id),
            )
        found = [key for key in self.all() if key.id == key_id]
        if not found:
            raise SettingsError(f"There is no key {key_id!r}. See: sdxl-lightning-mcp keys list")
        return found[0]

    def all(self) -> list[Key]:
        """Every key there ever was, the oldest first."""
        return [
            Key(
                row["id"],
                row["name"],
                datetime.fromtimestamp(row["created"], UTC),
                datetime.fromtimestamp(row["revoked"], UTC) if row["revoked"] else None,
            )
            for row in self._database.read("SELECT * FROM keys ORDER BY created")
        ]

    def any(self) -> bool:
        """Whether there ever was a key. Once so, it stays so: revoking all opens nothing."""
        return bool(self._database.read("SELECT 1 FROM keys LIMIT 1"))

    def find(self, text: str) -> Key | None:
        """The key with this text, if it is one, revoked or not."""
        key_id = text.removeprefix(PREFIX).partition("_")[0]
        rows = self._database.read("SELECT id, hash FROM keys WHERE id = ?", (key_id,))
        if not rows or not hmac.compare_digest(rows[0]["hash"], _hash(text)):
            return None
        return next(key for key in self.all() if key.id == key_id)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
