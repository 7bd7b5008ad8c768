"""Downloads: /resolve with its redirects, and the CDN that large files come from."""

from __future__ import annotations

from urllib.parse import quote

from starlette.responses import Response

from tests.hub.repo import Entry, Repo
from tests.hub.serve import serve_file
from tests.hub.wire import Call, HubError, entry_not_found


async def resolve(call: Call) -> Response:
    """A file of a repo. Regular ones sit behind a redirect on this origin, large ones on the CDN's."""
    repo = call.repo()
    sha = repo.resolve(call.params["rev"])
    path = call.params["path"]
    entry = repo.entry(sha, path)
    if entry.lfs:
        return _large(call, repo, sha, path, entry)
    if not call.hub.settings.regular_redirect:
        return _regular(call, sha, entry)
    where = f"/api/resolve-cache/{repo.kind}/{repo.id}/{sha}/{quote(path, safe='')}"
    target = f"{where}?etag=%22{entry.oid}%22"
    headers = {
        "X-Repo-Commit": sha,
        "X-Linked-Size": str(entry.size),
        "ETag": f'"{entry.oid}"',
        "Location": target,
        "Accept-Ranges": "bytes",
    }
    return Response(f"Temporary Redirect. Redirecting to {target}", 307, headers, media_type="text/plain")


async def resolve_cache(call: Call) -> Response:
    repo = call.repo()
    sha = repo.resolve(call.params["rev"])
    return _regular(call, sha, repo.entry(sha, call.params["path"]))


def _regular(call: Call, sha: str, entry: Entry) -> Response:
    headers = {
        "X-Repo-Commit": sha,
        "ETag": f'"{entry.oid}"',
        "Content-Disposition": _disposition(call.params["path"]),
        "Content-Type": "text/plain; charset=utf-8",
    }
    return serve_file(
        call.hub.store.blobs.path(entry.sha256),
        headers,
        call.request.headers.get("range"),
        head=call.request.method == "HEAD",
    )


def _large(call: Call, repo: Repo, sha: str, path: str, entry: Entry) -> Response:
    if entry.sha256 not in repo.lfs:
        raise entry_not_found(headers={"X-Repo-Commit": sha})  # deleted for good, its pointer still there
    hub = call.hub
    xet = hub.cas.by_sha256.get(entry.sha256)
    # The pair of spellings is the Hub's: files in Xet storage come over its bridge, others from the LFS CDN.
    place = "repos" if xet is None else "xet-bridge"
    signed = hub.sign(f"get {entry.sha256}")
    target = f"{hub.cdn}/cdn/{place}/{entry.sha256}?{signed}&name={quote(path.rpartition('/')[2], safe='')}"
    headers = {
        "X-Repo-Commit": sha,
        "X-Linked-Size": str(entry.size),
        "X-Linked-ETag": f'"{entry.sha256}"',
        "Location": target,
        "Accept-Ranges": "bytes",
    }
    if xet is not None:
        headers["X-Xet-Hash"] = xet
        headers["Link"] = (
            f'<{call.base}/api/{repo.kind}/{repo.id}/xet-read-token/{sha}>; rel="xet-auth", '
            f'<{hub.cdn}/v1/reconstructions/{xet}>; rel="xet-reconstruction-info"'
        )
    return Response(f"Found. Redirecting to {target}", 302, headers, media_type="text/plain")


async def cdn(call: Call) -> Response:
    """The bytes of a large file by a signed link. A Hub token is refused here, as object storage does."""
    refuse_auth(call)
    sha256 = call.params["sha256"]
    query = call.request.query_params
    call.hub.check_signature(f"get {sha256}", query.get("expires", ""), query.get("signature", ""))
    if not call.hub.store.blobs.has(sha256):
        call.hub.cas.materialize(sha256)
    headers = {"ETag": f'"{sha256}"', "Content-Disposition": _disposition(query.get("name", sha256))}
    return serve_file(
        call.hub.store.blobs.path(sha256),
        headers,
        call.request.headers.get("range"),
        head=call.request.method == "HEAD",
    )


def refuse_auth(call: Call) -> None:
    """Raises HubError 400 where a Hub token came along with a signed link."""
    if "authorization" in call.request.headers:
        raise HubError(400, "Only one auth mechanism allowed: this link is signed, send no Authorization")


def _disposition(path: str) -> str:
    name = path.rpartition("/")[2]
    plain = name.encode("ascii", "replace").decode().replace('"', "'").replace("\n", " ").replace("\r", " ")
    return f"inline; filename*=UTF-8''{quote(name, safe='')}; filename=\"{plain}\";"
