"""Title and text of a PDF file, through pypdf."""

from pathlib import Path
from typing import TYPE_CHECKING

from rag_finetune.data.reports import quiet_log

if TYPE_CHECKING:
    from pypdf import PdfReader


def require_pypdf(path: Path) -> None:
    """Raise where the extra that reads PDF files is not installed.

    Args:
        path: the PDF file that needs it, for the message.

    Raises:
        ValueError: with the command that installs it.
    """
    try:
        import pypdf  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f"{path}: reading PDF files needs pypdf, which is not installed. "
            f"Run pip install 'rag-finetune[pdf]'."
        ) from error


def read_pdf(path: Path) -> tuple[str, str]:
    """Read a PDF file.

    Args:
        path: the file.

    Returns:
        The title of its metadata ("" without one), and its pages with an empty line between them;
        "" where it has no text layer.

    Raises:
        ValueError: the file is broken, wants a password, or pypdf is not installed.
        OSError: it cannot be read.
    """
    require_pypdf(path)
    from pypdf import PdfReader
    from pypdf.errors import DependencyError, FileNotDecryptedError

    try:
        with quiet_log("pypdf"), open(path, "rb") as file:
            reader = PdfReader(file)
            pages = [page.extract_text().strip() for page in reader.pages]
            title = _read_title(reader)
    except OSError:
        raise
    except (DependencyError, FileNotDecryptedError) as error:
        raise ValueError(
            f"{path}: expected a PDF file that opens without a password, found an encrypted one "
            f"({_reason(error)}). Decrypt it first, with qpdf --decrypt for example."
        ) from error
    except Exception as error:  # pypdf: "broken PDF files might cause other Exceptions"
        raise ValueError(
            f"{path}: expected a PDF file, found one that cannot be read ({_reason(error)}). "
            f"Repair it, with qpdf or mutool clean for example."
        ) from error
    return _mend(title), _mend("\n\n".join(page for page in pages if page))


def _read_title(reader: "PdfReader") -> str:
    title = reader.metadata.title if reader.metadata else None
    return " ".join(title.split()) if isinstance(title, str) else ""


def _mend(text: str) -> str:
    """Replace what extraction can yield and no file or Arrow table can hold."""
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return whole.replace("\0", "\ufffd")


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
