"""What an agent may call: each tool call is judged free, for a human to decide, or forbidden.

Two things are settled before the operator's rules: a tool the profile does not have is forbidden, and so
is a change of a file outside the profile's `writes` patterns. What no rule names is for a human.

A path is judged as text. It has to be relative, with `/` between its parts, and free of everything that
some system reads as a way out: `..`, backslashes, drives, `~`, percent signs before hex digits, control
characters, look-alikes that normalise to any of these, and parts that end in a dot or a space.
Symbolic links are the client's to watch, which alone knows its disk.
"""

import json
import posixpath
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from application.agents import PROPOSE_PLAN, SWITCH_AGENT, AgentProfile, Effect, Rule
from application.language_model import Tool

_CHANGING = {
    "write",
    "edit",
    "delete",
    "move",
    "create",
    "append",
    "rename",
    "copy",
    "remove",
    "patch",
    "apply",
}
_CHANGING |= {
    "insert",
    "replace",
    "save",
    "modify",
    "update",
    "put",
    "touch",
    "mkdir",
    "mv",
    "cp",
    "rm",
    "upload",
}
_CHANGING |= {"overwrite", "truncate"}
_FILES = frozenset({"file", "files", "folder", "folders", "directory", "directories", "dir", "path"})
_PATH_ARGUMENTS = _FILES | {"paths", "filename", "filenames", "filepath", "filepaths", "dirname", "dirs"}
# These name a file only where the tool is about files: a booking has a destination, too.
_WEAK_PATH_ARGUMENTS = frozenset(
    {"source", "src", "target", "destination", "dest", "dst", "from", "to", "name"}
)
_ESCAPED = re.compile(r"%[0-9a-fA-F]{2}")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the policy says of a call, by which rule, and for a refusal why, in one sentence."""

    kind: Effect
    rule: str
    reason: str = ""


class Policy:
    """The rules of a server, applied to one call at a time; it knows nothing else and changes nothing."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._rules = tuple(rules)

    def judge(self, profile: AgentProfile, tool: str, arguments: Mapping[str, Any]) -> Verdict:
        """Judge a call of this agent: the profile first, then the first rule that matches, else a human."""
        if tool == SWITCH_AGENT.name or (tool == PROPOSE_PLAN.name and profile.may_plan):
            return Verdict("free", "built_in")
        known = profile.tool(tool)
        if known is None:
            return Verdict("forbidden", "unknown_tool", f"The agent {profile.name} has no tool {tool}.")
        return _outside(profile, known, arguments) or self._by_rules(tool, arguments)

    def _by_rules(self, tool: str, arguments: Mapping[str, Any]) -> Verdict:
        for rule in self._rules:
            if _applies(rule, tool, arguments):
                reason = f"The rule {rule.name} forbids this." if rule.effect == "forbidden" else ""
                return Verdict(rule.effect, rule.name, reason)
        return Verdict("ask", "default")


def _applies(rule: Rule, tool: str, arguments: Mapping[str, Any]) -> bool:
    return any(fnmatchcase(tool, glob) for glob in rule.tools) and all(
        name in arguments and _argument_matches(rule, tool, name, arguments[name], glob)
        for name, glob in rule.arguments.items()
    )


def _argument_matches(rule: Rule, tool: str, name: str, value: object, glob: str) -> bool:
    """Compare one argument; a path counts strictly where the rule frees a call, else loosely."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if not _names_a_file(tool, name):
        return fnmatchcase(text, glob)
    return may_write(text, (glob,)) if rule.effect == "free" else _touches(text, glob)


# --- files ---------------------------------------------------------------------------------------


def _outside(profile: AgentProfile, tool: Tool, arguments: Mapping[str, Any]) -> Verdict | None:
    """Refuse a change of a file that the profile's patterns do not cover, or that names none."""
    if not _writes_files(tool, arguments):
        return None
    paths = list(_paths(tool.name, arguments))
    if not paths:
        return _refused(f"{tool.name} does not say which file it would change.")
    allowed = ", ".join(profile.writes) + " in the workspace" if profile.writes else "no files"
    for path in paths:
        if not isinstance(path, str) or not may_write(path, profile.writes):
            return _refused(f"{str(path)[:200]!r} is outside of what {profile.name} may write: {allowed}.")
    return None


def _refused(reason: str) -> Verdict:
    return Verdict("forbidden", "file_patterns", reason)


def _writes_files(tool: Tool, arguments: Mapping[str, Any]) -> bool:
    words = _words(tool.name)
    names = {*tool.parameters.get("properties", {}), *arguments}
    return not _CHANGING.isdisjoint(words) and (
        not _FILES.isdisjoint(words) or any(_names_a_file(tool.name, name) for name in names)
    )


def _paths(tool: str, arguments: Mapping[str, Any]) -> Iterator[object]:
    for name, value in arguments.items():
        if _names_a_file(tool, name):
            yield from value if isinstance(value, list) else (value,)


def _names_a_file(tool: str, argument: str) -> bool:
    last = (_words(argument) or [""])[-1]
    return last in _PATH_ARGUMENTS or (last in _WEAK_PATH_ARGUMENTS and not _FILES.isdisjoint(_words(tool)))


def _words(name: str) -> list[str]:
    """Split `newFile_path2` into its words, in small letters and without digits."""
    return [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)]


# --- paths ---------------------------------------------------------------------------------------


def may_write(path: str, patterns: Sequence[str]) -> bool:
    """Tell whether a path stays inside and one of the patterns covers it, in the very same letters.

    A pattern without `/` is for the file's name, in any folder; one with `/` is for the whole path, where `*`
    stays inside a part and `**` is any number of parts.
    """
    if not stays_inside(path):
        return False
    parts = [part for part in path.split("/") if part not in {"", "."}]
    return bool(parts) and any(_covers(pattern, parts) for pattern in patterns)


def stays_inside(path: str) -> bool:
    """Tell whether no system could read this path as leading out of the folder it is relative to."""
    return _is_plain(path) and _is_plain(unicodedata.normalize("NFKC", path))


def _is_plain(path: str) -> bool:
    if not path or path[0] in "/~" or _ESCAPED.search(path) or any(sign in path for sign in "\\:"):
        return False
    if any(unicodedata.category(sign) in {"Cc", "Cf", "Cs", "Zl", "Zp"} for sign in path):
        return False
    return not any(part != "." and part.endswith((".", " ")) for part in path.split("/"))


def _covers(pattern: str, parts: Sequence[str]) -> bool:
    if "/" not in pattern:
        return fnmatchcase(parts[-1], pattern)
    return _matches([part for part in pattern.split("/") if part not in {"", "."}], parts)


def _matches(pattern: Sequence[str], parts: Sequence[str]) -> bool:
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_matches(pattern[1:], parts[start:]) for start in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and _matches(pattern[1:], parts[1:])


def _touches(path: str, pattern: str) -> bool:
    """Tell whether a path could mean what the pattern names, whichever way it is written."""
    path = posixpath.normpath(unicodedata.normalize("NFKC", path).replace("\\", "/").casefold())
    parts = [part.rstrip(". ") or part for part in path.split("/") if part]
    return any(_covers(pattern.casefold(), parts[start:]) for start in range(len(parts)))
