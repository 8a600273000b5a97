"""Training the generator to find a fact in a passage and to copy it."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from networks import change_vocabulary, deepen_encoder, new_generator, parameters_of, say
from rounds import ROUNDS, Round, Stage
from sheets import Author, Question
from tokenizer import END, PAD, train_tokenizer, wrap
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from transformers import PreTrainedTokenizerFast, get_cosine_schedule_with_warmup
from values import WORDS
from writer import Passage

from rag_finetune.losses.likelihood import vocabulary_log_probs

POOL = 16  # batches drawn together and sorted by length, so that they hold little padding
ROOM = 300  # tokens that a batch is padded to at most where padding is read
POINTING, FINDING = 0.5, 0.6  # weights of the two losses beside the likelihood
VOCABULARY = 2600  # of the generator's first rounds


def reading_examples(author: Author, stage: Stage) -> Iterator[tuple[str, str, bool]]:
    """What the generator reads, the answer, and whether the passage tells it, without end."""
    author.wide, author.contrasts = stage.wide, stage.contrasts
    while True:
        low, high = stage.low, author.random.randint(2 * stage.low, stage.high)
        facts_each = max(2, high // (8 if stage.crowded else 10))
        world = author.world(
            author.pick([2, 3, 4, 6]),
            author.random.randint(facts_each if stage.crowded else 2, 2 * facts_each),
            labels=stage.labels,
        )
        parts = -(-len(world.relations) // facts_each)
        passages = [
            passage
            for subject in world.subjects[:3]
            for passage in world.passages(subject, parts, low, high)
        ]
        for passage in passages:
            facts = sorted(passage.facts)
            for fact in author.random.sample(facts, min(3, len(facts))):
                question = world.question(fact, author.chance(0.08))
                if author.chance(stage.continued):
                    question = sentence_to_continue(author, passage)
                elif author.chance(stage.irrelevant):
                    others = [other for other in passages if fact not in other.facts]
                    own = [other for other in others if any(fact[0] == s for s, _ in other.facts)]
                    if stage.wide and own and author.chance(0.65):
                        others = own
                    if others:
                        yield context(author.pick(others), question), question.answer, False
                        continue
                yield context(passage, question), question.answer, True


def context(passage: Passage, question: Question) -> str:
    """Passage and question as RAG writes them for the generator."""
    return f"{passage.title} / {passage.text} // {question.text}"


def sentence_to_continue(author: Author, passage: Passage) -> Question:
    """The first words of a sentence, to be answered with the next ones."""
    words = author.pick(passage.text.split(". ")).rstrip(".").split()
    cut = min(author.random.randint(2, 3), len(words) - 1)
    return Question(" ".join(words[:cut]) + " ...", " ".join(words[cut : cut + 10]), ("", ""))


def tokenizer_texts(author: Author) -> Iterator[str]:
    """What a tokenizer learns from: fact sheets, every word of ours and every pair of digits."""
    wide = author.wide
    for _ in range(6000 if wide else 3000):
        world = author.world(3, 12, labels=0.15 if wide else 0.0)
        for passage in world.passages(world.subjects[0], 2, 50, 100):
            questions = [world.question(fact) for fact in sorted(passage.facts)[:4]]
            yield context(passage, questions[0])
            yield from (question.text for question in questions[1:])
    for words in WORDS.values():
        for word in words:
            yield from [word, f" {word}"] * 5
    for number in range(100):
        yield from [f" {number} x{number}", f" {number:02} x{number:02}"] * 400


def learn_tokenizer(vocabulary: int, seed: int, *, wide: bool) -> Tokenizer:
    """A tokenizer of that many tokens, for plain or for wide sheets."""
    author = Author(seed)
    author.wide = wide
    return train_tokenizer(tokenizer_texts(author), vocabulary)


def pad(rows: Sequence[Sequence[int]]) -> Tensor:
    """Token ids, shape (rows, longest)."""
    return torch.nn.utils.rnn.pad_sequence(
        [torch.tensor(row) for row in rows], batch_first=True, padding_value=PAD
    )


def reading_batches(
    tokenizer: PreTrainedTokenizerFast, examples: Iterator[tuple[str, str, bool]], size: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Token ids of contexts and labels, and which contexts tell the answer (bool).

    Sorted by length within a pool of batches.
    """
    while True:
        pool = [next(examples) for _ in range(POOL * size)]
        contexts = tokenizer([text for text, _, _ in pool])["input_ids"]
        answers = tokenizer([answer for _, answer, _ in pool])["input_ids"]
        rows = sorted(range(len(pool)), key=lambda row: len(contexts[row]))
        starts = torch.randperm(POOL).tolist()
        for start in starts:
            chosen = rows[start * size : (start + 1) * size]
            yield (
                pad([contexts[row] for row in chosen]),
                pad([[END, *answers[row]] for row in chosen]),
                torch.tensor([pool[row][2] for row in chosen]),
            )


def where_answers_stand(contexts: Tensor, labels: Tensor, divider: int) -> Tensor:
    """Which position of the context holds which token of the answer, bool (rows, answer, context).

    Every occurrence of the whole answer before the question counts; position t of the answer is
    the step of the decoder that writes it. A row whose context lacks the answer has none.
    """
    rows, length = contexts.shape
    places = torch.zeros(rows, labels.shape[1] - 1, length, dtype=torch.bool)
    for row, (text, label) in enumerate(zip(contexts.tolist(), labels.tolist(), strict=True)):
        first = next((at for at, token in enumerate(label) if token > END), len(label))
        answer = [token for token in label[first:] if token > END]
        question = max(at for at, token in enumerate(text) if token == divider)
        for start in range(question - len(answer) + 1):
            if answer and text[start : start + len(answer)] == answer:
                steps = torch.arange(len(answer))
                places[row, first - 1 + steps, start + steps] = True
    return places


class Guide(nn.Module):
    """Shows the generator while it learns where the answer stands; nothing of it is saved.

    Two losses: one head of the last cross-attention should look at the token to be written, and a
    linear map of the encoder's states should tell which tokens belong to the answer.
    """

    def __init__(self, model: Any, divider: int) -> None:
        """Listen to the last cross-attention of the model."""
        super().__init__()
        self.finder = nn.Linear(model.config.d_model, 1)
        self.attention = [model.model.decoder.layers[-1].encoder_attn]  # not a part of the guide
        self.divider = divider
        hook = self.attention[0].register_forward_pre_hook(self._listen, with_kwargs=True)
        self.remove = hook.remove

    def _listen(self, _: nn.Module, args: Sequence[Tensor], kwargs: dict[str, Tensor]) -> None:
        self.asking = args[0] if args else kwargs["hidden_states"]
        self.states = kwargs["key_value_states"]

    def forward(self, contexts: Tensor, labels: Tensor, real: Tensor) -> Tensor:
        """The weighted sum of both losses for the batch that the model has just read."""
        places = where_answers_stand(contexts, labels, self.divider)
        size = self.attention[0].head_dim
        queries = self.attention[0].q_proj(self.asking)[..., :size]
        keys = self.attention[0].k_proj(self.states)[..., :size]
        scores = queries @ keys.transpose(1, 2) * size**-0.5
        shares = scores.masked_fill(~real.unsqueeze(1), -torch.inf).log_softmax(-1)
        known = places.any(-1)
        pointing = -shares.masked_fill(~places, -torch.inf).logsumexp(-1)[known].mean()
        held = places.any(1)
        counted = real & held.any(1, keepdim=True)
        finding = binary_cross_entropy_with_logits(
            self.finder(self.states).squeeze(-1)[counted],
            held[counted].float(),
            pos_weight=torch.tensor(5.0),
        )
        return POINTING * pointing + FINDING * finding


@contextmanager
def shifted_positions(encoder: Any, places: int) -> Iterator[None]:
    """Let the encoder take the first token for one that many places later."""
    table = encoder.embed_positions
    whole = table.forward
    table.forward = lambda ids, past=0, position_ids=None: whole(ids, past + places, position_ids)
    try:
        yield
    finally:
        table.forward = whole


def padding_to_read(author: Author, contexts: Tensor) -> Tensor:
    """The contexts with more padding, up to ROOM tokens."""
    longest = contexts.shape[1]
    more = author.random.randint(longest, max(longest, ROOM)) - longest
    return torch.nn.functional.pad(contexts, (0, more), value=PAD)


def generator_losses(
    model: Any, contexts: Tensor, labels: Tensor, real: Tensor, told: Tensor
) -> tuple[Tensor, Tensor]:
    """Two means over the tokens of the answers: likelihood where it is told, doubt where not.

    The first is the negative log-likelihood of the rows that `told` (bool) names. The second is how
    far the distributions of the other rows are from uniform, KL(uniform | p): 0 for a generator
    that has no guess about what the passage does not tell. Each is 0 without such rows; `real` is
    the attention mask (bool).
    """
    logits = model(
        input_ids=contexts,
        attention_mask=real.long(),
        decoder_input_ids=labels[:, :-1],
        use_cache=False,
    ).logits
    answers, counted = labels[:, 1:], labels[:, 1:] != PAD
    known, unknown = counted & told.unsqueeze(1), counted & ~told.unsqueeze(1)
    likelihood = cross_entropy(logits[known], answers[known], reduction="sum")
    guesses = logits[unknown]
    doubt = (-vocabulary_log_probs(guesses) - math.log(guesses.shape[-1])).sum()
    return likelihood / known.sum().clamp(min=1), doubt / unknown.sum().clamp(min=1)


def train_generator(
    save: Callable[[Any, PreTrainedTokenizerFast], None], seed: int
) -> tuple[Any, PreTrainedTokenizerFast]:
    """Train a generator from nothing; it and its tokenizer are given to save now and then, too."""
    torch.manual_seed(seed)
    tokenizer = wrap(learn_tokenizer(VOCABULARY, seed, wide=False), pairs=False)
    model = new_generator(len(tokenizer))
    for number, part in enumerate(ROUNDS):
        if part.vocabulary:
            other = wrap(learn_tokenizer(part.vocabulary, seed, wide=True), pairs=False)
            change_vocabulary(model, tokenizer, other)
            tokenizer = other
        train_round(model, tokenizer, part, save, seed + 1 + 10 * number)
    return model, tokenizer


def train_round(
    model: Any,
    tokenizer: PreTrainedTokenizerFast,
    part: Round,
    save: Callable[[Any, PreTrainedTokenizerFast], None],
    seed: int,
) -> None:
    """Train the generator, its encoder deepened first where the round says so."""
    if part.deepened:
        examples = reading_examples(Author(seed), part.stages[0])
        contexts, *_ = next(reading_batches(tokenizer, examples, part.stages[0].size))
        deepen_encoder(model, part.deepened, contexts, contexts != PAD)
    say(f"generator: {parameters_of(model):,} parameters, {len(tokenizer):,} tokens")
    guide = Guide(model, tokenizer.convert_tokens_to_ids("Ġ//"))
    weights = [*model.parameters(), *guide.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=part.learning_rate, weight_decay=0.01)
    total = sum(stage.steps for stage in part.stages)
    schedule = get_cosine_schedule_with_warmup(optimizer, 100, int(total * 1.03))
    author, losses = Author(seed), []
    for stage in part.stages:
        batches = reading_batches(tokenizer, reading_examples(author, stage), stage.size)
        for _ in range(stage.steps):
            contexts, labels, told = next(batches)
            real = contexts != PAD
            if stage.unmasked and author.chance(stage.unmasked):
                contexts = padding_to_read(author, contexts)
                real = torch.ones_like(contexts, dtype=torch.bool)
            with shifted_positions(model.model.encoder, author.random.randint(0, stage.shifted)):
                answers = told if stage.silence else torch.ones_like(told)
                loss, guessing = generator_losses(model, contexts, labels, real, answers)
            (loss + stage.silence * guessing + guide(contexts, labels, real)).backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses.append(loss.item())
            if len(losses) % 100 == 0:
                mean = sum(losses[-100:]) / 100
                say(f"generator: step {len(losses)}, {stage.high} words, loss {mean:.3f}")
            if len(losses) % 500 == 0:
                save(model, tokenizer)
    guide.remove()
    save(model, tokenizer)


@torch.no_grad()
def read(model: Any, tokenizer: PreTrainedTokenizerFast, contexts: Sequence[str]) -> list[str]:
    """Greedy answers."""
    answers = []
    for start in range(0, len(contexts), 50):
        ids = pad(tokenizer(list(contexts[start : start + 50]))["input_ids"])
        out = model.generate(ids, attention_mask=(ids != PAD).long(), max_length=48, num_beams=1)
        answers += tokenizer.batch_decode(out, skip_special_tokens=True)
    return answers
