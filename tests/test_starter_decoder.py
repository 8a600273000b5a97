"""The small decoder-only generator of data/starter: what it is shown, and that it can learn."""

import json
import sys

import pytest
import test_starter
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from rag_finetune.rag.prompt_template import PromptTemplate
from rag_finetune.rag.prompts import PromptWriter

MODULES = (*test_starter.MODULES, "decoder", "train_decoder")


@pytest.fixture
def made(monkeypatch):
    """The modules decoder and train_decoder, by name."""
    monkeypatch.syspath_prepend(str(test_starter.STARTER))
    for name in MODULES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    import decoder
    import train_decoder

    yield {"decoder": decoder, "train_decoder": train_decoder}
    for name in MODULES:
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def starter():
    """The starter's generator."""
    folder = test_starter.STARTER / "generator"
    return AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32)


@pytest.fixture
def shown(made):
    """A batch of a plain stage, with the tokenizer."""
    from reading import reading_examples
    from rounds import Stage
    from sheets import Author

    decoder = made["decoder"]
    words = AutoTokenizer.from_pretrained(test_starter.STARTER / "generator")
    words = decoder.decoder_tokenizer(words)
    writer = PromptWriter(words, PromptTemplate(decoder.TEMPLATE))
    examples = reading_examples(Author(3), Stage(1, 8, 10, 40))
    return next(decoder.batches(words, writer, examples, 8, pool=2)), words


def test_the_guide_points_at_the_answer_within_the_passage(shown):
    batch, words = shown
    assert batch.told.all() and batch.held.any(-1).all()
    for row in range(len(batch.ids)):
        steps = batch.targets[row].nonzero().squeeze(-1)
        answer = batch.ids[row, steps + 1].tolist()
        assert answer[-1] == words.eos_token_id
        for step, token in zip(steps.tolist(), answer[:-1], strict=False):
            looked_at = batch.ids[row][batch.shown[row, step]]
            assert looked_at.tolist() == [token] * len(looked_at) and len(looked_at)
        line = words.convert_tokens_to_ids("Ċ")
        lines = (batch.ids[row] == line).nonzero().squeeze(-1)
        held = batch.held[row].nonzero()
        assert lines[0] < held.min() and held.max() < lines[-1]


def test_a_step_lowers_the_loss_of_its_batch(made, shown, starter):
    batch, _ = shown
    torch.manual_seed(0)
    model = made["decoder"].decoder_from(starter)
    guide = made["decoder"].DecoderGuide(model)
    optimizer = torch.optim.SGD([*model.parameters(), *guide.parameters()], lr=0.02)
    found = []
    for _ in range(2):
        found.append(made["train_decoder"].train_step(model, guide, batch, 0.0))
        optimizer.step()
        optimizer.zero_grad()
    assert all(found[1][name] < found[0][name] for name in ("loss", "pointing", "finding"))


def test_it_begins_with_what_the_starter_knows(made, starter):
    model = made["decoder"].decoder_from(starter)
    ids = torch.tensor([[2, 700, 31, 5]])
    states = model.model(ids, output_hidden_states=True).hidden_states
    encoder = starter.model.encoder
    mask = torch.full((4, 4), -torch.inf).triu(1)[None, None]
    wanted = encoder.layernorm_embedding(encoder.embed_tokens(ids) + encoder.embed_positions(ids))
    assert torch.allclose(states[1], wanted, atol=1e-3)
    for place, layer in enumerate(encoder.layers, start=2):
        wanted = layer(wanted, mask)
        assert torch.allclose(states[place], wanted, atol=1e-3)
    sources = starter.model.decoder.layers
    for layer, source in zip(model.model.decoder.layers[-len(sources) :], sources, strict=True):
        assert same(layer.self_attn, source.encoder_attn)
        assert same(layer.self_attn_layer_norm, source.encoder_attn_layer_norm)
        assert same(layer.fc2, source.fc2)


def same(one, other) -> bool:
    """Whether two modules have equal weights."""
    weights = one.state_dict()
    return all(torch.equal(weights[name], tensor) for name, tensor in other.state_dict().items())


def test_the_recipe_asks_as_it_was_taught(made):
    recipe = test_starter.STARTER.parents[1] / "configs/elements_causal.yaml"
    asked = yaml.safe_load(recipe.read_text())["prompt_template"]
    assert asked == made["decoder"].TEMPLATE


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_and_leaves_an_ordinary_folder(made, tmp_path, monkeypatch):
    from rounds import Stage

    train_decoder = made["train_decoder"]
    monkeypatch.setattr(train_decoder, "SAVED_EVERY", 1)
    real, steps = train_decoder.train_step, []

    def stop_at_the_third(*args):
        if len(steps) == 2:
            raise KeyboardInterrupt
        steps.append(1)
        return real(*args)

    monkeypatch.setattr(train_decoder, "train_step", stop_at_the_third)
    stages = (Stage(2, 4, 5, 12), Stage(2, 4, 8, 20, silence=0.3, irrelevant=0.5))
    with pytest.raises(KeyboardInterrupt):
        train_decoder.train(tmp_path, stages)
    assert torch.load(tmp_path / "decoder.state", weights_only=True)["done"] == 2
    monkeypatch.setattr(train_decoder, "train_step", lambda *args: steps.append(1) or real(*args))
    train_decoder.train(tmp_path, stages)
    assert len(steps) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["decoder"]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "decoder")
    size = (tmp_path / "decoder/model.safetensors").stat().st_size
    assert model.config.model_type == "opt" and size < 4_000_000
    assert (
        json.loads((tmp_path / "decoder/generation_config.json").read_text())["eos_token_id"] == 2
    )
