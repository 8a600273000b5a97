import pytest
import tiny_rag
import torch
from transformers import (
    DynamicCache,
    EncoderDecoderCache,
    RagTokenForGeneration,
    T5GemmaConfig,
    T5GemmaForConditionalGeneration,
)
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.t5gemma.configuration_t5gemma import T5GemmaModuleConfig

from rag_finetune.rag import sharing
from rag_finetune.rag.sharing import SharedContexts, generate_rag_token

CONTEXTS, LENGTH = 5, 9


@pytest.fixture(scope="module", params=["bart", "t5"])
def generator(request) -> torch.nn.Module:
    """A generator whose outputs are far from uniform."""
    generator = tiny_rag.generator(request.param).eval()
    tiny_rag.spread(generator, 0.5)
    return generator


@pytest.fixture
def contexts(generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Encoder states and mask of contexts of different lengths."""
    draw = torch.Generator().manual_seed(0)
    states = torch.randn(CONTEXTS, LENGTH, generator.config.hidden_size, generator=draw)
    lengths = torch.tensor([9, 4, 1, 7, 9])
    return states, (torch.arange(LENGTH) < lengths.unsqueeze(1)).long()


def by_copies(generator, states, mask, rows, ids) -> torch.Tensor:
    """Logits from a copy of its context for every row, without a cache."""
    return generator(
        encoder_outputs=(states[rows],), attention_mask=mask[rows], decoder_input_ids=ids
    ).logits


def by_sharing(shared, rows, ids, cut) -> torch.Tensor:
    """Logits from shared contexts, the first `cut` tokens at once and then one by one."""
    found, written = [], DynamicCache()
    for part in (ids[:, :cut], *ids[:, cut:].split(1, dim=1)):
        with shared.read_by(rows, written) as past:
            found.append(
                shared.generator(
                    encoder_outputs=shared.encoder_outputs(len(rows)),
                    attention_mask=shared.mask[rows],
                    decoder_input_ids=part,
                    past_key_values=past,
                    use_cache=True,
                ).logits
            )
    return torch.cat(found, dim=1)


@pytest.mark.parametrize("is_shared", [True, False])
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize(
    "rows",
    [[0, 1, 2, 3, 4], [0, 0, 1, 1, 2, 2, 3, 3, 4, 4], [3, 0, 3, 3, 1], [4], [2, 2, 2, 2, 2, 0]],
)
@torch.no_grad()
def test_rows_that_share_contexts_equal_rows_with_copies(
    generator, contexts, rows, implementation, is_shared
):
    generator.set_attn_implementation(implementation)
    states, mask = contexts
    shared, rows = SharedContexts(generator, states, mask), torch.tensor(rows)
    assert shared.is_shared
    shared.is_shared = is_shared
    ids = torch.randint(4, 30, (len(rows), 6), generator=torch.Generator().manual_seed(1))
    expected = by_copies(generator, states, mask, rows, ids)
    assert expected.std() > 0.1
    for cut in (1, 3):
        found = by_sharing(shared, rows, ids, cut)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_contexts_without_padding_need_no_mask_and_are_all_read(generator, contexts):
    states, mask = contexts[0], torch.ones_like(contexts[1])
    shared, rows = SharedContexts(generator, states, mask), torch.tensor([1, 1, 4])
    ids = torch.randint(4, 30, (3, 4), generator=torch.Generator().manual_seed(2))
    expected = by_copies(generator, states, mask, rows, ids)
    torch.testing.assert_close(by_sharing(shared, rows, ids, 2), expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_decoder_that_keeps_its_attention_to_itself_is_noticed(generator, contexts, monkeypatch):
    plain = sharing.sdpa_attention_forward
    monkeypatch.setitem(sharing.AttentionInterface._global_mapping, sharing.ATTENTION, plain)
    assert not SharedContexts(generator, *contexts).is_shared


@torch.no_grad()
def test_attention_that_sdpa_cannot_compute_stays_the_decoders_own():
    """T5Gemma caps the scores of its attention, which sdpa leaves out."""
    part = T5GemmaModuleConfig(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        attn_logit_softcapping=0.2,
    )
    generator = T5GemmaForConditionalGeneration(
        T5GemmaConfig(encoder=part, decoder=part, vocab_size=40, decoder_start_token_id=2)
    ).eval()
    tiny_rag.spread(generator, 0.5)
    draw = torch.Generator().manual_seed(0)
    states, mask = torch.randn(3, 5, 16, generator=draw), torch.ones(3, 5, dtype=torch.long)
    rows, ids = torch.tensor([0, 2, 2]), torch.randint(4, 40, (3, 4), generator=draw)
    outputs = BaseModelOutput(last_hidden_state=states[rows])
    expected = generator(
        encoder_outputs=outputs, attention_mask=mask[rows], decoder_input_ids=ids
    ).logits
    found = by_sharing(SharedContexts(generator, states, mask), rows, ids, 1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_attention_is_as_before_also_after_an_error(generator, contexts):
    generator.set_attn_implementation("eager")
    shared = SharedContexts(generator, *contexts)
    with pytest.raises(KeyboardInterrupt), shared.read_by(torch.tensor([0])):
        assert generator.get_decoder().config._attn_implementation == sharing.ATTENTION
        raise KeyboardInterrupt
    assert generator.get_decoder().config._attn_implementation == "eager"
    assert sharing._READING.get() is None


def test_beams_of_several_passages_change_places_as_in_transformers():
    draw = torch.Generator().manual_seed(0)
    beams, n_docs, layers = 4, 3, 2
    caches = DynamicCache(), DynamicCache()
    for cache in caches:
        for layer in range(layers):
            keys, values = torch.randn(2, beams * n_docs, 2, 5, 4, generator=draw)
            cache.update(keys, values, layer)
    order = torch.tensor([1, 1, 0, 3])
    expected = RagTokenForGeneration._reorder_cache(EncoderDecoderCache(*caches), order)
    cross = [layer.keys.clone() for layer in caches[1].layers]
    found = sharing._reorder_groups(EncoderDecoderCache(*caches), order)
    for layer in range(layers):
        for name in ("keys", "values"):
            torch.testing.assert_close(
                getattr(found.self_attention_cache.layers[layer], name),
                getattr(expected.self_attention_cache.layers[layer], name),
            )
        assert torch.equal(found.cross_attention_cache.layers[layer].keys, cross[layer])


@torch.no_grad()
def test_a_failed_search_of_rag_token_leaves_the_model_as_it_was(tmp_path):
    model = tiny_rag.tiny_rag(tmp_path, model_type="rag_token").model
    generator = model.rag.generator
    ids = torch.full((2, 3), 5)
    states = generator.get_encoder()(ids).last_hidden_state
    shared = SharedContexts(generator, states, torch.ones_like(ids))
    with pytest.raises(ValueError, match="no_such_option"):
        generate_rag_token(
            model,
            shared,
            torch.arange(2),
            context_input_ids=ids,
            context_attention_mask=shared.mask,
            doc_scores=torch.zeros(1, 2),
            n_docs=2,
            no_such_option=1,
        )
    assert "get_encoder" not in vars(generator)
    assert model._reorder_cache is RagTokenForGeneration._reorder_cache
