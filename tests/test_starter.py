"""The starter model of data/starter: what is in the repository, not its training."""

import json
import re
import sys

import pytest
import torch
from conftest import ROOT
from safetensors.torch import load_file
from tiny_job import ok
from transformers import AutoModel, AutoModelForSeq2SeqLM, AutoTokenizer

from rag_finetune.data.passages import load_passages
from rag_finetune.data.qa import load_questions
from rag_finetune.encoders.load import load_context_encoder, load_question_encoder
from rag_finetune.metrics.text import exact_match_score

STARTER = ROOT / "data" / "starter"
MODULES = (
    "sheets",
    "relations",
    "values",
    "writer",
    "networks",
    "reading",
    "rounds",
    "tokenizer",
    "finding",
    "scores",
    "train_starter",
)
PARTS = ("question_encoder", "context_encoder", "generator")
ELEMENTS = """hydrogen helium lithium beryllium boron carbon nitrogen oxygen fluorine neon sodium
magnesium aluminium aluminum silicon phosphorus sulfur sulphur chlorine argon potassium calcium
scandium titanium vanadium chromium manganese iron cobalt nickel copper zinc gallium germanium
arsenic selenium bromine krypton rubidium strontium yttrium zirconium niobium molybdenum technetium
ruthenium rhodium palladium silver cadmium indium tin antimony tellurium iodine xenon caesium cesium
barium lanthanum cerium praseodymium neodymium promethium samarium europium gadolinium terbium
dysprosium holmium erbium thulium ytterbium lutetium hafnium tantalum tungsten rhenium osmium
iridium platinum gold mercury thallium lead bismuth polonium astatine radon francium radium actinium
thorium protactinium uranium neptunium plutonium americium curium berkelium californium einsteinium
fermium mendelevium nobelium lawrencium rutherfordium dubnium seaborgium bohrium hassium meitnerium
darmstadtium roentgenium copernicium nihonium flerovium moscovium livermorium tennessine
oganesson""".split()


@pytest.fixture
def sheets(monkeypatch):
    monkeypatch.syspath_prepend(str(STARTER))
    import sheets

    yield sheets
    for name in MODULES:
        sys.modules.pop(name, None)


@pytest.fixture
def networks(sheets):
    import networks

    return networks


@pytest.fixture
def reading(sheets):
    import reading

    return reading


@pytest.fixture
def scores(sheets):
    import scores

    return scores


@pytest.fixture
def train_starter(sheets):
    import train_starter

    return train_starter


def words_of(text):
    return set(re.findall(r"[a-z]+", text.lower()))


def test_the_words_and_templates_name_no_element():
    for name in ("words.txt", "templates.json", "templates_wide.json"):
        assert not words_of((STARTER / name).read_text(encoding="utf-8")) & set(ELEMENTS), name


def test_drawn_sheets_name_no_element(sheets):
    author = sheets.Author(5)
    for _ in range(100):
        world = author.world(3, 10)
        for passage in world.passages(world.subjects[0], 2, 50, 100):
            assert not words_of(passage.title + " " + passage.text) & set(ELEMENTS)


def test_invented_names_are_no_elements(sheets):
    author = sheets.Author(6)
    assert not {author.name().lower() for _ in range(20_000)} & set(ELEMENTS)


def test_names_of_a_kind_may_end_alike(sheets):
    names = sheets.Author(8).world(40, 2, 0.0, 0.9).subjects
    endings = [name[-2:] for name in names]
    assert max(endings.count(one) for one in set(endings)) >= 10


@pytest.mark.parametrize("wide", [False, True])
def test_every_answer_stands_in_its_passage(sheets, wide):
    author = sheets.Author(7)
    author.wide = wide
    for _ in range(30):
        world = author.world(4, 10)
        for passage in world.passages(world.subjects[1], 2, 50, 100):
            for fact in passage.facts:
                text = f"{passage.title} {passage.text}".lower()
                for reverse in (False, True):
                    question = world.question(fact, reverse)
                    if reverse:
                        assert question.answer in (fact[0], world.values[fact]), question
                    else:
                        assert question.answer.lower() in text, (question, text)


def test_the_same_seed_draws_the_same_sheets(sheets):
    def drawn(seed):
        world = sheets.Author(seed).world(4, 10)
        return world.passages(world.subjects[0], 2, 50, 100), sorted(world.values.items())

    assert drawn(3) == drawn(3) != drawn(4)


def test_wide_sheets_hold_what_plain_ones_do_not(sheets):
    def kinds(wide):
        author = sheets.Author(9)
        author.wide = wide
        worlds = [author.world(2, 12, labels=0.1) for _ in range(40)]
        return {one.kind for world in worlds for one in world.relations.values()}

    wide, plain = kinds(True), kinds(False)
    assert "sort" in wide - plain
    assert any(kind[0] == "-" for kind in wide)
    assert not any(kind[0] == "-" for kind in plain)


def test_sentences_about_other_things_follow_as_often_as_asked(sheets):
    def of_others(contrasts):
        author = sheets.Author(11)
        author.wide, author.contrasts = True, contrasts
        found = []
        for _ in range(20):
            world = author.world(4, 12)
            subject = world.subjects[0]
            for passage in world.passages(subject, 2, 20, 60):
                found += [fact for fact in passage.facts if fact[0] != subject]
                for name, key in passage.facts:  # what is told of others is known to be told
                    assert world.values[name, key].lower() in passage.text.lower()
        return len(found)

    assert of_others(1.0) > 1.5 * of_others(0.0)


def test_plain_sheets_draw_nothing_for_sentences_that_they_do_not_hold(sheets):
    author = sheets.Author(3)
    plain = author.chance

    def chance(share):  # a draw of which nothing can come would change all that follow
        assert share > 0
        return plain(share)

    author.chance = chance
    world = author.world(4, 10)
    assert world.passages(world.subjects[0], 2, 50, 100)


def test_statements_of_wide_sheets_begin_with_the_value_more_often(sheets):
    from writer import Writer

    def fronted(wide):
        author = sheets.Author(12)
        author.wide = wide
        count = 0
        for _ in range(30):
            world = author.world(2, 10)
            writer = Writer(world, world.subjects[0])
            for key, one in world.relations.items():
                value = world.values[world.subjects[0], key]
                count += writer._single(world.subjects[0], one).startswith(value)
        return count

    assert fronted(True) > 1.3 * fronted(False)


def test_a_comparison_without_a_value_states_no_fact(sheets):
    from writer import Writer

    author = sheets.Author(10)
    author.wide = True
    world = author.world(4, 12)
    writer = Writer(world, world.subjects[0])
    texts = [writer._unvalued() for _ in range(200)]
    assert not writer.facts
    assert not any("{" in text for text in texts)
    named = [text for text in texts if any(name in text for name in world.subjects[1:])]
    assert len(named) == 200


def test_padding_that_is_read_fills_up_to_the_room(sheets, reading):
    contexts = torch.tensor([[5, 6, 7], [5, 1, 1]])
    author = sheets.Author(11)
    widths = {reading.padding_to_read(author, contexts).shape[1] for _ in range(300)}
    assert min(widths) >= 3 and max(widths) <= reading.ROOM and len(widths) > 50
    padded = reading.padding_to_read(author, contexts)
    assert (padded[:, :3] == contexts).all() and (padded[:, 3:] == 1).all()
    long = torch.full((1, reading.ROOM + 9), 5)
    assert reading.padding_to_read(author, long).shape == long.shape


def test_turned_sinusoids_are_those_of_another_position(networks):
    waves = networks.sinusoids(30)
    for places in (-2, -1, 1, 5):
        there = waves[10 + places : 20 + places]
        assert torch.allclose(waves[10:20] @ networks.turned(places).T, there, atol=1e-5)


@torch.no_grad()
def test_the_untrained_generator_looks_at_the_token_before(networks):
    torch.manual_seed(0)
    model = networks.new_generator(200).eval()
    model.set_attn_implementation("eager")
    ids = torch.randint(5, 200, (2, 30))
    heads = model.model.encoder(ids, output_attentions=True).attentions[0]
    for head, place in ((0, -1), (1, 1), (2, -2)):
        looked = heads[:, head, 5:25].argmax(-1)
        share = (looked == torch.arange(5, 25) + place).float().mean()
        assert share >= 0.6, (head, place, share)


@torch.no_grad()
def test_new_layers_of_the_encoder_change_next_to_nothing(networks):
    model = AutoModelForSeq2SeqLM.from_pretrained(STARTER / "generator").eval()
    layers = len(model.model.encoder.layers)
    contexts = torch.randint(5, 2000, (8, 60))
    contexts[:4, 40:] = 1
    real = contexts != 1
    before = model(contexts, real.long(), decoder_input_ids=contexts[:, :5]).logits.softmax(-1)
    networks.deepen_encoder(model, (0, layers - 1), contexts, real)
    assert len(model.model.encoder.layers) == model.config.encoder_layers == layers + 2
    after = model(contexts, real.long(), decoder_input_ids=contexts[:, :5]).logits.softmax(-1)
    assert 0 < (before - after).abs().sum(-1).mean() < 0.3


def test_new_layers_of_the_encoder_learn(networks, reading):
    torch.manual_seed(0)
    model = networks.new_generator(200)
    contexts = torch.tensor([[0, 7, 8, 9, 7, 8, 20, 7, 8, 2]])
    real = torch.ones_like(contexts, dtype=torch.bool)
    networks.deepen_encoder(model, (1,), contexts, real)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):  # what the new layer adds is zero, and so is the rest's first gradient
        optimizer.zero_grad()
        labels, told = torch.tensor([[2, 0, 7, 8, 2]]), torch.tensor([True])
        reading.generator_losses(model, contexts, labels, real, told)[0].backward()
        optimizer.step()
    gradients = [weight.grad for weight in model.model.encoder.layers[2].parameters()]
    assert all(gradient is not None for gradient in gradients)
    assert model.model.encoder.layers[2].fc1.weight.grad.abs().sum() > 0
    assert model.model.encoder.layers[2].self_attn.v_proj.weight.grad.abs().sum() > 0


@torch.no_grad()
def test_a_changed_vocabulary_keeps_known_tokens_and_sums_pieces(networks, reading):
    from tokenizer import train_tokenizer, wrap

    texts = ["velmora melts at 431 degrees", "karduin is used in lamps", "velmora is grey"] * 9
    old = wrap(train_tokenizer(texts, 270), pairs=False)
    new = wrap(train_tokenizer(texts, 320), pairs=False)
    torch.manual_seed(0)
    model = networks.new_generator(len(old)).eval()
    before = model.get_input_embeddings().weight.clone()
    ids = torch.tensor([old("velmora")["input_ids"]])
    states = model.model.encoder(torch.tensor([[0, 2]])).last_hidden_state
    networks.change_vocabulary(model, old, new)
    after = model.get_input_embeddings().weight
    assert len(after) == model.config.vocab_size == len(new) > len(old)
    assert torch.equal(model.model.encoder(torch.tensor([[0, 2]])).last_hidden_state, states)
    for token, row in old.get_vocab().items():
        assert torch.equal(after[new.get_vocab()[token]], before[row]), token
    (whole,) = new.convert_tokens_to_ids(["Ġvelmora"])
    pieces = ids[0, 1:-1]
    assert whole != new.unk_token_id and len(pieces) > 1
    torch.testing.assert_close(after[whole], before[pieces].sum(0) / len(pieces) ** 0.5)
    assert model(torch.tensor([new("velmora")["input_ids"]])).logits.shape[-1] == len(new)


def test_a_tokenizer_is_learnt_from_sheets(reading):
    tokenizer = reading.wrap(reading.learn_tokenizer(2600, 4, wide=False), pairs=False)
    assert len(tokenizer) == 2600
    assert tokenizer.tokenize("12 and 07") == ["Ġ12", "Ġand", "Ġ07"]


def test_a_graded_property_is_asked_with_its_adjective(sheets):
    from relations import graded

    author = sheets.Author(12)
    author.wide = True
    one = graded("tens", author.templates)
    noun, adjective = one.nouns[0], one.key.removeprefix("graded ")
    assert noun.startswith("tens") and adjective.startswith("tens") and noun != adjective
    assert all(f"How {adjective} is" in question for question in one.questions)


def test_where_the_answer_stands(reading):
    contexts = torch.tensor([[0, 7, 8, 9, 7, 8, 20, 7, 8, 2], [0, 5, 6, 7, 20, 9, 2, 1, 1, 1]])
    labels = torch.tensor([[2, 0, 7, 8, 2], [2, 0, 9, 2, 1]])
    places = reading.where_answers_stand(contexts, labels, divider=20)
    # step 1 writes the answer's first token; the question, after the divider, does not count
    assert places.nonzero().tolist() == [[0, 1, 1], [0, 1, 4], [0, 2, 2], [0, 2, 5]]


def test_the_guide_listens_and_teaches_the_generator(networks, reading):
    torch.manual_seed(0)
    model = networks.new_generator(200)
    guide = reading.Guide(model, 20)
    contexts = torch.tensor([[0, 7, 8, 9, 7, 8, 20, 7, 8, 2]])
    labels = torch.tensor([[2, 0, 7, 8, 2]])
    real = torch.ones_like(contexts, dtype=torch.bool)
    reading.generator_losses(model, contexts, labels, real, torch.tensor([True]))
    before = guide(contexts, labels, real)
    before.backward()
    assert model.model.decoder.layers[-1].encoder_attn.q_proj.weight.grad.abs().sum() > 0
    assert not {name for name, _ in guide.named_parameters()} - {"finder.weight", "finder.bias"}


def test_likelihood_counts_what_is_told_and_doubt_what_is_not(networks, reading):
    torch.manual_seed(0)
    model = networks.new_generator(50)
    contexts = torch.tensor([[0, 7, 8, 20, 9, 2], [0, 5, 6, 20, 9, 2], [0, 5, 9, 2, 1, 1]])
    labels = torch.tensor([[2, 0, 7, 2, 1], [2, 0, 9, 8, 2], [2, 0, 9, 2, 1]])
    real, told = contexts != 1, torch.tensor([True, False, False])
    likelihood, doubt = reading.generator_losses(model, contexts, labels, real, told)
    shares = model(contexts, real.long(), decoder_input_ids=labels[:, :-1]).logits.log_softmax(-1)
    steps = [shares[row, step] for row, step in ((1, 0), (1, 1), (1, 2), (1, 3))]
    steps += [shares[2, 0], shares[2, 1], shares[2, 2]]
    uniform = torch.full((50,), 1 / 50)
    expected = torch.stack([(uniform * (uniform.log() - step)).sum() for step in steps]).mean()
    torch.testing.assert_close(doubt, expected)
    told_steps = [shares[0, step, token] for step, token in enumerate([0, 7, 2])]
    torch.testing.assert_close(likelihood, -torch.stack(told_steps).mean())


@torch.no_grad()
def test_without_rows_of_a_kind_its_loss_is_zero(networks, reading):
    model = networks.new_generator(50)
    contexts, labels = torch.tensor([[0, 7, 8, 20, 9, 2]]), torch.tensor([[2, 0, 7, 2]])
    for told in (True, False):
        losses = reading.generator_losses(
            model, contexts, labels, contexts != 1, torch.tensor([told])
        )
        assert losses[told] == 0 and losses[not told] > 0


def test_examples_say_whether_the_passage_tells_the_answer(sheets, reading):
    from rounds import Stage

    examples = reading.reading_examples(sheets.Author(3), Stage(1, 1, 30, 60, irrelevant=0.5))
    drawn = [next(examples) for _ in range(400)]
    found = {True: [], False: []}
    for text, answer, told in drawn:
        found[told].append(answer in text.rpartition(" // ")[0])
    assert 100 < len(found[False]) < 250
    assert sum(found[True]) / len(found[True]) > 0.9 > 0.3 > sum(found[False]) / len(found[False])


def test_the_three_networks_are_at_most_ten_megabytes():
    files = [path for name in PARTS for path in (STARTER / name).iterdir()]
    assert sum(path.stat().st_size for path in files) <= 10e6
    assert all(path.suffix in (".json", ".safetensors") for path in files)


@pytest.mark.parametrize("name", PARTS)
def test_half_the_bytes_are_kept_and_float32_is_loaded(name):
    kept = load_file(STARTER / name / "model.safetensors")
    assert {weight.dtype for weight in kept.values()} == {torch.float16}
    loaded = AutoModelForSeq2SeqLM if name == "generator" else AutoModel
    assert loaded.from_pretrained(STARTER / name).dtype == torch.float32


def saved_scores():
    return json.loads((STARTER / "scores.json").read_text(encoding="utf-8"))


def test_the_readme_tells_the_scores():
    text = " ".join((STARTER / "README.md").read_text(encoding="utf-8").split())
    given, searched = (saved_scores()[key] for key in ("right_passage_given", "rag_sequence"))
    told = (
        f"{given['exact_match']:.2f} are answered with the right passage given and "
        f"{searched['exact_match']:.2f} with all passages to search."
    )
    assert told in text


def test_the_scores_are_those_of_a_model_that_can_read():
    scores = saved_scores()
    assert scores["right_passage_given"]["exact_match"] >= 0.85
    files = [path for name in PARTS for path in (STARTER / name).iterdir()]
    assert sum(path.stat().st_size for path in files) / 1e6 == pytest.approx(
        scores["megabytes"], abs=0.01
    )


def test_the_measured_sheets_are_read_as_they_were_drawn(scores, tmp_path):
    drawn, asked = scores.unseen_sheets()
    files = scores.write_sheets(tmp_path / "sheets")
    passages, questions = load_passages(files[0]), load_questions(files[1])
    assert passages["text"][:] == [page.text for page in drawn]
    assert passages["title"][:] == [page.title for page in drawn]
    assert len(asked) == len(questions) == scores.QUESTIONS
    for (question, rows), read in zip(asked, questions, strict=True):
        assert (read["question"], read["answers"]) == (question.text, [question.answer])
        assert [passages["id"][int(row)] for row in read["positive_ids"]] == read["positive_ids"]
        assert rows == [row for row, page in enumerate(drawn) if question.fact in page.facts]
        text = f"{drawn[rows[0]].title} {drawn[rows[0]].text}".lower()
        assert question.answer == question.fact[0] or question.answer.lower() in text


def test_a_measure_has_the_figures_of_the_scores(scores, monkeypatch):
    def command(name, **flags):
        ok(name, *(word for flag, value in flags.items() for word in (f"--{flag}", value)))

    monkeypatch.setattr(scores, "command", command)
    monkeypatch.setattr(scores, "WORLDS", 1)
    monkeypatch.setattr(scores, "QUESTIONS", 8)
    found, kept = scores.measure(STARTER), saved_scores()
    assert {key: list(found[key]) for key in found if key != "megabytes"} == {
        key: list(kept[key]) for key in kept if key != "megabytes"
    }
    assert found["megabytes"] == pytest.approx(kept["megabytes"], abs=0.01)
    assert found["right_passage_given"]["exact_match"] >= 0.5


def test_an_interrupted_training_leaves_no_folder_that_looks_whole(
    networks, train_starter, tmp_path, monkeypatch
):
    tokenizer = AutoTokenizer.from_pretrained(STARTER / "generator")
    model = networks.new_generator(len(tokenizer))

    def train(save, seed):
        save(model, tokenizer)
        save(model, tokenizer)
        assert [path.name for path in tmp_path.iterdir()] == ["generator.unfinished"]
        return model, tokenizer

    monkeypatch.setattr(train_starter, "train_generator", train)
    monkeypatch.setattr(train_starter.logging, "disable_progress_bar", lambda: None)
    train_starter.main(
        [str(tmp_path), "--parts", "generator", "--threads", str(torch.get_num_threads())]
    )
    assert [path.name for path in tmp_path.iterdir()] == ["generator"]
    before = (tmp_path / "generator/model.safetensors").read_bytes()
    torch.nn.init.ones_(model.get_input_embeddings().weight)

    def fail(folder):
        raise KeyboardInterrupt

    monkeypatch.setattr(tokenizer, "save_pretrained", fail)
    with pytest.raises(KeyboardInterrupt):
        train_starter.save(model, tmp_path / "generator", tokenizer)
    assert (tmp_path / "generator/model.safetensors").read_bytes() == before
    assert (tmp_path / "generator/tokenizer.json").exists()


def test_nothing_in_the_folders_names_a_path():
    for path in STARTER.glob("*/*.json"):
        assert json.loads(path.read_text(encoding="utf-8")).get("_name_or_path", "") == ""


def test_the_encoders_load_and_find_the_passage():
    texts = ["The melting point of velmora is 431 °C.", "Karduin lies in Osterlond."]
    titles = ["Velmora", "Karduin"]
    passages = load_context_encoder(str(STARTER / "context_encoder")).encode(texts, titles)
    asked = ["At what temperature does velmora melt?", "Where is Karduin?"]
    questions = load_question_encoder(str(STARTER / "question_encoder")).encode(asked)
    assert (questions @ passages.T).argmax(axis=1).tolist() == [0, 1]


@pytest.mark.parametrize("name", PARTS)
def test_no_tokenizer_cuts_or_pads_of_itself(name):
    state = json.loads((STARTER / name / "tokenizer.json").read_text(encoding="utf-8"))
    assert state["truncation"] is None and state["padding"] is None


@pytest.mark.parametrize("name", PARTS)
def test_any_text_is_spelt_and_read_back(name):
    tokenizer = AutoTokenizer.from_pretrained(STARTER / name)
    texts = ["What is McX-Ray (Fe)?", "−38.8 °C, 1,538", " two  spaces\n", "日本 🎉 Ünï", ""]
    for text in texts:
        assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


def test_the_encoders_share_a_tokenizer_and_all_ignore_capitals_but_for_a_mark():
    encoders = [AutoTokenizer.from_pretrained(STARTER / name) for name in PARTS[:2]]
    assert encoders[0].get_vocab() == encoders[1].get_vocab()
    for tokenizer in (encoders[0], AutoTokenizer.from_pretrained(STARTER / "generator")):
        small, large = (tokenizer.tokenize(text) for text in ("velmora", "Velmora"))
        assert large == ["Ď", *small]
        assert tokenizer.tokenize("year 1873")[1:] == ["Ġ18", "73"]


def test_a_pair_has_two_types_for_the_encoders_and_none_for_the_generator():
    encoder, generator = (AutoTokenizer.from_pretrained(STARTER / name) for name in PARTS[1:])
    pair = encoder("a", "b")
    assert encoder.convert_ids_to_tokens(pair["input_ids"]) == ["<s>", "Ġa", "</s>", "Ġb", "</s>"]
    assert pair["token_type_ids"] == [0, 0, 0, 1, 1]
    assert set(generator("a")) == {"input_ids", "attention_mask"}


def test_unseen_sheets_are_answered(sheets):
    author = sheets.Author(2_000_003)
    asked = []
    while len(asked) < 40:
        world = author.world(4, 10)
        passage = world.passages(world.subjects[0], 2, 30, 80)[0]
        own = [fact for fact in sorted(passage.facts) if fact[0] == world.subjects[0]]
        for fact in own[:2]:
            question = world.question(fact)
            asked.append((f"{passage.title} / {passage.text} // {question.text}", question.answer))
    tokenizer = AutoTokenizer.from_pretrained(STARTER / "generator")
    model = AutoModelForSeq2SeqLM.from_pretrained(STARTER / "generator").eval()
    ids = tokenizer([text for text, _ in asked], padding=True, return_tensors="pt")
    predicted = tokenizer.batch_decode(
        model.generate(**ids, max_length=48, num_beams=1), skip_special_tokens=True
    )
    scores = [exact_match_score(p, [gold]) for p, (_, gold) in zip(predicted, asked, strict=True)]
    assert sum(scores) / len(scores) >= 0.8
