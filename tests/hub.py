"""A stand-in for the model hub: real HTTP over a real socket, from a folder of files."""

import hashlib
import re
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from support import answering

PIECE = 2**20
FLIPPED = bytes(byte ^ 1 for byte in range(256))
RESOLVE = re.compile(r"/(?P<repository>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
# What the hub keeps in its large-file storage and names by SHA-256.
LARGE = (".safetensors", ".bin", ".ckpt")


class Request(NamedTuple):
    """What was asked for."""

    method: str
    path: str
    range: str | None


@dataclass
class Hub:
    """Where the hub is, what it was asked for, and the faults it shall have.

    `break_after`: a body longer than that is cut after so many bytes, once; then it is None again.
    The connection is closed as by a server that goes away, which the hub's client tries again, or
    if `reset` is set, torn down as by a network that does, which ends the client's download.
    `hold_after`: a body longer than that waits after so many bytes, until `released` is set.
    `refuse`: every answer is 503. `gated`: every answer is that the licence must be accepted first.
    `corrupt`: the bytes of this file (`owner/name/path`) are wrong, its length and hash are right.
    """

    root: Path
    url: str = ""
    requests: list[Request] = field(default_factory=list)
    break_after: int | None = None
    reset: bool = False
    hold_after: int | None = None
    released: threading.Event = field(default_factory=threading.Event)
    refuse: bool = False
    gated: bool = False
    corrupt: str | None = None

    @property
    def ranges(self) -> list[str | None]:
        """The range of each download, in order."""
        return [request.range for request in self.requests if request.method == "GET"]


@contextmanager
def serve_hub(root: Path) -> Iterator[Hub]:
    """Serves `root`/owner/name/path as the hub serves a repository's files, at any revision."""
    hub = Hub(root)

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """A client that goes away is no news."""

    class Handler(_Handler):
        def answer(self) -> None:
            _answer(hub, self)

    with answering(Server(("127.0.0.1", 0), Handler)) as hub.url:
        yield hub


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        raise NotImplementedError

    def do_GET(self) -> None:
        self.answer()

    def do_HEAD(self) -> None:
        self.answer()

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""

    def reply(self, status: int, headers: dict[str, str | int]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()

    def error(self, status: int, code: str | None, message: str, **headers: str) -> None:
        named = {"X-Error-Code": code} if code else {}
        self.reply(status, {**named, "X-Error-Message": message, **headers, "Content-Length": 0})


def _answer(hub: Hub, handler: _Handler) -> None:
    asked = unquote(urlsplit(handler.path).path)
    hub.requests.append(Request(handler.command, asked, handler.headers["Range"]))
    if hub.refuse:
        return handler.error(503, None, "Service Unavailable")
    match = RESOLVE.fullmatch(asked)
    if match is None or not (repository := hub.root / match["repository"]).is_dir():
        return handler.error(401, "RepoNotFound", "Invalid username or password.")
    commit = {"X-Repo-Commit": match["revision"]}
    if hub.gated:
        return handler.error(401, "GatedRepo", "Access to this model is restricted.", **commit)
    file = repository / match["path"]
    if not file.is_file():
        return handler.error(404, "EntryNotFound", "Entry not found", **commit)
    size = file.stat().st_size
    headers: dict[str, str | int] = {
        **commit,
        "ETag": f'"{_etag(file, file.stat().st_mtime_ns)}"',
        "Accept-Ranges": "bytes",
        "Content-Type": "application/octet-stream",
    }
    if file.suffix in LARGE:
        headers |= {"X-Linked-Etag": headers["ETag"], "X-Linked-Size": size}
    start, end = _span(handler.headers["Range"], size)
    if start >= end and size:
        return handler.reply(416, {"Content-Range": f"bytes */{size}", "Content-Length": 0})
    partial = {"Content-Range": f"bytes {start}-{end - 1}/{size}"} if end - start < size else {}
    handler.reply(206 if partial else 200, {**headers, **partial, "Content-Length": end - start})
    if handler.command == "GET":
        corrupt = hub.corrupt == f"{match['repository']}/{match['path']}"
        _send(hub, handler, file, start, end, corrupt)
    return None


def _send(hub: Hub, handler: _Handler, file: Path, start: int, end: int, corrupt: bool) -> None:
    stop = end
    if hub.break_after is not None and start + hub.break_after < end:
        stop, hub.break_after = start + hub.break_after, None
    held = None if hub.hold_after is None else start + hub.hold_after
    with file.open("rb") as content:
        content.seek(start)
        while piece := content.read(min(PIECE, stop - content.tell())):
            handler.wfile.write(piece.translate(FLIPPED) if corrupt else piece)
            if held is not None and content.tell() >= held:
                hub.released.wait()
    if stop < end:
        handler.close_connection = True
        if hub.reset:
            linger = struct.pack("ii", 1, 0)
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            handler.connection.close()


def _span(header: str | None, size: int) -> tuple[int, int]:
    """The first byte asked for, and the one after the last."""
    if header is None or not (match := re.fullmatch(r"bytes=(\d+)-(\d*)", header)):
        return 0, size
    return int(match[1]), min(size, int(match[2]) + 1) if match[2] else size


@cache
def _etag(file: Path, changed: int) -> str:
    """SHA-256 for large files; for others git's name of the content."""
    content = file.read_bytes()
    if file.suffix in LARGE:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
