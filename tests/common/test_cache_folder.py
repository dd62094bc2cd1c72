"""The cache of users without a home, and on disks that cannot be written."""

import errno
import os
import pwd

import pytest

from spatialvla.common.cache_folder import cache_folder, keep


def test_a_user_without_a_home_has_a_cache_all_the_same(monkeypatch):
    monkeypatch.delenv("HOME")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", lambda number: {}[number])
    folder = cache_folder("rlds")
    assert folder.is_absolute()
    assert folder.parts[-2:] == ("spatialvla", "rlds")
    assert str(os.getuid()) in folder.parts[-3]


def test_what_cannot_be_kept_is_left_out(tmp_path, monkeypatch):
    keep(tmp_path / "a", lambda path: path.write_text("kept", encoding="utf-8"))
    assert (tmp_path / "a").read_text(encoding="utf-8") == "kept"

    def refuse(number):
        def write(path):
            raise OSError(number, "no")

        return write

    keep(tmp_path / "b", refuse(errno.EROFS))
    with pytest.raises(OSError, match="no"):
        keep(tmp_path / "b", refuse(errno.EIO))
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
