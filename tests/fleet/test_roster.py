"""fleet.yaml: what is read, and what every mistake in it is told."""

from __future__ import annotations

import pytest

from sidecar.errors import ConfigError
from sidecar.fleet.roster import Fleet, Space, load, read


def test_everything_that_a_roster_can_say(tmp_path):
    path = tmp_path / "fleet.yaml"
    path.write_text(
        "interval: 30m\n"
        "webhook: https://n8n.example.org/webhook/x\n"
        "spaces:\n"
        "  - id: me/My.Bot_2\n"
        "  - id: shop\n"
        "    url: https://shop.example.org/side/\n"
        "    token: SHOP_TOKEN\n"
        "    interval: 1h30m\n"
        '    version: "0.1.0"\n'
        "  - me/plain\n"
    )
    assert load(str(path)) == Fleet(
        (
            Space("me/My.Bot_2", "https://me-my-bot-2.hf.space", None, 1800.0),
            Space("shop", "https://shop.example.org/side", "SHOP_TOKEN", 5400.0, "0.1.0"),
            Space("me/plain", "https://me-plain.hf.space", None, 1800.0),
        ),
        "https://n8n.example.org/webhook/x",
    )
    assert read([{"id": "me/a"}]).spaces[0].every_s == 2700.0, "the bare list, and 45 minutes"


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (None, "a list of Spaces"),
        ({"spaces": {}}, "a list of Spaces"),
        ({"spaces": []}, "no Space"),
        ({"spaces": ["me/a"], "interal": "1h"}, "did you mean 'interval'"),
        ({"spaces": ["me/a"], "interval": "soon"}, "write it like 45m"),
        ({"spaces": ["me/a"], "webhook": "n8n"}, "webhook"),
        ({"spaces": ["me/a", "me/a"]}, "entry 2: 'me/a' is there twice"),
        ({"spaces": [7]}, "entry 1"),
        ({"spaces": [{"url": "https://x"}]}, "`id` is expected"),
        ({"spaces": ["alone"]}, "has no `url`"),
        ({"spaces": [{"id": "a", "url": "ftp://x"}]}, "`url` is expected"),
        ({"spaces": [{"id": "me/a", "tokn": "X"}]}, "did you mean 'token'"),
        ({"spaces": [{"id": "me/a", "version": 0.1}]}, "in quotes"),
        ({"spaces": [{"id": "me/a", "interval": "0s"}]}, "at least 1s"),
        ({"spaces": [{"id": "me/a", "url": "http://x.org", "token": "X"}]}, "Use https://"),
    ],
)
def test_a_mistake_is_named_with_its_entry(document, said):
    with pytest.raises(ConfigError) as failure:
        read(document)
    assert said in failure.value.message
    assert failure.value.exit_code == 78


@pytest.mark.parametrize("secret", ["hf_abcdefghijklmnop", "s3cret-with-hyphens"])
def test_a_token_in_the_place_of_its_variable_is_refused_and_not_repeated(secret):
    with pytest.raises(ConfigError) as failure:
        read([{"id": "me/a", "token": secret}])
    assert "variable" in failure.value.message
    assert secret not in failure.value.message


def test_a_file_that_can_not_be_read(tmp_path):
    for text in ("a: [", "\x00", "a: !!python/object:os.system {}"):
        (tmp_path / "f").write_text(text)
        with pytest.raises(ConfigError, match="no YAML"):
            load(str(tmp_path / "f"))
    (tmp_path / "f").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError):
        load(str(tmp_path / "f"))
    with pytest.raises(ConfigError, match="--file"):
        load(str(tmp_path / "none"))
