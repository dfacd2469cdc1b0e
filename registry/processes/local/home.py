"""The home folder of local mode: keys, connection string, admin token, data and logs.

Access to it gives access to every stored credential, so the folder has mode 0700 and each file in
it 0600. Keys are created once, because stored values cannot be decrypted with other keys; only
CREDS_KEY can be replaced, on demand and keeping the former one.

A new CREDS_KEY is stored as CREDS_KEY_NEXT until a registry starts: commands read the same file,
and the running registry could not decrypt what they encrypt with a key that it does not know.
"""

import fcntl
import os
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings

from registry.core.settings import Settings, default_home, load_settings
from registry.processes.local.errors import HomeInUseError, KeyWaitsError, LocalHomeError

RSA_BITS = 2048
RSA_EXPONENT = 65537
CREDS_KEY_BYTES = 32
CREDS_IV_BYTES = 16
JWT_SECRET_BYTES = 32

LOOPBACK_NETWORKS = ("127.0.0.0/8", "::1/128")
"""Private upstreams that local mode may reach: the demo server and the user's own."""

_LINE = re.compile(r"^([A-Z_]+)=(\S*)[ \t]*$", re.MULTILINE)
_SHAPES = {
    "CREDS_KEY": re.compile(rf"[0-9a-fA-F]{{{2 * CREDS_KEY_BYTES}}}"),
    "CREDS_IV": re.compile(rf"[0-9a-fA-F]{{{2 * CREDS_IV_BYTES}}}"),
    "JWT_SECRET": re.compile(r"\S{16,}"),
}
READABLE = "CREDS_KEYS_READABLE"
NEXT = "CREDS_KEY_NEXT"
_OPTIONAL_SHAPES = {
    READABLE: re.compile(rf"(?:{_SHAPES['CREDS_KEY'].pattern}(?:,|$))*"),
    NEXT: _SHAPES["CREDS_KEY"],
}


@dataclass(frozen=True, slots=True)
class LocalKeys:
    """The content of the file `env`."""

    creds_key: str = field(repr=False)
    creds_iv: str = field(repr=False)
    jwt_secret: str = field(repr=False)
    creds_keys_readable: tuple[str, ...] = field(default=(), repr=False)


class LocalHome:
    """The files of one home folder. The constructor does no I/O."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self.env_file = self.path / "env"
        self.private_key_file = self.path / "jwt-private.pem"
        self.public_key_file = self.path / "jwt-public.pem"
        self.mongo_uri_file = self.path / "mongo.uri"
        self.demo_url_file = self.path / "demo.url"
        self.admin_token_file = self.path / "admin.token"
        self.port_file = self.path / "port"
        self.lock_file = self.path / "registry.lock"
        self.data = self.path / "data"
        self.logs = self.path / "logs"

    def prepare(self) -> LocalKeys:
        """Create the files of a first start, or read existing ones. Call it under `locked`.

        Raises:
            LocalHomeError: A file is missing or malformed, or the keys of existing data are gone.
        """
        self.data.mkdir(mode=0o700, exist_ok=True)
        self.logs.mkdir(mode=0o700, exist_ok=True)
        if not self.env_file.exists():
            self._create_keys()
        self._take_up_next_key()
        return self.read_keys()

    def read_keys(self) -> LocalKeys:
        """Read `env` and check that the key pair is there.

        Raises:
            LocalHomeError: Something is missing or malformed.
        """
        for file in (self.private_key_file, self.public_key_file):
            if not file.exists():
                raise LocalHomeError(file, "is missing; restore it from a backup")
        values = self._read_env()
        return LocalKeys(
            values["CREDS_KEY"],
            values["CREDS_IV"],
            values["JWT_SECRET"],
            tuple(filter(None, values.get(READABLE, "").split(","))),
        )

    def add_next_key(self) -> None:
        """Create the CREDS_KEY that the next start uses.

        Raises:
            KeyWaitsError: There is one already.
            LocalHomeError: The folder is damaged, or there was never a start.
        """
        with self._changing_env():
            if NEXT in self._read_env():
                raise KeyWaitsError(self.path)
            self._write_env({NEXT: secrets.token_hex(CREDS_KEY_BYTES)})

    def has_next_key(self) -> bool:
        """Whether a new key exists for the next start."""
        return NEXT in self._read_env()

    def forget_readable_keys(self, keys: Sequence[str]) -> None:
        """Remove *keys* from the read-only keys. Others that were added since stay.

        Raises:
            LocalHomeError: The folder is damaged.
        """
        with self._changing_env():
            left = [key for key in self.read_keys().creds_keys_readable if key not in keys]
            self._write_env({READABLE: ",".join(left) or None})

    def _take_up_next_key(self) -> None:
        with self._changing_env():
            values = self._read_env()
            if NEXT in values:
                former = filter(None, [values["CREDS_KEY"], *values.get(READABLE, "").split(",")])
                self._write_env(
                    {"CREDS_KEY": values[NEXT], READABLE: ",".join(former), NEXT: None}
                )

    def _read_env(self) -> dict[str, str]:
        values = dict(_LINE.findall(_read(self.env_file) or ""))
        for name, shape in _SHAPES.items():
            if not shape.fullmatch(values.get(name, "")):
                problem = f"{name} is missing or malformed; restore the file from a backup"
                raise LocalHomeError(self.env_file, problem)
        for name, shape in _OPTIONAL_SHAPES.items():
            if name in values and not shape.fullmatch(values[name]):
                problem = f"{name} is malformed; restore the file from a backup"
                raise LocalHomeError(self.env_file, problem)
        return values

    def _write_env(self, changes: Mapping[str, str | None]) -> None:
        """Set lines, or remove them where the value is None; others, comments too, stay."""
        lines = (_read(self.env_file) or "").splitlines()
        kept = [line for line in lines if line.partition("=")[0] not in changes]
        # CREDS_KEY stays at the top, where people look for it.
        new = [f"{name}={value}" for name, value in changes.items() if value is not None]
        write_private(self.env_file, "\n".join([*new, *kept]) + "\n")

    @contextmanager
    def _changing_env(self) -> Iterator[None]:
        """Lock `env` between reading and writing it."""
        if not self.env_file.exists():
            raise LocalHomeError(self.env_file, "is missing; `registry serve --local` creates it")
        folder = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)

    def read_mongo_uri(self) -> str | None:
        """Return the database's connection string, or None before the first start."""
        return _read(self.mongo_uri_file)

    def write_mongo_uri(self, uri: str) -> None:
        """Store the connection string."""
        write_private(self.mongo_uri_file, uri + "\n")

    def read_demo_url(self) -> str | None:
        """Return the address of the demo server, or None before the first start."""
        return _read(self.demo_url_file)

    def write_demo_url(self, url: str) -> None:
        """Store the address of the demo server."""
        write_private(self.demo_url_file, url + "\n")

    def read_admin_token(self) -> str | None:
        """Return the admin's bearer token, or None before the first start."""
        return _read(self.admin_token_file)

    def write_admin_token(self, token: str) -> None:
        """Store the admin's bearer token, alone and without a line end."""
        write_private(self.admin_token_file, token)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Create the folder if needed and lock it, so that no second registry uses it.

        The lock ends with this process, however that ends.

        Raises:
            HomeInUseError: Another process holds it.
            LocalHomeError: The folder cannot be created or is not ours.
        """
        self._ensure_private_folder()
        descriptor = os.open(self.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.pread(descriptor, 20, 0).strip()
                pid = int(holder) if holder.isdigit() else None
                raise HomeInUseError(self.path, pid) from None
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
            yield
        finally:
            os.close(descriptor)

    def _ensure_private_folder(self) -> None:
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self.path.stat().st_mode & 0o077:
                self.path.chmod(0o700)
        except OSError as exc:
            problem = f"cannot be used as the home folder ({exc.strerror})"
            raise LocalHomeError(self.path, problem) from None

    def _create_keys(self) -> None:
        if self.mongo_uri_file.exists() or any(self.data.iterdir()):
            problem = (
                "is missing although the database has data, whose credentials only its keys can "
                f"read; restore it from a backup, or remove {self.path} to start over"
            )
            raise LocalHomeError(self.env_file, problem)
        # Commands read homes, and do without these.
        from cryptography.hazmat.primitives import serialization  # noqa: PLC0415
        from cryptography.hazmat.primitives.asymmetric import rsa  # noqa: PLC0415

        private = rsa.generate_private_key(RSA_EXPONENT, RSA_BITS)
        write_private(
            self.private_key_file,
            private.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ).decode(),
        )
        write_private(
            self.public_key_file,
            private.public_key()
            .public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
            .decode(),
        )
        # Last, because its presence means that the other files are complete.
        write_private(
            self.env_file,
            f"CREDS_KEY={secrets.token_hex(CREDS_KEY_BYTES)}\n"
            f"CREDS_IV={secrets.token_hex(CREDS_IV_BYTES)}\n"
            f"JWT_SECRET={secrets.token_hex(JWT_SECRET_BYTES)}\n",
        )


def settings_overrides(home: Path) -> dict[str, object]:
    """Return the settings that a registry or a command in *home* runs with.

    The instance may be running or stopped; it must have been started once.

    Raises:
        LocalHomeError: It never was, or a file is missing or malformed.
    """
    local = LocalHome(home)
    uri = local.read_mongo_uri()
    if uri is None:
        problem = "has no local registry; create one with `registry serve --local`"
        raise LocalHomeError(local.path, problem)
    keys = local.read_keys()
    return {
        "mongo_uri": uri,
        "creds_key": keys.creds_key,
        "creds_keys_readable": keys.creds_keys_readable,
        "creds_iv": keys.creds_iv,
        "jwt_secret": keys.jwt_secret,
        "jwt_private_key_file": local.private_key_file,
        "jwt_public_key_file": local.public_key_file,
        "registry_home": local.path,
        "registry_local": True,
        "user_directory": "registry",
        "upstream_allowed_networks": LOOPBACK_NETWORKS,
    }


class Location(BaseSettings):
    """Location of a local instance, read before other settings."""

    mongo_uri: SecretStr | None = None
    registry_home: Path = Field(default_factory=default_home)
    registry_port: int | None = None


class KeyFiles(BaseSettings):
    """The key files, read even if other settings are invalid."""

    jwt_private_key_file: Path | None = None
    jwt_public_key_file: Path | None = None


class Secrets(BaseSettings):
    """The keys of credentials, read even if other settings are invalid."""

    creds_key: SecretStr | None = None
    creds_iv: SecretStr | None = None


def found_settings() -> Settings:
    """Return the environment's settings, or those of the local instance in REGISTRY_HOME.

    Raises:
        SettingsError: Neither is there, or something is malformed.
        LocalHomeError: The home folder is damaged.
    """
    location = Location()
    home = LocalHome(location.registry_home)
    if location.mongo_uri is None and home.mongo_uri_file.exists():
        overrides = settings_overrides(home.path)
        if location.registry_port is None and home.port_file.exists():
            # The last port, for commands in another shell.
            overrides["registry_port"] = home.port_file.read_text(encoding="utf-8").strip()
        return load_settings(**overrides)
    return load_settings()


def is_untouched() -> bool:
    """Whether nothing is configured: none of the required settings, and no local instance."""
    configured = {*KeyFiles().model_fields_set, *Secrets().model_fields_set}
    location = Location()
    is_local = LocalHome(location.registry_home).mongo_uri_file.exists()
    return not configured and location.mongo_uri is None and not is_local


def write_private(path: Path, text: str) -> None:
    """Replace *path* atomically with a file that only its owner may read.

    After a crash there is the old content or the new, never a part.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(FileNotFoundError):
            temporary.unlink()
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip() or None
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError):
        raise LocalHomeError(path, "cannot be read") from None
