"""Laws of addresses: nothing hostile passes, and what is wrong is named."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from targets.address import Address, AddressError, address_of


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("ssh://obc", Address("obc")),
        ("ssh://obc/", Address("obc")),
        ("ssh://flight-1@obc-2.lab.example:2222", Address("obc-2.lab.example", 2222, "flight-1")),
        ("ssh://root@[fe80::1%eth0]:22", Address("fe80::1%eth0", 22, "root")),
        ("ssh://[::1]", Address("::1")),
        (
            "ssh://10.0.0.7:65535/opt/python3.11/bin/python3",
            Address("10.0.0.7", 65535, python="/opt/python3.11/bin/python3"),
        ),
    ],
)
def test_an_address_is_read_as_written(url: str, wanted: Address) -> None:
    assert address_of(url) == wanted


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("ssh://-oProxyCommand=touch%20x", "'-oProxyCommand=touch%20x' is not a host name"),
        ("ssh://-oProxyCommand=touch x", "'-oProxyCommand=touch x' is not a host name"),
        ("ssh://obc;reboot", "'obc;reboot' is not a host name"),
        ("ssh://$(reboot)", "'$(reboot)' is not a host name"),
        ("ssh://`reboot`", "'`reboot`' is not a host name"),
        ("ssh://my board", "'my board' is not a host name"),
        ("ssh://obc\nreboot", r"'obc\nreboot' is not a host name"),
        ("ssh://обц", "is not a host name"),
        ("ssh://", "'' is not a host name"),
        ("ssh://:22", "'' is not a host name"),
        ("ssh://[::1", "is not a host name"),
        ("ssh://-v@obc", "'-v' is not a user name"),
        ("ssh://@obc", "'' is not a user name"),
        ("ssh://a@b@obc", "'a@b' is not a user name"),
        ("ssh://$(id)@obc", "'$(id)' is not a user name"),
        ("ssh://obc:99999", "'99999' is not a port (1 to 65535)"),
        ("ssh://obc:0", "'0' is not a port"),
        ("ssh://obc:65536", "'65536' is not a port"),
        ("ssh://obc:-1", "'-1' is not a port"),
        ("ssh://obc:", "'' is not a port"),
        ("ssh://obc:٢٢", "is not a port"),
        ("ssh://obc/bin/sh -c reboot", "is not a path of python"),
        ("ssh://root:secret@obc", "a password has no place in an address"),
        ("http://obc", "is not an address of a board"),
        ("obc", "is not an address of a board"),
    ],
)
def test_what_is_no_address_is_refused_by_the_part_that_is_wrong(url: str, told: str) -> None:
    with pytest.raises(AddressError) as caught:
        address_of(url)
    assert told in str(caught.value) and str(caught.value).isprintable()
    assert "secret" not in str(caught.value)


@given(st.text(alphabet=string.printable + "é\x1b\u2028"))
def test_no_address_holds_what_a_shell_would_read_or_ssh_take_for_an_option(text: str) -> None:
    try:
        found = address_of(f"ssh://{text}")
    except AddressError as error:
        assert str(error).isprintable()
        return
    plain = set(string.ascii_letters + string.digits + "._-:%/+")
    for part in (found.host, found.user or "x", found.python):
        assert set(part) <= plain and not part.startswith("-")
    assert found.port is None or 1 <= found.port <= 65535
