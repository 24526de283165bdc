"""What a check found, how to fix it, and both as text."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum


class Level(str, Enum):
    """How bad a finding is."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


MARKS = {Level.OK: "✓", Level.WARNING: "!", Level.ERROR: "✗"}


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        name: Name of what was checked.
        level: How bad it is.
        finding: One sentence on what was found.
        remedy: How to fix it: one sentence, or a command for a shell; empty where there is nothing to do.
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
    """It works; a remedy says how to get more."""
    return Finding(name, Level.OK, finding, remedy)


def warning(name: str, finding: str, remedy: str) -> Finding:
    """It works, but not as it could."""
    return Finding(name, Level.WARNING, finding, remedy)


def error(name: str, finding: str, remedy: str) -> Finding:
    """It does not work."""
    return Finding(name, Level.ERROR, finding, remedy)


def examined(title: str, check: Callable[[], Iterable[Finding]]) -> Section:
    """The findings of a check; where it fails itself, that is the finding."""
    try:
        return Section(title, tuple(check()))
    except Exception as problem:  # the other checks still help; what went wrong is for the user to read
        finding = f"it could not be checked: {first_line(problem)}"
        return Section(title, (error(title, finding, "report this; it is a defect of the check"),))


def first_line(problem: Exception) -> str:
    """An exception in one line, with its type where that is not one of those that explain themselves."""
    text = (str(problem).strip() or "no reason given").splitlines()[0]
    return text if isinstance(problem, (ValueError, OSError, ImportError)) else f"{type(problem).__name__}: {text}"


def section_text(section: Section, width: int) -> str:
    """A section as lines of names and findings, the remedies below them.

    Args:
        section: Section to print.
        width: Longest line in columns; words stay whole, so that paths and commands can be copied.
    """
    names = max(len(finding.name) for finding in section.findings)
    indent = " " * (names + 6)

    def wrapped(text: str, first: str, rest: str) -> list[str]:
        return textwrap.wrap(
            text, width, initial_indent=first, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False
        )

    lines = [section.title]
    for finding in section.findings:
        mark = "·" if finding.level is Level.OK and finding.remedy else MARKS[finding.level]  # could give more
        lines += wrapped(finding.finding, f"  {mark} {finding.name:<{names}}  ", indent)
        lines += wrapped(finding.remedy, f"{indent}→ ", f"{indent}  ")
    return "\n".join(lines)


def summary_text(sections: Sequence[Section]) -> str:
    """How many checks ended how, and which of them not well."""
    findings = [finding for section in sections for finding in section.findings]
    parts = [f"{len(findings)} checks: {sum(finding.level is Level.OK for finding in findings)} ok"]
    for level in (Level.WARNING, Level.ERROR):
        names = [finding.name for finding in findings if finding.level is level]
        if names:
            parts.append(f"{len(names)} {level.value}{'s' if len(names) > 1 else ''} ({', '.join(names)})")
    return ", ".join(parts)


def worst(sections: Sequence[Section]) -> Level:
    """The worst level of all findings."""
    levels = [finding.level for section in sections for finding in section.findings]
    return max(levels, key=list(Level).index, default=Level.OK)
