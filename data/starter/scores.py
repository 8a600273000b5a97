"""How well a starter model reads fact sheets that it has never seen."""

import csv
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sheets import Author, Question
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
from writer import Passage

UNSEEN = 1_000_003  # a seed that training does not use
FOLDERS = ("question_encoder", "context_encoder", "generator")
WORLDS, SUBJECTS, QUESTIONS = 40, 8, 500


def unseen_sheets() -> tuple[list[Passage], list[tuple[Question, list[int]]]]:
    """Plain fact sheets of new worlds; questions with the rows of the passages that answer them."""
    author = Author(UNSEEN)
    passages: list[Passage] = []
    asked: list[tuple[Question, list[int]]] = []
    for _ in range(WORLDS):
        high = author.random.randint(20, 90)  # words of the longest passage
        world = author.world(SUBJECTS, author.random.randint(2, max(4, high // 5)))
        first, parts = len(passages), -(-len(world.relations) // max(2, high // 10))
        for subject in world.subjects:
            passages += world.passages(subject, parts, 10, high)
        for fact in author.random.sample(sorted(world.values), QUESTIONS // WORLDS + 1):
            rows = [row for row, page in enumerate(passages) if row >= first and fact in page.facts]
            if rows:
                asked.append((world.question(fact, author.chance(0.08)), rows))
    return passages, asked[:QUESTIONS]


def read_gold(generator: Path) -> float:
    """Share of questions answered (greedy, exact match) with the right passage given."""
    from reading import context, read

    from rag_finetune.metrics.text import exact_match_score

    passages, asked = unseen_sheets()
    model, tokenizer = load_generator(generator)
    texts = [context(passages[rows[0]], question) for question, rows in asked]
    answers = read(model, tokenizer, texts)
    pairs = zip(answers, asked, strict=True)
    return sum(exact_match_score(text, [q.answer]) for text, (q, _) in pairs) / len(asked)


def load_generator(folder: Path) -> tuple[Any, Any]:
    """A generator and its tokenizer."""
    model = AutoModelForSeq2SeqLM.from_pretrained(folder)
    return model.eval(), AutoTokenizer.from_pretrained(folder)


def write_sheets(folder: Path) -> tuple[Path, Path]:
    """Unseen sheets as passages.tsv and questions.json."""
    passages, asked = unseen_sheets()
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "passages.tsv", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t")
        writer.writerow(["id", "text", "title"])
        writer.writerows([row, page.text, page.title] for row, page in enumerate(passages))
    questions = [
        {
            "id": f"q{number}",
            "question": question.text,
            "answers": [question.answer],
            "positive_ids": [str(row) for row in rows],
        }
        for number, (question, rows) in enumerate(asked)
    ]
    path = folder / "questions.json"
    path.write_text(json.dumps(questions, ensure_ascii=False, indent=0), encoding="utf-8")
    return folder / "passages.tsv", path


def end_to_end(starter: Path, folder: Path, passages: Path, questions: Path) -> dict[str, float]:
    """Index the passages, assemble a RAG-Sequence checkpoint, evaluate it on the questions."""
    index, model, result = folder / "index", folder / "assembled", folder / "evaluation"
    command("index", passages=passages, context_encoder=starter / "context_encoder",
            output_dir=index)  # fmt: skip
    command("assemble", question_encoder=starter / "question_encoder",
            generator=starter / "generator", model_type="rag_sequence",
            output_dir=model)  # fmt: skip
    command("evaluate", model_name_or_path=model, index=index, eval_file=questions,
            output_dir=result)  # fmt: skip
    metrics = json.loads((result / "metrics.json").read_text(encoding="utf-8"))
    names = ("exact_match", "f1", "recall@1", "recall@5", "doc_entropy")
    return {name: round(metrics[name], 4) for name in names if name in metrics}


def measure(starter: Path) -> dict[str, Any]:
    """The figures of scores.json: reading the right passage, and end to end."""
    with tempfile.TemporaryDirectory() as folder:
        passages, questions = write_sheets(Path(folder))
        rag = end_to_end(starter.resolve(), Path(folder), passages, questions)
    files = [path for part in FOLDERS for path in (starter / part).iterdir()]
    return {
        "right_passage_given": {"exact_match": round(read_gold(starter / "generator"), 4)},
        "rag_sequence": rag,
        "megabytes": round(sum(path.stat().st_size for path in files) / 1e6, 2),
    }


def command(name: str, **flags: Any) -> None:
    """Run a command of rag-finetune."""
    words: Sequence[str] = [
        str(word) for flag in flags.items() for word in (f"--{flag[0]}", flag[1])
    ]
    subprocess.run([sys.executable, "-m", "rag_finetune", name, *words], check=True)
