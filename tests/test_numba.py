"""Compiled functions work for a user who may write nowhere that numba looks, and keep what they can in a folder of that user alone."""

from __future__ import annotations

import os
import tempfile

import numba
import pytest
from numba.core import caching

from carbide._numba import njit


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    """A process whose user can write neither beside the package nor to a home; its temporary folder."""
    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [caching.UserProvidedCacheLocator])
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("NUMBA_CACHE_DIR", "")
    return tmp_path


def twice(a):
    return 2 * a


def test_it_is_kept_among_the_temporary_files(nowhere):
    with pytest.raises(RuntimeError, match="cannot cache"):
        numba.njit(cache=True)(twice)
    assert njit(cache=True, nogil=True)(twice)(3) == 6
    (folder,) = nowhere.iterdir()
    assert os.environ["NUMBA_CACHE_DIR"] == str(folder), "workers keep theirs there, too"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert list(folder.rglob("*.nbc"))


@pytest.mark.parametrize("spoilt", ["others write", "a link", "a file", "nothing there"])
def test_it_is_not_kept_where_others_may_write_and_works_all_the_same(nowhere, monkeypatch, spoilt):
    folder = nowhere / f"carbide-numba-{os.getuid()}"
    if spoilt == "others write":
        folder.mkdir()
        folder.chmod(0o777)
    elif spoilt == "a link":
        (nowhere / "theirs").mkdir()
        folder.symlink_to(nowhere / "theirs")
    elif spoilt == "a file":
        folder.write_text("")
    else:
        monkeypatch.setattr(tempfile, "tempdir", str(nowhere / "gone"))
    assert njit(cache=True)(twice)(3) == 6
    assert not list(nowhere.rglob("*.nbc"))
