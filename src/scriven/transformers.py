"""Scriven's models in Hugging Face's transformers: importing this module registers them with its Auto classes.

    import scriven.transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer
    tokenizer = AutoTokenizer.from_pretrained("book-transformers")
    model = AutoModelForCausalLM.from_pretrained("book-transformers")
    ids = model.generate(**tokenizer("Once upon", return_tensors="pt"), max_new_tokens=200, do_sample=True)
    print(tokenizer.decode(ids[0], skip_special_tokens=True))

`scriven export --to transformers` writes such folders. Ids 0 .. V-1 are those of the vocabulary. After them come
`<bos>`, unless the model knows documents, whose boundary begins and ends a text, and `<pad>`. Neither is predicted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    GenerationMixin,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizer,
)
from transformers.cache_utils import Cache, LinearAttentionLayer
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import PrefixChange, WeightRenaming
from transformers.utils import ModelOutput, logging

from scriven.arrays import Float32s, Ids
from scriven.corpus.encodings import drop_mark
from scriven.errors import UsageError
from scriven.inference.chunks import prompt_ids
from scriven.model.language_model import State, make_model, zero_rows
from scriven.runs.folder import VOCABULARY_FILE
from scriven.settings import CorpusSettings, ModelSettings
from scriven.tokens import join_tokens
from scriven.vocabulary import Vocabulary

MODEL_TYPE = "scriven"
LONGEST = 1 << 20  # symbols of a text, for programs that ask: the model itself has no limit
IGNORED = -100  # the label of what a loss leaves out
NEVER = torch.finfo(torch.float32).min  # the logit of what is never predicted; its probability is exactly 0
UNKNOWN, BOUNDARY, BEGIN, PADDING = "<unk>", "<boundary>", "<bos>", "<pad>"


class ScrivenConfig(PreTrainedConfig):
    """What config.json of an export says, as docs/format.md describes it, and what transformers asks for."""

    model_type = MODEL_TYPE


@dataclass
class ScrivenOutput(ModelOutput):
    """The mean loss in nats, if there are labels; logits (N, T, W), W with `<bos>` and `<pad>`; and the state after."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    cache: Cache | None = None


class StateLayer(LinearAttentionLayer):
    """The state of one recurrent layer in a cache of transformers: arrays (N, H) that are replaced at each call."""

    is_compileable = False

    def update_recurrent_state(self, recurrent_states: Tensor, state_idx: int = 0, **_: Any) -> Tensor:
        """Keeps a state in place of the one before."""
        self.recurrent_states[state_idx], self.device = recurrent_states, recurrent_states.device
        self.is_recurrent_states_initialized[state_idx] = self.has_previous_state[state_idx] = True
        return recurrent_states


class ScrivenForCausalLM(PreTrainedModel, GenerationMixin):
    """A network of Scriven. `generate` reads a prompt once, and then one symbol at a time from the state before it."""

    config_class = ScrivenConfig
    base_model_prefix = "network"
    main_input_name = "input_ids"
    _is_stateful = True  # what was read cannot be taken back

    def __init__(self, config: ScrivenConfig) -> None:
        """Draws the weights as a training does. `from_pretrained` puts those of the file in their place."""
        super().__init__(config)
        settings = ModelSettings(**{**config.model, "tied": False})  # the last rows of both ends differ
        self.network = make_model(settings, config.vocabulary_size)
        self.post_init()

    def _init_weights(self, module: object) -> None:
        """Keeps the weights, which the network has drawn itself."""

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        """Whether `generate` makes the cache; a call of the model does."""
        return False

    def prepare_inputs_for_generation(self, input_ids: Tensor, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Returns the arguments of the next call. A model of windows reads its last symbols again, from zeros."""
        window, mask = self.config.window, kwargs.get("attention_mask")
        if not window:
            inputs: dict[str, Any] = super().prepare_inputs_for_generation(input_ids, *args, **kwargs)
            return inputs
        seen = None if mask is None else mask[:, -window:]
        return {"input_ids": input_ids[:, -window:], "attention_mask": seen, "use_cache": False}

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        cache: Cache | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        num_items_in_batch: int | Tensor | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> ScrivenOutput | tuple[Any, ...]:
        """Reads ids (N, T) from the state in `cache`, or from zeros. Returns logits, and the state in a cache.

        Padding may stand before or after a text, not in it, as `attention_mask` says (N, T), or with the ids read
        before. The loss is the mean over `labels` (N, T), which are shifted here, of the nats that Scriven counts:
        `<unk>` costs the guess among all unknown characters too. Dropout is drawn from torch's global generator.
        """
        if any(kwargs.get(name) for name in ("output_hidden_states", "output_attentions")):
            raise UsageError("a model of Scriven gives logits and its state (use_cache=True), and no hidden states")
        state = None if cache is None else _read_cache(cache)
        mask = None if attention_mask is None else attention_mask.bool().T
        logits, after = self._read(input_ids.T, mask, state, logits_to_keep)
        loss = None if labels is None else self._loss(logits, labels, num_items_in_batch)
        keeps = not self.training if use_cache is None else use_cache
        output = ScrivenOutput(loss=loss, logits=logits, cache=_keep(after, cache) if keeps else None)
        return output.to_tuple() if return_dict is False else output

    def _read(self, ids: Tensor, mask: Tensor | None, state: State | None, kept: int | Tensor) -> tuple[Tensor, State]:
        """Reads ids (T, N). Returns logits (N, t, W) after the last `kept` ids, or those numbered, and the state."""
        config, begins = self.config, ids == self.config.bos_token_id
        fresh = begins if mask is None else begins | _firsts(mask)[-len(ids) :]
        if not config.opening:  # nothing is read before a text
            fresh = torch.cat((fresh[:1], fresh[1:] | begins[:-1]))
        opening = int(config.opening[0]) if config.opening else 0
        read = torch.where(begins, opening, ids).clamp(max=config.unknown)  # padding, as <unk>
        seed = int(torch.randint(1 << 31, ())) if self.training else 0
        _, y, after = self.network.read(read, state, fresh if fresh.any() else None, seed)
        steps = slice(-kept if kept else None, None) if isinstance(kept, int) else kept
        logits = self.network.logits(y[steps])
        if not config.opening:
            logits = logits.masked_fill(begins[steps][..., None], 0)
            after = zero_rows(after, begins[-1])
        return functional.pad(logits, (0, config.vocab_size - logits.shape[-1]), value=NEVER).transpose(0, 1), after

    def _loss(self, logits: Tensor, labels: Tensor, count: int | Tensor | None) -> Tensor:
        """Returns the mean nats (or their sum, divided by `count`) of labels (N, T) by logits (N, T, W)."""
        config, targets = self.config, labels[:, 1:].to(logits.device)
        counted = (targets != IGNORED) & (targets < config.vocabulary_size)
        wanted = targets.masked_fill(~counted, IGNORED).flatten()
        nats = functional.cross_entropy(logits[:, :-1].flatten(0, 1), wanted, ignore_index=IGNORED, reduction="sum")
        nats = nats + config.unknown_nats * (wanted == config.unknown).sum()
        mean: Tensor = nats / (counted.sum() if count is None else count)
        return mean


def _firsts(mask: Tensor) -> Tensor:
    """Returns where a text begins after padding, (T, N), by a mask (T, N) of what is no padding."""
    return torch.cat((torch.zeros_like(mask[:1]), mask[1:] & ~mask[:-1]))


def _read_cache(cache: Cache) -> State | None:
    """Returns the state in a cache. An empty cache gives None. Raises UsageError for another kind of cache."""
    if not all(isinstance(layer, StateLayer) for layer in cache.layers):
        raise UsageError("the cache is one of attention; leave it out, or give an empty transformers.DynamicCache()")
    return tuple(tuple(layer.recurrent_states.values()) for layer in cache.layers) or None


def _keep(state: State, cache: Cache | None) -> Cache:
    """Puts a state into a cache, or into a new one, and returns the cache."""
    layers = cache.layers if cache is not None and cache.layers else [StateLayer(len(parts)) for parts in state]
    if cache is None:
        cache = Cache(layers=layers)
    cache.layers = layers
    for layer, parts in zip(layers, state, strict=True):
        for number, part in enumerate(parts):
            layer.update_recurrent_state(part, number)
    return cache


class ScrivenTokenizer(PreTrainedTokenizer):
    """Converts text to the ids of its characters, bytes or tokens, prepared as the run's corpus was.

    With `add_special_tokens`, a text begins as Scriven reads it. A text may begin with `bos_token` itself, and end with
    `eos_token` if the model knows documents; elsewhere these are characters like all others.
    """

    vocab_files_names = {"vocab_file": VOCABULARY_FILE}  # noqa: RUF012 - as transformers declares it
    model_input_names = ["input_ids", "attention_mask"]  # noqa: RUF012

    def __init__(self, vocab_file: str, corpus: dict[str, Any] | None = None, **given: Any) -> None:
        """Reads the vocabulary. `corpus` are settings of the corpus that say how texts are prepared."""
        self.vocabulary = Vocabulary.from_json(Path(vocab_file).read_text("utf-8"))
        self._settings = CorpusSettings(**corpus or {})
        names = token_names(self.vocabulary)
        self._numbers = {name: number for number, name in enumerate(names)}
        begin = BEGIN if self.vocabulary.boundary is None else BOUNDARY
        tokens = {"bos_token": begin, "eos_token": begin}  # programs ask for an end even if no text ever ends
        usual = {"padding_side": "left", "special_tokens_pattern": "bos", "unk_token": UNKNOWN, "pad_token": PADDING}
        super().__init__(**{**tokens, **usual, **given}, corpus=corpus)
        self._names = names

    @property
    def vocab_size(self) -> int:
        """The number of ids, and of logits for each symbol."""
        return len(self._numbers)

    def get_vocab(self) -> dict[str, int]:
        """Returns the ids by name. A byte has the name of the character with its number."""
        return dict(self._numbers)

    def tokenize(self, text: str, **_: Any) -> list[str]:
        """Returns the characters, bytes or tokens of a text, as strings."""
        begins = text.startswith(self.bos_token)
        ends = self.eos_token == BOUNDARY and text[len(BOUNDARY) * begins :].endswith(BOUNDARY)
        inner = text[len(self.bos_token) * begins : len(text) - len(BOUNDARY) * ends]
        ids = prompt_ids(inner if begins else drop_mark(inner), self.vocabulary, self._settings).tolist()
        size = self.vocabulary.size
        symbols = [self._names[each] if each < size else self.vocabulary.decode([each]) for each in ids]
        return [self.bos_token] * begins + symbols + [self.eos_token] * ends

    def _convert_token_to_id(self, token: str) -> int:
        return self._numbers.get(token, self.vocabulary.unknown)

    def _convert_id_to_token(self, index: int) -> str:
        return self._names[index]

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """Returns ids with what begins a text before them, unless they begin so."""
        ids = [*token_ids_0, *(token_ids_1 or [])]
        return ids if ids[:1] == [self.bos_token_id] else [self.bos_token_id, *ids]

    def convert_tokens_to_string(self, tokens: Sequence[str]) -> str:
        """Returns the text of tokens."""
        return self._decode(self.convert_tokens_to_ids(tokens))

    def _decode(self, token_ids: int | Iterable[int], skip_special_tokens: bool = False, **_: Any) -> str:
        """Returns the text of ids. A boundary between two documents is their separator, if special tokens are left out.

        `<unk>` is then U+FFFD.
        """
        ids = [token_ids] if isinstance(token_ids, int) else [int(each) for each in token_ids]
        vocabulary = self.vocabulary
        if skip_special_tokens:
            return vocabulary.decode(_without_ends([each for each in ids if each < vocabulary.size], vocabulary))
        if vocabulary.unit == "token":
            return join_tokens(self._names[each] for each in ids)
        first = len(vocabulary.symbols)  # of the special ones
        runs = (
            ("".join(self._names[each] for each in run) if special else vocabulary.decode([*run]))
            for special, run in groupby(ids, lambda each: each >= first)
        )
        return "".join(runs)

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str]:
        """Writes the vocabulary into a folder. Returns the path."""
        path = Path(save_directory) / (f"{filename_prefix}-" * bool(filename_prefix) + VOCABULARY_FILE)
        path.write_text(self.vocabulary.to_json(), "utf-8")
        return (str(path),)


def _without_ends(ids: list[int], vocabulary: Vocabulary) -> list[int]:
    """Returns ids without the boundaries at both ends."""
    begin, end = 0, len(ids)
    while begin < end and ids[begin] == vocabulary.boundary:
        begin += 1
    while begin < end and ids[end - 1] == vocabulary.boundary:
        end -= 1
    return ids[begin:end]


def token_names(vocabulary: Vocabulary) -> list[str]:
    """Returns the name of each id, with those that transformers adds.

    Raises UsageError if a token of the text has one of these names.
    """
    more = [UNKNOWN, BEGIN, PADDING] if vocabulary.boundary is None else [BOUNDARY, UNKNOWN, PADDING]
    if doubled := sorted({*more}.intersection(vocabulary.tokens)):
        raise UsageError(
            f"the text has the token {doubled[0]}, which is the name of a special one of transformers; export the run "
            "--to torch or onnx"
        )
    return [*vocabulary.names, *more]


def write_description(about: dict[str, Any], settings: ModelSettings, corpus: CorpusSettings, folder: Path) -> None:
    """Writes the configs of model and writing, and the tokenizer, into a folder with the vocabulary.

    `about` is the config of an export. Of the corpus, only what says how texts are prepared is written.
    """
    prepared = ("unit", "documents", "separator", "lowercase", "punctuation", "normalize")
    tokenizer = ScrivenTokenizer(str(folder / VOCABULARY_FILE), {name: getattr(corpus, name) for name in prepared})
    tokenizer.save_pretrained(folder)
    widths, size = about["widths"], about["vocabulary_size"]
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    config = ScrivenConfig(
        **about,
        **ids,
        architectures=[ScrivenForCausalLM.__name__],
        model=settings.model_dump(mode="json"),
        vocab_size=tokenizer.vocab_size,
        hidden_size=widths[-1],
        num_hidden_layers=len(widths) - 1,
        max_position_embeddings=LONGEST,
        tie_word_embeddings=False,
        dtype="float32",
    )
    config.save_pretrained(folder)
    never = sorted({about["unknown"], *range(size, tokenizer.vocab_size)})
    GenerationConfig(**ids, suppress_tokens=never).save_pretrained(folder)


def logits_of(folder: Path) -> Callable[[Ids, Any], tuple[Float32s, Any]]:
    """Returns a function that computes with the model in a folder: ids (T, N) and a cache, or None, to both after."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        model = AutoModelForCausalLM.from_pretrained(folder)
    finally:
        (logging.enable_progress_bar if shown else logging.disable_progress_bar)()

    def _compute(ids: Ids, cache: Any) -> tuple[Float32s, Any]:
        with torch.no_grad():
            found = model(torch.from_numpy(ids).T, cache=cache)
        logits: Float32s = found.logits[..., : model.config.vocabulary_size].transpose(0, 1).numpy()
        return logits, found.cache

    return _compute


AutoConfig.register(MODEL_TYPE, ScrivenConfig, exist_ok=True)
AutoModelForCausalLM.register(ScrivenConfig, ScrivenForCausalLM, exist_ok=True)
AutoTokenizer.register(ScrivenConfig, ScrivenTokenizer, exist_ok=True)
register_checkpoint_conversion_mapping(  # names as in docs/format.md in files, and as in the network here
    MODEL_TYPE,
    [WeightRenaming(r"layers\.(\d+)\.(?!rnn\.)", r"layers.\1.rnn."), PrefixChange(prefix_to_add="network")],
    overwrite=True,
)
