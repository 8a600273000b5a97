"""Can the generator alone mend a damaged retriever? The starter model on the chemical elements.

Noise is added to the weights of the starter's question encoder until recall@5 on the test is
below 0.6. Then the question encoder alone is trained by what the generator thinks of passages
(`rag-finetune train --retriever_loss lsr --likelihood_weight 0`), without gold passages; the
generator is held against its bits from before. The last line is JSON.

    python benchmarks/damaged_retriever.py --output_dir runs/damaged

What follows -- goes to `rag-finetune train` and wins over what stands here, as in

    python benchmarks/damaged_retriever.py --output_dir runs/damaged -- --retriever_loss emdr2
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from side_by_side import command

from rag_finetune.data.qa import load_questions
from rag_finetune.encoders.load import load_question_encoder
from rag_finetune.encoders.text_encoder import TextEncoder
from rag_finetune.evaluation.retrieval_only import evaluate_retrieval
from rag_finetune.index.store import PassageIndex, open_index
from rag_finetune.rag.checkpoint import load_rag
from rag_finetune.rag.generation import question_encoder_of

DATA = Path(__file__).resolve().parents[1] / "data"
FIGURES = ("recall@1", "recall@5", "recall@10", "mrr@10", "distinct_passages", "doc_entropy")
TRAINING = """
--trainable question_encoder --retriever_loss lsr --lsr_direction lm_retriever --likelihood_weight 0
--n_docs 20 --max_steps 300 --per_device_train_batch_size 8 --learning_rate 5e-4 --warmup_steps 20
--max_target_length 48 --logging_steps 20 --eval_strategy no --save_strategy no --probe false
--disable_tqdm true --report_to none
"""


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output_dir", required=True, help="a new folder for all that is made")
    parser.add_argument("--starter", default=str(DATA / "starter"), help="folder of three networks")
    parser.add_argument(
        "--data", default=str(DATA / "elements"), help="passages.tsv, train.json, …"
    )
    parser.add_argument("--below", type=float, default=0.6, help="recall@5 of the damaged encoder")
    parser.add_argument("--seed", type=int, default=0, help="of the noise")
    return parser


def damage(
    encoder: TextEncoder, index: PassageIndex, questions: Any, below: float, seed: int
) -> float:
    """Add noise to an encoder's weights, more and more, until recall@5 is below a bound.

    Returns:
        The noise's standard deviation, as a share of that of each matrix.
    """
    network: Any = encoder.model
    matrices = [p for p in network.parameters() if p.ndim > 1 and p.std() > 0]
    sound = [p.detach().clone() for p in matrices]
    draw = torch.Generator().manual_seed(seed)
    noise = [torch.randn(p.shape, generator=draw) * p.std() for p in sound]
    for step in range(1, 101):
        with torch.no_grad():
            for p, before, off in zip(matrices, sound, noise, strict=True):
                p.copy_(before + 0.05 * step * off)
        if figures(encoder, index, questions)["recall@5"] < below:
            return 0.05 * step
    raise SystemExit("recall@5 stays above the bound whatever the noise: is this the right index?")


def figures(encoder: TextEncoder, index: PassageIndex, questions: Any) -> dict[str, float]:
    """Retrieval on questions."""
    found = evaluate_retrieval(encoder, index, questions).metrics
    return {name: round(found[name], 4) for name in FIGURES}


def main(argv: list[str]) -> None:
    """Damage, train, measure."""
    end = argv.index("--") if "--" in argv else len(argv)
    args, training = make_parser().parse_args(argv[:end]), argv[end + 1 :]
    output, starter, data = Path(args.output_dir), Path(args.starter), Path(args.data)
    output.mkdir(parents=True)
    command(
        *("index", "--passages", data / "passages.tsv", "--output_dir", output / "index"),
        *("--context_encoder", starter / "context_encoder"),
    )
    index, test = open_index(output / "index"), load_questions(data / "test.json")
    encoder = load_question_encoder(str(starter / "question_encoder"))
    report: dict[str, Any] = {"benchmark": "damaged_retriever", "seed": args.seed}
    report["sound"] = figures(encoder, index, test)
    report["noise"] = round(damage(encoder, index, test, args.below, args.seed), 2)
    report["damaged"] = figures(encoder, index, test)
    encoder.save(output / "question_encoder")
    command(
        *("assemble", "--question_encoder", output / "question_encoder", "--generator"),
        *(starter / "generator", "--index", output / "index", "--output_dir", output / "assembled"),
        *("--questions", data / "train.json"),
    )
    started = time.perf_counter()
    command(
        *("train", "--model_name_or_path", output / "assembled", "--index", output / "index"),
        *("--train_file", data / "train.json", "--output_dir", output / "model"),
        *TRAINING.split(),
        *training,
    )
    report["seconds"] = round(time.perf_counter() - started, 1)
    before = load_rag(output / "assembled", with_index=False).model.generator.state_dict()
    trained = load_rag(output / "model")
    report["trained"] = figures(question_encoder_of(trained, 128), index, test)
    after = trained.model.generator.state_dict()
    report["generator_untouched"] = all(torch.equal(before[name], after[name]) for name in before)
    print(json.dumps(report))


if __name__ == "__main__":
    main(sys.argv[1:])
