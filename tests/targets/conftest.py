"""The board that suites over SSH share: a loopback sshd of an ordinary user."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from boards import Loopback, loopback


@pytest.fixture(scope="module")
def server() -> Iterator[Loopback]:
    with loopback() as found:
        yield found


@pytest.fixture
def board(server: Loopback) -> Iterator[Loopback]:
    """The board, which every test must leave as it was."""
    yield server
    assert server.soon_clean(), server.left()
