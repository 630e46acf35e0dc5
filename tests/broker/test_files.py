"""Files that are put in place of others: on the disk afterwards, and still their owner's."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from broker.files import write_file


def test_a_file_is_on_the_disk_under_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    synced: list[tuple[bool, bool]] = []
    fsync = os.fsync

    def recording(descriptor: int) -> None:
        synced.append((stat.S_ISDIR(os.fstat(descriptor).st_mode), path.exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", recording)
    write_file(path, b"content")
    assert path.read_bytes() == b"content"
    assert synced == [(False, False), (True, True)]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root writes files of others")
def test_root_leaves_a_file_to_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_file(path, b"old")
    os.chown(path, 4711, 4712)
    write_file(path, b"new")
    assert (path.read_bytes(), path.stat().st_uid, path.stat().st_gid) == (b"new", 4711, 4712)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
