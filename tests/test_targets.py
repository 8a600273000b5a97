"""Losses without padding and logits against the plain pass through the same model."""

import copy

import pytest
import tiny_rag
import torch
from tiny_training import logged, train_tiny
from torch import nn
from transformers import BartForConditionalGeneration

from rag_finetune.losses import linear
from rag_finetune.losses.likelihood import rag_negative_log_likelihood
from rag_finetune.rag import scoring
from rag_finetune.rag.checkpoint import Rag
from rag_finetune.rag.targets import TargetLosses, linear_head

N_DOCS, PAD = 3, {"bart": 1, "t5": 0}
HEADS = pytest.mark.parametrize("model_type", ["rag_sequence", "rag_token"])


@pytest.fixture(scope="module", params=["bart", "t5"])
def kind(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def rags(kind, tmp_path_factory) -> dict[str, Rag]:
    """Both heads over a generator whose outputs are far from uniform."""
    loaded = {}
    for model_type in ("rag_sequence", "rag_token"):
        folder = tmp_path_factory.mktemp(model_type)
        loaded[model_type] = tiny_rag.tiny_rag(folder, kind, model_type, dropout=0.0)
        loaded[model_type].model.config.do_marginalize = False
        tiny_rag.spread(loaded[model_type].model.rag.generator, 0.5)
    return loaded


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    """Several groups of contexts and several chunks of rows, also at this size."""
    monkeypatch.setitem(scoring.OPERATIONS_PER_CALL, "cpu", 0.0)
    monkeypatch.setattr(linear, "VALUES_PER_CHUNK", 200)


def inputs(kind: str, seed: int) -> dict[str, torch.Tensor]:
    """Random contexts, scores and labels of different lengths."""
    draw = torch.Generator().manual_seed(seed)

    def rows(count: int, longest: int) -> tuple[torch.Tensor, torch.Tensor]:
        ids = torch.randint(5, 40, (count, longest), generator=draw)
        lengths = torch.randint(3, longest + 1, (count, 1), generator=draw)
        mask = torch.arange(longest) < lengths
        return ids.masked_fill(~mask, PAD[kind]), mask.long()

    contexts, mask = rows(4 * N_DOCS, 20)
    labels, _ = rows(4, 7)
    labels[:, 0] = {"bart": 2, "t5": 0}[kind]
    doc_scores = torch.randn(4, N_DOCS, generator=draw)
    return {"ids": contexts, "mask": mask, "labels": labels, "doc_scores": doc_scores}


def fast(model, batch, *weights: float) -> torch.Tensor:
    losses = TargetLosses(model)
    with losses.watch():
        logits = forward(model, batch, losses.decoder_input_ids(batch["labels"]))
    assert logits.shape[1] == 0
    return losses.of(logits, batch["labels"], batch["doc_scores"], *weights)


def slow(model, batch, *weights: float) -> torch.Tensor:
    names = ("label_smoothing", "passage_loss_weight", "doubt_weight")
    return rag_negative_log_likelihood(
        forward(model, batch, batch["labels"]),
        batch["labels"],
        batch["doc_scores"],
        pad_token_id=model.config.generator.pad_token_id,
        per_token="Token" in type(model).__name__,
        **dict(zip(names, weights, strict=False)),
    )


def forward(model, batch, decoder_input_ids) -> torch.Tensor:
    return model(
        context_input_ids=batch["ids"],
        context_attention_mask=batch["mask"],
        doc_scores=batch["doc_scores"],
        decoder_input_ids=decoder_input_ids,
        n_docs=N_DOCS,
        use_cache=False,
    ).logits


def gradients(model, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.sum().backward()
    grads = model.generator.named_parameters()
    return {name: p.grad.clone() for name, p in grads if p.grad is not None}


@HEADS
@pytest.mark.parametrize("weights", [(0.0, 0.0, 0.0), (0.1, 0.3, 0.0), (0.0, 0.0, 0.4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", range(2))
def test_losses_and_gradients_equal_those_of_the_plain_pass(
    rags, kind, model_type, weights, dtype, seed
):
    model, batch = copy.deepcopy(rags[model_type].model).to(dtype), inputs(kind, seed)
    batch["doc_scores"] = batch["doc_scores"].to(dtype)
    loss, expected = (run(model, batch, *weights) for run in (fast, slow))
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(loss, expected, rtol=tolerance, atol=0)
    found, wanted = gradients(model, loss), gradients(model, expected)
    assert found.keys() == wanted.keys()
    for name, grad in wanted.items():
        off = torch.linalg.vector_norm(found[name] - grad)
        assert off <= 10 * tolerance * torch.linalg.vector_norm(grad) + 10 * tolerance, name


@HEADS
def test_autocast_rounds_no_more_than_the_plain_pass(rags, kind, model_type):
    model, batch = rags[model_type].model, inputs(kind, 0)
    exact = slow(model, batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = slow(model, batch)
        losses = TargetLosses(model)
        with losses.watch():
            logits = forward(model, batch, losses.decoder_input_ids(batch["labels"]))
        assert losses._states.dtype == torch.bfloat16
    loss = losses.of(logits, batch["labels"], batch["doc_scores"])  # as the trainer: outside
    assert loss.dtype == torch.float32
    assert (loss - exact).abs().max() <= 2 * (rounded - exact).abs().max() + 1e-2
    wanted, *others = (gradients(model, of) for of in (exact, rounded, loss))
    by_plain, by_ours = (
        sum((grads[name] - grad).square().sum() for name, grad in wanted.items())
        for grads in others
    )
    assert by_ours <= 1.5 * by_plain


@HEADS
def test_a_bias_behind_the_output_layer_counts(rags, kind, model_type):
    model, batch = copy.deepcopy(rags[model_type].model), inputs(kind, 0)
    draw = torch.Generator().manual_seed(0)
    bias = torch.randn(model.generator.get_output_embeddings().out_features, generator=draw)
    if kind == "bart":
        model.generator.final_logits_bias = bias.unsqueeze(0)
    else:
        model.generator.lm_head.bias = nn.Parameter(bias)
    loss, expected = fast(model, batch), slow(model, batch)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
    assert not torch.allclose(loss, slow(rags[model_type].model, batch))
    found, wanted = gradients(model, loss), gradients(model, expected)
    assert ("lm_head.bias" in wanted) is (kind == "t5")
    for name, grad in wanted.items():
        torch.testing.assert_close(found[name], grad, rtol=1e-3, atol=1e-4)


class Capped(BartForConditionalGeneration):
    """A BART whose logits are capped, as those of T5Gemma are."""

    def forward(self, *args, **kwargs):
        outputs = super().forward(*args, **kwargs)
        outputs.logits = 3 * torch.tanh(outputs.logits / 3)
        return outputs


@HEADS
def test_a_generator_that_does_more_to_its_logits_keeps_them(rags, kind, model_type):
    if kind != "bart":
        pytest.skip("Capped is a BART")
    model, batch = copy.deepcopy(rags[model_type].model), inputs(kind, 0)
    assert linear_head(model.generator) is model.generator.lm_head
    model.generator.__class__ = Capped
    assert linear_head(model.generator) is None
    losses = TargetLosses(model)
    with losses.watch():
        logits = forward(model, batch, losses.decoder_input_ids(batch["labels"]))
    loss = losses.of(logits, batch["labels"], batch["doc_scores"])
    torch.testing.assert_close(loss, slow(model, batch), rtol=1e-5, atol=0)


def test_the_look_at_a_generator_leaves_it_as_it_was(rags):
    generator = copy.deepcopy(rags["rag_sequence"].model.generator).train()
    state = torch.get_rng_state()
    assert linear_head(generator) is generator.get_output_embeddings()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in generator.modules())
    assert all(parameter.grad is None for parameter in generator.parameters())
    assert not generator.get_output_embeddings()._forward_pre_hooks
    # A layer that is not linear alone is none, whatever it gives.
    generator.set_output_embeddings(nn.Sequential(generator.get_output_embeddings()))
    assert linear_head(generator) is None


@HEADS
@pytest.mark.parametrize("capped", [False, True])
def test_what_the_answers_tokens_are_worth_is_kept_where_it_is_wanted(
    rags, kind, model_type, capped
):
    model, batch = copy.deepcopy(rags[model_type].model), inputs(kind, 0)
    if capped and kind == "bart":
        model.generator.__class__ = Capped
    losses = TargetLosses(model)
    losses.seen = []
    for _ in range(2):  # what a pass left is gone with the next one
        with losses.watch():
            logits = forward(model, batch, losses.decoder_input_ids(batch["labels"]))
        losses.of(logits, batch["labels"], batch["doc_scores"])
    (found,) = losses.seen
    assert found.shape == (4, N_DOCS, 6) and not found.requires_grad
    plain = forward(model, batch, batch["labels"]).log_softmax(-1)
    for b, k, t in torch.ones(4, N_DOCS, 6).nonzero().tolist():
        target = batch["labels"][b, t + 1].item()
        if target != PAD[kind]:
            expected = plain[b * N_DOCS + k, t, target].item()
            assert found[b, k, t].item() == pytest.approx(expected, rel=1e-4)


def test_hooks_are_gone_after_an_error(rags):
    model = rags["rag_sequence"].model
    with pytest.raises(RuntimeError, match="stop"), TargetLosses(model).watch():
        raise RuntimeError("stop")
    assert not model.generator._forward_pre_hooks
    assert not model.generator.get_output_embeddings()._forward_pre_hooks


@HEADS
def test_training_equals_training_from_logits(tmp_path, monkeypatch, kind, model_type):
    """The whole step, evaluation too: losses and norms of gradients."""
    found = []
    for name in ("fast", "slow"):
        if name == "slow":
            monkeypatch.setattr("rag_finetune.rag.targets.linear_head", lambda generator: None)
            monkeypatch.setattr(scoring, "LENGTH_GROUPS", 1)
        rag = tiny_rag.tiny_rag(tmp_path / name, kind, model_type, dropout=0.0)
        trainer = train_tiny(
            tmp_path / name,
            rag=rag,
            eval_questions=tiny_rag.questions(5),
            eval_strategy="steps",
            eval_steps=2,
            predict_with_generate=False,
            gradient_accumulation_steps=2,
            max_steps=4,
        )
        assert (trainer.target_losses.head is None) is (name == "slow")
        found.append([logged(trainer, key) for key in ("loss", "grad_norm", "eval_loss")])
    for ours, expected in zip(*found, strict=True):
        assert ours == pytest.approx(expected, rel=1e-4)
        assert expected
