"""Laws of links: words arrive as sent, a failure is one line, nothing is left there whatever happens."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import pytest
from boards import Loopback, children, loopback

from targets.address import Address
from targets.link import Link, linked, run
from targets.measure import RunnerError


def linking(board: Loopback, limit_s: float = 60) -> AbstractContextManager[Link]:
    """A link to the board."""
    return linked(board.address, wait_s=60, limit_s=limit_s)


def told(address: Address, wait_s: float = 60.0) -> str:
    """What connecting raises, held to be one line."""
    with pytest.raises(RunnerError) as caught, linked(address, wait_s=wait_s, limit_s=60):
        pytest.fail("it connected")
    assert str(caught.value).isprintable()
    return str(caught.value)


def test_a_host_that_looks_like_an_option_is_never_run(board: Loopback) -> None:
    proof = board.home / "ran"
    told(Address(f"-oProxyCommand=touch {proof}"))  # as if it had passed by address_of
    assert not proof.exists()


def test_an_unknown_host_key_is_for_the_user_to_accept(board: Loopback) -> None:
    known = board.home / "empty"
    known.touch()
    message = told(board.with_options(f"UserKnownHostsFile={known}"))
    way_out = f"Run `{board.address.login}` once and compare the key (jettison never accepts keys)"
    assert message == f"127.0.0.1: host key unknown. {way_out}"
    assert known.read_text() == ""


def test_a_changed_host_key_is_told_from_an_unknown_one(board: Loopback) -> None:
    known = board.home / "changed"
    known.write_text(f"[127.0.0.1]:{board.address.port} {(board.home / 'key.pub').read_text()}")
    assert "its host key is not the one known" in told(board.with_options(f"UserKnownHostsFile={known}"))


def test_a_board_that_refuses_the_key_or_wants_a_password_gets_none(board: Loopback) -> None:
    message = told(replace(board.address, options=board.address.options[2:]))
    assert "it refuses our keys, or wants a password" in message and "ssh-copy-id" in message


@pytest.mark.parametrize("port_is", ["closed", "silent"])
def test_a_port_where_no_sshd_answers_is_named(port_is: str, board: Loopback) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        if port_is == "closed":
            listener.close()
        message = told(replace(board.with_options("ConnectTimeout=1"), port=port))
    wanted = {
        "closed": "it refuses the connection. Is sshd running",
        "silent": "no answer in time. Check that it is on",
    }
    assert message.startswith(f"127.0.0.1: {wanted[port_is]}")


def test_a_name_that_nobody_knows_is_told(board: Loopback) -> None:
    assert told(replace(board.address, host="no-such-board.invalid")).startswith(
        "no-such-board.invalid: no host of this"
    )


def test_a_wrong_ssh_option_is_told_in_ssh_s_words(board: Loopback) -> None:
    assert "ssh's configuration: " in told(board.with_options("NoSuchOption=1"))


def test_without_an_ssh_client_the_way_out_is_to_install_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert told(Address("obc")) == "cannot start ssh: No such file or directory. Install the OpenSSH client"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("ForceCommand echo 'no shells here' >&2; exit 1", "its shell does not run commands (exit 1). Check `ssh "),
        ("ForceCommand exec cat >/dev/null", "no shell answered within 2 s. Check `ssh "),
        ("SetEnv TMPDIR=/nowhere", "no temporary folder can be made there. Mend that, or set TMPDIR there: mktemp: "),
    ],
)
def test_an_account_without_a_usable_shell_or_folder_is_told(setting: str, message: str) -> None:
    with loopback(setting) as board:
        assert f"127.0.0.1: {message}" in told(board.address, wait_s=2.0)


def test_a_login_shell_may_talk_before_the_folder_is_named() -> None:
    with loopback('ForceCommand echo "Welcome, jettison-folder"; eval "$SSH_ORIGINAL_COMMAND"') as board:
        with linking(board) as link:
            assert Path(link.folder).parent == board.temporary
            assert run(link, ["cat"], doing="cat", timeout_s=30).stdout == b"Welcome, jettison-folder\n"
        assert board.soon_clean(), board.left()


def test_a_board_with_too_few_sessions_says_how_many_are_needed() -> None:
    with loopback("MaxSessions 1") as board:
        with (
            pytest.raises(RunnerError, match="Raise MaxSessions"),
            linking(board) as link,
        ):
            run(link, ["true"], doing="true", timeout_s=30)
        assert board.soon_clean(), board.left()


def test_the_folder_is_ours_alone_and_goes_with_the_link(board: Loopback) -> None:
    with linking(board) as link:
        assert Path(link.folder).parent == board.temporary
        assert Path(link.folder).stat().st_mode & 0o777 == 0o700
        run(link, ["sh", "-c", "mkdir -p a/b; echo > a/b/c; chmod 500 a/b; chmod 700 a/b"], doing="sh", timeout_s=30)
    assert not list(board.temporary.iterdir())


def test_words_arrive_as_they_were_sent(board: Loopback) -> None:
    words = ["a b", "$(touch x)", "'\"", "line\nline", "ünï", "-n", ";", "*", "\\"]
    with linking(board) as link:
        answer = run(link, ["printf", "%s\\0", *words], doing="printf", timeout_s=30)
    assert answer.stdout.decode().split("\0") == [*words, ""]


@pytest.mark.parametrize("status", [0, 1, 127, 255])
def test_an_exit_status_is_the_command_s_own(status: int, board: Loopback) -> None:
    with linking(board) as link:
        assert run(link, ["sh", "-c", f"exit {status}"], doing="sh", timeout_s=30).status == status


def test_a_signal_is_a_negative_status(board: Loopback) -> None:
    with linking(board) as link:
        assert run(link, ["sh", "-c", "kill -11 $$"], doing="sh", timeout_s=30).status == -11


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_whatever_is_raised_ends_what_runs_there(error: type[BaseException], board: Loopback) -> None:
    with pytest.raises(error), linking(board) as link:
        with pytest.raises(RunnerError, match="sleep did not finish within 1 s"):
            run(link, ["sh", "-c", "sleep 600 & sleep 600"], doing="sleep", timeout_s=1)
        raise error
    assert board.soon_clean(), board.left()


def test_a_board_that_hears_no_more_of_us_cleans_up_by_itself(board: Loopback) -> None:
    with pytest.raises(RunnerError, match="the connection broke during true"), linking(board, limit_s=2) as link:
        Path(link.folder).stat()
        assert board.soon_clean(), board.left()
        run(link, ["true"], doing="true", timeout_s=30)


def test_killing_jettison_leaves_nothing_there(board: Loopback) -> None:
    source = f"""
from targets.address import Address
from targets.link import linked, run
with linked({board.address!r}, wait_s=60, limit_s=600) as link:
    print(link.folder, flush=True)
    run(link, ["sleep", "600"], doing="sleep", timeout_s=600)
"""
    with subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        folder = Path(process.stdout.readline().decode().strip())
        while not list(folder.glob("*.pid")):
            time.sleep(0.05)
        ours = children(process.pid)
        words = b"\0".join(Path(f"/proc/{pid}/cmdline").read_bytes() for pid in ours).decode().split("\0")
        process.kill()
    for word in words:  # the one thing that outlives a SIGKILL here: the folder of the socket
        if word.startswith("ControlPath="):
            shutil.rmtree(Path(word.removeprefix("ControlPath=")).parent, ignore_errors=True)
    assert board.soon_clean(), board.left()
    for pid in ours:  # ssh's clients notice as well
        for _ in range(200):
            if not Path(f"/proc/{pid}").exists():
                break
            time.sleep(0.05)
        else:
            os.kill(pid, signal.SIGKILL)
            pytest.fail("an ssh client outlived us")
