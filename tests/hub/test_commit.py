"""Commits by the real client: parents, conflicts, deletions, ignored files, limits, large files."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import pytest
from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError, RemoteEntryNotFoundError

from tests.hub.identity import READ_TOKEN
from tests.hub.server import AdminError, LocalHub

Operation = CommitOperationAdd | CommitOperationDelete

# The client hands the file to httpx2 in a way that httpx2 warns of; only its LFS uploads do.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


def commit(api: HfApi, repo: str, operations: Iterable[Operation], parent_commit: str | None = None) -> CommitInfo:
    return api.create_commit(repo, operations, commit_message="test", repo_type="dataset", parent_commit=parent_commit)


def adds(files: dict[str, bytes]) -> list[Operation]:
    return [CommitOperationAdd(path, data) for path, data in files.items()]


def code(error: pytest.ExceptionInfo[HfHubHTTPError]) -> int:
    return error.value.response.status_code


def test_small_text_goes_in_the_commit_and_binary_over_lfs(api: HfApi, hub: LocalHub, repo: str) -> None:
    binary = os.urandom(5000)
    done = commit(api, repo, adds({"a.txt": "grüße".encode(), "b/c d\n.x": b"text", "b/d.data": binary}))
    assert hub.files(repo) == {"a.txt": "grüße".encode(), "b/c d\n.x": b"text", "b/d.data": binary}
    assert [path for path, e in hub.entries(repo).items() if e["lfs"]] == ["b/d.data"]
    assert done.oid == hub.head(repo)
    assert [hub.count(n) for n in ("lfs_batch", "lfs_put", "lfs_verify", "commit")] == [1, 1, 1, 1]
    assert [r["authorized"] for r in hub.requests("lfs_put")] == [False]


def test_gitattributes_and_size_make_a_file_large(api: HfApi, hub: LocalHub, repo: str) -> None:
    hub.settings(lfs_above=100)
    hub.edit(repo, {".gitattributes": b"*.mine filter=lfs -text\nplain.mine !filter\n"})
    commit(api, repo, adds({"x.mine": b"text", "plain.mine": b"text", "long.txt": b"x" * 101}))
    large = {path: entry["lfs"] for path, entry in hub.entries(repo).items()}
    assert large == {".gitattributes": False, "long.txt": True, "plain.mine": False, "x.mine": True}


def test_a_known_large_file_is_not_sent_again(api: HfApi, hub: LocalHub, repo: str) -> None:
    data = os.urandom(1000)
    commit(api, repo, adds({"one.bin": data}))
    commit(api, repo, adds({"two.bin": data}))
    assert hub.count("lfs_put") == 1
    assert hub.files(repo) == {"one.bin": data, "two.bin": data}
    commit(api, repo, adds({"two.bin": data}))
    assert hub.count("commit") == 2  # the client compares preupload's oid and sends nothing


def test_multipart(api: HfApi, hub: LocalHub, repo: str) -> None:
    hub.settings(multipart_above=1000, part_size=400)
    data = os.urandom(1500)
    commit(api, repo, adds({"big.bin": data}))
    assert hub.count("lfs_part") == 4
    assert hub.count("lfs_complete") == 1
    assert hub.files(repo) == {"big.bin": data}


def test_a_file_object_travels_too(api: HfApi, hub: LocalHub, repo: str) -> None:
    data = os.urandom(70_000)
    commit(api, repo, [CommitOperationAdd("io.bin", io.BytesIO(data))])
    assert hub.read(repo, "io.bin") == data


def test_parent_decides(api: HfApi, hub: LocalHub, repo: str) -> None:
    head = hub.head(repo)
    first = commit(api, repo, adds({"a": b"1"}), parent_commit=head)
    assert hub.commits(repo)[0]["parent"] == head
    with pytest.raises(HfHubHTTPError, match="A commit has happened since") as stale:
        commit(api, repo, adds({"a": b"2"}), parent_commit=head)
    assert code(stale) == 412
    assert hub.files(repo) == {"a": b"1"}
    commit(api, repo, adds({"a": b"3"}), parent_commit=first.oid)
    assert hub.files(repo) == {"a": b"3"}


def test_two_commits_at_a_time_are_one_too_many(hub: LocalHub, repo: str) -> None:
    hub.settings(commit_seconds=0.5)

    def attempt(path: str) -> str:
        try:
            return commit(hub.api(), repo, adds({path: b"1"})).oid
        except HfHubHTTPError as exc:
            return str(exc)

    with ThreadPoolExecutor() as pool:
        outcomes = list(pool.map(attempt, ["one", "two"]))
    assert hub.head(repo) in outcomes
    assert len([text for text in outcomes if "409" in text and "in progress" in text]) == 1
    assert len(hub.files(repo)) == 1


def test_deletions_and_moves_in_one_commit(api: HfApi, hub: LocalHub, repo: str) -> None:
    commit(api, repo, adds({"a": b"1", "d/x": b"2", "d/e/y": b"3", "keep": b"4"}))
    operations: list[Operation] = [
        CommitOperationDelete("a"),
        CommitOperationDelete("d/"),
        *adds({"a/now-a-folder": b"5", "d": b"now a file"}),
    ]
    commit(api, repo, operations)
    assert hub.files(repo) == {"a/now-a-folder": b"5", "d": b"now a file", "keep": b"4"}
    with pytest.raises(RemoteEntryNotFoundError, match="A file with this name doesn't exist"):
        commit(api, repo, [CommitOperationDelete("nothing")])
    with pytest.raises(HfHubHTTPError, match="is a file in this repo"):
        commit(api, repo, adds({"keep/under": b"x"}))
    with pytest.raises(HfHubHTTPError, match="is a folder in this repo"):
        commit(api, repo, adds({"a": b"x"}))


def test_gitignores_drop_files_in_silence(api: HfApi, hub: LocalHub, repo: str) -> None:
    commit(api, repo, adds({"app/.gitignore": b"*.log\n/build/\n!keep.log\n", "other/x.log": b"1"}))
    files = {
        "app/x.log": b"2",
        "app/keep.log": b"3",
        "app/build/y": b"4",
        "app/sub/build/z": b"5",
        "x.log": b"6",
    }
    commit(api, repo, adds(files))
    assert set(hub.files(repo)) == {
        "app/.gitignore",
        "app/keep.log",
        "app/sub/build/z",
        "other/x.log",
        "x.log",
    }
    # One at the root counts for the very commit that brings it.
    commit(api, repo, adds({".gitignore": b"secret*\n", "secret.txt": b"7", "open.txt": b"8"}))
    assert "secret.txt" not in hub.files(repo)
    assert hub.files(repo)["open.txt"] == b"8"


def test_paths_that_git_refuses(api: HfApi, hub: LocalHub, repo: str) -> None:
    for path in ("a/.git/config", ".git/HEAD"):
        with pytest.raises((HfHubHTTPError, ValueError), match=r"\.git"):
            commit(api, repo, adds({path: b"x"}))
    assert hub.files(repo) == {}
    hub.settings(folder_limit=2)
    with pytest.raises(HfHubHTTPError, match="more than 2 files"):
        commit(api, repo, adds({"d/1": b"", "d/2": b"", "d/3": b""}))


def test_writing_needs_a_write_token(hub: LocalHub, repo: str) -> None:
    with pytest.raises(HfHubHTTPError, match="write token") as refused:
        commit(hub.api(READ_TOKEN), repo, adds({"a": b"1"}))
    assert code(refused) == 403


def test_a_pointer_without_its_file_is_refused(api: HfApi, hub: LocalHub, repo: str) -> None:
    addition = CommitOperationAdd("ghost.bin", os.urandom(100))
    addition._upload_mode, addition._is_uploaded, addition._should_ignore = "lfs", True, False
    with pytest.raises(HfHubHTTPError, match="pointed to a file that does not exist"):
        commit(api, repo, [addition])


def test_hourly_limit_with_a_retry_after_that_lies(api: HfApi, hub: LocalHub, repo: str) -> None:
    hub.settings(commits_per_hour=3, commit_retry_after="1")
    for number in range(2):
        commit(api, repo, adds({"n": str(number).encode()}))
    with pytest.raises(HfHubHTTPError, match="hourly quotas") as limited:
        commit(api, repo, adds({"n": b"too many"}))
    assert code(limited) == 429
    assert limited.value.response.headers["Retry-After"] == "1"
    hub.edit(repo, {"old": b""}, date="2020-01-01T00:00:00.000Z")


def test_quota(api: HfApi, hub: LocalHub, repo: str) -> None:
    elsewhere = sum(hub.used(r["repo"], type=r["type"]) for r in hub.repos() if r["private"])
    hub.settings(private_quota=elsewhere + 1000)
    with pytest.raises(HfHubHTTPError, match="storage limit reached") as full:
        commit(api, repo, adds({"a.bin": os.urandom(2000)}))
    assert code(full) == 403
    with pytest.raises(HfHubHTTPError, match="storage limit reached"):
        commit(api, repo, adds({"a.txt": b"x" * 2000}))
    hub.set_private(repo, False)
    commit(api, repo, adds({"a.bin": os.urandom(2000)}))


def test_large_files_stay_until_deleted_for_good(api: HfApi, hub: LocalHub, repo: str) -> None:
    one, two = os.urandom(1000), os.urandom(3000)
    commit(api, repo, adds({"x.bin": one}))
    commit(api, repo, adds({"x.bin": two}))
    api.super_squash_history(repo, repo_type="dataset")
    listed = {f.file_oid: f for f in api.list_lfs_files(repo, repo_type="dataset")}
    old = hashlib.sha256(one).hexdigest()
    assert listed[old].filename == "x.bin"
    assert sum(f.size for f in listed.values()) == 4000
    before = hub.used(repo)
    api.permanently_delete_lfs_files(repo, [listed[old]], repo_type="dataset")
    assert hub.used(repo) == before - 1000
    assert hub.read(repo, "x.bin") == two
    commit(api, repo, adds({"y.bin": one}))  # gone means gone: it is sent again
    assert hub.read(repo, "y.bin") == one
    newest = hub.head(repo)
    api.permanently_delete_lfs_files(repo, api.list_lfs_files(repo, repo_type="dataset"), repo_type="dataset")
    assert hub.files(repo) == {}
    with pytest.raises(AdminError, match="404"):
        hub.commits(repo, newest)


def test_pages_of_commits(api: HfApi, hub: LocalHub, repo: str) -> None:
    hub.settings(commits_page=3)
    for number in range(7):
        hub.edit(repo, {"n": str(number).encode()}, title=f"edit {number}")
    listed = api.list_repo_commits(repo, repo_type="dataset")
    assert [c.title for c in listed] == [f"edit {n}" for n in reversed(range(7))] + ["initial commit"]
    assert hub.count("commits") == 3
    assert listed[0].created_at.tzinfo is not None
