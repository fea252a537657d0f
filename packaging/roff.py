"""From the Markdown of docs/ to man(7): the few forms that those pages have, and no others.

Tables become lists of tags and texts, since a manual has 80 columns. What comes out is plain
ASCII and known to groff and mandoc alike. It knows nothing of graced.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator

WIDTH = 78
WHOLE = "\0"  # in a word that must not be broken, until the word is complete
WORD = re.compile(rf"(?:\\ |[^\s{WHOLE}])*{WHOLE}(?:\\ |\S)*")
ESCAPES = {"\\": "\\e", "`": "\\(ga", "^": "\\(ha", "~": "\\(ti"}
SPAN = re.compile(
    r"`(?P<code>[^`]+)`"
    r"|\*\*(?P<strong>.+?)\*\*"
    r"|\*(?P<stress>[^* ][^*]*)\*"
    r"|(?P<see>\bsee )?\[(?P<text>[^]]+)\]\((?P<target>[^)]+)\)"
)
MANUALS = {"commands.md": "`graced`(8)", "configuration.md": "`graced.yaml`(5)"}
Cells = list[str]


# Words


def escaped(text: str) -> str:
    """Return text that troff prints as it is; its dashes are hyphens."""
    plain = "".join(ESCAPES.get(letter, letter) for letter in text)
    return "".join(c if c.isascii() else f"\\[u{ord(c):04X}]" for c in plain)


def literal(text: str) -> str:
    """Return text that is to be typed as it is printed: its dashes and quotes are ASCII's."""
    return escaped(text).replace("-", "\\-").replace("'", "\\(aq").replace('"', "\\(dq")


def bold(text: str) -> str:
    """Return literal text in bold."""
    return f"\\fB{_whole(text)}\\fR"


def italic(text: str) -> str:
    """Return literal text in italics, or underlined: a place for something."""
    return f"\\fI{_whole(text)}\\fR"


def _whole(text: str) -> str:
    """Return literal text whose words are not to be hyphenated; joined() says so to troff."""
    return WHOLE + literal(text).replace(" ", f" {WHOLE}")


def inline(text: str) -> str:
    """Return a piece of Markdown without its blocks: code, stress, links."""
    parts, end = [], 0
    for found in SPAN.finditer(text):
        parts += [escaped(text[end : found.start()]), _span(found)]
        end = found.end()
    return "".join([*parts, escaped(text[end:])])


def _span(found: re.Match[str]) -> str:
    if found["code"]:
        return bold(found["code"])
    if found["strong"]:
        return f"\\fB{inline(found['strong']).replace('fR', 'fB')}\\fR"
    if found["stress"]:
        return f"\\fI{escaped(found['stress'])}\\fR"
    return _link(found["see"] or "", found["text"], found["target"])


def _link(see: str, text: str, target: str) -> str:
    """Return the name of the page where the text only says 'see', else the text."""
    page = target.partition("#")[0].rpartition("/")[2]
    if not see or not page:
        return see + inline(text)
    return see + (inline(MANUALS[page]) if page in MANUALS else italic(page))


def sentence(text: str) -> str:
    """Return a phrase as a sentence of its own."""
    begun = re.sub(r"^\[?[a-z]", lambda found: found[0].upper(), text)
    return begun + ("" if text.endswith((".", ":")) or not text else ".")


# Lines


def line(text: str) -> str:
    """Return a line of text that can't be taken for a request."""
    return f"\\&{text}" if text.startswith((".", "'")) else text


def filled(text: str) -> list[str]:
    """Return the lines of a paragraph of troff's own text; each sentence begins a line."""
    return [
        line(each)
        for begun in re.split(r"(?<=\.) (?=[A-Z\\])|\n", text)
        for each in textwrap.wrap(begun, WIDTH, break_long_words=False, break_on_hyphens=False)
    ]


def heading(text: str, request: str = "SH") -> str:
    """Return the line of a heading; of a section in capitals, as manuals have them."""
    plain = text.replace("`", "")
    return f'.{request} "{literal(plain.upper() if request == "SH" else plain)}"'


def joined(lines: list[str]) -> str:
    """Return the text of a file."""
    text = WORD.sub(lambda word: "\\%" + word[0].replace(WHOLE, ""), "\n".join(lines) + "\n")
    return re.sub(r"^(\.S[HS] .*\n)\.PP\n", r"\1", text, flags=re.M)  # a heading begins one


def tagged(tag: str, text: str) -> list[str]:
    """Return an entry of a list: troff's own tag and text."""
    return [".TP", line(tag), *filled(text)]


# Blocks


def section(page: str, title: str) -> str:
    """Return what a page says below a heading of the second rank."""
    for each in re.split(r"^## ", page, flags=re.M)[1:]:
        head, _, body = each.partition("\n")
        if head == title:
            return body
    raise KeyError(f"no section {title!r}")


def table(text: str) -> tuple[Cells, list[Cells]]:
    """Return the head and the rows of the first table."""
    [head, _, *rows] = [_cells(each) for each in text.splitlines() if each.startswith("|")]
    return head, rows


def _cells(row: str) -> Cells:
    parts = re.split(r"(?<!\\)\|", row.strip().strip("|"))
    return [part.strip().replace("\\|", "|") for part in parts]


def blocks(text: str) -> Iterator[str]:
    """Yield paragraphs, lists, tables and fenced blocks."""
    for part in re.split(r"(^```.*?^```$)", text, flags=re.M | re.S):
        if part.startswith("```"):
            yield part
        else:
            yield from (each.strip("\n") for each in part.split("\n\n") if each.strip())


def converted(text: str) -> list[str]:
    """Return the lines that say what this Markdown says; comments and its title are left out."""
    lines: list[str] = []
    for block in blocks(text):
        lines += _block(block)
    return lines


def _block(block: str) -> list[str]:
    if block.startswith("<!--") or re.match(r"# ", block):
        return []
    if block.startswith("## "):
        return [heading(block[3:], "SS")]
    if block.startswith("```"):
        return example("\n".join(block.splitlines()[1:-1]))
    if block.startswith("|"):
        return entries(block)
    if re.match(r"(-|\d+\.) ", block):
        return _list(block)
    return [".PP", *filled(inline(" ".join(block.split())))]


def example(text: str) -> list[str]:
    """Return lines that are printed as they are."""
    return [
        ".PP",
        ".RS 4",
        ".EX",
        *(line(literal(each)) for each in text.splitlines()),
        ".EE",
        ".RE",
    ]


def _list(block: str) -> list[str]:
    lines = []
    for item in re.split(r"^(?=(?:-|\d+\.) )", block, flags=re.M)[1:]:
        mark, _, text = item.partition(" ")
        lines.append(".IP \\(bu 2" if mark == "-" else f".IP {mark} 4")
        lines += filled(inline(" ".join(text.split())))
    return lines


def entries(block: str) -> list[str]:
    """Return a table as a list: the first cell is the tag, kind and default stand beside it."""
    head, rows = table(block)
    lines = []
    for row in rows:
        about = dict(zip(head[1:], row[1:], strict=True))
        lines += tagged(_tag(row[0], about), sentence_of(about))
        if about.get("example"):
            lines += [".br", f"Example: {inline(about['example'])}"]
    return lines


def _tag(name: str, about: dict[str, str]) -> str:
    shown = inline(name) if "`" in name else bold(name)
    beside = [inline(about["type"])] if about.get("type") else []
    beside += [f"default {inline(about['default'])}"] if about.get("default") else []
    return f"{shown} ({'; '.join(beside)})" if beside else shown


def sentence_of(about: dict[str, str]) -> str:
    """Return the text of a row: its cells that are neither kind, default nor example."""
    cells = [text for title, text in about.items() if title not in ("type", "default", "example")]
    return "\n".join(inline(sentence(text)) for text in cells)
