"""Text files, and folders of them: one document a file."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from rag_finetune.data.formats import FILE_SUFFIXES
from rag_finetune.data.html_text import read_html
from rag_finetune.data.pdf_text import read_pdf
from rag_finetune.files import read_text

FRONT_MATTER = re.compile(r"---[ \t]*\n(.*?\n)?(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL)
FRONT_TITLE = re.compile(r"""^title:[ \t]*(["']?)(.+?)\1[ \t]*$""", re.MULTILINE)
FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
HEADING = re.compile(r" {0,3}#{1,6}[ \t]")
UNDERLINE = re.compile(r" {0,3}(?:=+|-{2,})$")


def read_text_file(path: Path) -> tuple[str, str]:
    """Read a file of text as one document.

    The title is the first heading of a Markdown file (or the `title:` of its front matter), the
    `<title>` of a page, the title in a PDF file's metadata; without one, and for plain text, it is
    the file's name without its extension.

    Args:
        path: a file whose extension is one of `FILE_SUFFIXES`.

    Returns:
        Title and text; the text is "" where there is none.

    Raises:
        ValueError: the file cannot be read as what its extension says.
        OSError: it cannot be read at all.
    """
    suffix = path.suffix.lower()
    if suffix == ".pdf":
        title, text = read_pdf(path)
    elif suffix in (".html", ".htm"):
        title, text = read_html(path)
    else:
        text = read_text(path)
        title = _find_heading(text) if suffix == ".md" else ""
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise ValueError(
            f"{path}:{line}: expected text, found a NUL character, as in binary files or UTF-16 "
            f"without a byte order mark. Save the file as UTF-8."
        )
    return title or path.stem, text


def _find_heading(text: str) -> str:
    front = FRONT_MATTER.match(text)
    if front:
        found = FRONT_TITLE.search(front[1] or "")
        if found:
            return found[2].strip()
        text = text[front.end() :]
    before, fence = "", ""
    for line in map(str.rstrip, text.split("\n")):
        opened = FENCE.match(line)
        if fence:
            fence = "" if opened and opened[1].startswith(fence) else fence
            before = ""
        elif opened:
            fence = opened[1]
        elif HEADING.match(line) and (heading := _strip_marks(line)):
            return heading
        elif before and UNDERLINE.match(line):
            return before
        else:
            before = line.strip()
    return ""


def _strip_marks(line: str) -> str:
    """A heading without the signs around it: "## The sea ##" is "The sea"."""
    heading = line.strip().lstrip("#").strip()
    without = heading.rstrip("#")
    return heading if without and not without[-1].isspace() else without.rstrip()


class TextFolder:
    """A folder of text files, searched with the folders in it.

    Hidden files and folders are passed over. Links are followed; a folder that is reached twice,
    as through a link to one above it, is searched once.

    Attributes:
        skipped: after `walk`, the number of files of each other extension, and the first of them.
        unread: after `walk`, the folders that could not be listed, with the reason.
    """

    def __init__(self, folder: Path) -> None:
        """Name the folder; nothing is read yet."""
        self.folder = folder
        self.skipped: dict[str, tuple[int, Path]] = {}
        self.unread: list[str] = []

    def walk(self) -> Iterator[tuple[Path, str]]:
        """Yield the files to read with their paths from the folder on, "/" between names.

        They come in the order of their names, folder by folder; the names in one folder are held.
        """
        self.skipped.clear()
        self.unread.clear()
        yield from self._walk(self.folder, "", set())

    def _walk(
        self, folder: Path, inside: str, seen: set[tuple[int, int]]
    ) -> Iterator[tuple[Path, str]]:
        try:
            status = folder.stat()
            names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
        except OSError as error:
            self.unread.append(f"{folder}: {error.strerror}. Make it readable, or move it away.")
            return
        if (status.st_dev, status.st_ino) in seen:
            return
        seen.add((status.st_dev, status.st_ino))
        for name in names:
            path = folder / name
            if path.is_dir():
                yield from self._walk(path, f"{inside}{name}/", seen)
            elif path.suffix.lower() in FILE_SUFFIXES and (path.is_file() or path.is_symlink()):
                yield path, inside + name
            else:
                suffix = path.suffix.lower() or "without extension"
                count, first = self.skipped.get(suffix, (0, path))
                self.skipped[suffix] = (count + 1, first)


def check_folder(folder: Path) -> None:
    """Check that a folder holds something to read, before work that needs it begins.

    Raises:
        ValueError: no file in it has an extension that is read.
    """
    files = TextFolder(folder)
    if next(files.walk(), None):
        return
    found = ", ".join(f"{count} {suffix}" for suffix, (count, _) in files.skipped.items())
    raise ValueError(
        f"{folder}: expected a folder with {', '.join(FILE_SUFFIXES)} files, found "
        f"{found or '; '.join(files.unread) or 'no file'}. Name the files themselves, or another "
        f"folder."
    )
