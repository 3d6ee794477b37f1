"""Keys at rest are digests; a file that holds anything else is refused without being quoted."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app
from gateway.api_keys import PREFIX, KeyRule, line_of, rule_of, rules_in
from gateway.auth import Keyring, Tenant
from gateway.errors import Unauthorized
from shared.errors import ConfigError
from shared.rates import Rates


def test_a_made_key_opens_what_its_line_says(tmp_path: Path) -> None:
    made = CliRunner().invoke(app, ["new-key", "team-a", "--requests", "60", "--tokens", "1000"])
    key = made.stderr.strip()
    assert key.startswith(PREFIX)
    assert len(key) > 40
    assert key not in made.stdout
    file = tmp_path / "keys"
    file.write_text(f"# ours\n\n{made.stdout}")
    (rule,) = rules_in(file)
    assert (rule.name, rule.rates) == ("team-a", Rates(60, 1000))
    ring = Keyring([rule])
    tenant = ring.tenant_of(f"Bearer {key}")
    assert tenant.rates == Rates(60, 1000)
    assert tenant == Keyring([rule_of("other"), rule_of(key, rates=Rates(60, 1000))]).tenant_of(f"bearer {key}")
    for wrong in ("", key, f"Basic {key}", f"Bearer {key}x", f"Bearer {rule.digest.hex()}"):
        with pytest.raises(Unauthorized):
            ring.tenant_of(wrong)


def test_a_key_that_there_is_already(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("mine\n"))
    made = CliRunner().invoke(app, ["new-key", "me", "--stdin"], input="mine\n")
    assert made.stdout.strip() == line_of(rule_of("mine", "me"))
    assert "mine" not in made.output.replace("me ", "")


def test_where_a_key_names_no_rate_the_gateways_counts() -> None:
    ring = Keyring([rule_of("one", rates=Rates(requests=5)), rule_of("two")], Rates(9, 90))
    assert ring.tenant_of("Bearer one").rates == Rates(5, 90)
    assert ring.tenant_of("Bearer two").rates == Rates(9, 90)
    assert Keyring((), Rates(9, 90)).tenant_of("") == Tenant("", Rates(9, 90))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("# nobody\n", "holds no key"),
        ("hunter2-plain\n", "line 1: write NAME sha256"),
        ("\nteam hunter2-plain\n", "line 2: write NAME sha256"),
        ("team sha256:hunter2-plain\n", "64 hexadecimal"),
        ("team sha256:ab\n", "64 hexadecimal"),
        (f"team sha256:{'ab' * 32} rpm=3\n", "requests=N"),
        (f"team sha256:{'ab' * 32} requests=hunter2-plain\n", "requests=N"),
    ],
)
def test_a_file_that_is_not_right_is_refused_and_not_quoted(tmp_path: Path, text: str, named: str) -> None:
    file = tmp_path / "keys"
    file.write_text(text)
    with pytest.raises(ConfigError, match=named) as refused:
        rules_in(file)
    assert "--api-keys-file" in str(refused.value)
    assert "hunter2" not in str(refused.value)
    with pytest.raises(ConfigError, match="cannot be read"):
        rules_in(tmp_path / "none")
    assert rules_in(None) == ()


def test_a_digest_is_not_shown() -> None:
    rule = rule_of("k")
    assert rule.digest.hex() not in repr(rule)
    assert repr(rule) == repr(KeyRule(b""))
