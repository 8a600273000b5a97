"""FedRAG's trainer of a retriever by what a generator thinks of passages.

    python benchmarks/fedrag_retriever.py FOLDER

Run by `damaged_retriever.py --fedrag_python`, with the Python of an environment that has FedRAG and
not this package (fed-rag 0.0.27 works with sentence-transformers 4.1, Transformers 4 and datasets
3). FOLDER holds `encoder/`, a BERT whose first token's state is the vector; `generator/`, a
decoder-only one; `passages.jsonl` with id, text and vector; `questions.jsonl` with query and
response; and `settings.json`. The trained encoder goes to `trained.pt`, seconds of the training
alone to `results.json`.
"""

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def main(folder: Path) -> None:
    """Train by `HuggingFaceTrainerForLSR`."""
    from fed_rag import RAGConfig, RAGSystem
    from fed_rag.data_structures import KnowledgeNode
    from fed_rag.generators.huggingface import HFPretrainedModelGenerator
    from fed_rag.knowledge_stores import InMemoryKnowledgeStore
    from fed_rag.retrievers.huggingface import HFSentenceTransformerRetriever
    from fed_rag.trainers.huggingface import HuggingFaceTrainerForLSR
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainingArguments,
        models,
    )

    settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    reader = models.Transformer(str(folder / "encoder"))
    pooling = models.Pooling(reader.get_word_embedding_dimension(), "cls")
    saved = str(folder / "sentence_transformer")
    SentenceTransformer(modules=[reader, pooling], device="cpu").save(saved)
    nodes = [
        KnowledgeNode(
            node_id=row["id"],
            embedding=row["vector"],
            node_type="text",
            text_content=row["text"],
        )
        for row in rows_of(folder / "passages.jsonl")
    ]
    system = RAGSystem(
        generator=HFPretrainedModelGenerator(str(folder / "generator")),
        retriever=HFSentenceTransformerRetriever(query_model_name=saved, context_model_name=saved),
        knowledge_store=InMemoryKnowledgeStore.from_nodes(nodes),
        rag_config=RAGConfig(top_k=settings["n_docs"]),
    )
    trainer = HuggingFaceTrainerForLSR(
        rag_system=system,
        train_dataset=Dataset.from_list(rows_of(folder / "questions.jsonl")),
        training_arguments=SentenceTransformerTrainingArguments(
            str(folder / "run"),
            max_steps=settings["steps"],
            per_device_train_batch_size=settings["batch_size"],
            learning_rate=settings["learning_rate"],
            logging_steps=20,
            save_strategy="no",
            report_to="none",
            remove_unused_columns=False,
            use_cpu=True,
        ),
    )
    started = time.perf_counter()
    trainer.train()
    seconds = round(time.perf_counter() - started, 1)
    torch.save(system.retriever.query_encoder[0].auto_model.state_dict(), folder / "trained.pt")
    results = {"trainer": f"fed-rag {version('fed-rag')}", "seconds": seconds}
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
