"""A decoder-only generator that begins with the starter's weights, and what it is shown."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from networks import WIDTH
from tokenizer import END, MAX_LENGTH, PAD
from tokenizers import normalizers
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from transformers import GenerationConfig, OPTConfig, OPTForCausalLM, PreTrainedTokenizerFast

from rag_finetune.rag.prompts import PromptWriter

# The question stands before the passage too: only what follows it can be read for it.
TEMPLATE = "{question}\n{passage}\n{question} //"


def decoder_tokenizer(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """The starter generator's tokenizer, for which a word after a line break has a space before."""
    inner = tokenizer.backend_tokenizer
    inner.normalizer = normalizers.Sequence([normalizers.Replace("\n", "\n "), inner.normalizer])
    return tokenizer


def decoder_from(starter: Any) -> Any:
    """A decoder-only network that begins with the weights of a BART: an OPT, norms behind layers.

    Its first layer adds nothing at first and normalises as BART's encoder does its embeddings; then
    come the layers of the encoder, and those of the decoder without their self-attention, in which
    attention reads what the layers before made of the passage. So it knows already what to look
    for, and learns to do so from what stands before a token alone.
    """
    encoder, decoder = starter.model.encoder, starter.model.decoder
    model = OPTForCausalLM(
        OPTConfig(
            vocab_size=starter.config.vocab_size,
            hidden_size=WIDTH,
            word_embed_proj_dim=WIDTH,
            num_hidden_layers=1 + len(encoder.layers) + len(decoder.layers),
            ffn_dim=starter.config.encoder_ffn_dim,
            num_attention_heads=starter.config.encoder_attention_heads,
            max_position_embeddings=MAX_LENGTH,
            do_layer_norm_before=False,
            dropout=0.0,
            attention_dropout=0.0,
            activation_function=starter.config.activation_function,
            bos_token_id=0,
            pad_token_id=PAD,
            eos_token_id=END,
            init_std=0.05,
        )
    )
    model.generation_config = GenerationConfig(
        bos_token_id=0, pad_token_id=PAD, eos_token_id=END, max_new_tokens=48
    )
    own = model.model.decoder
    first, *rest = own.layers
    with torch.no_grad():
        own.embed_tokens.weight.copy_(starter.get_input_embeddings().weight)
        own.embed_positions.weight.copy_(encoder.embed_positions.weight)
        for parameter in (*first.self_attn.out_proj.parameters(), *first.fc2.parameters()):
            parameter.zero_()
    first.final_layer_norm.load_state_dict(encoder.layernorm_embedding.state_dict())
    for layer, source in zip(rest, [*encoder.layers, *decoder.layers], strict=True):
        reading = "encoder_attn" if hasattr(source, "encoder_attn") else "self_attn"
        for name in ("fc1", "fc2", "final_layer_norm"):
            getattr(layer, name).load_state_dict(getattr(source, name).state_dict())
        for name in ("self_attn", "self_attn_layer_norm"):
            weights = getattr(source, name.replace("self_attn", reading)).state_dict()
            getattr(layer, name).load_state_dict(weights)
    return model


def answer_places(prompt: Sequence[int], answer: Sequence[int], first: int, last: int) -> list[int]:
    """Where an answer, its end left out, begins within the passage: tokens first to last − 1."""
    wanted = list(answer[:-1])
    starts = range(first, last - len(wanted) + 1)
    return [at for at in starts if wanted and list(prompt[at : at + len(wanted)]) == wanted]


class Batch:
    """Prompts with their answers, padded behind.

    Attributes:
        ids: shape (rows, length).
        real: True where a token is, (rows, length).
        targets: True at the places that predict a token of the answer or its end, (rows, length).
        held: True at tokens of the passage that are the answer's, (rows, length).
        shown: True where a place that predicts a token should look, (rows, length, length).
        told: whether the passage tells the answer, (rows,).
    """

    def __init__(self, rows: Sequence[tuple[list[int], list[int], bool]], line: int) -> None:
        """Lay out rows of prompt, answer and whether it is told; `line` is the line break's id."""
        length = max(len(prompt) + len(answer) for prompt, answer, _ in rows)
        self.ids = torch.full((len(rows), length), PAD)
        self.targets = torch.zeros(len(rows), length, dtype=torch.bool)
        self.held = torch.zeros_like(self.targets)
        self.shown = torch.zeros(len(rows), length, length, dtype=torch.bool)
        self.told = torch.tensor([told for _, _, told in rows])
        for row, (prompt, answer, told) in enumerate(rows):
            count = len(prompt)
            self.ids[row, :count] = torch.tensor(prompt)
            self.ids[row, count : count + len(answer)] = torch.tensor(answer)
            self.targets[row, count - 1 : count - 1 + len(answer)] = True
            lines = [at for at, token in enumerate(prompt) if token == line]
            for start in answer_places(prompt, answer, lines[0], lines[-1]) if told else ():
                steps = torch.arange(len(answer) - 1)
                self.held[row, start + steps] = True
                self.shown[row, count - 1 + steps, start + steps] = True
        self.real = torch.arange(length) < torch.tensor(
            [[len(prompt) + len(answer)] for prompt, answer, _ in rows]
        )


def batches(
    tokenizer: PreTrainedTokenizerFast,
    writer: PromptWriter,
    examples: Iterator[tuple[str, str, bool]],
    size: int,
    pool: int = 16,
) -> Iterator[Batch]:
    """Batches of what is read, sorted by length within a pool of batches."""
    line = tokenizer.convert_tokens_to_ids("Ċ")
    while True:
        drawn = [next(examples) for _ in range(pool * size)]
        passages, questions = [], []
        for text, _, _ in drawn:
            passage, _, question = text.rpartition(" // ")
            title, _, body = passage.partition(" / ")
            passages.append([{"title": title, "text": body}])
            questions.append(question)
        prompts = writer.write(tokenizer, passages, questions, MAX_LENGTH - 48)
        answers = writer.answers(tokenizer, [answer for _, answer, _ in drawn])
        rows = sorted(range(len(drawn)), key=lambda row: len(prompts[row]))
        for start in torch.randperm(pool).tolist():
            chosen = rows[start * size : (start + 1) * size]
            yield Batch([(prompts[row], answers[row], drawn[row][2]) for row in chosen], line)


class DecoderGuide(nn.Module):
    """Shows the generator where the answer stands, as `reading.Guide` does; nothing is saved of it.

    One head of the last attention should look at the token to be written, and a linear map of what
    it reads should tell which tokens of the passage belong to the answer.
    """

    def __init__(self, model: Any) -> None:
        """Listen to the last attention of the model."""
        super().__init__()
        self.finder = nn.Linear(WIDTH, 1)
        self.attention = [model.model.decoder.layers[-1].self_attn]  # not a part of the guide
        hook = self.attention[0].register_forward_pre_hook(self._listen, with_kwargs=True)
        self.remove = hook.remove

    def _listen(self, _: nn.Module, args: Sequence[Tensor], kwargs: dict[str, Tensor]) -> None:
        self.states = args[0] if args else kwargs["hidden_states"]

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Both losses of the batch that the model has just read."""
        attention = self.attention[0]
        size, length = attention.head_dim, batch.ids.shape[1]
        rows, places = batch.shown.any(-1).nonzero(as_tuple=True)
        queries = attention.q_proj(self.states)[rows, places, :size]  # (N, size)
        keys = attention.k_proj(self.states)[..., :size][rows]  # (N, length, size)
        scores = torch.einsum("nd,nld->nl", queries, keys) * size**-0.5
        seen = torch.arange(length) <= places.unsqueeze(1)
        shares = scores.masked_fill(~seen, -torch.inf).log_softmax(-1)
        wanted = batch.shown[rows, places]
        pointing = -shares.masked_fill(~wanted, -torch.inf).logsumexp(-1).mean()
        counted = batch.real & batch.held.any(1, keepdim=True)
        finding = binary_cross_entropy_with_logits(
            self.finder(self.states).squeeze(-1)[counted],
            batch.held[counted].float(),
            pos_weight=torch.tensor(5.0),
        )
        return pointing, finding
