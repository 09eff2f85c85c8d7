"""A Hub on loopback with what the client of huggingface_hub needs to share models, and with faults on demand.

with running_hub() as hub:
    hub.faults.append(Fault("commit", "lost"))
    ...                                   # a process with HF_ENDPOINT=hub.endpoint, HF_TOKEN=TOKEN, HF_HUB_DISABLE_XET=1
    hub.repositories["someone/model"].pushed   # the commits after the one that made the repository
"""

import base64
import hashlib
import json
import re
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

# Who a token is: the user's name and what it may do. "someone" is also a member of the organization "lab".
TOKEN, READ_TOKEN, OTHER_TOKEN = "hf_test", "hf_test_read", "hf_test_other"
USERS = {TOKEN: ("someone", "write"), READ_TOKEN: ("someone", "read"), OTHER_TOKEN: ("other", "write")}
NAMESPACES = {"someone": ("someone", "lab"), "other": ("other",)}
LARGE_FILES = (".safetensors", ".png", ".gif", ".bin")
GITATTRIBUTES = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LARGE_FILES).encode()
MAX_REGULAR_BYTES = 10 * 2**20


# What is stored ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StoredFile:
    content: bytes
    large: bool

    @property
    def oid(self):
        """The checksum that the client compares: SHA-256 for large files, the one of git for others."""
        if self.large:
            return hashlib.sha256(self.content).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()


@dataclass(frozen=True)
class Commit:
    """All files of the repository, as they are with this commit."""

    summary: str
    stored: dict
    parent: str = ""

    @property
    def oid(self):
        files = sorted((path, file.oid) for path, file in self.stored.items())
        return hashlib.sha1(repr((self.parent, self.summary, files)).encode()).hexdigest()

    @property
    def files(self):
        """{path: bytes}, without the `.gitattributes` that the Hub itself writes."""
        return {path: file.content for path, file in self.stored.items() if path != ".gitattributes"}


@dataclass
class Repository:
    """`refs` is {branch or refs/pr/N: [commit, ..]}, the newest last."""

    private: bool = False
    refs: dict = field(default_factory=dict)
    pull_requests: list = field(default_factory=list)  # (number, title, author)

    def __post_init__(self):
        self.refs["main"] = [Commit("initial commit", {".gitattributes": StoredFile(GITATTRIBUTES, large=False)})]

    @property
    def pushed(self):
        """The commits to main after the creation of the repository."""
        return self.refs["main"][1:]

    def find(self, revision):
        """The commit of a branch, a pull request or a hash; None if there is none."""
        if revision in self.refs:
            return self.refs[revision][-1]
        return next((c for commits in self.refs.values() for c in commits if c.oid == revision), None)


# What goes wrong -----------------------------------------------------------------------------------------------------


@dataclass
class Fault:
    """Happens to requests number `nth` to `nth + times - 1` of a kind, which is the name of a function below.

    effect: an HTTP status; "drop", the connection is closed before anything is done; "lost", it is done, and the
        connection closed before the answer; "slow", it is done after `seconds`; "hang", nothing is done, and the
        connection stays open for `seconds`; or a function, which is called before it is done.
    """

    kind: str
    effect: int | str | Callable
    nth: int = 1
    times: int = 1
    retry_after: int | None = None
    seconds: float = 1.0

    def happens_to(self, number):
        return self.nth <= number < self.nth + self.times


class Refused(Exception):
    """An answer of an HTTP error; `code` is how the client tells one 404 from another."""

    def __init__(self, status, message, code=None, headers=None, **content):
        self.status, self.content = status, {"error": message} | content
        self.headers = {"X-Error-Message": message.replace("\n", " ")} | (headers or {})
        if code is not None:
            self.headers["X-Error-Code"] = code


# What is asked -------------------------------------------------------------------------------------------------------

ROUTES = []


def route(method, pattern):
    """The function answers requests of this method whose path is the pattern: {repo} is an id, {rest} all that follows."""
    names = {"{repo}": r"(?P<repo>[^/]+/[^/]+)", "{revision}": r"(?P<revision>[^/]+)", "{rest}": r"(?P<rest>.+)"}
    for name, group in names.items():
        pattern = pattern.replace(name, group)

    def register(function):
        ROUTES.append((method, re.compile(pattern), function))
        return function

    return register


@route("GET", "/api/whoami-v2")
def whoami(hub, request):
    user = request.user_or_refuse()
    role = USERS[request.token][1]
    orgs = [{"name": name, "roleInOrg": "write"} for name in NAMESPACES[user] if name != user]
    return {"type": "user", "name": user, "orgs": orgs, "auth": {"accessToken": {"role": role}}}


@route("POST", "/api/repos/create")
def create_repo(hub, request):
    asked, user = request.json(), request.user_or_refuse()
    owner = asked.get("organization") or user
    repo = f"{owner}/{asked['name']}"
    request.check_may_write(owner)
    if repo in hub.repositories:
        raise Refused(409, "You already created this model repo", url=f"{hub.endpoint}/{repo}")
    hub.repositories[repo] = Repository(private=asked.get("visibility") == "private")
    return {"url": f"{hub.endpoint}/{repo}"}


@route("POST", "/api/validate-yaml")
def validate_yaml(hub, request):
    """The checks of the Hub that are known: metadata are there, are YAML, and its fields are of the right kind."""
    errors = [{"message": message} for message in metadata_errors(request.json()["content"])]
    if errors:
        raise Refused(400, "invalid metadata", errors=errors, warnings=[])
    return {"errors": [], "warnings": []}


def metadata_errors(content):
    found = re.match(r"---\n(.*?\n)---\n", content, re.DOTALL)
    if found is None:
        return ["empty or missing yaml metadata in repo card"]
    try:
        metadata = yaml.safe_load(found[1])
    except yaml.YAMLError as error:
        return [f"not YAML: {error}"]
    strings = ("license", "library_name", "pipeline_tag")
    errors = [f'"{name}" must be a string' for name in strings if not isinstance(metadata.get(name, ""), str)]
    lists = ("tags", "datasets", "model-index")
    errors += [f'"{name}" must be an array' for name in lists if not isinstance(metadata.get(name, []), list)]
    for model in metadata.get("model-index", []):
        for result in model["results"]:
            errors += [f'"{k}" is required' for k in ("task", "dataset", "metrics") if k not in result]
            errors += [f"not a metric: {m}" for m in result["metrics"] if "type" not in m or "value" not in m]
    return errors


@route("POST", "/api/models/{repo}/preupload/{revision}")
def preupload(hub, request, repo, revision):
    stored = request.commit_of(repo, revision).stored
    if request.query.get("create_pr") is None:
        request.check_may_write(repo.split("/")[0])

    def mode(file):
        is_large = file["path"].endswith(LARGE_FILES) or file["size"] > MAX_REGULAR_BYTES
        oid = stored[file["path"]].oid if file["path"] in stored else None
        mode = "lfs" if is_large else "regular"
        return {"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid}

    return {"files": [mode(file) for file in request.json()["files"]]}


@route("POST", "/{repo}.git/info/lfs/objects/batch")
def lfs_batch(hub, request, repo):
    """The address to upload each file to; nothing for files that the repository has."""
    objects = [{"oid": o["oid"], "size": o["size"]} for o in request.json()["objects"]]
    for o in objects:
        if o["oid"] not in hub.large_files:
            o["actions"] = {"upload": {"href": f"{hub.endpoint}/lfs/{o['oid']}"}}
    return {"transfer": "basic", "objects": objects}


@route("PUT", "/lfs/{rest}")
def lfs_upload(hub, request, rest):
    if hashlib.sha256(request.body).hexdigest() != rest:
        raise Refused(400, "content does not have the announced SHA-256")
    hub.large_files[rest] = request.body
    return {}


@route("GET", "/api/models/{repo}/xet-(?:read|write)-token/{revision}")
def xet_token(hub, request, repo, revision):
    """The address of the Xet storage, as content for uploads and as headers for downloads."""
    request.commit_of(repo, revision)
    if hub.xet is None:
        raise Refused(404, "this Hub has no Xet storage")
    names = ("X-Xet-Cas-Url", "X-Xet-Access-Token", "X-Xet-Token-Expiration")
    request.headers_out = dict(zip(names, (hub.xet.url, "xet", "9999999999"), strict=True))
    return {"casUrl": hub.xet.url, "accessToken": "xet", "exp": 9999999999}


@route("POST", "/api/models/{repo}/commit/{revision}")
def commit(hub, request, repo, revision):
    user, is_pull_request = request.user_or_refuse(), "create_pr" in request.query
    parent = request.commit_of(repo, revision)
    if not is_pull_request:
        request.check_may_write(repo.split("/")[0])
        if revision not in hub.repositories[repo].refs:
            raise Refused(400, f"{revision} is not a branch")
    header, *operations = [json.loads(line) for line in request.body.splitlines()]
    if header["value"].get("parentCommit", parent.oid) != parent.oid:
        raise Refused(412, "A commit has happened since. Please refresh and try again.")
    stored = dict(parent.stored)
    for operation in operations:
        apply_operation(hub, stored, **operation)
    new = Commit(header["value"]["summary"], stored, parent.oid)
    answer = {"success": True, "commitOid": new.oid, "commitUrl": f"{hub.endpoint}/{repo}/commit/{new.oid}"}
    repository = hub.repositories[repo]
    if is_pull_request:
        number = len(repository.pull_requests) + 1
        repository.pull_requests.append((number, new.summary, user))
        repository.refs[f"refs/pr/{number}"] = [parent, new]
        return answer | {"pullRequestUrl": f"{hub.endpoint}/{repo}/discussions/{number}"}
    repository.refs[revision].append(new)
    return answer


def apply_operation(hub, stored, key, value):
    path = value["path"]
    if key == "file":
        stored[path] = StoredFile(base64.b64decode(value["content"]), large=False)
    elif key == "lfsFile":
        if hub.xet is not None and value["oid"] in hub.xet.files():
            hub.large_files[value["oid"]] = hub.xet.read(value["oid"])
        if value["oid"] not in hub.large_files:
            raise Refused(400, f"{path} has not been uploaded")
        stored[path] = StoredFile(hub.large_files[value["oid"]], large=True)
    elif key == "deletedFile":
        if stored.pop(path, None) is None:
            raise Refused(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
    elif key == "deletedFolder":
        for inside in [name for name in stored if name.startswith(path.rstrip("/") + "/")]:
            del stored[inside]


@route("GET", "/api/models/{repo}")
def model_info(hub, request, repo):
    return revision_info(hub, request, repo, "main")


@route("GET", "/api/models/{repo}/revision/{revision}")
def revision_info(hub, request, repo, revision):
    commit = request.commit_of(repo, revision)
    private = hub.repositories[repo].private
    siblings = [{"rfilename": path} for path in sorted(commit.stored)]
    return {"id": repo, "modelId": repo, "private": private, "sha": commit.oid, "siblings": siblings, "tags": []}


@route("GET", "/api/models/{repo}/tree/{revision}(?:/{rest})?")
def tree(hub, request, repo, revision, rest=None):
    inside = f"{rest}/" if rest else ""
    stored = {p: f for p, f in sorted(request.commit_of(repo, revision).stored.items()) if p.startswith(inside)}
    if rest and not stored:
        raise Refused(404, f"{rest} does not exist on {revision}", "EntryNotFound")
    found, folders = [], set()
    for path, file in stored.items():
        steps = path.removeprefix(inside).split("/")
        folders |= {inside + "/".join(steps[:i]) for i in range(1, len(steps))}
        entry = {"type": "file", "path": path, "size": len(file.content), "oid": file.oid}
        large = {"lfs": {"oid": file.oid, "size": len(file.content), "pointerSize": 130}} if file.large else {}
        found.append(entry | large)
    found += [{"type": "directory", "path": path, "oid": "0" * 40, "size": 0} for path in sorted(folders)]
    if request.query.get("recursive", ["false"])[0].lower() == "true":
        return found
    return [entry for entry in found if "/" not in entry["path"].removeprefix(inside)]


@route("GET", "/api/models/{repo}/refs")
def refs(hub, request, repo):
    request.commit_of(repo, "main")
    listed = {"branches": [], "converts": [], "tags": [], "pullRequests": []}
    for name, commits in hub.repositories[repo].refs.items():
        kind = "pullRequests" if name.startswith("refs/pr/") else "branches"
        ref = name if name.startswith("refs/") else f"refs/heads/{name}"
        listed[kind].append({"name": name, "ref": ref, "targetCommit": commits[-1].oid})
    return listed


@route("POST", "/api/models/{repo}/branch/{revision}")
def create_branch(hub, request, repo, revision):
    start = request.commit_of(repo, request.json().get("startingPoint", "main"))
    request.check_may_write(repo.split("/")[0])
    if revision in hub.repositories[repo].refs:
        raise Refused(409, f"Reference already exists: {revision}")
    hub.repositories[repo].refs[revision] = [start]
    return {}


@route("GET", "/api/models/{repo}/discussions")
def discussions(hub, request, repo):
    request.commit_of(repo, "main")
    found = [
        {
            **{"num": number, "title": title, "author": {"name": author}, "status": "open", "isPullRequest": True},
            **{"createdAt": "2026-01-01T00:00:00.000Z", "repo": {"name": repo, "type": "model"}},
        }
        for number, title, author in hub.repositories[repo].pull_requests
        if request.query.get("author", [author]) == [author]
    ]
    return {"discussions": found, "count": len(found), "start": 0}


@route("GET", "/{repo}/resolve/{revision}/{rest}")
def resolve(hub, request, repo, revision, rest):
    commit = request.commit_of(repo, revision)
    file = commit.stored.get(rest)
    if file is None:
        raise Refused(404, "Entry not found", "EntryNotFound", {"X-Repo-Commit": commit.oid})
    request.headers_out = {"X-Repo-Commit": commit.oid, "ETag": f'"{file.oid}"'}
    if hub.xet is not None and file.oid in hub.xet.files():
        refresh = f"{hub.endpoint}/api/models/{repo}/xet-read-token/{commit.oid}"
        request.headers_out |= {"X-Xet-Hash": hub.xet.files()[file.oid][0], "X-Xet-Refresh-Route": refresh}
    return file.content


# How it is answered --------------------------------------------------------------------------------------------------


class Request(BaseHTTPRequestHandler):
    """One request of one connection. What it answers to is found in `ROUTES`; HEAD is GET without the body."""

    def do_GET(self):
        self.method = "GET"
        self.respond()

    do_HEAD = do_GET

    def do_POST(self):
        self.method = self.command
        self.respond()

    do_PUT = do_POST

    def respond(self):
        url = urlsplit(self.path)
        self.body, self.query, self.headers_out = self.read_body(), parse_qs(url.query, keep_blank_values=True), {}
        self.token = self.headers.get("Authorization", "").removeprefix("Bearer ") or None
        for method, pattern, function in ROUTES:
            found = pattern.fullmatch(url.path)
            if found is not None and method == self.method:
                values = {k: unquote(v) for k, v in found.groupdict().items() if v is not None}
                return self.carry_out(function, values)
        self.answer(404, {"error": f"this Hub does not know {self.command} {url.path}"})

    def read_body(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def carry_out(self, function, values):
        hub = self.server
        fault = hub.note(function.__name__)
        effect = fault.effect if fault else None
        if effect in ("drop", "hang"):
            time.sleep(fault.seconds if effect == "hang" else 0)
            return self.hang_up()
        if isinstance(effect, int):
            headers = {"Retry-After": str(fault.retry_after)} if fault.retry_after is not None else {}
            return self.answer(effect, {}, headers | {"X-Error-Message": "a fault on demand"})
        if effect == "slow":
            time.sleep(fault.seconds)
        elif callable(effect):
            effect()
        try:
            with hub.lock:
                content = function(hub, self, **values)
        except Refused as refused:
            return self.answer(refused.status, refused.content, refused.headers)
        if effect == "lost":
            return self.hang_up()
        self.answer(200, content, self.headers_out)

    def hang_up(self):
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def answer(self, status, content, headers=()):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        kind = "application/octet-stream" if isinstance(content, bytes) else "application/json"
        for name, value in {"Content-Type": kind, "Content-Length": len(body), **dict(headers)}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *args):
        """Tests are quiet."""

    # Questions of the functions about a request

    def json(self):
        return json.loads(self.body)

    @property
    def user(self):
        return USERS.get(self.token, (None, None))[0]

    def user_or_refuse(self):
        if self.user is None:
            raise Refused(401, "Invalid username or password.")
        return self.user

    def check_may_write(self, owner):
        user = self.user_or_refuse()
        if owner not in NAMESPACES[user] or USERS[self.token][1] != "write":
            raise Refused(403, f"You don't have the rights to write to {owner}")

    def commit_of(self, repo, revision):
        """The commit of a revision, if this user may see it."""
        repository = self.server.repositories.get(repo)
        if self.token is not None and self.user is None:
            raise Refused(401, "Invalid credentials in Authorization header")
        visible = repository is not None and (
            not repository.private or (self.user is not None and repo.split("/")[0] in NAMESPACES[self.user])
        )
        if not visible:
            raise Refused(401 if self.user is None else 404, "Repository not found", "RepoNotFound")
        commit = repository.find(revision)
        if commit is None:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit


class Hub(ThreadingHTTPServer):
    """`requests` are the kinds of all requests so far, `large_files` the uploaded ones by SHA-256.

    `xet` is an [`XetStorage`], to which the client uploads unless it is told not to use Xet.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Request)
        self.endpoint = f"http://127.0.0.1:{self.server_port}"
        self.repositories, self.large_files = {}, {}
        self.faults, self.requests = [], []
        self.xet = None
        self.lock = threading.RLock()

    def handle_error(self, request, client_address):
        """Clients that have gone before their answer are part of the tests."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)

    def note(self, kind):
        """Counts a request; the fault that happens to it, or None."""
        with self.lock:
            self.requests.append(kind)
            number = self.requests.count(kind)
            return next((f for f in self.faults if f.kind == kind and f.happens_to(number)), None)

    def add(self, repo, folder, private=False, revision="main"):
        """A commit of all files of a folder, made here without a client; its hash."""
        repository = self.repositories.setdefault(repo, Repository(private=private))
        paths = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
        stored = {name: StoredFile(p.read_bytes(), name.endswith(LARGE_FILES)) for name, p in paths.items()}
        history = repository.refs.setdefault(revision, repository.refs["main"][:1])
        kept = {".gitattributes": history[-1].stored[".gitattributes"]}
        history.append(Commit(f"files of {folder.name}", kept | stored, history[-1].oid))
        return history[-1].oid


def lead_client_to(hub, monkeypatch, cache, token=TOKEN):
    """The client of this process talks to this Hub; that of a new process does with HF_ENDPOINT and the like."""
    from huggingface_hub import constants, hf_api

    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
    monkeypatch.setattr(hf_api.api, "endpoint", hub.endpoint)  # made when the library was imported
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))


@contextmanager
def running_hub():
    hub = Hub()
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
