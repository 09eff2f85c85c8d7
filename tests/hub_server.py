"""A Hub on loopback, as far as a push needs one: repositories are created, files travel with their commit."""

import base64
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "hf_test"


class Hub(BaseHTTPRequestHandler):
    """`server.repositories` is {id: [commit, ..]}, a commit {"summary": .., "files": {path: bytes}}."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        parts = self.path.split("?")[0].strip("/").split("/")
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.answer({"error": "Invalid username or password."}, status=401)
        elif parts == ["api", "repos", "create"]:
            request = json.loads(body)
            repository = f"{request.get('organization') or 'someone'}/{request['name']}"
            self.server.repositories.setdefault(repository, [])
            self.answer({"url": f"http://{self.headers['Host']}/{repository}"})
        elif parts == ["api", "validate-yaml"]:
            self.answer({"errors": [], "warnings": []})
        elif parts[4] == "preupload":
            files = [file["path"] for file in json.loads(body)["files"]]
            self.answer({"files": [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in files]})
        elif parts[4] == "commit":
            lines = [json.loads(line) for line in body.splitlines()]
            files = {v["value"]["path"]: base64.b64decode(v["value"]["content"]) for v in lines if v["key"] == "file"}
            repository = "/".join(parts[2:4])
            commits = self.server.repositories[repository]
            commits.append({"summary": lines[0]["value"]["summary"], "files": files})
            url = f"http://{self.headers['Host']}/{repository}/commit/{len(commits):040x}"
            self.answer({"success": True, "commitOid": url[-40:], "commitUrl": url})

    def answer(self, content, status=200):
        content = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args):
        """Tests are quiet."""


@contextmanager
def running_hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.repositories = {}
    server.endpoint = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
