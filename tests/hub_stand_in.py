"""A stand-in for the Hugging Face hub: as much of its HTTP interface as uploads and downloads of
whole repositories use, kept in memory. `huggingface_hub`, which nobody here wrote, talks to it.

    with hub() as there:
        HfApi(endpoint=there.address, token=TOKEN).create_repo("org/name")
        there.files("org/name")  # {"README.md": b"..."}

Left out: Xet storage (`hub` switches it off in the client), branches, pull requests, deletions.
"""

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from app.serving import serving

TOKEN = "hf_a_token_of_the_tests"
ORGANISATION = "org"  # the token may write here alone
LARGE = 1024  # bytes from which a file goes the way of large files
DATE = "2026-01-01T00:00:00.000Z"


class Hub(NamedTuple):
    """The address of a running stand-in, and what it holds.

    repos: by kind and name (`models/org/name`), each with `private`, `files` (path -> bytes) and
    `commits` (the message of each). seen: method and path of every request.
    """

    address: str
    repos: dict[str, dict[str, Any]]
    seen: list[str]

    def files(self, name: str, kind: str = "models") -> dict[str, bytes]:
        return self.repos[f"{kind}/{name}"]["files"]


@contextmanager
def hub() -> Iterator[Hub]:
    """A stand-in on a free port. The client may reach it inside, whatever the environment says."""
    repos: dict[str, dict[str, Any]] = {}
    seen: list[str] = []
    with pytest.MonkeyPatch.context() as patch, serving(_application(repos, seen)) as address:
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        patch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        yield Hub(address, repos, seen)


def _application(repos: dict[str, dict[str, Any]], seen: list[str]) -> FastAPI:
    server = FastAPI(openapi_url=None)
    blobs: dict[str, bytes] = {}  # large files by their SHA-256, whether committed or not

    @server.middleware("http")
    async def look(request: Request, answer: Any) -> Response:
        seen.append(f"{request.method} {request.url.path}")
        if request.url.path.startswith("/blobs/"):  # such addresses carry their own permission
            return await answer(request)
        if request.headers.get("authorization") != f"Bearer {TOKEN}":
            return _refused(401, "Invalid credentials in Authorization header")
        return await answer(request)

    @server.get("/api/whoami-v2")
    def whoami() -> dict[str, Any]:
        return {"type": "user", "name": "ana", "orgs": [{"name": ORGANISATION}], "auth": {}}

    @server.post("/api/repos/create")
    async def create(request: Request) -> Response:
        asked = await request.json()
        owner = asked.get("organization") or "ana"
        if owner != ORGANISATION:
            return _refused(403, f"You don't have the rights to create a model under {owner}")
        kind, name = f"{asked.get('type', 'model')}s", f"{owner}/{asked['name']}"
        url = f"{request.base_url}{'' if kind == 'models' else kind + '/'}{name}"
        if f"{kind}/{name}" in repos:
            return JSONResponse({"error": "You already created this repo", "url": url}, 409)
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        repos[f"{kind}/{name}"] = {"private": private, "files": {}, "commits": []}
        return JSONResponse({"url": url, "name": name, "id": name})

    @server.post("/api/validate-yaml")
    async def validate() -> dict[str, Any]:
        return {"errors": [], "warnings": []}

    @server.post("/api/{kind}/{owner}/{name}/preupload/{revision}")
    async def before(kind: str, owner: str, name: str, request: Request) -> Response:
        found = repos.get(f"{kind}/{owner}/{name}")
        if found is None:
            return _missing()
        told = []
        for file in (await request.json())["files"]:
            large = file["size"] >= LARGE and not file["path"].endswith((".md", ".json"))
            held = found["files"].get(file["path"])
            told.append(
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if large else "regular",
                    "shouldIgnore": False,
                    "oid": None if held is None else _oid(held, large),
                }
            )
        return JSONResponse({"files": told})

    @server.post("/{path:path}.git/info/lfs/objects/batch")
    async def batch(path: str, request: Request) -> dict[str, Any]:
        objects = []
        for one in (await request.json())["objects"]:
            link = {"href": f"{request.base_url}blobs/{one['oid']}"}
            actions = {} if one["oid"] in blobs else {"actions": {"upload": link}}
            objects.append({"oid": one["oid"], "size": one["size"], **actions})
        return {"transfer": "basic", "objects": objects}

    @server.put("/blobs/{oid}")
    async def put(oid: str, request: Request) -> Response:
        content = await request.body()
        if hashlib.sha256(content).hexdigest() != oid:
            return _refused(400, "the content is not what its name says")
        blobs[oid] = content
        return Response()

    @server.post("/api/{kind}/{owner}/{name}/commit/{revision}")
    async def commit(kind: str, owner: str, name: str, request: Request) -> Response:
        found = repos.get(f"{kind}/{owner}/{name}")
        if found is None:
            return _missing()
        files, message = dict(found["files"]), ""
        for line in (await request.body()).splitlines():
            part = json.loads(line)
            value = part["value"]
            if part["key"] == "header":
                message = value["summary"]
            elif part["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif part["key"] == "lfsFile" and value["oid"] in blobs:
                files[value["path"]] = blobs[value["oid"]]
            else:
                return _refused(400, f"{part['key']} of {value} is not served")
        found["files"] = files
        found["commits"].append(message)
        sha = _sha(found)
        url = f"{request.base_url}{'' if kind == 'models' else kind + '/'}{owner}/{name}"
        return JSONResponse({"commitUrl": f"{url}/commit/{sha}", "commitOid": sha})

    @server.get("/api/{kind}/{owner}/{name}")
    @server.get("/api/{kind}/{owner}/{name}/revision/{revision}")
    def info(kind: str, owner: str, name: str) -> Response:
        found = repos.get(f"{kind}/{owner}/{name}")
        if found is None:
            return _missing()
        siblings = [{"rfilename": path} for path in found["files"]]
        name = f"{owner}/{name}"
        told = {"_id": name, "id": name, "sha": _sha(found), "private": found["private"]}
        return JSONResponse(told | {"siblings": siblings, "lastModified": DATE, "tags": []})

    @server.get("/api/{kind}/{owner}/{name}/tree/{revision}")
    @server.get("/api/{kind}/{owner}/{name}/tree/{revision}/{inside:path}")
    def tree(kind: str, owner: str, name: str) -> Response:
        found = repos.get(f"{kind}/{owner}/{name}")
        if found is None:
            return _missing()
        return JSONResponse(
            [
                {"type": "file", "oid": _oid(held, False), "size": len(held), "path": path}
                for path, held in sorted(found["files"].items())
            ]
        )

    @server.api_route("/{place:path}/resolve/{revision}/{path:path}", methods=["GET", "HEAD"])
    def resolve(place: str, path: str) -> Response:
        key = place if place.startswith("datasets/") else f"models/{place}"
        found = repos.get(key)
        if found is None or path not in found["files"]:
            return _missing("EntryNotFound" if found else "RepoNotFound")
        held = found["files"][path]
        head = {"X-Repo-Commit": _sha(found), "ETag": f'"{_oid(held, False)}"'}
        return Response(held, headers=head, media_type="application/octet-stream")

    return server


def _refused(status: int, message: str) -> JSONResponse:
    return JSONResponse({"error": message}, status, headers={"X-Error-Message": message})


def _missing(code: str = "RepoNotFound") -> JSONResponse:
    return JSONResponse({"error": "not found"}, 404, headers={"X-Error-Code": code})


def _oid(content: bytes, large: bool) -> str:
    """As git names a small file, and git-lfs a large one."""
    if large:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _sha(repo: dict[str, Any]) -> str:
    """A commit's name: of how many there were, and of what is in it."""
    names = [f"{path} {_oid(held, True)}" for path, held in sorted(repo["files"].items())]
    return hashlib.sha1("\n".join([*repo["commits"], *names]).encode()).hexdigest()
