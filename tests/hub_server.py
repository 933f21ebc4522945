"""A small server that talks to the clients of huggingface_hub as the Hub does, on 127.0.0.1: enough to push and load models over HTTP.

    with HubServer() as hub:
        subprocess.run(..., env={"HF_ENDPOINT": hub.url, "HF_TOKEN": hub.token, "HF_HUB_DISABLE_XET": "1"})
    assert hub.unknown == []
    hub.files("me/model")["config.json"]

Repositories of models only, kept in memory, no pull requests, no Xet storage. What it does not know is answered with 501 and recorded
in `unknown`. Requests, answers and error headers follow huggingface_hub 2.4 (hf_api.py, _commit_api.py, lfs.py, file_download.py).
"""

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

LFS_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")  # as in the .gitattributes of a new repository


@dataclass(frozen=True)
class Commit:
    """All files of a repository at one time, by path."""

    sha: str
    message: str
    files: dict[str, bytes]


@dataclass
class Repository:
    private: bool
    branches: dict[str, list[Commit]] = field(default_factory=dict)  # oldest first

    def commit(self, branch: str, message: str, files: dict[str, bytes]) -> Commit:
        history = self.branches.setdefault(branch, [])
        sha = hashlib.sha1(repr((branch, len(history), message, sorted(files.items()))).encode()).hexdigest()
        history.append(Commit(sha, message, files))
        return history[-1]

    def at(self, revision: str) -> Commit | None:
        if revision in self.branches:
            return self.branches[revision][-1]
        return next((commit for history in self.branches.values() for commit in history if commit.sha == revision), None)


class Refusal(Exception):
    """Ends a request with an error as the Hub words it; the clients choose their exceptions by the code."""

    def __init__(self, status: int, message: str, code: str = ""):
        self.status, self.message, self.code = status, message, code


class HubServer:
    """See the module.

    Attributes:
        token, user: of the one account that may write; it may also read private repositories.
        repositories: id -> `Repository`.
        requests: "METHOD path" of everything that was asked.
        unknown: those that the server does not know, and those that it failed to answer.
    """

    token, user = "hf_test_token", "me"

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.requests: list[str] = []
        self.unknown: list[str] = []
        self.large_files: dict[str, bytes] = {}  # by SHA-256
        self._lock = threading.Lock()  # around every request: commits are few and small

    def __enter__(self) -> "HubServer":
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler_of(self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._server.shutdown()
        self._server.server_close()

    def commits(self, repo: str) -> list[Commit]:
        return self.repositories[repo].branches["main"]

    def files(self, repo: str) -> dict[str, bytes]:
        return self.commits(repo)[-1].files

    def answer(self, method: str, url: str, headers: Any, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the answer."""
        parts = urlsplit(url)
        path = parts.path
        with self._lock:
            self.requests.append(f"{method} {path}")
            try:
                for known_method, pattern, function in ROUTES:
                    if known_method == method and (match := re.fullmatch(pattern, path)):
                        groups = {name: unquote(value) for name, value in match.groupdict().items() if value is not None}
                        request = Request(self, body, headers.get("Authorization"), parse_qs(parts.query))
                        return function(request, **groups)
                raise NotImplementedError
            except Refusal as error:
                fields = {"X-Error-Message": error.message, "X-Error-Code": error.code}
                return error.status, {name: value for name, value in fields.items() if value}, as_json({"error": error.message})
            except Exception as error:
                self.unknown.append(f"{method} {url}: {error!r}")
                return 501, {}, as_json({"error": f"this test server does not know {method} {path}"})


@dataclass
class Request:
    hub: HubServer
    body: bytes
    authorization: str | None
    query: dict[str, list[str]]

    @property
    def fields(self) -> dict[str, Any]:
        return json.loads(self.body)

    def is_member(self) -> bool:
        if self.authorization is None:
            return False
        if self.authorization != f"Bearer {self.hub.token}":
            raise Refusal(401, "Invalid credentials in Authorization header")
        return True

    def must_write(self, repo: str | None = None) -> None:
        if not self.is_member():
            raise Refusal(401, "Invalid username or password.")
        if repo is not None and not repo.startswith(f"{self.hub.user}/"):
            raise Refusal(403, f"You don't have the rights to write to {repo}")

    def repository(self, repo: str) -> Repository:
        """The Hub says of a private repository that there is none, to whoever may not read it."""
        found, is_member = self.hub.repositories.get(repo), self.is_member()
        if found is None or (found.private and not is_member):
            raise Refusal(404 if is_member else 401, "Repository not found", "RepoNotFound")
        return found

    def commit(self, repo: str, revision: str) -> Commit:
        found = self.repository(repo).at(revision)
        if found is None:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return found


Answer = tuple[int, dict[str, str], bytes]


def as_json(fields: Any) -> bytes:
    return json.dumps(fields).encode()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def is_large(path: str) -> bool:
    return path.endswith(LFS_SUFFIXES)


def object_id(path: str, content: bytes) -> str:
    """By which clients see that a file has not changed: SHA-256 of a large file, git's SHA-1 of others."""
    return sha256(content) if is_large(path) else hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def who_am_i(request: Request) -> Answer:
    request.must_write()
    access = {"type": "access_token", "accessToken": {"displayName": "test", "role": "write"}}
    return 200, {}, as_json({"type": "user", "name": request.hub.user, "fullname": "Me", "orgs": [], "auth": access})


def create_repository(request: Request) -> Answer:
    fields = request.fields
    if fields.get("type", "model") != "model":
        raise NotImplementedError(fields)
    repo = f"{fields.get('organization') or request.hub.user}/{fields['name']}"
    request.must_write(repo)
    address = {"url": f"{request.hub.url}/{repo}", "name": repo}
    if repo in request.hub.repositories:
        return 409, {}, as_json(address | {"error": "You already created this model repo"})
    private = fields.get("visibility") == "private" or fields.get("private") is True
    request.hub.repositories[repo] = Repository(private)
    request.hub.repositories[repo].commit("main", "initial commit", {".gitattributes": b"*.safetensors filter=lfs\n"})
    return 200, {}, as_json(address)


def create_branch(request: Request, repo: str, revision: str) -> Answer:
    request.must_write(repo)
    repository = request.repository(repo)
    if revision in repository.branches:
        raise Refusal(409, f"Reference {revision} already exists")
    repository.commit(revision, "new branch", request.commit(repo, request.fields.get("startingPoint", "main")).files)
    return 200, {}, b"{}"


def validate_card(request: Request) -> Answer:
    """The Hub checks more; that the block is YAML with a dictionary, and the types of a few fields, is what is checked here."""
    content = request.fields["content"]
    block = re.match(r"---\n(.*?)\n---(\n|$)", content, re.DOTALL)
    errors = []
    try:
        metadata = yaml.safe_load(block[1]) if block else {}
        if not isinstance(metadata, dict):
            errors.append("the metadata is no dictionary")
        else:
            texts = ("license", "library_name", "pipeline_tag")
            errors += [f'"{name}" must be a string' for name in texts if not isinstance(metadata.get(name, ""), str)]
            errors += [f'"{name}" must be an array' for name in ("tags", "model-index") if not isinstance(metadata.get(name, []), list)]
            values = [metric["value"] for model in metadata.get("model-index", []) for r in model["results"] for metric in r["metrics"]]
            errors += [f"{value!r} is no finite number" for value in values if not abs(value) < float("inf")]
    except yaml.YAMLError as error:
        errors.append(str(error))
    answer = {"errors": [{"message": message} for message in errors], "warnings": []}
    return 400 if errors else 200, {}, as_json(answer)


def choose_upload_modes(request: Request, repo: str, revision: str) -> Answer:
    request.must_write(repo)
    present = request.commit(repo, revision).files
    files = [
        {
            "path": (path := file["path"]),
            "uploadMode": "lfs" if is_large(path) else "regular",
            "shouldIgnore": False,
            "oid": object_id(path, present[path]) if path in present else None,
        }
        for file in request.fields["files"]
    ]
    return 200, {}, as_json({"files": files})


def offer_uploads(request: Request, repo: str) -> Answer:
    request.must_write(repo)
    objects = []
    for entry in request.fields["objects"]:
        oid = {"oid": entry["oid"], "size": entry["size"]}
        if entry["oid"] not in request.hub.large_files:
            links = {"upload": f"{request.hub.url}/storage/{entry['oid']}", "verify": f"{request.hub.url}/api/verify/{repo}"}
            oid["actions"] = {name: {"href": address, "header": {}} for name, address in links.items()}
        objects.append(oid)
    return 200, {}, as_json({"transfer": "basic", "objects": objects})


def store(request: Request, oid: str) -> Answer:
    if sha256(request.body) != oid:
        raise Refusal(400, f"{len(request.body)} bytes were sent, whose SHA-256 is not {oid}")
    request.hub.large_files[oid] = request.body
    return 200, {}, b""


def verify(request: Request, repo: str) -> Answer:
    request.must_write(repo)
    content = request.hub.large_files.get(request.fields["oid"])
    if content is None or len(content) != request.fields["size"]:
        raise Refusal(400, f"object {request.fields['oid']} has not arrived")
    return 200, {}, b"{}"


def commit(request: Request, repo: str, revision: str) -> Answer:
    request.must_write(repo)
    files = dict(request.commit(repo, revision).files)
    lines = [json.loads(line) for line in request.body.splitlines()]
    message = lines[0]["value"]["summary"]
    for line in lines[1:]:
        kind, value = line["key"], line["value"]
        if kind == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif kind == "lfsFile":
            if value["oid"] not in request.hub.large_files:
                raise Refusal(400, f"{value['path']} points to an object that was not uploaded")
            files[value["path"]] = request.hub.large_files[value["oid"]]
        elif kind == "deletedFile":
            del files[value["path"]]
        else:
            raise NotImplementedError(kind)
    made = request.repository(repo).commit(revision, message, files)
    address = f"{request.hub.url}/{repo}/commit/{made.sha}"
    return 200, {}, as_json({"success": True, "commitOid": made.sha, "commitUrl": address, "hookOutput": ""})


def model_info(request: Request, repo: str, revision: str = "main") -> Answer:
    found = request.commit(repo, revision)
    fields = {
        "_id": found.sha[:24],
        "id": repo,
        "modelId": repo,
        "sha": found.sha,
        "private": request.repository(repo).private,
        "tags": [],
        "siblings": [{"rfilename": path} for path in found.files],
    }
    return 200, {}, as_json(fields)


def tree(request: Request, repo: str, revision: str, folder: str = "") -> Answer:
    found = request.commit(repo, revision)
    prefix = f"{folder}/" if folder else ""
    inside = {path: content for path, content in found.files.items() if path.startswith(prefix)}
    if not inside:
        raise Refusal(404, f"{folder} does not exist on {revision!r}", "EntryNotFound")
    entries: dict[str, dict[str, Any]] = {}
    for path, content in inside.items():
        first, *rest = path.removeprefix(prefix).split("/")
        if rest and request.query.get("recursive", ["false"])[0].lower() != "true":
            entries[first] = {"type": "directory", "path": prefix + first, "oid": found.sha, "size": 0}
            continue
        entries[path] = {"type": "file", "path": path, "oid": object_id(path, content), "size": len(content)}
        if is_large(path):
            entries[path]["lfs"] = {"oid": sha256(content), "size": len(content), "pointerSize": 130}
    return 200, {}, as_json(list(entries.values()))


def resolve(request: Request, repo: str, revision: str, path: str) -> Answer:
    """The Hub itself sends the client elsewhere for large files, mirrors do not."""
    found = request.commit(repo, revision)
    fields = {"X-Repo-Commit": found.sha}
    if path not in found.files:
        return 404, fields | {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}, b"Entry not found"
    content = found.files[path]
    return 200, fields | {"ETag": f'"{object_id(path, content)}"'}, content


_REPO, _REVISION = r"(?P<repo>[\w.-]+/[\w.-]+)", r"(?P<revision>[^/]+)"
ROUTES = [
    ("GET", r"/api/whoami-v2", who_am_i),
    ("POST", r"/api/repos/create", create_repository),
    ("POST", r"/api/validate-yaml", validate_card),
    ("POST", rf"/api/verify/{_REPO}", verify),
    ("POST", rf"/api/models/{_REPO}/branch/{_REVISION}", create_branch),
    ("POST", rf"/api/models/{_REPO}/preupload/{_REVISION}", choose_upload_modes),
    ("POST", rf"/api/models/{_REPO}/commit/{_REVISION}", commit),
    ("GET", rf"/api/models/{_REPO}", model_info),
    ("GET", rf"/api/models/{_REPO}/revision/{_REVISION}", model_info),
    ("GET", rf"/api/models/{_REPO}/tree/{_REVISION}(/(?P<folder>.+))?", tree),
    ("POST", rf"/{_REPO}\.git/info/lfs/objects/batch", offer_uploads),
    ("PUT", r"/storage/(?P<oid>[0-9a-f]{64})", store),
    ("HEAD", rf"/{_REPO}/resolve/{_REVISION}/(?P<path>.+)", resolve),
    ("GET", rf"/{_REPO}/resolve/{_REVISION}/(?P<path>.+)", resolve),
]


def _handler_of(hub: HubServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            status, headers, content = hub.answer(self.command, self.path, self.headers, self.read_body())
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(content))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = answer  # noqa: N815 (names of the standard library)

        def read_body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            body = b""
            while length := int(self.rfile.readline(), 16):
                body += self.rfile.read(length)
                self.rfile.readline()
            self.rfile.readline()
            return body

        def log_message(self, *_: Any) -> None:
            pass  # HubServer.requests has them

    return Handler
