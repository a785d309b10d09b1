"""Text from outside neither steers a terminal nor makes links, pictures or HTML in Markdown."""

import logging
import re
import sys
from collections.abc import Callable
from pathlib import Path

from markdown_it import MarkdownIt

from study.printable import Formatter, as_code, in_markdown, printable

ESCAPES = "\x1b]0;title\x07\x1b[2Jgone\r\x9b31m\u202eexe.txt\x00"


def test_control_characters_are_shown_as_escapes() -> None:
    shown = printable(ESCAPES)
    assert shown == r"\x1b]0;title\x07\x1b[2Jgone\r\x9b31m\u202eexe.txt\x00"
    assert printable("é — 你好 \u200c👩\u200d🔬\tone\nline") == "é — 你好 \u200c👩\u200d🔬\tone\nline"


def test_an_error_names_a_folder_without_its_escapes(command: Callable[..., object], tmp_path: Path) -> None:
    odd = tmp_path / "a\x1b[2J\x07"
    odd.mkdir()
    (odd / "letter").write_text("dear")
    done = command("export", "x.zip", "--storage", odd)
    assert done.code == 2 and r"a\x1b[2J\x07 is not a store" in done.err  # type: ignore[attr-defined]


def test_logs_have_neither_escapes_nor_passwords() -> None:
    record = logging.LogRecord("a", logging.WARNING, "a.py", 1, "at %s", ("http://me:secret@host/\x1b[2J",), None)
    try:
        raise ValueError("http://me:secret@host \x1b[2J")
    except ValueError:
        record.exc_info = sys.exc_info()
    shown = Formatter("%(levelname)s: %(message)s").format(record)
    assert "\x1b" not in shown and "secret" not in shown and "at http://host/" in shown and "Traceback" in shown


def test_markdown_shows_the_text_itself() -> None:
    hostile = "![x](http://e/p.png) <img src=x onerror=alert(1)> `a` | b\n# c [l][r] \\<b>"
    assert in_markdown(hostile) == r"![x\](http://e/p.png) \<img src=x onerror=alert(1)> \`a\` \| b # c [l\][r] \\\<b>"
    html = MarkdownIt().render(f"- {in_markdown(hostile)}")
    assert not re.search("<(?!/?(ul|li)>)", html)
    code = MarkdownIt().render(as_code("make `id` ``x`` <b>"))
    assert code == "<p><code>make `id` ``x`` &lt;b&gt;</code></p>\n" and as_code("make plan") == "`make plan`"
    assert in_markdown("plain-56, [1.2, 3.4]; Linux x86_64") == "plain-56, [1.2, 3.4]; Linux x86_64"
