"""What all pages share: text that UTF-8 has, and files that come together."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from ditta_core.report.pages import files_at_once, render
from ditta_core.report.tables import Table


def test_the_name_of_a_file_may_be_any_bytes() -> None:
    values: dict[str, Any] = {"method": "ur", "facts": {"drive": "Straße \udce9"}, "losses": "", "stills": []}
    values |= {"thresholds": Table(("class",), ()), "swatches": [], "configuration": {}, "versions": {}}
    page = render("adapt.html.j2", **values)
    assert "Straße ?" in page.encode("utf-8").decode()


def test_all_files_come_or_none(tmp_path: Path) -> None:
    with files_at_once(tmp_path / "report") as folder:
        (folder / "a").write_text("1")
        assert not (tmp_path / "report" / "a").exists()
    with suppress(KeyboardInterrupt), files_at_once(tmp_path / "report") as folder:
        (folder / "a").write_text("2")
        raise KeyboardInterrupt
    assert [(path.name, path.read_text()) for path in (tmp_path / "report").iterdir()] == [("a", "1")]
