"""Where a board is, as the user writes it: nothing of it may be read by a shell, or taken by ssh for an option."""

from __future__ import annotations

import re
from dataclasses import dataclass


class AddressError(ValueError):
    """An address that cannot be used, or should not: the message is one line with a way out."""


@dataclass(frozen=True)
class Address:
    """Where sshd listens; what is None is left to the user's ssh configuration.

    options  OpenSSH options beyond it, such as "IdentityFile=/keys/obc"; they win over ours
    python   the interpreter there
    """

    host: str
    port: int | None = None
    user: str | None = None
    options: tuple[str, ...] = ()
    python: str = "python3"

    @property
    def words(self) -> list[str]:
        """What names it on ssh's command line, last."""
        port = ["-p", str(self.port)] if self.port is not None else []
        user = ["-l", self.user] if self.user is not None else []
        return [*port, *user, "--", self.host]  # without `--`, a host -oProxyCommand=… would be run

    @property
    def login(self) -> str:
        """What a person types to log in."""
        port = f"-p {self.port} " if self.port is not None else ""
        return f"ssh {port}{self.user + '@' if self.user is not None else ''}{self.host}"


# What a part of an address may look like; a user's ssh configuration may hand each of them to a shell (%h, %r, %p).
PARTS = {
    "a user name": r"[A-Za-z0-9_][A-Za-z0-9._-]*",
    "a host name": r"[A-Za-z0-9_][A-Za-z0-9._-]*|\[[0-9A-Fa-f:.]+(%[A-Za-z0-9]+)?\]",
    "a port (1 to 65535)": r"[1-9]\d{0,3}|[1-5]\d{4}|6[0-4]\d{3}|65[0-4]\d\d|655[0-2]\d|6553[0-5]",
    "a path of python": r"/[A-Za-z0-9._+/-]*[A-Za-z0-9]",
}


def address_of(url: str) -> Address:
    """The address in ssh://[user@]host[:port][/path/to/python]. Raises AddressError."""
    form = "Write ssh://[user@]host[:port][/path/to/python]"
    scheme, _, rest = url.partition("://")
    if scheme != "ssh":
        raise AddressError(f"{url!r} is not an address of a board. {form}")
    authority, slash, path = rest.partition("/")
    user, at, place = authority.rpartition("@")
    if ":" in user:
        raise AddressError("a password has no place in an address. Set up a key with ssh-copy-id, then leave it out")
    host, colon, port = (place, "", "") if place.endswith("]") else place.rpartition(":")
    host, port = (host, port) if colon else (place, "")
    given = {
        "a user name": user if at else None,
        "a host name": host,
        "a port (1 to 65535)": port if colon else None,
        "a path of python": slash + path if path else None,
    }
    for spoken, text in given.items():
        if text is not None and not re.fullmatch(PARTS[spoken], text, re.ASCII):
            raise AddressError(f"{text!r} is not {spoken}. {form}")
    return Address(
        host.strip("[]"),
        int(port) if colon else None,
        user if at else None,
        python=slash + path if path else "python3",
    )
