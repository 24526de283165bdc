"""Paths with a home folder in them."""

from __future__ import annotations

from pathlib import Path

import pytest

from ditta_core.datasets.paths import expanded, output_path


def test_the_home_of_users_there_are_and_are_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expanded("~/drive") == output_path("~/drive") == tmp_path / "drive"
    assert expanded("a/~/drive") == output_path("a/~/drive") == Path("a/~/drive")
    assert not expanded("~no_such_user/drive").exists()
    with pytest.raises(ValueError, match=r"expected a path to write to, but got '~no_such_user/drive'.*or set HOME"):
        output_path("~no_such_user/drive")
