"""Accounts and repos as wholes, by the real client."""

from __future__ import annotations

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

from tests.hub.identity import OTHER_TOKEN, READ_TOKEN
from tests.hub.server import LocalHub


def status(error: pytest.ExceptionInfo[HfHubHTTPError]) -> int:
    return error.value.response.status_code


def test_whoami_tells_user_and_role(hub: LocalHub) -> None:
    assert hub.api().whoami()["name"] == "alice"
    assert hub.api(READ_TOKEN).whoami()["auth"]["accessToken"]["role"] == "read"
    hub.add_token("hf_fine", "alice", "fineGrained", scopes=[("dataset", "alice/x", ["repo.write"])])
    access = hub.api("hf_fine").whoami()["auth"]["accessToken"]
    assert access["fineGrained"]["scoped"][0]["entity"] == {"type": "dataset", "name": "alice/x"}


def test_tokens_expire_and_are_revoked(hub: LocalHub, repo: str) -> None:
    hub.add_token("hf_old", "alice", expired=True)
    with pytest.raises(HfHubHTTPError, match="expired") as expired:
        hub.api("hf_old").dataset_info(repo)
    assert status(expired) == 401
    hub.add_token("hf_gone", "alice")
    hub.api("hf_gone").dataset_info(repo)
    hub.revoke_token("hf_gone")
    with pytest.raises(HfHubHTTPError, match="Invalid credentials") as revoked:
        hub.api("hf_gone").dataset_info(repo)
    assert status(revoked) == 401
    assert not isinstance(revoked.value, RepositoryNotFoundError)


def test_create_is_idempotent_with_exist_ok_only(api: HfApi, hub: LocalHub) -> None:
    url = api.create_repo("alice/created", repo_type="dataset", private=True)
    assert url.repo_id == "alice/created"
    assert api.create_repo("alice/created", repo_type="dataset", exist_ok=True).repo_id == "alice/created"
    with pytest.raises(HfHubHTTPError) as taken:
        api.create_repo("alice/created", repo_type="dataset")
    assert status(taken) == 409
    info = api.dataset_info("alice/created")
    assert info.private
    assert info.sha == hub.head("alice/created")
    api.delete_repo("alice/created", repo_type="dataset")
    with pytest.raises(RepositoryNotFoundError):
        api.dataset_info("alice/created")
    api.delete_repo("alice/created", repo_type="dataset", missing_ok=True)


def test_models_and_spaces_have_their_own_names(api: HfApi, hub: LocalHub) -> None:
    assert str(api.create_repo("alice/m")) == f"{hub.url}/alice/m"
    api.create_repo("alice/m", repo_type="space", space_sdk="docker")
    api.upload_file(path_or_fileobj=b"x", path_in_repo="f.txt", repo_id="alice/m")
    assert api.file_exists("alice/m", "f.txt")
    assert not api.file_exists("alice/m", "f.txt", repo_type="space")


def test_who_may_create_where(hub: LocalHub) -> None:
    hub.set_orgs("alice", ["acme"])
    hub.add_token("hf_one", "alice", "fineGrained", scopes=[("dataset", "alice/mine", ["repo.write"])])
    hub.add_token("hf_all", "alice", "fineGrained", scopes=[("user", "alice", ["repo.write"])])
    hub.api().create_repo("acme/state", repo_type="dataset")
    hub.api("hf_all").create_repo("alice/by-fine", repo_type="dataset")
    for token, name in ((READ_TOKEN, "alice/no"), ("hf_one", "alice/no"), (OTHER_TOKEN, "alice/no")):
        with pytest.raises(HfHubHTTPError, match="rights to create") as refused:
            hub.api(token).create_repo(name, repo_type="dataset")
        assert status(refused) == 403


def test_a_private_repo_is_missing_to_others(hub: LocalHub, repo: str) -> None:
    for token in (OTHER_TOKEN, False):
        with pytest.raises(RepositoryNotFoundError):
            hub.api(token).dataset_info(repo)
    # Its name is taken all the same: this is how a client tells "private to me" from "not there".
    assert hub.api(READ_TOKEN).dataset_info(repo).id == repo
    hub.api().update_repo_settings(repo, private=False, repo_type="dataset")
    assert hub.api(OTHER_TOKEN).dataset_info(repo).private is False
    assert hub.api(False).dataset_info(repo).id == repo


def test_auth_check_knows_reading_from_writing(hub: LocalHub, repo: str) -> None:
    hub.add_token("hf_scope", "alice", "fineGrained", scopes=[("dataset", repo, ["repo.content.read"])])
    hub.api().auth_check(repo, repo_type="dataset", write=True)
    for token in (READ_TOKEN, "hf_scope"):
        hub.api(token).auth_check(repo, repo_type="dataset")
        with pytest.raises(HfHubHTTPError, match="403 Forbidden"):
            hub.api(token).auth_check(repo, repo_type="dataset", write=True)
    hub.add_token("hf_scope", "alice", "fineGrained", scopes=[("dataset", repo, ["repo.write"])])
    hub.api("hf_scope").auth_check(repo, repo_type="dataset", write=True)
    hub.create_repo(f"{repo}-other")
    with pytest.raises(RepositoryNotFoundError):
        hub.api("hf_scope").auth_check(f"{repo}-other", repo_type="dataset")


def test_branches_and_tags(api: HfApi, hub: LocalHub, repo: str) -> None:
    first = hub.head(repo)
    hub.edit(repo, {"a": b"1"})
    api.create_branch(repo, branch="damaged/1.2", revision=first, repo_type="dataset")
    api.create_branch(repo, branch="damaged/1.2", repo_type="dataset", exist_ok=True)
    with pytest.raises(HfHubHTTPError):
        api.create_branch(repo, branch="damaged/1.2", repo_type="dataset")
    api.create_tag(repo, tag="v1", repo_type="dataset")
    refs = api.list_repo_refs(repo, repo_type="dataset")
    assert {b.name: b.target_commit for b in refs.branches} == {"main": hub.head(repo), "damaged/1.2": first}
    assert [t.name for t in refs.tags] == ["v1"]
    upload = api.upload_file(
        path_or_fileobj=b"2", path_in_repo="b", repo_id=repo, repo_type="dataset", revision="damaged/1.2"
    )
    assert hub.files(repo, "damaged/1.2") == {"b": b"2"}
    assert api.dataset_info(repo, revision="damaged/1.2").sha == upload.oid
    api.delete_branch(repo, branch="damaged/1.2", repo_type="dataset")
    api.delete_tag(repo, tag="v1", repo_type="dataset")
    assert hub.branches(repo) == {"main": hub.head(repo)}
    with pytest.raises(RevisionNotFoundError):
        api.dataset_info(repo, revision="damaged/1.2")
    with pytest.raises(HfHubHTTPError):
        api.delete_branch(repo, branch="main", repo_type="dataset")


def test_a_squash_keeps_files_and_forgets_revisions(api: HfApi, hub: LocalHub, repo: str) -> None:
    kept = hub.edit(repo, {"old": b"1"})
    api.create_branch(repo, branch="keep", revision=kept, repo_type="dataset")
    lost = hub.edit(repo, {"new": b"2"}, delete=["old"])
    api.super_squash_history(repo, repo_type="dataset", commit_message="sidecar: snapshot 1.2")
    assert [c["title"] for c in hub.commits(repo)] == ["sidecar: snapshot 1.2"]
    assert hub.files(repo) == {"new": b"2"}
    assert hub.files(repo, kept) == {"old": b"1"}
    with pytest.raises(RevisionNotFoundError):
        api.dataset_info(repo, revision=lost)


def test_a_moved_repo_answers_under_both_names(api: HfApi, hub: LocalHub, repo: str) -> None:
    hub.edit(repo, {"a": b"1"})
    api.move_repo(repo, f"{repo}-new", repo_type="dataset")
    assert api.dataset_info(repo).id == f"{repo}-new"
    assert hub.files(f"{repo}-new") == {"a": b"1"}


def test_readme_metadata_is_validated(api: HfApi, repo: str) -> None:
    bad = b"---\nviewer: [\n---\n# x\n"
    with pytest.raises(ValueError, match=r"Invalid metadata in README\.md"):
        api.upload_file(path_or_fileobj=bad, path_in_repo="README.md", repo_id=repo, repo_type="dataset")
    with pytest.warns(UserWarning, match="empty or missing yaml metadata"):
        api.upload_file(path_or_fileobj=b"# x", path_in_repo="README.md", repo_id=repo, repo_type="dataset")


def test_expand_answers_what_was_asked(api: HfApi, hub: LocalHub, repo: str) -> None:
    hub.edit(repo, {"a": b"12345"})
    info = api.dataset_info(repo, expand=["sha", "usedStorage"])
    assert (info.sha, info.siblings) == (hub.head(repo), None)
    assert info.used_storage == hub.used(repo) > 5
    blobs = api.dataset_info(repo, files_metadata=True).siblings
    assert blobs is not None
    assert [b.size for b in blobs if b.rfilename == "a"] == [5]
