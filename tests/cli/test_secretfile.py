import base64
import os
from pathlib import Path

import pytest

from pagewire_cli import secretfile

NAMES = {
    "META_APP_ID",
    "META_APP_SECRET",
    "META_INSTAGRAM_APP_SECRET",
    "META_WEBHOOK_VERIFY_TOKEN",
    "TOKEN_ENCRYPTION_KEYS",
    "API_KEYS",
    "SERVICE_TOKENS",
}


def test_what_nobody_gave_is_made_and_stays_the_same(tmp_path: Path) -> None:
    first = secretfile.complete({}, tmp_path)

    second = secretfile.complete({}, tmp_path)

    assert first.keys() == NAMES
    assert second == first == secretfile.read(secretfile.path(tmp_path))


def test_two_folders_share_no_secret(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()

    one = secretfile.complete({}, tmp_path / "a")
    other = secretfile.complete({}, tmp_path / "b")

    assert not set(one.values()) & set(other.values())


def test_what_is_given_is_neither_made_nor_written(tmp_path: Path) -> None:
    made = secretfile.complete({"API_KEYS": "given-by-the-operator"}, tmp_path)

    assert made.keys() == NAMES - {"API_KEYS"}
    assert "given-by-the-operator" not in secretfile.path(tmp_path).read_text()


def test_what_was_kept_survives_a_time_in_which_it_was_given(tmp_path: Path) -> None:
    first = secretfile.complete({}, tmp_path)

    secretfile.complete({"API_KEYS": "given-by-the-operator"}, tmp_path)

    assert secretfile.complete({}, tmp_path) == first


def test_an_empty_setting_counts_as_not_given(tmp_path: Path) -> None:
    assert "API_KEYS" in secretfile.complete({"API_KEYS": ""}, tmp_path)


def test_only_the_owner_may_read_the_file_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        secretfile.complete({}, tmp_path)
    finally:
        os.umask(before)

    assert secretfile.path(tmp_path).stat().st_mode & 0o777 == 0o600


def test_each_secret_has_the_form_and_the_length_that_the_services_ask_for(tmp_path: Path) -> None:
    made = secretfile.complete({}, tmp_path)
    key_id, _, key = made["TOKEN_ENCRYPTION_KEYS"].partition(":")
    tokens = dict(entry.split(":") for entry in made["SERVICE_TOKENS"].split(","))

    assert made["META_APP_ID"].isdecimal()
    assert key_id
    assert len(base64.urlsafe_b64decode(key)) == 32
    assert tokens.keys() == {"webhook", "rules", "sync", "reader", "operator"}
    assert len(set(tokens.values())) == len(tokens)
    assert all(len(secret) >= 16 for secret in [*made.values(), *tokens.values()])


def test_the_data_folder_is_the_one_given_or_lies_in_the_checkout(tmp_path: Path) -> None:
    given = secretfile.data_folder({"PAGEWIRE_DATA_DIR": str(tmp_path)})
    usual = secretfile.data_folder({})

    assert given == tmp_path
    assert usual.name == ".pagewire"
    assert (usual.parent / "cli" / "pyproject.toml").exists()


@pytest.mark.parametrize("text", ["", "no line of ours\n", "# A=comment\n"])
def test_lines_that_are_no_settings_do_no_harm(tmp_path: Path, text: str) -> None:
    file = tmp_path / "some.env"
    file.write_text(text + "KEY=a=b\n")

    assert secretfile.read(file)["KEY"] == "a=b"
