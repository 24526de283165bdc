from __future__ import annotations

from pathlib import Path

import pytest

from ditta_core.types import text_of


def test_a_text_is_utf_8_with_or_without_its_mark(tmp_path: Path) -> None:
    for content in (b"stra\xc3\x9fe", b"\xef\xbb\xbfstra\xc3\x9fe"):
        (tmp_path / "file").write_bytes(content)
        assert text_of(tmp_path / "file") == "straße"
    (tmp_path / "file").write_bytes("straße".encode("latin-1"))
    with pytest.raises(ValueError, match=r"expected a text in UTF-8 in .*file, but got .* at byte 4; save it as UTF-8"):
        text_of(tmp_path / "file")
