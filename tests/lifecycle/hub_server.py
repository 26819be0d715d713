"""The few endpoints of a model hub that an upload asks, on loopback: a real server that keeps what it is sent."""

import hashlib
import json
import threading
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_loopback"


class Hub:
    """What a hub knows: repositories with their files, blobs by hash, and every request's method and path.

    `failures` says for a path's last part with how many bad answers, of which status, it begins.
    """

    def __init__(self) -> None:
        self.url = ""
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.blobs: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.failures: dict[str, list[int]] = {}


def _mode(path: str) -> dict[str, Any]:
    """Weights go to large-file storage, as the hub's own .gitattributes say."""
    large = path.endswith((".safetensors", ".gguf"))
    return {"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}


@contextmanager
def hub_server() -> Iterator[Hub]:
    """The hub, until the end of the block."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self._body()
            if self._fails() or self._is_stranger():
                return
            path = self.path.strip("/").split("/")
            if self.path == "/api/repos/create":
                self._create(json.loads(body))
            elif self.path == "/api/validate-yaml":
                self._answer({"errors": [], "warnings": []})
            elif path[:2] == ["api", "models"] and path[4] == "preupload":
                self._answer({"files": [_mode(file["path"]) for file in json.loads(body)["files"]]})
            elif self.path.endswith(".git/info/lfs/objects/batch"):
                objects = [self._upload(one) for one in json.loads(body)["objects"]]
                self._answer({"transfer": "basic", "objects": objects})
            else:
                self._commit(f"{path[2]}/{path[3]}", [json.loads(line) for line in body.splitlines()])

        def do_PUT(self) -> None:
            body = self._body()
            if not self._fails():
                hub.blobs[hashlib.sha256(body).hexdigest()] = body
                self._answer({})

        def _create(self, wanted: dict[str, Any]) -> None:
            name = f"{wanted.get('organization', 'ann')}/{wanted['name']}"
            if name in hub.repositories:
                self._answer({"error": "You already created this model repo", "url": f"{hub.url}/{name}"}, 409)
                return
            hub.repositories[name] = {}
            hub.private[name] = bool(wanted.get("private")) or wanted.get("visibility") == "private"
            self._answer({"url": f"{hub.url}/{name}", "name": name, "id": name})

        def _upload(self, wanted: dict[str, Any]) -> dict[str, Any]:
            if wanted["oid"] in hub.blobs:
                return wanted
            return wanted | {"actions": {"upload": {"href": f"{hub.url}/blobs/{wanted['oid']}"}}}

        def _commit(self, name: str, lines: list[dict[str, Any]]) -> None:
            for line in lines:
                value = line["value"]
                if line["key"] == "deletedFile":
                    del hub.repositories[name][value["path"]]
                if line["key"] == "file":
                    hub.repositories[name][value["path"]] = b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    hub.repositories[name][value["path"]] = hub.blobs[value["oid"]]
            self._answer({"commitUrl": f"{hub.url}/{name}/commit/{'0' * 40}", "commitOid": "0" * 40, "success": True})

        def _body(self) -> bytes:
            hub.asked.append(f"{self.command} {self.path}")
            if self.headers.get("transfer-encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("content-length") or 0))
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def _fails(self) -> bool:
            for part, statuses in hub.failures.items():
                if f"/{part}" in self.path and statuses:
                    self._answer({"error": "later, please"}, statuses.pop(0))
                    return True
            return False

        def _is_stranger(self) -> bool:
            known = self.headers.get("authorization") == f"Bearer {TOKEN}"
            if not known:
                self._answer({"error": "Invalid username or password."}, 401)
            return not known

        def _answer(self, value: Any, status: int = 200) -> None:
            content = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_GET(self) -> None:
            self._body()
            kind, _, rest = self.path.partition("?")[0].strip("/").removeprefix("api/").partition("/")
            name = "/".join(rest.split("/")[:2])
            if kind != "models" or name not in hub.repositories:
                self._answer({"error": "Repository Not Found"}, 404)
            elif rest == name:
                files = [{"rfilename": path} for path in hub.repositories[name]]
                self._answer({"id": name, "private": hub.private[name], "siblings": files, "sha": "0" * 40})
            else:
                files = hub.repositories[name].items()
                told = [{"type": "file", "path": path, "size": len(own), "oid": "0" * 40} for path, own in files]
                self._answer(told)

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
