"""A training step on given contexts and scores: ours against plain Transformers.

    python benchmarks/bench_train.py [--size tiny|base|large] [--device D] [--dtype fp32|bf16]

Both run the same model with random weights (DPR and BART, see side_by_side.py), sdpa attention and
no dropout, on the same questions, contexts and targets. Plain Transformers gets contexts padded to
max_combined_length, as its retriever ships them, and calls the RAG head with labels; ours is what
RagTrainer does: contexts padded to the longest, encoded by length, no logits. Checked are the loss
(1e-5 relative) and the gradients (1e-4 of the norm of all, and of each parameter that has at least
a thousandth of it; one that is further apart must be about as near to float64 as plain's); under
bf16 how far both are from plain Transformers in fp32 is told.
Prints one JSON line last: `step` is forward and backward, `whole_step` also clips and runs AdamW.
"""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import side_by_side
import torch
from torch import Tensor

from rag_finetune.rag.scoring import score_passages
from rag_finetune.rag.targets import TargetLosses

DATA = Path(__file__).parents[1] / "data"
QUESTION_LENGTH = 16
MAX_COMBINED_LENGTH = 300
LENGTHS = {"tiny": (5, 9), "base": (5, 17), "large": (5, 17)}  # tokens of a target, its end too


def build_inputs(args: Any, model: Any) -> dict[str, Tensor]:
    """Questions, contexts, vectors of passages and labels, on the device."""
    draw = random.Random(args.seed)
    vocabulary = model.config.generator.vocab_size
    count = args.batch_size * args.n_docs
    if args.text is None:
        rows = side_by_side.synthetic_contexts(count, vocabulary, draw)
    else:
        rows = side_by_side.text_contexts(args.text, count, vocabulary, args.tokenizer, draw)
    rows = [row[:MAX_COMBINED_LENGTH] for row in rows]
    contexts, mask = side_by_side.pad_rows(rows, side_by_side.PAD)
    padded, padded_mask = side_by_side.pad_rows(rows, side_by_side.PAD, MAX_COMBINED_LENGTH)
    shortest, longest = LENGTHS[args.size]
    targets = [
        [
            side_by_side.EOS,
            side_by_side.BOS,
            *(draw.randrange(4, vocabulary) for _ in range(draw.randint(shortest, longest) - 2)),
            side_by_side.EOS,
        ]
        for _ in range(args.batch_size)
    ]
    labels, _ = side_by_side.pad_rows(targets, side_by_side.PAD)
    words = model.config.question_encoder.vocab_size
    questions = [
        [draw.randrange(4, words) for _ in range(QUESTION_LENGTH)] for _ in range(args.batch_size)
    ]
    question_ids, question_mask = side_by_side.pad_rows(questions, 0)
    generator = torch.Generator().manual_seed(args.seed)
    width = model.config.question_encoder.hidden_size
    vectors = torch.randn(args.batch_size, args.n_docs, width, generator=generator)
    inputs = {
        "contexts": contexts,
        "mask": mask,
        "padded": padded,
        "padded_mask": padded_mask,
        "labels": labels,
        "question_ids": question_ids,
        "question_mask": question_mask,
        "vectors": vectors / width**0.5,
    }
    return {name: tensor.to(args.device) for name, tensor in inputs.items()}


def question_scores(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    """doc_scores of the questions, shape (B, K), with the question encoder's gradient."""
    hidden = model.question_encoder(
        inputs["question_ids"], attention_mask=inputs["question_mask"], return_dict=True
    )[0]
    ids = torch.zeros(inputs["vectors"].shape[:2], device=hidden.device)
    return score_passages(hidden, inputs["vectors"], ids)


def plain_loss(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    """Plain Transformers' loss, the mean over examples."""
    outputs = model(
        context_input_ids=inputs["padded"],
        context_attention_mask=inputs["padded_mask"],
        doc_scores=question_scores(model, inputs),
        labels=inputs["labels"],
        n_docs=inputs["vectors"].shape[1],
        reduce_loss=True,
    )
    loss: Tensor = outputs.loss / len(inputs["labels"])
    return loss


def our_loss(losses: TargetLosses, inputs: dict[str, Tensor]) -> Tensor:
    """The loss as RagTrainer takes it, the mean over examples."""
    doc_scores = question_scores(losses.model, inputs)
    with losses.watch():
        outputs = losses.model(
            context_input_ids=inputs["contexts"],
            context_attention_mask=inputs["mask"],
            doc_scores=doc_scores,
            decoder_input_ids=losses.decoder_input_ids(inputs["labels"]),
            n_docs=inputs["vectors"].shape[1],
            use_cache=False,
        )
    return losses.of(outputs.logits, inputs["labels"], doc_scores).mean()


def steps_of(args: Any, model: Any, inputs: dict[str, Tensor]) -> dict[str, Callable[[], Tensor]]:
    """Forward and backward of each side; the gradients add up in the model."""
    losses = TargetLosses(model)
    calls = {
        "ours": lambda: our_loss(losses, inputs),
        "plain": lambda: plain_loss(model, inputs),
    }

    def step(call: Callable[[], Tensor]) -> Tensor:
        dtype = side_by_side.DTYPES[args.dtype]
        with torch.autocast(args.device, dtype=dtype, enabled=args.dtype != "fp32"):
            loss = call()
        loss.backward()
        return loss.detach()

    return {name: lambda call=call: step(call) for name, call in calls.items()}


def build_model(args: Any) -> Any:
    """The model of both sides, in training mode, all of it learning."""
    options = {"n_docs": args.n_docs, "max_combined_length": MAX_COMBINED_LENGTH}
    model = side_by_side.build_rag(args.size, args.head, args.seed, **options)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name in ("dropout", "attention_dropout", "activation_dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    return model.to(args.device).train()


def zero_gradients(model: Any) -> None:
    """Gradients of zero for every parameter, kept from step to step."""
    for parameter in model.parameters():
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        parameter.grad.zero_()


def measure_memory(args: Any) -> dict[str, Any]:
    """What one side takes above weights and gradients in a step."""
    model = build_model(args)
    step = steps_of(args, model, build_inputs(args, model))[args.memory_of]
    zero_gradients(model)
    with side_by_side.PeakMemory(args.device) as peak:
        step()
    held = sum(p.numel() * p.element_size() for p in model.parameters())
    return {
        "weights_and_gradients_mb": side_by_side.megabytes(2 * held),
        "above_mb": side_by_side.megabytes(peak.above),
    }


Gradients = dict[str, Tensor]


def loss_and_gradients(model: Any, step: Callable[[], Tensor]) -> tuple[float, Gradients]:
    """What a step gives, the gradients by parameter."""
    zero_gradients(model)
    loss = step().item()
    return loss, {name: p.grad.clone() for name, p in model.named_parameters()}


def distances(found: Gradients, expected: Gradients) -> tuple[float, dict[str, float]]:
    """How far gradients are apart: all of them, and each that has a thousandth of the norm.

    Parameters with next to no gradient, as keys' biases, have nothing but rounding.
    """
    norms = {name: gradient.double().norm() for name, gradient in expected.items()}
    off = {name: (found[name].double() - expected[name]).norm() for name in expected}
    whole = torch.stack(list(norms.values())).norm()
    counted = [name for name in norms if norms[name] > 1e-3 * whole]
    every = float(torch.stack(list(off.values())).norm() / whole)
    return every, {name: float(off[name] / norms[name]) for name in counted}


def settle(model: Any, inputs: dict[str, Tensor], sides: dict[str, Gradients]) -> dict[str, float]:
    """How far each side is from plain Transformers in float64; raises where ours is twice as far.

    In float32 both sides round: where a likelihood of 100 nats is told to 1e-5 of a nat, what
    reaches the question encoder is right to 1e-4 on neither.
    """
    model.double()
    exact = {name: t.double() if t.is_floating_point() else t for name, t in inputs.items()}

    def step() -> Tensor:
        loss = plain_loss(model, exact)
        loss.backward()
        return loss.detach()

    expected = loss_and_gradients(model, step)[1]
    model.float()
    zero_gradients(model)
    off = {name: distances(gradients, expected)[1] for name, gradients in sides.items()}
    for name, ours in off["ours"].items():
        if ours > 2 * off["plain"][name]:
            raise SystemExit(
                f"The sides differ: from float64, {name} has gradients {ours:.1e} apart in ours, "
                f"{off['plain'][name]:.1e} in plain Transformers."
            )
    return {f"float64_gradients_apart_{name}": max(found.values()) for name, found in off.items()}


def check_equal(args: Any, model: Any, inputs: dict[str, Tensor]) -> dict[str, float]:
    """Loss and gradients of both sides, in fp32; raises where they differ."""
    exact = type(args)(**{**vars(args), "dtype": "fp32"})
    found = {
        name: loss_and_gradients(model, step)
        for name, step in steps_of(exact, model, inputs).items()
    }
    (ours, our_grads), (plain, plain_grads) = found["ours"], found["plain"]
    loss_off = abs(ours - plain) / abs(plain)
    every, each = distances(our_grads, plain_grads)
    if not (loss_off <= 1e-5 and every <= args.gradient_tolerance):
        raise SystemExit(
            f"The sides differ: loss {ours} and {plain} ({loss_off:.1e} apart, at most 1e-5), "
            f"gradients {every:.1e} apart (at most {args.gradient_tolerance:.0e})."
        )
    result = {"loss": plain, "loss_apart": loss_off, "gradients_apart": every}
    result["one_parameter_apart"] = max(each.values())
    if result["one_parameter_apart"] > args.gradient_tolerance:
        result |= settle(model, inputs, {"ours": our_grads, "plain": plain_grads})
    if args.dtype != "fp32":
        for name, step in steps_of(args, model, inputs).items():
            loss, gradients = loss_and_gradients(model, step)
            result[f"{args.dtype}_loss_apart_{name}"] = abs(loss - plain) / abs(plain)
            result[f"{args.dtype}_gradients_apart_{name}"] = distances(gradients, plain_grads)[0]
    return result


def whole_steps(args: Any, model: Any, inputs: dict[str, Tensor]) -> dict[str, Callable]:
    """Steps that also clip to a norm of 1 and run AdamW."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-7, fused=True)

    def whole(step: Callable[[], Tensor]) -> None:
        step()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    steps = steps_of(args, model, inputs)
    return {name: lambda step=step: whole(step) for name, step in steps.items()}


def measure(args: Any) -> dict[str, Any]:
    """Everything that the line of JSON holds."""
    memory = {
        side: side_by_side.in_own_process(__file__, [*args.words, "--memory_of", side])
        for side in ("ours", "plain")
    }
    model = build_model(args)
    inputs = build_inputs(args, model)
    checked = check_equal(args, model, inputs)
    zero_gradients(model)
    steps = steps_of(args, model, inputs)

    def cleared(step: Callable[[], Tensor]) -> None:
        step()
        model.zero_grad()

    sides = {name: lambda step=step: cleared(step) for name, step in steps.items()}
    operations = {name: side_by_side.with_operations(call)[1] for name, call in sides.items()}
    step = side_by_side.alternate(sides, args.repeats, args.device, warmups=0)  # warm by now
    rate = side_by_side.matrix_rate(args.device, side_by_side.DTYPES[args.dtype])
    seconds = step["seconds"]
    whole = side_by_side.alternate(whole_steps(args, model, inputs), args.repeats, args.device)
    tokens = int(inputs["mask"].sum())
    return {
        "benchmark": "train",
        "head": args.head,
        "ratio": step["ratio"],
        "step": step,
        "whole_step": whole,
        "equal": checked,
        "memory": memory,
        "memory_ratio": round(memory["ours"]["above_mb"] / memory["plain"]["above_mb"], 3),
        "context_tokens_per_second": {n: round(tokens / s, 1) for n, s in seconds.items()},
        "matrix_rate_gflops": round(rate / 1e9, 1),
        "share_of_matrix_rate": {n: round(operations[n] / s / rate, 3) for n, s in seconds.items()},
        "gflop": {name: round(count / 1e9, 1) for name, count in operations.items()},
        "sizes": {
            "size": args.size,
            "dtype": args.dtype,
            "batch_size": args.batch_size,
            "n_docs": args.n_docs,
            "contexts": "synthetic" if args.text is None else args.text.name,
            "context_length": round(tokens / len(inputs["mask"]), 1),
            "longest_context": inputs["mask"].shape[1],
            "max_combined_length": MAX_COMBINED_LENGTH,
            "target_length": inputs["labels"].shape[1] - 1,
            "repeats": args.repeats,
        },
        **side_by_side.facts(args.device),
    }


def main() -> None:
    import sys

    assert __doc__ is not None
    parser = side_by_side.make_parser(__doc__)
    parser.add_argument("--head", choices=("rag_sequence", "rag_token"), default="rag_sequence")
    parser.add_argument("--batch_size", type=int, default=4, help="questions a step")
    parser.add_argument("--n_docs", type=int, default=5, help="passages a question")
    parser.add_argument("--text", type=Path, help="real passages, one a line; default: synthetic")
    parser.add_argument(
        "--tokenizer", type=Path, default=DATA / "starter/generator", help="cuts --text"
    )
    # cuBLAS rounds float32 products differently at other shapes; on a CPU 1e-4 holds.
    parser.add_argument("--gradient_tolerance", type=float, default=1e-4)
    args = parser.parse_args()
    args.words = sys.argv[1:]
    side_by_side.use_threads(args.threads)
    side_by_side.finish(measure_memory(args) if args.memory_of else measure(args))


if __name__ == "__main__":
    main()
