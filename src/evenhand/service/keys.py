"""Who may do what: keys of tenants, of which only hashes are kept.

A key is `evk_ID_SECRET`. The secret is 256 random bits, so one round of SHA-256 protects it; guessing is hopeless, and
a slow hash would only cost the service its speed.
"""

import hmac
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from evenhand.errors import UserError
from evenhand.files import sha256
from evenhand.service.database import Database

Role = Literal["write", "read", "admin"]
ROLES: tuple[Role, ...] = get_args(Role)

_KEY = re.compile(r"evk_([0-9a-f]{16})_([A-Za-z0-9_-]{43})")
_TENANT = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
# How long another process's new or revoked keys may stay unseen.
_STALE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Key:
    """What is known of a key: a writer may send events, a reader look at its tenant's, an admin both and more."""

    id: str
    tenant: str
    role: Role
    digest: str
    made_ms: int
    revoked_ms: int | None

    def may(self, role: Role) -> bool:
        """Whether it may do what needs `role`."""
        return self.role in (role, "admin")


def make_key(database: Database, tenant: str, role: str, at_ms: int) -> str:
    """A new key of `tenant`, which cannot be shown again; raises UserError for a name or role that is none."""
    if not _TENANT.fullmatch(tenant):
        raise UserError(f"{tenant!r} is no tenant's name; use lower-case letters, digits, dot, dash, underscore.")
    if role not in ROLES:
        raise UserError(f"{role!r} is no role; use one of {', '.join(ROLES)}.")
    name, secret = secrets.token_hex(8), secrets.token_urlsafe(32)
    values = {"id": name, "tenant": tenant, "role": role, "digest": sha256(secret.encode()), "made": at_ms}
    with database.writing() as execute:
        execute("INSERT INTO keys VALUES (:id, :tenant, :role, :digest, :made, NULL)", values)
    return f"evk_{name}_{secret}"


def read_keys(database: Database, tenant: str | None = None) -> list[Key]:
    """Every key, revoked ones too, of one tenant or all, oldest first."""
    with database.reading() as execute:
        rows = execute("SELECT id, tenant, role, digest, made_ms, revoked_ms FROM keys ORDER BY made_ms, id")
    return [key for key in (Key(*row) for row in rows) if tenant in (None, key.tenant)]


def revoke_key(database: Database, tenant: str | None, name: str, at_ms: int) -> None:
    """Make a key useless; raises UserError where the tenant (None: any) has no such key in use."""
    if name not in {key.id for key in read_keys(database, tenant) if key.revoked_ms is None}:
        raise UserError(f"there is no key {name!r} in use; list them first.")
    with database.writing() as execute:
        execute("UPDATE keys SET revoked_ms = :at WHERE id = :id", {"at": at_ms, "id": name})


class Keyring:
    """The keys in use, read again from the database every few seconds."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._keys: Mapping[str, Key] = {}
        self.read()

    def read(self) -> None:
        """Read the keys again."""
        self._keys = {key.id: key for key in read_keys(self._database) if key.revoked_ms is None}
        self._read_at = time.monotonic()

    @property
    def stale(self) -> bool:
        """Whether it is time to read them again."""
        return time.monotonic() - self._read_at > _STALE_SECONDS

    def get(self, name: str) -> Key | None:
        """The key in use with that id, None where there is none."""
        return self._keys.get(name)

    def find(self, given: str) -> Key | None:
        """The key that `given` is, None where it is none; takes as long for a wrong secret as for the right one."""
        found = _KEY.fullmatch(given)
        name, secret = found.groups() if found else ("", "")
        key = self._keys.get(name)
        fits = hmac.compare_digest(key.digest if key else sha256(b""), sha256(secret.encode()))
        return key if key and fits else None
