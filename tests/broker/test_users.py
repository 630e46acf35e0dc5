"""The file of users: what it holds, who is let in by it, and how it is changed."""

from __future__ import annotations

import fcntl
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from broker import users as module
from broker.errors import SettingsError
from broker.users import Scrypt, User, Users, delete_user, mosquitto_hash, set_password

GOOD = str(Scrypt(1 << 14, 8, 1, bytes(16), bytes(32)))


def test_a_password_fits_its_user_and_nobody_else(tmp_path: Path) -> None:
    path = tmp_path / "users"
    set_password(path, "alice", "wonder")
    set_password(path, "bob", "builder")
    users = Users.load(path)
    assert users.check("alice", b"wonder")
    assert users.check("bob", b"builder")
    assert not users.check("alice", b"builder")
    assert not users.check("alice", b"")
    assert not users.check("carol", b"wonder")


def test_a_password_may_hold_anything(tmp_path: Path) -> None:
    path, password = tmp_path / "users", "päss:word $7$ # \t"
    set_password(path, "alice", password)
    assert Users.load(path).check("alice", password.encode())


def test_equal_passwords_have_different_hashes() -> None:
    assert Scrypt.of(b"p") != Scrypt.of(b"p")
    assert mosquitto_hash(b"p") != mosquitto_hash(b"p")


def test_the_file_is_its_owners_only_and_others_lines_stay(tmp_path: Path) -> None:
    path = tmp_path / "users"
    path.write_text(f"# our lab\n\nalice:{GOOD}\n")
    set_password(path, "bob", "one")
    set_password(path, "bob", "two")
    assert path.read_text().startswith(f"# our lab\n\nalice:{GOOD}\nbob:$scrypt$16384$8$1$")
    assert path.read_text().count("bob:") == 1
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["users"]
    delete_user(path, "bob")
    assert path.read_text() == f"# our lab\n\nalice:{GOOD}\n"


@pytest.mark.parametrize("other", ["set", "delete"])
def test_who_changes_the_file_at_the_same_time_waits(
    other: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "users"
    set_password(path, "alice", "wonder")
    flock, write = fcntl.flock, module._write
    asked: list[int] = []
    second_asks = threading.Event()

    def asking(descriptor: int, operation: int) -> None:
        asked.append(descriptor)
        if len(asked) == 2:
            second_asks.set()
        flock(descriptor, operation)

    def writing(path: Path, lines: Iterable[str]) -> None:
        assert second_asks.wait(60)
        write(path, lines)

    monkeypatch.setattr(fcntl, "flock", asking)
    monkeypatch.setattr(module, "_write", writing)
    with ThreadPoolExecutor() as threads:
        first = threads.submit(set_password, path, "bob", "builder")
        second = threads.submit(delete_user, path, "alice") if other == "delete" else None
        second = second or threads.submit(set_password, path, "carol", "singer")
        first.result(60)
        second.result(60)
    assert set(Users.load(path)) == ({"bob"} if other == "delete" else {"alice", "bob", "carol"})


def test_a_line_without_mosquittos_hash_is_good(tmp_path: Path) -> None:
    (tmp_path / "users").write_text(f"alice:{GOOD}\n")
    assert Users.load(tmp_path / "users")["alice"] == User(Scrypt.parse(GOOD))


def test_an_unknown_user_costs_as_much_as_a_known_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_password(tmp_path / "users", "alice", "wonder")
    users, costs = Users.load(tmp_path / "users"), []
    checked = Scrypt.fits

    def counted(self: Scrypt, password: bytes) -> bool:
        costs.append((self.n, self.r, self.p, len(self.salt), len(self.digest), password))
        return checked(self, password)

    monkeypatch.setattr(Scrypt, "fits", counted)
    users.check("alice", b"wrong")
    users.check("nobody", b"wrong")
    assert len(costs) == 2
    assert costs[0] == costs[1]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("alice", "no hash"),
        ("alice:wonder", "no hash"),
        (f":{GOOD}", "no name"),
        (f"a b:{GOOD}", "no name"),
        (f"a/b:{GOOD}", "no name"),
        (f"alice:{GOOD}:wonder", "second hash"),
        (f"alice:{GOOD.replace('16384', '16385')}", "N=16385"),
        (f"alice:{GOOD.replace('16384', str(1 << 30))}", "asks for too much"),
        (f"alice:{GOOD.replace('$8$', '$x$')}", "r=x"),
        ("alice:$scrypt$16384$8$1$AAAAAAAAAAAAAAAA$QQ==", "wrong length"),
        ("alice:$scrypt$16384$8$1$AAAAAAAAAAAAAAAA$!!", "base64"),
        (f"bob:{GOOD}\nbob:{GOOD}", "there already"),
    ],
)
def test_a_bad_line_is_named_with_its_file_and_number(line: str, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "users"
    path.write_text(f"# users\n{line}\n")
    number = 2 + line.count("\n")
    with pytest.raises(SettingsError, match=f"users: {path}, line {number}: ") as caught:
        Users.load(path)
    assert problem in str(caught.value)
    assert "wonder" not in str(caught.value)


def test_a_file_that_is_wrong_is_not_written_over(tmp_path: Path) -> None:
    path = tmp_path / "users"
    path.write_text("alice\n")
    with pytest.raises(SettingsError, match="line 1"):
        set_password(path, "bob", "builder")
    assert path.read_text() == "alice\n"


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"users: .*missing: No such file"):
        Users.load(tmp_path / "missing")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match="binary: no text"):
        Users.load(tmp_path / "binary")
    set_password(tmp_path / "users", "alice", "wonder")
    with pytest.raises(SettingsError, match="no user 'bob'"):
        delete_user(tmp_path / "users", "bob")
    with pytest.raises(SettingsError, match="nowhere/users: No such file"):
        set_password(tmp_path / "nowhere" / "users", "alice", "wonder")


@pytest.mark.parametrize("name", ["", "a:b", "a b", "a+", "#a", "a/b", "%u", "x" * 65, "\udcff"])
def test_a_name_that_rules_could_not_hold_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="is no name"):
        set_password(tmp_path / "users", name, "wonder")
    assert not (tmp_path / "users").exists()


def passwd(*arguments: str, typed: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "broker", "passwd", *arguments]
    return subprocess.run(command, input=typed, capture_output=True, text=True, errors="surrogateescape", timeout=60)


def test_the_command_takes_the_password_from_standard_input(tmp_path: Path) -> None:
    path = tmp_path / "users"
    done = passwd(str(path), "alice", "--stdin", typed="wonder\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert Users.load(path).check("alice", b"wonder")
    assert passwd(str(path), "alice", "--delete").returncode == 0
    assert Users.load(path) == {}


def test_commands_that_run_at_the_same_time_lose_no_user(tmp_path: Path) -> None:
    names = [f"user{number}" for number in range(4)]
    with ThreadPoolExecutor(len(names)) as threads:
        done = list(threads.map(lambda name: passwd(str(tmp_path / "users"), name, "--stdin", typed="p\n"), names))
    assert [process.stderr for process in done] == [""] * len(names)
    assert set(Users.load(tmp_path / "users")) == set(names)
    assert os.listdir(tmp_path) == ["users"]


@pytest.mark.parametrize(
    ("arguments", "typed", "problem"),
    [
        (("alice", "--stdin"), "\n", "the password is empty"),
        (("a b", "--stdin"), "wonder\n", "'a b' is no name"),
        (("alice", "--delete"), "", "No such file"),
        ((), "", "Missing argument 'NAME'"),
        (("alice", "--stdin"), "\udcff\n", "the password is no text in UTF-8"),
    ],
)
def test_the_command_says_in_one_line_what_is_wrong(
    arguments: tuple[str, ...], typed: str, problem: str, tmp_path: Path
) -> None:
    done = passwd(str(tmp_path / "users"), *arguments, typed=typed)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert problem in done.stderr
    assert done.stderr.count("\n") == 1


def test_without_a_terminal_the_command_says_how_else(tmp_path: Path) -> None:
    """In a session of its own a process has none."""
    command = [sys.executable, "-m", "broker", "passwd", str(tmp_path / "users"), "alice"]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, start_new_session=True
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: no terminal to ask for the password; valid: --stdin\n"
    assert not (tmp_path / "users").exists()
