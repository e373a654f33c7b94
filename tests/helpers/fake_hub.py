"""An endpoint on 127.0.0.1 that answers the requests which huggingface_hub makes for downloads and commits."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


def commit_of(revision: str) -> str:
    """The commit of a revision, which is a commit already, or a branch or tag."""
    return revision if len(revision) == 40 else hashlib.sha1(revision.encode(), usedforsecurity=False).hexdigest()


def module(name: str, variables: Mapping[str, str]) -> list[str]:
    """The arguments of the interpreter that run a module.

    Where the variables name another endpoint than the FakeHub, nothing answers there, and huggingface_hub tries again for 23
    seconds: then without waiting.
    """
    if "HF_ENDPOINT" not in variables:
        return ["-m", name]
    code = f"import runpy, time; time.sleep = lambda _: None; runpy.run_module({name!r}, run_name='__main__', alter_sys=True)"
    return ["-c", code]


@dataclass
class FakeHub:
    """Repositories, who may do what, and the requests so far.

    Attributes:
        repositories: id -> revision -> file name -> content.
        private: ids of private repositories.
        gated: ids to which every access is refused.
        read_only: whether every write is refused with 403.
        unauthorised: whether every write is refused with 401.
        failing: part of the path of writes, and the status with which they fail.
        requests: "METHOD path" of each request.
        commits: id, query and message of each commit.
        url: address, while it is served.
    """

    repositories: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    private: set[str] = field(default_factory=set)
    gated: set[str] = field(default_factory=set)
    read_only: bool = False
    unauthorised: bool = False
    failing: tuple[str, int] = ("", 0)
    requests: list[str] = field(default_factory=list)
    commits: list[dict[str, Any]] = field(default_factory=list)
    created: list[dict[str, Any]] = field(default_factory=list)
    url: str = ""
    _uploads: dict[str, bytes] = field(default_factory=dict)

    @contextmanager
    def served(self) -> Iterator["FakeHub"]:
        """Answer on a free port of 127.0.0.1 during the block."""
        hub = self

        class Handler(_Handler):
            fake = hub

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            self.url = f"http://127.0.0.1:{server.server_port}"
            thread = threading.Thread(target=server.serve_forever, daemon=True)
            thread.start()
            try:
                yield self
            finally:
                server.shutdown()
                thread.join()

    def environment(self, home: str) -> dict[str, str]:
        """Variables with which huggingface_hub finds this endpoint, and keeps its files in `home`."""
        return {"HF_ENDPOINT": self.url, "HF_HOME": home, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}

    def files(self, repository: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """The commit and the files of a branch, a tag or a commit."""
        revisions = self.repositories[repository]
        return next(
            ((commit_of(name), files) for name, files in revisions.items() if revision in (name, commit_of(name))), None
        )


class _Handler(BaseHTTPRequestHandler):
    fake: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Print nothing."""

    def do_HEAD(self) -> None:
        self._read()

    def do_GET(self) -> None:
        self._read()

    def _read(self) -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        self.fake.requests.append(f"{self.command} {path}")
        api = path.startswith("api/models/")
        repository = "/".join(path.removeprefix("api/models/").split("/")[:2])
        rest = path.removeprefix("api/models/").removeprefix(repository).strip("/")
        kind, _, rest = rest.partition("/")
        if repository in self.fake.gated:
            return self._fail(403, "GatedRepo")
        if repository not in self.fake.repositories:
            return self._fail(404, "RepoNotFound")
        revision, _, name = (rest or "main").partition("/") if not rest.startswith("refs/pr/") else (rest, "", "")
        found = self.fake.files(repository, revision)
        if found is None:
            return self._fail(404, "RevisionNotFound")
        commit, files = found
        if kind == "tree":  # snapshot_download of huggingface_hub 2
            oid = hashlib.sha1(usedforsecurity=False)
            return self._json(
                [{"type": "file", "path": each, "size": len(files[each]), "oid": oid.hexdigest()} for each in files]
            )
        if api:
            siblings = [{"rfilename": each} for each in files]
            return self._json(
                {"id": repository, "sha": commit, "siblings": siblings, "tags": [], "private": repository in self.fake.private}
            )
        assert kind == "resolve", path
        if name not in files:
            return self._fail(404, "EntryNotFound", {"X-Repo-Commit": commit})
        etag = hashlib.sha256(files[name]).hexdigest()
        return self._send(200, files[name], {"X-Repo-Commit": commit, "ETag": f'"{etag}"'})

    def do_POST(self) -> None:
        parts = urlsplit(self.path)
        path, body = parts.path.strip("/"), self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.fake.requests.append(f"POST {path}")
        if self._fails():
            return self._fail(self.fake.failing[1], "")
        if path == "api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if self.fake.unauthorised or self.fake.read_only:
            return self._fail(*((401, "") if self.fake.unauthorised else (403, "")))
        if path == "api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            if name in self.fake.repositories:
                return self._json({"error": "You already created this model repo", "url": f"{self.fake.url}/{name}"}, 409)
            self.fake.created.append(asked)
            is_private = asked.get("private") or asked.get("visibility") == "private"  # the latter since huggingface_hub 2
            self.fake.private |= {name} if is_private else set()
            self.fake.repositories[name] = {"main": {}}
            return self._json({"url": f"{self.fake.url}/{name}", "id": name})
        if path.endswith(".git/info/lfs/objects/batch"):
            objects = [
                {**each, "actions": {"upload": {"href": f"{self.fake.url}/upload/{each['oid']}"}}}
                for each in json.loads(body)["objects"]
            ]
            return self._json({"transfer": "basic", "objects": objects})
        repository, _, rest = path.removeprefix("api/models/").partition("/" + path.split("/")[4])
        revision = unquote(rest.strip("/"))
        if "/preupload/" in path:
            files = json.loads(body)["files"]
            large = (".onnx", ".data", ".safetensors")
            modes = [
                {
                    "path": each["path"],
                    "uploadMode": "lfs" if each["path"].endswith(large) else "regular",
                    "shouldIgnore": False,
                }
                for each in files
            ]
            return self._json({"files": modes})
        lines = [json.loads(line) for line in body.splitlines()]
        files = dict(self.fake.repositories[repository].get(revision, {}))
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            if line["key"] == "deletedFile":
                del files[value["path"]]
            if line["key"] == "lfsFile":
                files[value["path"]] = self.fake._uploads[value["oid"]]
        pull = parse_qs(parts.query).get("create_pr") == ["1"]
        self.fake.repositories[repository]["refs/pr/1" if pull else revision] = files
        self.fake.commits.append({"repository": repository, "pull": pull, **lines[0]["value"]})
        url = f"{self.fake.url}/{repository}"
        commit = {"commitOid": commit_of(revision), "commitUrl": f"{url}/commit/{commit_of(revision)}"}
        return self._json(commit | ({"pullRequestUrl": f"{url}/discussions/1"} if pull else {}))

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.fake.requests.append(f"PUT {self.path}")
        if self._fails():
            return self._fail(self.fake.failing[1], "")
        self.fake._uploads[hashlib.sha256(body).hexdigest()] = body
        return self._send(200, b"")

    def _fails(self) -> bool:
        return bool(self.fake.failing[1]) and self.fake.failing[0] in self.path

    def _fail(self, status: int, code: str, headers: dict[str, str] | None = None) -> None:
        self._send(status, b"{}", {"X-Error-Code": code, "X-Error-Message": code or "forbidden", **(headers or {})})

    def _json(self, value: Any, status: int = 200) -> None:
        self._send(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
