from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.storeurl import StoreSpec, embedded_store, parse_store, space_store


@pytest.mark.parametrize(
    ("url", "branch", "prefix"),
    [
        ("hf://datasets/me/app-state", None, ""),
        ("hf://datasets/me/app-state/", None, ""),
        ("hf://datasets/me/app-state@dev", "dev", ""),
        ("hf://datasets/me/app-state/a/b", None, "a/b"),
        ("hf://datasets/me/app-state@dev/a/b/", "dev", "a/b"),
        ("hf://datasets/me/app-state@orphan%2Fi-1", "orphan/i-1", ""),
        ("hf://datasets/me/app-state/with%20space", None, "with space"),
    ],
)
def test_hub_datasets(url, branch, prefix):
    spec = parse_store(url)
    assert (spec.kind, spec.repo, spec.branch, spec.prefix) == ("hf", "me/app-state", branch, prefix)
    assert spec.persistent
    assert spec.url == spec.raw == url


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("file:///srv/state", "/srv/state"),
        ("file:///srv//state/", "/srv/state"),
        ("file://localhost/srv/state", "/srv/state"),
        ("file:///a%20b%3Fc", "/a b?c"),
        ("file:///caf%E9", "/caf\udce9"),
    ],
)
def test_folders(url, path):
    spec = parse_store(url)
    assert (spec.kind, spec.path, spec.persistent) == ("folder", path, True)
    assert parse_store(spec.url).path == path


@pytest.mark.parametrize(
    ("url", "kind", "shown"),
    [
        ("git+https://github.com/me/x.git", "git", "git+https://github.com/me/x.git"),
        ("git+https://me:s3cr3tpw@github.com/me/x", "git", "git+https://***@github.com/me/x"),
        ("git+https://s3cr3tpw@github.com/me/x", "git", "git+https://***@github.com/me/x"),
        ("git+ssh://git@github.com/me/x.git", "git", "git+ssh://git@github.com/me/x.git"),
        ("git+ssh://git:s3cr3tpw@host:2222/x", "git", "git+ssh://git:***@host:2222/x"),
        ("git+file:///srv/x.git", "git", "git+file:///srv/x.git"),
        ("postgresql://me:s3cr3tpw@db:5432/x", "postgres", "postgresql://me:***@db:5432/x"),
        ("postgres://me@db/x", "postgres", "postgres://me@db/x"),
        (
            "postgresql:///x?host=/run/pg&password=s3cr3tpw&sslmode=require",
            "postgres",
            "postgresql:///x?host=/run/pg&password=***&sslmode=require",
        ),
        ("hf://buckets/me/b", "bucket", "hf://buckets/me/b"),
    ],
)
def test_other_stores_and_no_password_shown(url, kind, shown):
    spec = parse_store(url)
    assert (spec.kind, spec.url, spec.raw) == (kind, shown, url)
    assert "s3cr3tpw" not in repr(spec)


@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("", "no URL"),
        ("me/app-state", "no URL"),
        ("/srv/state", "file:///srv/state"),
        ("s3://bucket/x", "s3:// is no store"),
        ("https://huggingface.co/datasets/me/x/tree/main", "write hf://datasets/me/x"),
        ("https://me:s3cr3tpw@github.com/me/x", "git+https://"),
        ("ssh://git@github.com/me/x", "git+ssh://"),
        ("git://github.com/me/x", "git+https://"),
        ("git+http://github.com/me/x", "is no store"),
        ("hf://me/x", "hf://datasets/me/x"),
        ("hf://spaces/me/x", "hf://datasets/me/x"),
        ("hf://models/me/x", "not datasets or buckets"),
        ("hf://datasets/me", "OWNER/NAME"),
        ("hf://datasets/me/", "no name"),
        ("hf://datasets//x", "no owner"),
        ("hf://datasets/me/a--b", "no name"),
        ("hf://datasets/me/-x", "no name"),
        ("hf://datasets/me/x.git", "no name"),
        ("hf://datasets/me/" + "x" * 97, "no name"),
        ("hf://datasets/me/café", "no name"),
        ("hf://datasets/me/x@", "no branch"),
        ("hf://datasets/me/x@a..b", "no branch"),
        ("hf://datasets/me/x@-a", "no branch"),
        ("hf://datasets/me/x@a.lock", "no branch"),
        ("hf://datasets/me/x/../y", "segment"),
        ("hf://datasets/me/x/a//b", "segment"),
        ("hf://datasets/me/x/%2E%2E", "segment"),
        ("hf://datasets/me/x/a%2Fb", "segment"),
        ("hf://datasets/me/x/.sidecar", "starts with '.'"),
        ("hf://datasets/me/x?branch=a", "no user, '?'"),
        ("hf://hf_s3cr3tpw@datasets/me/x", "HF_TOKEN"),
        ("hf://datasets/me/x y", "space"),
        ("hf://buckets/me/x/pre", "no prefix"),
        ("hf://buckets/me/x@b", "no branch"),
        ("file://srv/state", "three slashes"),
        ("file://~/state", "three slashes"),
        ("file:///", "whole file system"),
        ("file://", "whole file system"),
        ("file:///a/../b", "'..'"),
        ("file:///a?b", "%3F"),
        ("git+file://srv/x", "three slashes"),
        ("git+https:///me/x", "host is missing"),
        ("git+https://github.com/", "path is missing"),
        ("git+https://me:s3cr3t/pw@host/x", "%2F"),
        ("postgresql://me:s3cr3t#pw@host/x", "%23"),
    ],
)
def test_what_is_no_store(url, part):
    with pytest.raises(ValueError) as raised:
        parse_store(url)
    text = str(raised.value)
    assert part in text
    assert "s3cr3t" not in text
    assert "\n" not in text


@given(
    st.text(max_size=40),
    st.sampled_from(["", "hf://", "hf://datasets/", "file://", "git+https://", "postgresql://"]),
)
def test_any_text_is_a_store_or_an_error(text, start):
    try:
        spec = parse_store(start + text)
    except ValueError:
        return
    assert spec.kind != "folder" or (spec.path or "").startswith("/")
    assert not {"", ".", ".."} & set(spec.prefix.split("/")) or spec.prefix == ""


def test_the_defaults():
    assert embedded_store("/state dir") == StoreSpec(
        "folder",
        "file:///state%20dir/store",
        path="/state dir/store",
        raw="file:///state%20dir/store",
        persistent=False,
    )
    assert space_store("me/app") == parse_store("hf://datasets/me/app-state")
