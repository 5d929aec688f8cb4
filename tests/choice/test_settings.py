"""Settings come from the environment, are described, and stay away from user code."""

from pathlib import Path

import pytest

from hansa.errors import ConfigError, InputError
from hansa.settings import Settings, environment_for_user_code


def test_every_setting_is_described_in_a_sentence() -> None:
    assert len(Settings.model_fields) > 10
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert field.description.endswith("."), name


def test_a_setting_is_read_from_the_variable_of_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANSA_PORT", "9000")
    monkeypatch.setenv("HANSA_DATA", "/srv/hansa")
    assert (Settings().port, Settings().data) == (9000, Path("/srv/hansa"))


def test_an_empty_variable_is_as_one_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.setenv(f"HANSA_{name.upper()}", "")
    assert Settings() == Settings.model_construct()


def test_a_setting_that_cannot_be_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANSA_PORT", "70000")
    with pytest.raises(ConfigError, match="HANSA_PORT = '70000' cannot be used: it must be less than"):
        Settings()


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("HANSA_LOG_LEVEL", "loud", "HANSA_LOG_LEVEL = 'loud' cannot be used: it must be 'debug', 'info', "),
        ("HANSA_SILENCE", "long", "HANSA_SILENCE = 'long' cannot be used: it must be a valid number"),
        ("HANSA_OIDC_GROUPS", "admins=admin", "HANSA_OIDC_GROUPS cannot be read: it must be JSON"),
    ],
)
def test_a_variable_that_cannot_be_read_is_named_with_what_it_may_be(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=says):
        Settings()


def test_a_token_is_not_shown_by_accident(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANSA_TOKEN", "open sesame")
    assert "sesame" not in repr(Settings())
    token = Settings().token
    assert token is not None
    assert token.get_secret_value() == "open sesame"


def test_the_url_of_a_store_which_may_hold_a_password_is_not_shown_by_accident(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANSA_STORE", "postgresql://hansa:s3cret@db/hansa")
    monkeypatch.setenv("HANSA_OBJECTS", "s3://bucket?secret_access_key=s3cret")
    assert "s3cret" not in repr(Settings()) + Settings().model_dump_json()


def test_user_code_gets_the_environment_without_any_setting_of_hansa(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANSA_TOKEN", "open sesame")
    monkeypatch.setenv("hansa_url", "http://example.org")
    monkeypatch.setenv("Hansa_Anything", "x")
    monkeypatch.setenv("MY_DATA", "here")
    assert Settings().url == "http://example.org"  # they are read in any case, so they are kept away in any case
    environment = environment_for_user_code()
    assert environment["MY_DATA"] == "here"
    assert "PATH" in environment
    assert [name for name in environment if name.upper().startswith("HANSA_")] == []
    assert "open sesame" not in environment.values()


SECRETS = [name for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation)]


@pytest.mark.parametrize("name", SECRETS)
def test_every_secret_may_be_in_a_file(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kept, given = "open sesame" * 3, "given" * 7  # long enough for all of them
    file = tmp_path / "secret"
    file.write_text(f"{kept}\n")
    monkeypatch.setenv(f"HANSA_{name.upper()}_FILE", str(file))
    assert getattr(Settings(), name).get_secret_value() == kept
    assert getattr(Settings(**{name: given}), name).get_secret_value() == given
    assert "sesame" not in repr(Settings())
    monkeypatch.setenv(f"HANSA_{name.upper()}", "another")
    with pytest.raises(InputError, match=f"HANSA_{name.upper()} and HANSA_{name.upper()}_FILE are both set"):
        Settings()


def test_a_secrets_file_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HANSA_TOKEN_FILE", str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="nowhere that HANSA_TOKEN_FILE names cannot be read"):
        Settings()


def test_what_is_no_secret_is_not_read_from_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "port").write_text("9000")
    monkeypatch.setenv("HANSA_PORT_FILE", str(tmp_path / "port"))
    assert Settings().port == 8470
