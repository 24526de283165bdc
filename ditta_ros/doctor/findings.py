"""What a check found, what mends it, and both as text."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any


class Level(str, Enum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


MARKS = {Level.OK: "✓", Level.WARNING: "!", Level.ERROR: "✗"}
MARK_OF_MORE = "·"
"""Of what is well, but could give more: a finding that is ok and has a remedy all the same."""


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        name: of what was checked.
        finding: one sentence.
        remedy: one sentence, or a command for a shell; empty where there is nothing to do.
    """

    name: str
    level: Level
    finding: str
    remedy: str = ""


@dataclass(frozen=True)
class Section:
    """Findings that belong together."""

    title: str
    findings: tuple[Finding, ...]


def ok(name: str, finding: str, remedy: str = "") -> Finding:
    """All is well; a remedy says how to get more."""
    return Finding(name, Level.OK, finding, remedy)


def warning(name: str, finding: str, remedy: str) -> Finding:
    """Works, but not as it could."""
    return Finding(name, Level.WARNING, finding, remedy)


def error(name: str, finding: str, remedy: str) -> Finding:
    """Does not work."""
    return Finding(name, Level.ERROR, finding, remedy)


def examined(name: str, check: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """The findings of a check; where it fails itself, that is the finding."""
    try:
        return list(check())
    except Exception as problem:  # a doctor that falls ill helps nobody; what went wrong is for the user to read
        return [
            error(name, f"it could not be checked: {first_line(problem)}", "report this; it is a defect of the check")
        ]


def first_line(problem: Exception) -> str:
    """An exception in one line, with its type where that is not one of those that explain themselves."""
    text = (str(problem).strip() or "no reason given").splitlines()[0]
    return text if isinstance(problem, (ValueError, OSError, ImportError)) else f"{type(problem).__name__}: {text}"


# --- as text and as JSON ---------------------------------------------------------------------------------------------


def section_text(section: Section, width: int) -> str:
    """A section as lines of names and findings, the remedies below them.

    Args:
        width: columns at the most, except for words that are longer.
    """
    names = max(len(finding.name) for finding in section.findings)
    indent = " " * (names + 6)
    lines = [section.title]
    for finding in section.findings:
        mark = MARK_OF_MORE if finding.level is Level.OK and finding.remedy else MARKS[finding.level]
        first = f"  {mark} {finding.name:<{names}}  "
        lines += wrapped(finding.finding, first, indent, width)
        if finding.remedy:
            lines += wrapped(finding.remedy, f"{indent}→ ", f"{indent}  ", width)
    return "\n".join(lines)


def wrapped(text: str, first: str, rest: str, width: int) -> list[str]:
    """Lines of at most ``width`` columns; words stay whole, so that paths and commands can be copied."""
    return textwrap.wrap(
        text, width, initial_indent=first, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False
    )


def summary_text(sections: Sequence[Section]) -> str:
    """How many checks ended how, and which of them not well."""
    findings = [finding for section in sections for finding in section.findings]
    parts = [f"{len(findings)} checks: {sum(finding.level is Level.OK for finding in findings)} ok"]
    for level, one in ((Level.WARNING, "warning"), (Level.ERROR, "error")):
        names = [finding.name for finding in findings if finding.level is level]
        if names:
            parts.append(f"{len(names)} {one}{'s' if len(names) > 1 else ''} ({', '.join(names)})")
    return ", ".join(parts)


def worst(sections: Iterable[Section]) -> Level:
    """The worst level of all findings."""
    levels = {finding.level for section in sections for finding in section.findings}
    return next((level for level in (Level.ERROR, Level.WARNING) if level in levels), Level.OK)


def sections_json(sections: Sequence[Section]) -> dict[str, Any]:
    """All of it as what JSON can hold."""
    return {"level": worst(sections).value, "sections": [asdict(section) for section in sections]}
