"""Ids of runs: each sorts after the one before, and ends with the region where its run lives."""

import os
import re
import threading
import time
import uuid

from sdxl_lightning_mcp.errors import RunElsewhereError

# Safe in paths, headers and names of files.
REGION = r"[a-z0-9]([a-z0-9-]{0,18}[a-z0-9])?"
RUN_ID = rf"[0-9a-f]{{8}}(-[0-9a-f]{{4}}){{3}}-[0-9a-f]{{12}}(-{REGION})?"
UUID_LENGTH = 36

_lock = threading.Lock()
_last_tick = 0


def new_run_id(region: str | None = None) -> str:
    """A UUID of version 7 (RFC 9562): time, then 62 random bits; each sorts after the one before.

    Time is 48 bits of milliseconds and 12 of their fraction (method 3 of section 6.2). With a
    region it stands behind, and so takes no part in the order: 0199d5a0-...-eu.
    """
    global _last_tick
    milliseconds, rest = divmod(time.time_ns(), 1_000_000)
    with _lock:
        tick = _last_tick = max(milliseconds << 12 | (rest << 12) // 1_000_000, _last_tick + 1)
    value = (tick >> 12) << 80 | 7 << 76 | (tick & 0xFFF) << 64 | 2 << 62
    made = str(uuid.UUID(int=value | int.from_bytes(os.urandom(8), "big") >> 2))
    return f"{made}-{region}" if region else made


def read_run_id(text: str) -> str:
    """An id in the one way in which it is written; also of capitals, in braces, or as a URN.

    Raises:
        ValueError: It is none.
    """
    written = text.lower()
    return written if re.fullmatch(RUN_ID, written) else str(uuid.UUID(text))


def check_region(run_id: str, here: str | None) -> None:
    """Whether a run that is not known here, in the region `here`, is at least not another's.

    Raises:
        RunElsewhereError: Its id names the region that has it.
    """
    found = run_id[UUID_LENGTH + 1 :] if re.fullmatch(RUN_ID, run_id) else ""
    if found and found != here:
        this = f"this server is of region {here!r}" if here else "this server is of no region"
        raise RunElsewhereError(
            f"The run {run_id} lives in region {found!r}, and {this}. Ask that region's server; "
            "through a balancer, again when that region is back."
        )
