"""Text from outside as it may be shown and kept: without passwords of addresses, and without control characters.

Names, reasons, tags and messages come from files, servers and other people. Owns what of them a terminal, a log, a page
or MLflow's Markdown may get. Standard library only.
"""

import logging
import re
import unicodedata

HIDDEN = "***"
TURNING = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # the direction of text
# A password that nobody quoted has slashes and at signs of its own; what looks like a port begins a path.
_USER = re.compile(r"\b([A-Za-z][A-Za-z0-9+.-]*)://(?!/)([^\s/@:'\"<>`]*)(?::(?!\d+/)[^\s'\"<>`]*)?@")
_SECRET = re.compile(r"([?&;][\w.-]*(?:password|passwd|pwd|secret|token|signature|credential)=)[^\s&;'\"<>`]*", re.I)
_MARKDOWN = re.compile(r"[\\<|`]|\](?=[(\[])")  # what begins HTML, a cell, code; what ends the name of a link


def bare(text: str) -> str:
    """The text, in which addresses have no password. Of a database the user stays, of a server it may be a token."""

    def without(found: re.Match[str]) -> str:
        scheme, user = found[1], found[2]
        return f"{scheme}://" if scheme.lower().startswith("http") or not user else f"{scheme}://{user}@"

    return _SECRET.sub(rf"\g<1>{HIDDEN}", _USER.sub(without, text))


def printable(text: str) -> str:
    """The text without passwords, and with what steers a terminal, or turns text around, as escapes: `\\x1b`.

    Line ends and tabs stay.
    """
    if "://" not in text and "=" not in text and all(line.isprintable() for line in text.split("\n")):
        return text  # nearly always
    return "".join(one if _harmless(one) else ascii(one)[1:-1] for one in bare(text))


def _harmless(one: str) -> bool:
    return one in "\n\t" or (unicodedata.category(one) not in ("Cc", "Cs", "Zl", "Zp") and one not in TURNING)


def in_markdown(text: str) -> str:
    """The text as Markdown shows it: in one line, and nothing in it is a link, a picture, HTML or a cell's end."""
    return _MARKDOWN.sub(r"\\\g<0>", " ".join(printable(text).split()))


def as_code(text: str) -> str:
    """The text as Markdown shows code, every character as it is: between more backticks than it has in a row."""
    line = " ".join(printable(text).split())
    fence = "`" * (max(map(len, re.findall("`+", line)), default=0) + 1)
    return f"{fence} {line} {fence}" if len(fence) > 1 else f"`{line}`"


class Formatter(logging.Formatter):
    """Formats records of logs printably, tracebacks included."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def configure_logs() -> None:
    """Warnings and errors of this process go to its standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(Formatter("%(levelname)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
