"""Trees and files as the real client reads them: paging, redirects, ranges, signed links."""

from __future__ import annotations

import os
import urllib.request
from email.message import Message
from pathlib import Path
from urllib.error import HTTPError

import pytest
from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_url
from huggingface_hub.errors import RemoteEntryNotFoundError, RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile, RepoFolder

from tests.hub.identity import DEFAULT_TOKEN, OTHER_TOKEN
from tests.hub.server import LocalHub

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


def push(api: HfApi, repo: str, path: str, data: bytes) -> str:
    return str(api.upload_file(path_or_fileobj=data, path_in_repo=path, repo_id=repo, repo_type="dataset").oid)


def pull(api: HfApi, repo: str, path: str, into: Path, revision: str | None = None) -> bytes:
    name = api.hf_hub_download(repo, path, repo_type="dataset", local_dir=into, revision=revision)
    return Path(name).read_bytes()


def raw(url: str, headers: dict[str, str]) -> tuple[int, Message, bytes]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _Still())
    try:
        with opener.open(urllib.request.Request(url, headers=headers), timeout=10) as reply:
            return reply.status, reply.headers, reply.read()
    except HTTPError as exc:
        with exc:
            return exc.code, exc.headers, exc.read()


class _Still(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        return None


def test_files_come_back(api: HfApi, hub: LocalHub, repo: str, tmp_path: Path) -> None:
    large = os.urandom(700_000)
    old = push(api, repo, "a ü.txt", b"one")
    push(api, repo, "a ü.txt", b"two")
    push(api, repo, "deep/er/b.bin", large)
    push(api, repo, "empty", b"")
    assert pull(api, repo, "a ü.txt", tmp_path / "new") == b"two"
    assert pull(api, repo, "a ü.txt", tmp_path / "old", old) == b"one"
    assert pull(api, repo, "deep/er/b.bin", tmp_path / "new") == large
    assert pull(api, repo, "empty", tmp_path / "new") == b""
    got = api.snapshot_download(repo, repo_type="dataset", local_dir=tmp_path / "all")
    assert (Path(got) / "deep/er/b.bin").read_bytes() == large
    assert {r["authorized"] for r in hub.requests("cdn")} == {False}
    assert {r["authorized"] for r in hub.requests("resolve_cache")} == {True}


def test_metadata_names_commit_size_and_etag(api: HfApi, hub: LocalHub, repo: str) -> None:
    push(api, repo, "t.txt", b"hello")
    head = push(api, repo, "b.bin", os.urandom(600))
    entries = hub.entries(repo)
    for path, etag in (("t.txt", entries["t.txt"]["oid"]), ("b.bin", entries["b.bin"]["sha256"])):
        url = hf_hub_url(repo, path, repo_type="dataset", endpoint=hub.url)
        found = get_hf_file_metadata(url, token=DEFAULT_TOKEN)
        assert (found.commit_hash, found.size, found.etag) == (head, entries[path]["size"], etag)
    hub.settings(regular_redirect=False)
    url = hf_hub_url(repo, "t.txt", repo_type="dataset", endpoint=hub.url)
    assert get_hf_file_metadata(url, token=DEFAULT_TOKEN).location == url


def test_missing_files_and_repos(api: HfApi, hub: LocalHub, repo: str, tmp_path: Path) -> None:
    with pytest.raises(RemoteEntryNotFoundError) as missing:
        pull(api, repo, "nothing", tmp_path)
    assert missing.value.response.headers["X-Repo-Commit"] == hub.head(repo)
    with pytest.raises(RemoteEntryNotFoundError):
        list(api.list_repo_tree(repo, "nothing", repo_type="dataset"))
    hub.edit(repo, {"a": b"1"})
    with pytest.raises(RepositoryNotFoundError):
        get_hf_file_metadata(hf_hub_url(repo, "a", repo_type="dataset", endpoint=hub.url), token=OTHER_TOKEN)


@pytest.mark.parametrize(
    ("asked", "status", "expected"),
    [
        ("bytes=0-3", 206, b"0123"),
        ("bytes=5-", 206, b"56789"),
        ("bytes=-2", 206, b"89"),
        ("bytes=8-100", 206, b"89"),
        ("bytes=10-", 416, b""),
        ("lines=1-2", 200, b"0123456789"),
        ("bytes=a-b", 200, b"0123456789"),
    ],
)
def test_ranges(hub: LocalHub, repo: str, asked: str, status: int, expected: bytes) -> None:
    hub.settings(regular_redirect=False)
    hub.edit(repo, {"n": b"0123456789"})
    url = f"{hub.url}/datasets/{repo}/resolve/main/n"
    got, headers, body = raw(url, {"Authorization": f"Bearer {DEFAULT_TOKEN}", "Range": asked})
    assert (got, body) == (status, expected)
    if status == 206:
        assert headers["Content-Range"].endswith("/10")


def test_several_ranges_come_as_multipart(hub: LocalHub, repo: str) -> None:
    hub.settings(regular_redirect=False)
    hub.edit(repo, {"n": b"0123456789"})
    url = f"{hub.url}/datasets/{repo}/resolve/main/n"
    head = {"Authorization": f"Bearer {DEFAULT_TOKEN}", "Range": "bytes=0-1,7-8"}
    status, headers, body = raw(url, head)
    mark = headers["Content-Type"].partition("boundary=")[2].encode()
    assert status == 206
    assert [p.partition(b"\r\n\r\n")[2] for p in body.split(b"\r\n--" + mark)] == [b"", b"01", b"78", b""]


def test_a_signed_link_is_all_that_the_cdn_takes(api: HfApi, hub: LocalHub, repo: str) -> None:
    data = os.urandom(900)
    push(api, repo, "b.bin", data)
    bearer = {"Authorization": f"Bearer {DEFAULT_TOKEN}"}
    status, headers, _ = raw(f"{hub.url}/datasets/{repo}/resolve/main/b.bin", bearer)
    link = headers["Location"]
    assert status == 302
    assert not link.startswith(hub.url)
    assert raw(link, {})[2] == data
    assert raw(link, bearer)[0] == 400
    assert raw(link.replace("signature=", "signature=0"), {})[0] == 403
    hub.settings(link_seconds=-10)
    stale = raw(f"{hub.url}/datasets/{repo}/resolve/main/b.bin", bearer)[1]["Location"]
    assert raw(stale, {})[0] == 403


def test_pages_of_a_tree(api: HfApi, hub: LocalHub, repo: str) -> None:
    hub.settings(tree_page=4)
    hub.edit(repo, {f"d{n}/f{m}": b"x" for n in range(3) for m in range(3)})
    found = list(api.list_repo_tree(repo, repo_type="dataset", recursive=True))
    files = [e.path for e in found if isinstance(e, RepoFile)]
    assert files == [".gitattributes", *(f"d{n}/f{m}" for n in range(3) for m in range(3))]
    assert [e.path for e in found if isinstance(e, RepoFolder)] == ["d0", "d1", "d2"]
    assert hub.count("tree") == 4
    flat = [e.path for e in api.list_repo_tree(repo, "d1", repo_type="dataset")]
    assert flat == ["d1/f0", "d1/f1", "d1/f2"]


def test_expand_tells_who_changed_what(api: HfApi, hub: LocalHub, repo: str) -> None:
    first = hub.edit(repo, {"a": b"1", "d/b": b"2"}, title="one")
    second = hub.edit(repo, {"d/c": b"3"}, title="two")
    rows = {e.path: e for e in api.list_repo_tree(repo, repo_type="dataset", recursive=True, expand=True)}
    assert {p: rows[p].last_commit.oid for p in ("a", "d/b", "d/c", "d")} == {  # type: ignore[union-attr]
        "a": first,
        "d/b": first,
        "d/c": second,
        "d": second,
    }
    some = api.get_paths_info(repo, ["a", "d", "nothing"], repo_type="dataset")
    assert [type(e).__name__ for e in some] == ["RepoFile", "RepoFolder"]
