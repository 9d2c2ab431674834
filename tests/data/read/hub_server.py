"""A server on loopback that speaks the hub's endpoints for data sets, and fails on request."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = hashlib.sha1(b"the first commit").hexdigest()


class Hub:
    """Data sets by name, each a folder of files under one commit."""

    def __init__(self, root: Path, commit: str = COMMIT) -> None:
        self.root = root
        self.commit = commit
        self.asked: Counter[tuple[str, str]] = Counter()
        """Requests for a file by method and name."""
        self.status: dict[str, list[int]] = {}
        """Answers to the next requests of the content of a file that are no success."""
        self.cut: dict[str, list[int]] = {}
        """Bytes after which the connection breaks, for the next requests of a file."""
        self.stall: dict[str, threading.Event] = {}
        """After half of a file, nothing more comes until this is set."""
        self.refuse_all = 0
        """A status that answers everything, if not 0."""

    def files(self, name: str) -> dict[str, bytes]:
        folder = self.root / name
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        return {str(path.relative_to(folder)): path.read_bytes() for path in paths}

    def contents_asked(self) -> int:
        return sum(count for (method, _), count in self.asked.items() if method == "GET")


def _entry(path: str, content: bytes) -> dict:
    large = path.endswith(".parquet")
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    sha256 = hashlib.sha256(content).hexdigest()
    entry = {"type": "file", "path": path, "size": len(content), "oid": blob}
    return entry | {"lfs": {"oid": sha256, "size": len(content), "pointerSize": 130}} if large else entry


def _tree(files: dict[str, bytes], under: str, recursive: bool) -> list[dict]:
    inside = {path: content for path, content in files.items() if not under or path.startswith(under + "/")}
    deep = len(under.split("/")) if under else 0
    folders = {"/".join(path.split("/")[: deep + 1]) for path in inside if path.count("/") > deep}
    listed = [_entry(path, content) for path, content in inside.items() if recursive or path.count("/") == deep]
    return listed + [{"type": "directory", "path": path, "oid": "0" * 40, "size": 0} for path in sorted(folders)]


class _Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        self._answer(self.rfile.read(length))

    def _answer(self, body: bytes = b"") -> None:
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        if self.hub.refuse_all:
            self._json({"error": "trouble"}, self.hub.refuse_all)
        elif parts[:2] == ["api", "datasets"] and len(parts) >= 4:
            self._about("/".join(parts[2:4]), parts[4:], body)
        elif parts[0] == "datasets" and len(parts) > 5 and parts[3] == "resolve":
            self._file("/".join(parts[1:3]), "/".join(parts[5:]))
        else:
            self._json({}, 200 if parts == [""] else 404)

    def _about(self, name: str, rest: list[str], body: bytes) -> None:
        files = self.hub.files(name)
        if not files:
            self._json({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
        elif not rest or rest[0] == "revision":
            siblings = [{"rfilename": path} for path in files]
            self._json({"id": name, "sha": self.hub.commit, "siblings": siblings, "private": False, "tags": []})
        elif rest[0] == "tree":
            self._json(_tree(files, "/".join(rest[2:]), "recursive=true" in self.path.lower()))
        elif rest[0] == "paths-info":
            asked = json.loads(body)["paths"] if body.startswith(b"{") else []
            asked = asked or [
                unquote(part.split("=")[1]) for part in body.decode().split("&") if part.startswith("paths")
            ]
            self._json([_entry(path, files[path]) for path in asked if path in files])
        else:
            self._json({}, 404)

    def _file(self, name: str, path: str) -> None:
        content = self.hub.files(name).get(path)
        if content is None:
            self._json({}, 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": self.hub.commit})
            return
        self.hub.asked[self.command, path] += 1
        if self.command == "GET" and self.hub.status.get(path):
            self._json({"error": "trouble"}, self.hub.status[path].pop(0))
            return
        entry = _entry(path, content)
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("ETag", f'"{entry.get("lfs", entry)["oid"]}"')
        self.send_header("X-Repo-Commit", self.hub.commit)
        self.end_headers()
        if self.command == "HEAD":
            return
        rest = content[start:]
        if self.hub.cut.get(path):
            self.wfile.write(rest[: self.hub.cut[path].pop(0)])
            self.wfile.flush()
            self.close_connection = True
            self.connection.close()
            return
        if path in self.hub.stall:
            self.wfile.write(rest[: len(rest) // 2])
            self.wfile.flush()
            self.hub.stall[path].wait(60)
            rest = rest[len(rest) // 2 :]
        self.wfile.write(rest)

    def _json(self, value: object, status: int = 200, headers: dict[str, str] | None = None) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        for key, text in (headers or {}).items():
            self.send_header(key, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@contextmanager
def serving(hub: Hub):
    """The address of a server that answers for the hub as long as the block lasts."""
    answers = type("Answers", (_Answers,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), answers)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
