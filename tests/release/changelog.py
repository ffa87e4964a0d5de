"""The changelog names what is released, in the form of Keep a Changelog."""

from __future__ import annotations

import re
from datetime import date

UNRELEASED = "Unreleased"
KINDS = ("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security")

_SECTION = re.compile(r"^## \[([^\]\n]+)\](?: - (\S+))?[ \t]*$", re.MULTILINE)
_KIND = re.compile(r"^### (.*?)[ \t]*$", re.MULTILINE)
_ENTRY = re.compile(r"^- \S", re.MULTILINE)


class ChangelogError(Exception):
    """What is wrong with it, and what to do."""


def check(text: str, version: str) -> None:
    """Raises ChangelogError unless there is a section of this version with a date and entries, and
    nothing that it leaves out."""
    # Before the first heading, then by turns a version, its date and what is said of it.
    found = _SECTION.split(text)
    sections = {
        name: (day, body)
        for name, day, body in zip(found[1::3], found[2::3], found[3::3], strict=True)
    }
    if version not in sections:
        raise ChangelogError(
            f"CHANGELOG.md has no section `## [{version}] - YYYY-MM-DD`, and pyproject.toml says "
            f"that this is {version}. To release it, put that heading below `## [{UNRELEASED}]`, "
            "above the entries, and commit"
        )
    day, body = sections[version]
    if not _is_day(day):
        raise ChangelogError(
            f"the section [{version}] of CHANGELOG.md has no date: `## [{version}] - YYYY-MM-DD`"
        )
    if not _ENTRY.search(body):
        raise ChangelogError(f"the section [{version}] of CHANGELOG.md names no change")
    unknown = sorted(set(_KIND.findall(body)) - set(KINDS))
    if unknown or not _KIND.search(body):
        raise ChangelogError(
            f"the section [{version}] of CHANGELOG.md has changes under "
            f"{', '.join(unknown) or 'no heading'}: there are {', '.join(KINDS)}"
        )
    if _ENTRY.search(sections.get(UNRELEASED, ("", ""))[1]):
        raise ChangelogError(
            f"CHANGELOG.md has entries under [{UNRELEASED}], which would be released as well: move "
            f"them to [{version}]"
        )


def _is_day(text: str | None) -> bool:
    try:
        return text is not None and date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False
