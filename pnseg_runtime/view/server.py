"""The page's server: this machine's loopback alone, reading only."""

from __future__ import annotations

import json
import logging
import mimetypes
import re
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pnseg_runtime.errors import OutputError
from pnseg_runtime.view.result import View

LOGGER = logging.getLogger("pnseg.view")
STATIC = Path(__file__).parent / "static"
LOOPBACK = "127.0.0.1"

_FILES = {
    "/": "index.html",
    "/view.js": "view.js",
    "/view.css": "view.css",
    "/openseadragon.min.js": "vendor/openseadragon.min.js",
}
_TILE = re.compile(r"/tile/(\d{1,2})/(\d{1,6})/(\d{1,6})\.jpg")
_NUCLEI = re.compile(r"/nuclei/(\d{1,9})/(\d{1,9})/(\d{1,9})/(\d{1,9})\.json")
_NUCLEUS = re.compile(r"/nucleus/(\d{1,10})\.json")


class Server(ThreadingHTTPServer):
    """Serves one view, and closes it at the end.

    Requests that name another host than this machine are refused, so that no page of the web can
    read a slide through a name of its own that points here.
    """

    daemon_threads = True

    def __init__(self, view: View, port: int = 0) -> None:
        """Bind to the loopback.

        Args:
            view: what is shown.
            port: 0 for any that is free.

        Raises:
            OutputError: the port is taken, or this installation has no OpenSeadragon.
        """
        self.view = view
        if not (STATIC / _FILES["/openseadragon.min.js"]).is_file():
            view.close()
            raise OutputError(
                "pnseg view: this installation was built without npm and has no OpenSeadragon; "
                "install npm and then pnseg again (in a checkout: python hatch_build.py)."
            )
        try:
            super().__init__((LOOPBACK, port), Handler)
        except OSError as error:
            raise OutputError(f"port {port}: cannot be used ({error.strerror}); choose another with --port.") from error

    def server_close(self) -> None:
        super().server_close()
        self.view.close()

    @property
    def address(self) -> str:
        return f"http://{LOOPBACK}:{self.server_address[1]}/"


class Handler(BaseHTTPRequestHandler):
    """Answers GET requests."""

    server: Server
    server_version = "pnseg"
    sys_version = ""
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        host = (self.headers.get("Host") or "").rpartition(":")[0]
        if host not in (LOOPBACK, "localhost"):
            return self._refuse(HTTPStatus.FORBIDDEN)
        path = urlsplit(self.path).path
        view = self.server.view
        if path in _FILES:
            file = STATIC / _FILES[path]
            return self._send(file.read_bytes(), mimetypes.guess_type(file.name)[0] or "text/plain")
        if path == "/summary.json":
            return self._json(view.summary())
        if path == "/density.json":
            return self._json(view.nuclei.density())
        if found := _TILE.fullmatch(path):
            level, column, row = (int(value) for value in found.groups())
            tile = view.zoom.tile(level, column, row)
            return self._refuse(HTTPStatus.NOT_FOUND) if tile is None else self._send(tile, "image/jpeg")
        if found := _NUCLEI.fullmatch(path):
            x0, y0, x1, y1 = (float(value) for value in found.groups())
            return self._json(view.nuclei.within((x0, y0, x1, y1)))
        if found := _NUCLEUS.fullmatch(path):
            row_ = view.nuclei.row(int(found[1]))
            return self._refuse(HTTPStatus.NOT_FOUND) if row_ is None else self._json(row_)
        return self._refuse(HTTPStatus.NOT_FOUND)

    def _json(self, value: Any) -> None:
        self._send(json.dumps(value, allow_nan=False).encode(), "application/json")

    def _send(self, body: bytes, kind: str) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", f"{kind}; charset=utf-8" if kind.startswith("text/") else kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Security-Policy", "default-src 'self'; img-src 'self' data: blob:")
        self.send_header("X-Content-Type-Options", "nosniff")
        # Addresses name no slide: what a browser kept would be shown for the next one at the same port.
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def _refuse(self, status: HTTPStatus) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is the library's
        LOGGER.debug(format, *args)
