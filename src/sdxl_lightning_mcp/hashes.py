"""The SHA-256 of files; what was found for a large one is remembered."""

import contextlib
import hashlib
import json
import os
from pathlib import Path

import platformdirs

# Smaller ones are hashed each time; for larger ones it is remembered what was found.
REMEMBERED_FROM = 64 << 20


def sha256(path: Path) -> str:
    """The file's hash; a large file's is remembered as long as the file stays as it is."""
    real = path.resolve()
    facts = real.stat()
    # Not the path: a file keeps its hash when it is renamed.
    key = f"{facts.st_dev} {facts.st_ino} {facts.st_size} {facts.st_mtime_ns}"
    known = _recall() if facts.st_size >= REMEMBERED_FROM else {}
    if key not in known:
        with real.open("rb") as opened:
            known[key] = hashlib.file_digest(opened, "sha256").hexdigest()
        if facts.st_size >= REMEMBERED_FROM:
            _remember(known)
    return known[key]


def _memory() -> Path:
    return Path(platformdirs.user_cache_dir("sdxl-lightning-mcp", appauthor=False)) / "hashes.json"


def _recall() -> dict[str, str]:
    try:
        return json.loads(_memory().read_text("utf-8"))
    except (OSError, ValueError):
        return {}


def _remember(known: dict[str, str]) -> None:
    # Only time is lost where this cannot be written.
    with contextlib.suppress(OSError):
        memory = _memory()
        memory.parent.mkdir(parents=True, exist_ok=True)
        part = memory.with_name(f".{os.getpid()}.part")
        part.write_text(json.dumps(known), "utf-8")
        part.replace(memory)
