"""Data that other packages ship."""

import pytest

from thalweg.data import shipped_file
from thalweg.errors import UserError


def test_a_file_is_found_without_importing_its_package() -> None:
    found = shipped_file("stardist", "stardist/data/images/mask2d.tif")
    assert found.read_bytes()[:4] in (b"II*\0", b"MM\0*")  # a TIFF


def test_a_package_that_is_not_there_is_named_with_its_remedy() -> None:
    with pytest.raises(UserError, match="pip install --no-deps no-such-package"):
        shipped_file("no-such-package", "a.csv")
    with pytest.raises(UserError, match=r"ships no file stardist/none\.tif"):
        shipped_file("stardist", "stardist/none.tif")
