"""Findings as text, and what children answer."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from ditta_ros.doctor.children import ChildFailed, ask_python
from ditta_ros.doctor.findings import Finding, Level, Section, error, examined, ok, section_text, summary_text, warning


def test_text_is_aligned_and_commands_stay_whole() -> None:
    command = "export FASTDDS_DEFAULT_PROFILES_FILE=/a/path/that-is/longer/than/the/line/config/fastdds.xml"
    section = Section("transport", (ok("a", "well"), error("images", "all lost on the way " * 4, command)))
    lines = section_text(section, 60).splitlines()
    assert lines[:2] == ["transport", "  ✓ a       well"]
    assert lines[2].startswith("  ✗ images  all lost") and lines[3].startswith(" " * 12 + "on the way")
    assert command.split()[1] in lines[-1].split()
    assert all(len(line) <= 60 for line in lines if "/a/path" not in line)


def test_the_summary_counts_and_names_what_is_wrong() -> None:
    sections = [Section("a", (ok("x", ""), warning("y", "", "r"))), Section("b", (error("z", "", "r"), ok("w", "")))]
    assert summary_text(sections) == "4 checks: 2 ok, 1 warning (y), 1 error (z)"
    assert summary_text([Section("a", (ok("x", ""),))]) == "1 checks: 1 ok"


def test_a_check_that_fails_is_a_finding() -> None:
    def check() -> Iterator[Finding]:
        yield ok("first", "well")
        raise KeyError("of its own")

    section = examined("domain", check)
    (finding,) = section.findings
    assert (section.title, finding.name, finding.level) == ("domain", "domain", Level.ERROR)
    assert "KeyError: 'of its own'" in finding.finding


def test_what_a_child_says_and_why_it_says_nothing() -> None:
    assert ask_python(["-c", "print('noise'); print('[1, 2]')"], os.environ, 30) == [1, 2]
    coloured = "import sys; sys.exit('first\\n\\x1b[31mlast words\\x1b[0m')"
    for code, message in (
        (coloured, "^last words$"),
        ("import os; os.kill(os.getpid(), 11)", "signal 11: it said nothing"),
        ("import time; time.sleep(60)", "no answer within 1 s"),
    ):
        with pytest.raises(ChildFailed, match=message):
            ask_python(["-c", code], os.environ, 1 if "sleep" in code else 30)
