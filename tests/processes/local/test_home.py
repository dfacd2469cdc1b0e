import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from registry.auth.keys import load_signing_keys
from registry.core.settings import load_settings
from registry.processes.local.errors import HomeInUseError, KeyWaitsError, LocalHomeError
from registry.processes.local.home import LocalHome, settings_overrides, write_private

CHILD_SECONDS = 30
URI = "mongodb://registry:pw@127.0.0.1:40000/jarvis?authSource=admin"


@pytest.fixture
def prepared(home: LocalHome) -> LocalHome:
    with home.locked():
        home.prepare()
    return home


def test_a_first_start_creates_keys_that_the_settings_accept(prepared: LocalHome) -> None:
    prepared.write_mongo_uri(URI)

    settings = load_settings(**settings_overrides(prepared.path))

    assert settings.mongo_uri.get_secret_value() == URI
    assert settings.registry_local
    assert settings.registry_home == prepared.path
    assert settings.upstream_allowed_networks == ("127.0.0.0/8", "::1/128")
    assert settings.jwt_secret is not None
    assert len(settings.jwt_secret.get_secret_value()) == 64
    load_signing_keys(settings.jwt_private_key_file, settings.jwt_public_key_file)


def test_env_holds_three_lines_for_another_application(prepared: LocalHome) -> None:
    assert re.fullmatch(
        r"CREDS_KEY=[0-9a-f]{64}\nCREDS_IV=[0-9a-f]{32}\nJWT_SECRET=[0-9a-f]{64}\n",
        prepared.env_file.read_text(),
    )


def test_only_the_owner_may_read_anything(prepared: LocalHome) -> None:
    prepared.write_mongo_uri(URI)
    prepared.write_admin_token("bearer")

    files = [path for path in prepared.path.iterdir() if path.is_file()]
    folders = [prepared.path, prepared.data, prepared.logs]

    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert {stat.S_IMODE(path.stat().st_mode) for path in folders} == {0o700}


def test_an_open_folder_is_closed(home: LocalHome) -> None:
    home.path.mkdir(mode=0o755)

    with home.locked():
        assert stat.S_IMODE(home.path.stat().st_mode) == 0o700


def test_a_later_start_reads_the_same_keys(prepared: LocalHome) -> None:
    before = prepared.read_keys()

    with prepared.locked():
        again = prepared.prepare()

    assert again == before


def test_two_homes_have_nothing_in_common(tmp_path: Path) -> None:
    texts = set()
    for name in ("one", "two"):
        home = LocalHome(tmp_path / name)
        with home.locked():
            home.prepare()
        texts |= set(home.env_file.read_text().splitlines())
        texts.add(home.private_key_file.read_text())

    assert len(texts) == 8


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ("", "CREDS_KEY"),
        ("CREDS_KEY=" + "0" * 64 + "\n", "CREDS_IV"),
        ("CREDS_KEY=" + "0" * 63 + "\nCREDS_IV=" + "0" * 32 + "\n", "CREDS_KEY"),
        ("CREDS_KEY=" + "0" * 64 + "\nCREDS_IV=" + "g" * 32 + "\n", "CREDS_IV"),
        ("CREDS_KEY=" + "0" * 64 + "\nCREDS_IV=" + "0" * 32 + "\nJWT_SECRET=\n", "JWT_SECRET"),
        ("CREDS_KEY=" + "0" * 64 + "\nCREDS_IV=" + "0" * 32 + "\nJWT_SECRET=short", "JWT_SECRET"),
    ],
)
@pytest.mark.requirement("R-300")
def test_a_damaged_env_is_refused_and_left_alone(
    prepared: LocalHome, content: str, name: str
) -> None:
    prepared.env_file.write_text(content)

    with prepared.locked(), pytest.raises(LocalHomeError) as caught:
        prepared.prepare()

    assert str(caught.value) == (
        f"{prepared.env_file}: {name} is missing or malformed; restore the file from a backup"
    )
    assert prepared.env_file.read_text() == content


def test_variables_of_others_in_env_are_ignored(prepared: LocalHome) -> None:
    before = prepared.read_keys()
    with prepared.env_file.open("a") as file:
        file.write("# for the other application\nPORT=3080\n")

    assert prepared.read_keys() == before


@pytest.mark.requirement("E-13")
def test_keys_are_not_made_anew_when_data_exist(prepared: LocalHome) -> None:
    prepared.env_file.unlink()
    (prepared.data / "WiredTiger").touch()

    with prepared.locked(), pytest.raises(LocalHomeError, match="is missing although"):
        prepared.prepare()

    assert not prepared.env_file.exists()


@pytest.mark.parametrize("name", ["jwt-private.pem", "jwt-public.pem"])
def test_a_missing_half_of_the_key_pair_is_refused(prepared: LocalHome, name: str) -> None:
    (prepared.path / name).unlink()

    with prepared.locked(), pytest.raises(LocalHomeError, match=f"{name}: is missing"):
        prepared.prepare()


def test_a_first_start_that_was_cut_short_is_finished(home: LocalHome) -> None:
    with home.locked():
        home.private_key_file.write_text("half a key")
        home.prepare()

    load_signing_keys(home.private_key_file, home.public_key_file)


def test_a_folder_without_a_registry_has_no_settings(tmp_path: Path) -> None:
    with pytest.raises(LocalHomeError, match="has no local registry"):
        settings_overrides(tmp_path)


def test_an_unusable_folder_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with (
        pytest.raises(LocalHomeError, match="cannot be used"),
        LocalHome(tmp_path / "file" / "home").locked(),
    ):
        pass


def test_a_second_registry_in_the_folder_is_refused_with_the_first_ones_pid(
    home: LocalHome,
) -> None:
    with home.locked(), pytest.raises(HomeInUseError) as caught, home.locked():
        pass

    assert caught.value.pid == os.getpid()
    assert str(caught.value) == (
        f"{home.path}: another registry (pid {os.getpid()}) is running in this folder"
    )


def test_a_lock_ends_with_its_process(home: LocalHome) -> None:
    script = (
        "import os, sys; from pathlib import Path\n"
        "from registry.processes.local.home import LocalHome\n"
        "with LocalHome(Path(sys.argv[1])).locked(): os.kill(os.getpid(), 9)"
    )
    subprocess.run(
        [sys.executable, "-c", script, home.path],
        cwd=Path(__file__).parents[2],
        timeout=CHILD_SECONDS,
        check=False,
    )

    with home.locked():
        assert home.lock_file.read_text() == str(os.getpid())


def test_the_admin_token_is_stored_alone(prepared: LocalHome) -> None:
    assert prepared.read_admin_token() is None

    prepared.write_admin_token("bearer")

    assert prepared.admin_token_file.read_bytes() == b"bearer"
    assert prepared.read_admin_token() == "bearer"


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    write_private(file, "old")

    with pytest.raises(UnicodeEncodeError):
        write_private(file, "\ud800")

    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.requirement("R-305")
def test_a_new_key_is_taken_up_by_the_next_start_and_the_former_one_stays_readable(
    prepared: LocalHome,
) -> None:
    first = prepared.read_keys()

    prepared.add_next_key()
    waiting = prepared.read_keys()
    with prepared.locked():
        second = prepared.prepare()
    prepared.add_next_key()
    with prepared.locked():
        third = prepared.prepare()

    assert waiting == first
    assert (second.creds_iv, second.jwt_secret) == (first.creds_iv, first.jwt_secret)
    assert second.creds_keys_readable == (first.creds_key,)
    assert third.creds_keys_readable == (second.creds_key, first.creds_key)
    assert len({first.creds_key, second.creds_key, third.creds_key}) == 3
    assert not prepared.has_next_key()


@pytest.mark.requirement("R-305")
def test_the_settings_of_a_home_have_its_readable_keys(prepared: LocalHome) -> None:
    former = prepared.read_keys().creds_key
    prepared.write_mongo_uri(URI)
    prepared.add_next_key()
    with prepared.locked():
        prepared.prepare()

    settings = load_settings(**settings_overrides(prepared.path))

    assert [key.get_secret_value() for key in settings.creds_keys_readable] == [former]


def test_a_key_that_waits_is_not_replaced(prepared: LocalHome) -> None:
    prepared.add_next_key()
    before = prepared.env_file.read_text()

    with pytest.raises(KeyWaitsError, match="a new key already exists"):
        prepared.add_next_key()

    assert prepared.env_file.read_text() == before


@pytest.mark.requirement("R-305")
def test_only_the_named_keys_are_forgotten(prepared: LocalHome) -> None:
    first = prepared.read_keys().creds_key
    for _ in range(2):
        prepared.add_next_key()
        with prepared.locked():
            prepared.prepare()
    keys = prepared.read_keys()

    prepared.forget_readable_keys([first])
    one_left = prepared.read_keys()
    prepared.forget_readable_keys(one_left.creds_keys_readable)

    assert one_left.creds_keys_readable == keys.creds_keys_readable[:1]
    assert prepared.read_keys().creds_keys_readable == ()
    assert prepared.read_keys().creds_key == keys.creds_key


def test_changing_keys_keeps_lines_of_others_and_closes_the_file(prepared: LocalHome) -> None:
    prepared.env_file.write_text(prepared.env_file.read_text() + "# theirs\nPORT=3080\n")
    prepared.env_file.chmod(0o644)
    names = [line.partition("=")[0] for line in prepared.env_file.read_text().splitlines()]

    prepared.add_next_key()
    with prepared.locked():
        prepared.prepare()
    prepared.forget_readable_keys(prepared.read_keys().creds_keys_readable)

    lines = prepared.env_file.read_text().splitlines()
    assert sorted(line.partition("=")[0] for line in lines) == sorted(names)
    assert stat.S_IMODE(prepared.env_file.stat().st_mode) == 0o600


@pytest.mark.parametrize("name", ["CREDS_KEYS_READABLE", "CREDS_KEY_NEXT"])
def test_a_malformed_further_key_is_refused_and_left_alone(prepared: LocalHome, name: str) -> None:
    content = prepared.env_file.read_text() + f"{name}={'0' * 63}\n"
    prepared.env_file.write_text(content)

    with prepared.locked(), pytest.raises(LocalHomeError, match=f"{name} is malformed"):
        prepared.prepare()

    assert prepared.env_file.read_text() == content


def test_a_home_that_was_never_started_gets_no_new_key(home: LocalHome) -> None:
    with pytest.raises(LocalHomeError, match="registry serve --local"):
        home.add_next_key()
