"""Puts one value into a JSON text and leaves every other character of it as it is."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from sdxl_lightning_mcp.errors import SettingsError

_SPACE = re.compile(r"[ \t\r\n]*")
_COMMENT = re.compile(r"//[^\r\n]*|/\*.*?\*/", re.DOTALL)
# What may stand behind a value in its own line.
_REST_OF_LINE = re.compile(r"(?:[ \t]|/\*[^\r\n]*?\*/)*(?://[^\r\n]*)?")


@dataclass(frozen=True)
class Member:
    """A name of an object, where it begins, and its value."""

    name: str
    start: int
    value: "Node"


@dataclass(frozen=True)
class Node:
    """A value and where it stands: from `start` up to `end`. An object also has its members."""

    value: Any
    start: int
    end: int
    members: tuple[Member, ...] | None = None


def read(text: str, *, comments: bool) -> Node:
    """Reads JSON; with `comments` also such as editors take, with commas before a closing bracket.

    Raises:
        SettingsError: It cannot be read; names the line and the column.
    """
    reader = _Reader(text, comments)
    try:
        return reader.document()
    except RecursionError:
        raise SettingsError("it is nested too deeply.") from None


def get(text: str, path: Sequence[str], *, comments: bool) -> Any:
    """The value at a path of names; None where a name is not there, or the text is empty.

    Raises:
        SettingsError: The text cannot be read, or what is on the way is no object.
    """
    node = read(text or "{}", comments=comments)
    for depth, name in enumerate(path):
        if node.members is None:
            raise SettingsError(f"{_named(path[:depth])} is not an object.")
        found = next((member.value for member in node.members if member.name == name), None)
        if found is None:
            return None
        node = found
    return node.value


def put(text: str, path: Sequence[str], value: object, *, comments: bool) -> str:
    """The text with a value at a path of names; objects that are missing on the way are made.

    An empty text becomes an object.

    Raises:
        SettingsError: The text cannot be read, what is on the way is no object, or a name stands
            twice.
    """
    text = text or "{}\n"
    node = read(text, comments=comments)
    for depth, name in enumerate(path):
        if node.members is None:
            raise SettingsError(f"{_named(path[:depth])} is not an object.")
        found = [member for member in node.members if member.name == name]
        if len(found) > 1:
            raise SettingsError(f"{_named(path[: depth + 1])} stands there twice.")
        if not found:
            for missing in reversed(path[depth + 1 :]):
                value = {missing: value}
            return _insert(text, node, name, value)
        node = found[0].value
    if node.value == value:
        return text
    return text[: node.start] + _written(text, value, _indent(text, node.start)) + text[node.end :]


def _named(path: Sequence[str]) -> str:
    return ".".join(path) or "the whole"


def _insert(text: str, node: Node, name: str, value: object) -> str:
    """The text with one more member at the end of an object."""
    assert node.members is not None
    newline = "\r\n" if "\r\n" in text else "\n"
    outer = _indent(text, node.start)
    inner = outer + _unit(text)
    close = node.end - 1
    if not node.members:
        # Behind what may stand between the brackets, which can only be comments.
        end = node.start + len(text[node.start : close].rstrip())
        member = f"{json.dumps(name, ensure_ascii=False)}: {_written(text, value, inner)}"
        return f"{text[:end]}{newline}{inner}{member}{newline}{outer}{text[close:]}"
    last = node.members[-1]
    # One may stand there already, where comments are taken.
    comma = _skipped(text, last.value.end, comments=True)
    has_comma = text.startswith(",", comma)
    behind = comma + 1 if has_comma else last.value.end
    head = text[:behind] + ("" if has_comma else ",")
    if newline not in text[node.start : close]:
        member = f"{json.dumps(name, ensure_ascii=False)}: {json.dumps(value, ensure_ascii=False)}"
        return f"{head} {member}{text[behind:]}"
    inner = _indent(text, last.start)
    member = f"{json.dumps(name, ensure_ascii=False)}: {_written(text, value, inner)}"
    rest = _REST_OF_LINE.match(text, behind)
    assert rest is not None
    end = "," if has_comma else ""
    return f"{head}{rest[0]}{newline}{inner}{member}{end}{text[rest.end() :]}"


def _written(text: str, value: object, indent: str) -> str:
    """A value as the text's other ones are written, below a line with that indent."""
    newline = "\r\n" if "\r\n" in text else "\n"
    written = json.dumps(value, indent=_unit(text), ensure_ascii=False)
    return written.replace("\n", newline + indent)


def _indent(text: str, position: int) -> str:
    """The white space that the line of a position begins with."""
    line = text[text.rfind("\n", 0, position) + 1 : position]
    return line[: len(line) - len(line.lstrip())]


def _unit(text: str) -> str:
    """The white space that one level is indented by: the least that a line begins with."""
    indents = re.findall(r"^([ \t]+)[^\s/*]", text, re.MULTILINE)
    return min(indents, key=len, default="  ")


def _skipped(text: str, at: int, *, comments: bool) -> int:
    """Where the next is that is neither white space nor, where they are taken, a comment."""
    while True:
        space = _SPACE.match(text, at)
        assert space is not None
        at = space.end()
        comment = _COMMENT.match(text, at) if comments else None
        if comment is None:
            return at
        at = comment.end()


class _Reader:
    """Reads values from a text, and remembers where they stand."""

    def __init__(self, text: str, comments: bool) -> None:
        self._text, self._comments = text, comments
        self._at = 1 if text.startswith("\ufeff") else 0
        self._scalars = json.JSONDecoder(parse_constant=self._no_constant)

    def document(self) -> Node:
        node = self._value()
        self._skip()
        if self._at < len(self._text):
            self._fail("the end")
        return node

    def _value(self) -> Node:
        self._skip()
        start = self._at
        if self._next("{"):
            members = self._object()
            value = {member.name: member.value.value for member in members}
            return Node(value, start, self._at, tuple(members))
        if self._next("["):
            items = self._array()
            return Node(items, start, self._at)
        return Node(self._scalar(), start, self._at)

    def _object(self) -> list[Member]:
        members: list[Member] = []
        while not self._closes("}", first=not members):
            start = self._at
            name = self._scalar() if self._text.startswith('"', start) else None
            if not isinstance(name, str):
                self._fail("a name in quotation marks")
            self._skip()
            if not self._next(":"):
                self._fail("a colon")
            members.append(Member(name, start, self._value()))
        return members

    def _array(self) -> list[Any]:
        items: list[Any] = []
        while not self._closes("]", first=not items):
            items.append(self._value().value)
        return items

    def _closes(self, bracket: str, *, first: bool) -> bool:
        """Whether the bracket comes; else, behind an item, the comma before the next."""
        self._skip()
        if self._next(bracket):
            return True
        if first:
            return False
        if not self._next(","):
            self._fail(f"a comma or {bracket}")
        self._skip()
        return self._comments and self._next(bracket)

    def _scalar(self) -> Any:
        try:
            value, self._at = self._scalars.raw_decode(self._text, self._at)
        except ValueError as error:
            self._at = getattr(error, "pos", self._at)
            self._fail("a value")
        return value

    def _next(self, character: str) -> bool:
        found = self._text.startswith(character, self._at)
        self._at += found
        return found

    def _skip(self) -> None:
        self._at = _skipped(self._text, self._at, comments=self._comments)

    def _no_constant(self, name: str) -> NoReturn:
        raise ValueError(f"{name} is no JSON")

    def _fail(self, wanted: str) -> NoReturn:
        before = self._text[: self._at]
        line, column = before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1
        found = self._text[self._at : self._at + 10].split("\n")[0] or "the end of the line"
        raise SettingsError(f"line {line}, column {column}: {wanted} was expected, not {found!r}.")
