"""A Hugging Face Hub on loopback: as much of its API as the unmodified huggingface_hub and datasets clients use for datasets and
Spaces, with faults to order. Commits, pull requests, LFS and Xet storage, private repositories, tokens; all in memory.

Datasets are called `owner/name`, Spaces `spaces/owner/name`, as on the Hub's own site. Tokens: `hf_<user>` is that user; a user may write to repositories of his own name and of the organisation `board`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import struct
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

LFS_SUFFIXES = (".safetensors", ".parquet")  # as the Hub's own .gitattributes for dataset repositories
PAGE = 40  # entries a page of a tree, so that clients have to turn pages
REPO = r"/(?:datasets/|(?=spaces/))((?:spaces/)?[^/]+/[^/]+?)"  # in a path: a dataset's name, a Space's with its prefix
WHEN = "2026-11-01T00:00:00.000Z"
READERS_ONLY = ("reader", "stranger", "third", "thief")  # users without the right to write to `board`


@dataclass(frozen=True)
class Blob:
    """A file of a commit: small ones with their content, large ones by the sha256 under which storage has them."""

    content: bytes = b""
    lfs: str = ""
    size: int = 0
    xet: str = ""

    @property
    def oid(self) -> str:
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.lfs}\nsize {self.size}\n".encode()
        data = pointer if self.lfs else self.content
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


Files = dict[str, Blob]


@dataclass
class Repo:
    private: bool
    sdk: str = ""
    """Of a Space: static, gradio, ..."""
    commits: dict[str, tuple[str, Files]] = field(default_factory=dict)
    """oid -> (parent oid, files)."""
    refs: dict[str, str] = field(default_factory=dict)
    pulls: dict[int, dict[str, Any]] = field(default_factory=dict)
    history: list[tuple[str, str]] = field(default_factory=list)
    """(ref, summary) of every commit, oldest first."""

    def commit(self, ref: str, parent: str, files: Files, summary: str) -> str:
        names = json.dumps([(n, b.oid) for n, b in sorted(files.items())])
        oid = hashlib.sha1(f"{parent} {summary} {names} {len(self.commits)}".encode()).hexdigest()
        self.commits[oid] = (parent, files)
        self.refs[ref] = oid
        self.history.append((ref, summary))
        return oid

    def files(self, ref: str = "main") -> Files:
        return self.commits[self.refs[ref]][1]


@dataclass
class Fault:
    """What happens instead of (status, cut) or around (lost, before) the next requests that match."""

    method: str
    path: str
    """Regular expression searched in the decoded path."""
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False
    """Read half of the body, then close the connection."""
    lost: bool = False
    """Do what was asked, then close the connection without an answer."""
    before: Callable[[], None] | None = None
    """Runs first, then the request is handled as usual: somebody else was faster."""
    times: int = 1


def machine(server: Hub, home: Path, user: str = "alice", *, xet: bool = False) -> dict[str, str]:
    """The variables of a machine of its own, with everything of the Hub under `home` and one user logged in."""
    return {
        "HF_ENDPOINT": server.endpoint, "HF_HOME": str(home), "HF_HUB_CACHE": f"{home}/hub", "HF_HUB_OFFLINE": "0",
        "HF_DATASETS_CACHE": f"{home}/datasets", "HF_DATASETS_OFFLINE": "0", "HF_HUB_DISABLE_XET": "0" if xet else "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_TOKEN": f"hf_{user}" if user else "",
    }  # fmt: skip


class Hub:
    """The server and its state; use as a context manager."""

    def __init__(self, xet: bool = False) -> None:
        self.repos: dict[str, Repo] = {}
        self.storage: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str, int]] = []
        """(method, decoded path, status) of everything answered; 0 = the connection was cut."""
        self.received = Counter[str]()
        """Bytes of request bodies by path."""
        self.lock = threading.RLock()
        self.xet = xet
        self.cas = Path(tempfile.mkdtemp(prefix="hub-cas-")) if xet else None
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        self.storage_endpoint = (
            f"http://localhost:{self.server.server_port}"  # another host, as the Hub's: clients must not follow
        )

    def __enter__(self) -> Hub:
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def fault(self, *faults: Fault) -> None:
        with self.lock:
            self.faults.extend(faults)

    def create(self, name: str, private: bool = False, sdk: str = "") -> Repo:
        repo = Repo(private, sdk)
        files = {".gitattributes": Blob(b"*.parquet filter=lfs\n*.safetensors filter=lfs\n")}
        if sdk:
            files["README.md"] = Blob(f"---\ntitle: x\nsdk: {sdk}\n---\n".encode())  # as the Hub does for Spaces
        repo.commit("main", "", files, "initial commit")
        self.repos[name] = repo
        return repo

    def put(self, name: str, path: str, content: bytes, summary: str = "somebody else") -> None:
        """A commit on main by somebody else."""
        repo = self.repos[name]
        repo.commit("main", repo.refs["main"], repo.files() | {path: Blob(content)}, summary)

    def count(self, method: str, pattern: str) -> int:
        return sum(m == method and re.search(pattern, p) is not None for m, p, _ in self.requests)

    def content(self, blob: Blob) -> bytes:
        if blob.xet and blob.lfs not in self.storage:
            self.bridge(blob.lfs, blob.xet)
        return self.storage[blob.lfs] if blob.lfs else blob.content

    def xet_files(self) -> dict[str, str]:
        """sha256 -> Xet hash of every file that an uploaded shard describes (the shard format's file section)."""
        found: dict[str, str] = {}
        for path in sorted(self.cas.rglob("*")) if self.cas else ():
            data = path.read_bytes() if path.is_file() else b""
            at = 48  # after the shard's header
            while data.startswith(b"HFRepoMetaData") and at + 48 <= len(data):
                name, flags, entries = data[at : at + 32], *struct.unpack_from("<II", data, at + 32)
                at += 48
                if name == b"\xff" * 32:
                    break
                at += 48 * entries * (2 if flags & 1 << 31 else 1)
                if flags & 1 << 30:
                    found[_hex(data[at : at + 32])] = _hex(name)
                    at += 48
        return found

    def bridge(self, oid: str, xet: str) -> None:
        """Put a file that came by Xet where clients without Xet look for it."""
        import hf_xet

        sizes = [
            b.size for repo in self.repos.values() for _, files in repo.commits.values() for b in files.values() if b.lfs == oid
        ]
        target = Path(tempfile.mkdtemp()) / "file"
        with hf_xet.XetSession().new_file_download_group(
            endpoint=f"local://{self.cas}", token="x", token_expiry_unix_secs=int(time.time()) + 3600,
            token_refresh_url=f"{self.endpoint}/never", token_refresh_headers={},
        ) as group:  # fmt: skip
            group.start_download_file(hf_xet.XetFileInfo(xet, sizes[0]), str(target))
        self.storage[oid] = target.read_bytes()


def _hex(digest: bytes) -> str:
    return "".join(f"{number:016x}" for number in struct.unpack("<4Q", digest))


class Refusal(Exception):
    def __init__(self, status: int, code: str = "", message: str = "", **body: Any) -> None:
        self.status, self.code, self.message, self.body = status, code, message, body


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: object) -> None:
        pass

    # -- one request ---------------------------------------------------------------------------------------------

    def _handle(self) -> None:
        hub = self.hub
        url = urlsplit(self.path)
        path, self.query = unquote(url.path), {k: v[-1] for k, v in parse_qs(url.query).items()}
        fault = None
        with hub.lock:
            for candidate in hub.faults:
                if candidate.times and candidate.method == self.command and re.search(candidate.path, path):
                    candidate.times -= 1
                    fault = candidate
                    break
        length = int(self.headers.get("Content-Length") or 0)
        if fault and fault.cut:
            self.rfile.read(length // 2)
            return self._drop(path)
        self.body = self._chunked() if self.headers.get("Transfer-Encoding") == "chunked" else self.rfile.read(length)
        hub.received[path] += len(self.body)
        if fault and fault.status:
            return self._answer(fault.status, {"error": f"fault {fault.status}"}, fault.headers, path)
        if fault and fault.before:
            fault.before()
        try:
            with hub.lock:
                status, value, headers = self._route(path, unquote_keep(url.path))
        except Refusal as refusal:
            headers = {"X-Error-Code": refusal.code} if refusal.code else {}
            headers |= {"X-Error-Message": refusal.message} if refusal.message else {}
            status, value = refusal.status, {"error": refusal.message} | refusal.body
        if fault and fault.lost:
            return self._drop(path)
        self._answer(status, value, headers, path)

    do_GET = do_POST = do_PUT = do_HEAD = _handle

    def _chunked(self) -> bytes:
        data = b""
        while size := int(self.rfile.readline().strip() or b"0", 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def _drop(self, path: str) -> None:
        self.hub.requests.append((self.command, path, 0))
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, no polite end
        self.connection.shutdown(socket.SHUT_RDWR)

    def _answer(self, status: int, value: Any, headers: dict[str, str], path: str) -> None:
        self.hub.requests.append((self.command, path, status))
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        if not isinstance(value, bytes):
            self.send_header("Content-Type", "application/json")
        for key, text in headers.items():
            self.send_header(key, text)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    # -- who may do what -----------------------------------------------------------------------------------------

    @property
    def user(self) -> str | None:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token and not re.fullmatch(r"hf_[a-z]+", token):
            raise Refusal(401, message="Invalid credentials in Authorization header")
        return token.removeprefix("hf_") or None

    def _repo(self, name: str) -> Repo:
        repo = self.hub.repos.get(name)
        if repo is None or (repo.private and not self._may_write(name)):
            raise Refusal(404 if self.user else 401, "RepoNotFound", "Repository not found")
        return repo

    def _may_write(self, name: str) -> bool:
        owner = name.removeprefix("spaces/").split("/")[0]
        return self.user is not None and (owner == self.user or (owner == "board" and self.user not in READERS_ONLY))

    def _commit_of(self, repo: Repo, revision: str) -> str:
        oid = repo.refs.get(revision, revision)
        if oid not in repo.commits:
            raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return oid

    # -- the API -------------------------------------------------------------------------------------------------

    def _route(self, path: str, raw: str) -> tuple[int, Any, dict[str, str]]:
        if path == "/api/whoami-v2":
            if self.user is None:
                raise Refusal(401, message="Invalid username or password.")
            return 200, {"type": "user", "name": self.user, "fullname": self.user, "orgs": [], "auth": {}}, {}
        if path == "/api/repos/create":
            return self._create(json.loads(self.body))
        if path == "/api/validate-yaml":
            return self._validate_yaml(json.loads(self.body)["content"])
        if match := re.fullmatch(REPO + r"\.git/info/lfs/objects/batch", path):
            return self._lfs_batch(match[1], json.loads(self.body))
        if match := re.fullmatch(r"/storage/([0-9a-f]{64})", path):
            return self._storage(match[1])
        if path == "/lfs-verify":
            asked = json.loads(self.body)
            if len(self.hub.storage.get(asked["oid"], b"")) != asked["size"]:
                raise Refusal(422, message="object is not there or has another size")
            return 200, {}, {}
        if match := re.fullmatch(REPO + r"/resolve/(refs%2Fpr%2F\d+|[^/]+)/(.+)", raw):
            return self._resolve(match[1], unquote(match[2]), unquote(match[3]))
        if match := re.fullmatch("/api" + REPO + r"(?:/([a-z-]+)(?:/([^/]+))?(?:/(.+))?)?", raw):
            name, what, first, rest = match[1], match[2], unquote(match[3] or ""), unquote(match[4] or "")
            if what in (None, "revision"):
                return self._info(name, first or "main")
            if method := getattr(self, f"_api_{what.replace('-', '_')}", None):
                return method(name, first, rest)  # type: ignore[no-any-return]
        raise Refusal(404, message=f"no such route: {self.command} {path}")

    def _create(self, asked: dict[str, Any]) -> tuple[int, Any, dict[str, str]]:
        own = f"{asked.get('organization') or self.user}/{asked['name']}"
        name, url = (own, f"/datasets/{own}") if asked["type"] == "dataset" else (f"spaces/{own}", f"/spaces/{own}")
        if not self._may_write(name):
            raise Refusal(403 if self.user else 401, message="You don't have the rights to create a repository here")
        if asked["type"] == "space" and not asked.get("sdk"):
            raise Refusal(400, message="sdk is required")
        if name in self.hub.repos:
            raise Refusal(409, message="You already created this repo", url=self.hub.endpoint + url)
        self.hub.create(name, asked.get("private") or asked.get("visibility") == "private", asked.get("sdk", ""))
        return 200, {"url": self.hub.endpoint + url, "name": own}, {}

    def _validate_yaml(self, content: str) -> tuple[int, Any, dict[str, str]]:
        import yaml

        try:
            yaml.safe_load(content.split("---\n")[1])
        except (yaml.YAMLError, IndexError) as error:
            return 400, {"errors": [{"message": str(error)}], "warnings": []}, {}
        return 200, {"errors": [], "warnings": []}, {}

    def _info(self, name: str, revision: str) -> tuple[int, Any, dict[str, str]]:
        repo = self._repo(name)
        oid = self._commit_of(repo, revision)
        siblings = [{"rfilename": n, "size": b.size or len(b.content), "blobId": b.oid} for n, b in repo.commits[oid][1].items()]
        when = "2026-11-01T00:00:00.000Z"
        own = name.removeprefix("spaces/")
        value = {"_id": own, "id": own, "author": own.split("/")[0], "sha": oid, "lastModified": when, "createdAt": when}
        value |= {"sdk": repo.sdk} if repo.sdk else {}
        return 200, value | {"private": repo.private, "gated": False, "disabled": False, "tags": [], "siblings": siblings}, {}

    def _entry(self, path: str, blob: Blob) -> dict[str, Any]:
        value: dict[str, Any] = {"type": "file", "path": path, "oid": blob.oid, "size": blob.size or len(blob.content)}
        if blob.lfs:
            value["lfs"] = {"oid": blob.lfs, "size": blob.size, "pointerSize": 130}
        if blob.xet:
            value["xetHash"] = blob.xet
        return value

    def _listing(self, files: Files, folder: str, recursive: bool) -> list[dict[str, Any]]:
        prefix = folder + "/" if folder else ""
        out: dict[str, dict[str, Any]] = {}
        for path, blob in sorted(files.items()):
            if path.startswith(prefix):
                parts = path.removeprefix(prefix).split("/")
                for depth in range(1, len(parts) if recursive else min(len(parts), 2)):
                    name = prefix + "/".join(parts[:depth])
                    inside = json.dumps([(p, b.oid) for p, b in sorted(files.items()) if p.startswith(name + "/")])
                    out[name] = {"type": "directory", "path": name, "oid": hashlib.sha1(inside.encode()).hexdigest(), "size": 0}
                if recursive or len(parts) == 1:
                    out[path] = self._entry(path, blob)
        return list(out.values())

    def _api_auth_check(self, name: str, first: str, rest: str) -> tuple[int, Any, dict[str, str]]:
        self._repo(name)
        if first == "write" and not self._may_write(name):
            raise Refusal(403 if self.user else 401, message="no right to write here")
        return 200, {}, {}

    def _api_tree(self, name: str, revision: str, folder: str) -> tuple[int, Any, dict[str, str]]:
        repo = self._repo(name)
        files = repo.commits[self._commit_of(repo, revision)][1]
        entries = self._listing(files, folder, self.query.get("recursive", "").lower() == "true")
        if folder and not entries:
            raise Refusal(404, "EntryNotFound", f"{folder} does not exist on {revision}")
        begin = int(self.query.get("cursor", 0))
        headers = {}
        if begin + PAGE < len(entries):
            where = self.path.split("?")[0]
            flags = "&".join(f"{k}={v}" for k, v in self.query.items() if k != "cursor")
            headers["Link"] = f'<{self.hub.endpoint}{where}?{flags}&cursor={begin + PAGE}>; rel="next"'
        return 200, entries[begin : begin + PAGE], headers

    def _api_paths_info(self, name: str, revision: str, _: str) -> tuple[int, Any, dict[str, str]]:
        repo = self._repo(name)
        files = repo.commits[self._commit_of(repo, revision)][1]
        if "json" in (self.headers.get("Content-Type") or ""):
            wanted = json.loads(self.body)["paths"]
        else:
            wanted = parse_qs(self.body.decode())["paths"]
        every = {e["path"]: e for e in self._listing(files, "", True)}
        return 200, [every[path] for path in wanted if path in every], {}

    def _api_refs(self, name: str, *_: str) -> tuple[int, Any, dict[str, str]]:
        repo = self._repo(name)
        branch = {"name": "main", "ref": "refs/heads/main", "targetCommit": repo.refs["main"]}
        return 200, {"branches": [branch], "converts": [], "tags": []}, {}

    def _api_preupload(self, name: str, revision: str, _: str) -> tuple[int, Any, dict[str, str]]:
        repo = self._repo(name)
        self._writer(name)
        files = repo.commits[self._commit_of(repo, revision)][1]
        out = []
        for file in json.loads(self.body)["files"]:
            path = file["path"]
            mode = "lfs" if path.endswith(LFS_SUFFIXES) or file["size"] > 10 * 2**20 else "regular"
            there = files.get(path)
            oid = {"oid": there.lfs or there.oid} if there else {}
            out.append({"path": path, "uploadMode": mode, "shouldIgnore": False} | oid)
        return 200, {"files": out}, {}

    def _writer(self, name: str) -> None:
        if self.user is None:
            raise Refusal(401, message="Invalid username or password.")
        if not self._may_write(name) and self.query.get("create_pr") != "1" and "refs/pr/" not in unquote(self.path):
            raise Refusal(403, message="you must use a token with write access")

    def _lfs_batch(self, name: str, asked: dict[str, Any]) -> tuple[int, Any, dict[str, str]]:
        self._repo(name)
        if self.user is None:
            raise Refusal(401, message="Invalid username or password.")
        objects = []
        for wanted in asked["objects"]:
            actions = {
                "upload": {"href": f"{self.hub.endpoint}/storage/{wanted['oid']}"},
                "verify": {"href": f"{self.hub.endpoint}/lfs-verify"},
            }
            objects.append(wanted | ({} if wanted["oid"] in self.hub.storage else {"actions": actions}))
        return 200, {"transfer": "basic", "objects": objects}, {}

    def _storage(self, oid: str) -> tuple[int, Any, dict[str, str]]:
        if self.command == "PUT":
            if hashlib.sha256(self.body).hexdigest() != oid:
                raise Refusal(400, message="content does not have this sha256")
            self.hub.storage[oid] = self.body
            return 200, b"", {"ETag": f'"{oid}"'}
        if oid not in self.hub.storage and (xet := self.hub.xet_files().get(oid)):
            self.hub.bridge(oid, xet)
        if oid not in self.hub.storage:
            raise Refusal(404, message="no such object")
        return self._ranged(self.hub.storage[oid], {"ETag": f'"{oid}"'})

    def _ranged(self, content: bytes, headers: dict[str, str]) -> tuple[int, Any, dict[str, str]]:
        headers = headers | {"Accept-Ranges": "bytes"}
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            begin, end = int(match[1]), min(int(match[2] or len(content)), len(content) - 1)
            if begin >= len(content):
                raise Refusal(416, message="range")
            return 206, content[begin : end + 1], headers | {"Content-Range": f"bytes {begin}-{end}/{len(content)}"}
        if self.command == "HEAD":
            headers = headers | {"Content-Length": str(len(content))}
        return 200, content, headers

    def _resolve(self, name: str, revision: str, path: str) -> tuple[int, Any, dict[str, str]]:
        repo = self._repo(name)
        oid = self._commit_of(repo, revision)
        blob = repo.commits[oid][1].get(path)
        headers = {"X-Repo-Commit": oid}
        if blob is None:
            raise Refusal(404, "EntryNotFound", f"{path} does not exist")
        if not blob.lfs:
            return self._ranged(blob.content, headers | {"ETag": f'"{blob.oid}"'})
        headers |= {"X-Linked-Etag": f'"{blob.lfs}"', "X-Linked-Size": str(blob.size)}
        if blob.xet:
            headers |= {"X-Xet-Hash": blob.xet}
            headers["Link"] = f'<{self.hub.endpoint}/api/{_address(name)}/xet-read-token/{oid}>; rel="xet-auth"'
        return 302, b"", headers | {"Location": f"{self.hub.storage_endpoint}/storage/{blob.lfs}"}

    def _xet_token(self, name: str) -> tuple[int, Any, dict[str, str]]:
        self._repo(name)
        if self.hub.cas is None:
            raise Refusal(404, message="this server has no xet storage")
        url, expires = f"local://{self.hub.cas}", int(time.time()) + 3600
        value = {"casUrl": url, "exp": expires, "accessToken": "x"}
        return 200, value, {"X-Xet-Cas-Url": url, "X-Xet-Token-Expiration": str(expires), "X-Xet-Access-Token": "x"}

    def _api_xet_read_token(self, name: str, *_: str) -> tuple[int, Any, dict[str, str]]:
        return self._xet_token(name)

    def _api_xet_write_token(self, name: str, *_: str) -> tuple[int, Any, dict[str, str]]:
        self._writer(name)
        return self._xet_token(name)

    def _api_commit(self, name: str, revision: str, _: str) -> tuple[int, Any, dict[str, str]]:
        repo = self._repo(name)
        self._writer(name)
        lines = [json.loads(line) for line in self.body.splitlines() if line.strip()]
        header = next(line["value"] for line in lines if line["key"] == "header")
        head = self._commit_of(repo, revision)
        if header.get("parentCommit") not in (None, head):
            raise Refusal(412, message="A commit has happened since. Please refresh and try again.")
        files = dict(repo.commits[head][1])
        xet = self.hub.xet_files()
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = Blob(base64.b64decode(value["content"]))
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.hub.storage and value["oid"] not in xet:
                    raise Refusal(400, message=f"{value['path']}: its content was never uploaded")
                files[value["path"]] = Blob(lfs=value["oid"], size=value["size"], xet=xet.get(value["oid"], ""))
            elif line["key"] == "deletedFile":
                files.pop(value["path"])
        answer: dict[str, Any] = {"success": True, "pullRequestUrl": None}
        ref, summary = revision, header["summary"]
        if self.query.get("create_pr") == "1":
            number = len(repo.pulls) + 1
            ref = f"refs/pr/{number}"
            repo.pulls[number] = {"title": summary, "author": self.user, "status": "open", "base": head, "comments": []}
            answer["pullRequestUrl"] = f"{self.hub.endpoint}/{_address(name)}/discussions/{number}"
        oid = repo.commit(ref, head, files, summary)
        return 200, answer | {"commitOid": oid, "commitUrl": f"{self.hub.endpoint}/{_address(name)}/commit/{oid}"}, {}

    def _api_commits(self, name: str, revision: str, _: str) -> tuple[int, Any, dict[str, str]]:
        """Newest first, down to the first commit."""
        repo = self._repo(name)
        oid, found = self._commit_of(repo, revision), []
        while oid:
            found.append({"id": oid, "title": "", "message": "", "authors": [], "date": WHEN})
            oid = repo.commits[oid][0]
        return 200, found, {}

    def _api_discussions(self, name: str, number: str, action: str) -> tuple[int, Any, dict[str, str]]:
        repo = self._repo(name)
        if self.command == "GET" and not number:
            found = [
                _discussion(name, num, pull)
                for num, pull in repo.pulls.items()
                if self.query.get("author") in (None, pull["author"])
                and self.query.get("status") in (None, "all", pull["status"])
            ]
            return 200, {"discussions": found, "count": len(found), "start": 0}, {}
        if int(number) not in repo.pulls:
            raise Refusal(404, message="no such discussion")
        pull = repo.pulls[int(number)]
        if self.command == "GET":
            more = {"changes": {"base": "refs/heads/main"}, "filesWithConflicts": [], "events": pull["comments"]}
            return 200, _discussion(name, int(number), pull) | more, {}
        if action.startswith("comment"):
            return self._comment(pull, action)
        if action != "merge" or not self._may_write(name):
            raise Refusal(403, message="no right to do this")
        base, ours = repo.commits[pull["base"]][1], repo.files(f"refs/pr/{number}")
        theirs = repo.files()
        changed = {n: b for n, b in ours.items() if base.get(n) != b}
        clashes = [n for n in changed if theirs.get(n) != base.get(n)]
        if clashes:
            raise Refusal(409, message=f"conflicts in {', '.join(clashes)}")
        pull["status"] = "merged"
        repo.commit("main", repo.refs["main"], theirs | changed, f"merge: {pull['title']}")
        return 200, {}, {}

    def _comment(self, pull: dict[str, Any], action: str) -> tuple[int, Any, dict[str, str]]:
        """`comment` adds one, `comment/<id>/edit` changes it; who may not is refused."""
        if self.user is None:
            raise Refusal(401, message="Invalid username or password.")
        asked = json.loads(self.body)
        if action == "comment":
            data: dict[str, Any] = {"edited": False, "hidden": False, "latest": {"raw": asked["comment"]}}
            who, number = {"name": self.user}, len(pull["comments"])
            event: dict[str, Any] = {"id": f"c{number}", "type": "comment", "createdAt": WHEN, "author": who, "data": data}
            pull["comments"].append(event)
            return 200, {"newMessage": event}, {}
        event = next(e for e in pull["comments"] if e["id"] == action.split("/")[1])
        if event["author"]["name"] != self.user:
            raise Refusal(403, message="the comment is somebody else's")
        event["data"] |= {"edited": True, "latest": {"raw": asked["content"]}}
        return 200, {"updatedComment": event}, {}


def _discussion(name: str, number: int, pull: dict[str, Any]) -> dict[str, Any]:
    return {
        "num": number, "title": pull["title"], "status": pull["status"], "isPullRequest": True, "createdAt": WHEN,
        "author": {"name": pull["author"]}, "repo": {"name": name, "type": "dataset"},
    }  # fmt: skip


def _address(name: str) -> str:
    return name if name.startswith("spaces/") else f"datasets/{name}"


def unquote_keep(path: str) -> str:
    """The path with everything decoded but the slashes that were encoded, which separate nothing."""
    return re.sub(r"%(?!2[Ff])[0-9A-Fa-f]{2}", lambda m: unquote(m[0]) if int(m[0][1:], 16) < 128 else m[0], path)
