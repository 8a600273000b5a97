"""The same five documents in every format that passages are read from, and small PDF files."""

import csv
import json
from pathlib import Path

from datasets import Dataset

ROWS = [
    {"id": "a1", "title": "Oslo", "text": "Oslo lies by the sea."},
    {"id": "a2", "title": "Rome", "text": 'They say "all roads" lead there.'},
    {"id": "a3", "title": "Kiev", "text": "A city\non a river."},
    {"id": "a4", "title": "Zürich", "text": "Eine Stadt in der Schweiz."},
    {"id": "a5", "title": "東京", "text": "東京は日本の首都です。"},
]
PASSAGES = [{**row, "document_id": row["id"]} for row in ROWS]


def write_table(path: Path, delimiter: str) -> Path:
    """A TSV or CSV file with quotes where they are needed."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter, lineterminator="\n")
        writer.writerow(["id", "text", "title"])
        writer.writerows([row["id"], row["text"], row["title"]] for row in ROWS)
    return path


def write_lines(path: Path, rows: list) -> Path:
    """A JSONL file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    path.write_text("".join(lines), encoding="utf-8")
    return path


def write_list(path: Path, rows: list) -> Path:
    """A JSON file that is one list."""
    path.write_text(json.dumps(rows, ensure_ascii=False, indent=1), encoding="utf-8")
    return path


def write_parquet(path: Path, rows: list) -> Path:
    """A Parquet file, with a column that is not ours."""
    Dataset.from_list([{**row, "vector": [0.5] * 4} for row in rows]).to_parquet(str(path))
    return path


def write_dataset(path: Path, rows: list) -> Path:
    """A folder as `Dataset.save_to_disk` writes it."""
    Dataset.from_list([{**row, "vector": [0.5] * 4} for row in rows]).save_to_disk(str(path))
    return path


def write_beir(folder: Path) -> Path:
    """A BEIR folder: corpus.jsonl, with queries beside it."""
    rows = [{"_id": r["id"], "title": r["title"], "text": r["text"], "metadata": {}} for r in ROWS]
    write_lines(folder / "corpus.jsonl", rows)
    write_lines(folder / "queries.jsonl", [{"_id": "q", "text": "where?"}])
    return folder


def write_flashrag(path: Path) -> Path:
    """FlashRAG's layout: the title in quotes on the first line of contents."""
    return write_lines(
        path, [{"id": r["id"], "contents": f'"{r["title"]}"\n{r["text"]}'} for r in ROWS]
    )


def make_pdf(pages: list[str], title: str = "") -> bytes:
    """A PDF file of pages with one line of text each ("" for none), in ASCII."""
    kids = " ".join(f"{4 + 2 * n} 0 R" for n in range(len(pages)))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for number, text in enumerate(pages):
        stream = f"BT /F1 12 Tf 72 700 Td ({text}) Tj ET" if text else ""
        objects.append(
            "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] "
            f"/Resources << /Font << /F1 3 0 R >> >> /Contents {5 + 2 * number} 0 R >>"
        )
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
    if title:
        objects.append(f"<< /Title ({title}) >>")
    return _join(objects, f"/Info {len(objects)} 0 R" if title else "")


def _join(objects: list[str], info: str) -> bytes:
    parts, places, position = ["%PDF-1.4\n"], [], 9
    for number, body in enumerate(objects, start=1):
        places.append(position)
        parts.append(f"{number} 0 obj\n{body}\nendobj\n")
        position += len(parts[-1])
    parts.append(f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n")
    parts += [f"{place:010d} 00000 n \n" for place in places]
    parts.append(f"trailer\n<< /Size {len(objects) + 1} /Root 1 0 R {info} >>\n")
    parts.append(f"startxref\n{position}\n%%EOF\n")
    return "".join(parts).encode("ascii")
