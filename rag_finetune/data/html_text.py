"""Title and text of an HTML page."""

import codecs
import re
from html.parser import HTMLParser
from pathlib import Path

DROPPED = frozenset("script style nav template noscript svg iframe".split())
BLOCKS = frozenset(
    "address article aside blockquote body caption center dd details dialog div dl dt fieldset "
    "figcaption figure footer form h1 h2 h3 h4 h5 h6 header hr html li main menu nav ol p pre "
    "section summary table tbody tfoot thead title tr ul".split()
)
CELLS = frozenset(("td", "th", "option"))
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# The first kilobyte must name the charset: HTML Living Standard, 4.2.5.4; we are less strict.
BYTES_SEARCHED = 4096
CHARSET = re.compile(
    rb"""(?:<meta[^>]*?charset|<\?xml[^>]*?encoding)\s*=\s*["']?\s*([\w.:-]+)""", re.I
)
# What browsers read under these names: WHATWG Encoding Standard, 4.2.
READ_AS = {
    **dict.fromkeys(("iso-8859-1", "latin1", "latin-1", "us-ascii"), "cp1252"),
    **dict.fromkeys(("gb2312", "gbk"), "gb18030"),
    **dict.fromkeys(("shift_jis", "shift-jis", "x-sjis"), "cp932"),
    **dict.fromkeys(("euc-kr", "ks_c_5601-1987"), "cp949"),
}


def read_html(path: Path) -> tuple[str, str]:
    """Read a page.

    The charset is that of the byte order mark, of `<meta charset>` or of the XML declaration, else
    UTF-8. Scripts, styles and navigation are dropped; block elements begin a paragraph; white
    space counts as in a browser.

    Args:
        path: the file.

    Returns:
        The content of `<title>` ("" without one), and paragraphs with an empty line between them.

    Raises:
        ValueError: the bytes are not of that charset, or the charset is unknown.
        OSError: the file cannot be read.
    """
    parser = _TextParser()
    parser.feed(_decode(path.read_bytes(), path))
    parser.close()
    return parser.title(), parser.text()


def _decode(raw: bytes, path: Path) -> str:
    charset, text = _find_charset(raw)
    try:
        return text.decode(charset)
    except LookupError as error:
        raise ValueError(
            f'{path}: expected a known charset, found "{charset}". Correct <meta charset>.'
        ) from error
    except UnicodeDecodeError as error:
        line = text.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path}:{line}: expected {charset} text, found the byte 0x{text[error.start]:02x}. "
            f'Save the file as UTF-8, or name its charset in <meta charset="…">.'
        ) from error


def _find_charset(raw: bytes) -> tuple[str, bytes]:
    """The charset and the bytes after a byte order mark."""
    for mark, charset in BYTE_ORDER_MARKS:
        if raw.startswith(mark):
            return charset, raw.removeprefix(mark)
    found = CHARSET.search(raw[:BYTES_SEARCHED])
    charset = found[1].decode("ascii").lower() if found else "utf-8"
    if charset.startswith("utf-16"):
        charset = "utf-8"  # the declaration could not have been read in UTF-16
    return READ_AS.get(charset, charset), raw


class _TextParser(HTMLParser):
    """Collects the text of a page as paragraphs.

    What is dropped goes when its end tag comes, so that a tag that is never closed costs nothing.
    """

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._parts: list[str] = []
        self._title: list[str] = []
        self._dropped: list[tuple[str, int]] = []
        self._in_title = False
        self._preformatted = 0

    def title(self) -> str:
        return " ".join("".join(self._title).split())

    def text(self) -> str:
        lines = "\n".join(line.rstrip() for line in "".join(self._parts).split("\n"))
        return "\n\n".join(text.strip() for text in re.split(r"\n{2,}", lines) if text.strip())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in DROPPED:
            self._dropped.append((tag, len(self._parts)))
        if tag == "title":
            self._in_title = not self._dropped and not self._title
        self._preformatted += tag == "pre"
        if tag in CELLS:
            self._parts.append(" ")
        self._separate(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag == "title":
            self._in_title = False
        self._preformatted = max(0, self._preformatted - (tag == "pre"))
        if tag in DROPPED:
            self._drop(tag)
        self._separate(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        # `<svg/>` ends itself; browsers take `<div/>` and even `<script/>` for a start tag.
        if tag == "svg":
            return
        self.handle_starttag(tag, attrs)

    def handle_data(self, data: str) -> None:
        if self._in_title:
            self._title.append(data)
        elif self._preformatted:
            self._parts.append(data)
        else:
            text = re.sub(r"[ \t\n\r\f]+", " ", data)
            follows_space = not self._parts or self._parts[-1][-1:] in (" ", "\n", "")
            self._parts.append(text.removeprefix(" ") if follows_space else text)

    def _drop(self, tag: str) -> None:
        """Delete what came since the last start of a tag; nothing where there was none."""
        for position in reversed(range(len(self._dropped))):
            name, size = self._dropped[position]
            if name == tag:
                del self._parts[size:], self._dropped[position:]
                return

    def _separate(self, tag: str) -> None:
        if tag in BLOCKS:
            self._parts.append("\n\n")
        elif tag == "br":
            self._parts.append("\n")
