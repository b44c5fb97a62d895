"""Frozen, validated settings. One definition each: the same fields are flags, TOML keys and Python arguments.

A field marked "fitted" has a value here only to complete the class. Unless the user sets it,
`scriven.training.auto_settings` chooses it from the text, the budget and the measured speed of the machine.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from scriven.errors import close_names, did_you_mean, join_names, shorten
from scriven.runtime import Registry

Array = TypeVar("Array")  # of numpy or of torch
Cell = Literal["lstm", "gru", "rnn", "mingru"]
Choice = Literal["best", "smoothed", "last"]
Unit = Literal["character", "byte", "token"]
SHORT_NAMES = {"character": "char"}  # of symbols, in units such as bits/char
ACTIVATIONS = ("tanh", "relu")
TEXT_PLACE = "@text"  # a prompt that stands for a place of the training text
Optimizer = Literal["muon", "adamw", "sgd", "rmsprop"]
REGISTERED_CELLS = Registry("model.cell", get_args(Cell))
REGISTERED_OPTIMIZERS = Registry("training.optimizer", get_args(Optimizer))


def _known_to(registry: Registry) -> AfterValidator:
    """Checks that a name is Scriven's own or registered."""

    def _check(name: str) -> str:
        if registry.knows(name):
            return name
        close = did_you_mean([repr(each) for each in close_names(name, registry.names)])
        way = close or ", or import the module that registers it (on the command line: --import MODULE)"
        advice = f"give {join_names([repr(each) for each in registry.names])}{way}"
        raise PydanticCustomError("unknown_name", "{advice}", {"advice": advice})

    return AfterValidator(_check)


def symbol_word(unit: str) -> str:
    """Returns what a symbol is called: a token, or else a character, which is a byte for a model of bytes."""
    return "token" if unit == "token" else "character"


def bits_unit(unit: str) -> str:
    """Returns the unit of losses in few letters, such as bits/char."""
    word = symbol_word(unit)
    return f"bits/{SHORT_NAMES.get(word, word)}"


def setting(default: Any, text: str, *, fitted: bool = False, **bounds: Any) -> Any:
    """Returns a field with its help, which ends with the default, unless that is nothing: zero, empty or no.

    A `fitted` field is chosen automatically.
    """
    values = default if isinstance(default, tuple) else [default]
    shown = "chosen automatically" if fitted else ", ".join(map(_show_default, values))
    description = f"{text} [default: {shown}]" if fitted or any(values) else text
    return Field(default, description=description, json_schema_extra={"fitted": fitted}, **bounds)


def _show_default(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


class Frozen(BaseModel):
    """Base of all settings: immutable; an unknown name is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """Returns what the repr shows: settings that differ from the defaults."""
        fields = type(self).model_fields
        return ((name, value) for name, value in self if value != fields[name].default)


class CorpusSettings(Frozen):
    """How text becomes ids."""

    unit: Unit = setting(
        "character",
        "what the model reads at each step: a Unicode character, a byte, or a token, which is what stands between "
        "spaces, such as a phoneme or a chord",
    )
    documents: Literal["none", "lines", "files", "separator"] = setting(
        "none",
        "what counts as one document: a line, a file, or the text between two separators. The model forgets "
        "everything between documents and learns where they end",
    )
    separator: str = setting(
        "",
        r"the string between two documents, with corpus.documents separator. On the command line, \n, \t, \r "
        r"and \\ mean a line feed, a tab, a carriage return and a backslash",
    )
    validation: float = setting(
        0.1,
        "how much to keep for validation: a fraction below 1, or a number of characters or documents. It is the end of "
        "a text, or documents from all over the corpus",
        ge=0.0,
        lt=2**53,
    )
    validation_file: str = setting("", "file to use as validation text, instead of part of the training text")
    duplicates: Literal["keep", "drop"] = setting(
        "keep", "whether to keep or drop validation documents that also occur, word for word, in the training text"
    )
    alphabet: str = setting(
        "",
        "file with the characters or tokens that the model knows (JSON, or one per line), instead of all that occur "
        "in the training text",
    )
    encoding: str = setting("utf-8", "encoding of the text, by its name in Python, such as cp1252, shift_jis or utf-16")
    lowercase: bool = setting(False, "convert the text to lower case")
    punctuation: Literal["keep", "ascii"] = setting(
        "keep", "typographic quotes, dashes, dots and spaces: keep them, or replace them by plain ASCII"
    )
    normalize: Literal["none", "nfc"] = setting("none", "Unicode normalization of the text")
    invalid: Literal["strict", "replace", "bytes"] = setting(
        "strict",
        "what to do with bytes that are not valid in the encoding: stop, replace each by U+FFFD, or keep "
        "each as a symbol of its own (UTF-8 only)",
    )
    column: str = setting(
        "",
        "column that holds the text in tables (.jsonl, .ndjson, .json, .csv, .tsv, .parquet, .arrow); in "
        "JSON it may be a path, such as messages.text. Each row is read like a file",
    )
    bad_rows: Literal["stop", "skip"] = setting(
        "stop", "what to do with rows that have no text in that column: stop, or skip and count them"
    )

    @model_validator(mode="after")
    def _check_separator(self) -> Self:
        if (self.documents == "separator") != bool(self.separator):
            raise ValueError(
                "--corpus.documents separator and --corpus.separator STRING only work together; give both, or neither"
            )
        return self

    @model_validator(mode="after")
    def _check_encoding(self) -> Self:
        if self.encoding != "utf-8" and self.invalid == "bytes":
            raise ValueError(
                f"--corpus.invalid bytes works only with UTF-8, and --corpus.encoding is {self.encoding}; "
                "give --corpus.invalid replace or strict instead"
            )
        return self

    @field_validator("encoding")
    @classmethod
    def _canonical_encoding(cls, value: str) -> str:
        """Returns Python's name of the encoding. UTF-8 has the same name with and without a byte order mark."""
        try:
            b"a".decode(value)  # it accepts only encodings of text
            name = codecs.lookup(value).name
        except UnicodeError:
            name = codecs.lookup(value).name
        except (LookupError, ValueError):
            name = "undefined"
        if name in {"undefined", "idna", "punycode"}:
            raise ValueError(
                f"corpus.encoding {shorten(repr(value))}: there is no such text encoding; "
                "give one that Python knows, such as cp1252 or utf-16"
            )
        return name.removesuffix("-sig")

    @field_validator("validation")
    @classmethod
    def _check_count(cls, value: float) -> float:
        if value >= 1 and not value.is_integer():
            raise ValueError(
                f"corpus.validation {value}: give a fraction below 1, or a whole number of characters or documents"
            )
        return value


class ReaderSettings(Frozen):
    """How ids become batches."""

    kind: Literal["stream", "documents", "windows"] = setting(
        "stream",
        "how to read the text: as one continuous stream, document by document, or in independent windows",
        fitted=True,
    )
    length: int = setting(
        64, "characters per row in one training step (T); gradients flow back over this many", ge=1, le=65536
    )
    batch: int = setting(64, "rows per training step (N), over all workers together", fitted=True, ge=1, le=65536)
    restart: float = setting(
        0.01,
        "stream: fraction of chunks that start with an empty memory, so that the model learns how to start",
        ge=0,
        le=1,
    )
    pack: bool = setting(
        True,
        "documents: start the next document where one ends. Without it, each row has one piece of one "
        "document per step, and padding",
    )
    stride: int = setting(1, "windows: characters from the start of one window to the start of the next", ge=1)
    loss: Literal["every", "last"] = setting("every", "windows: learn from every character, or only from the last one")
    seed: int = setting(1, "seed of the order in which windows and documents are read", ge=0, lt=2**63)


class ModelSettings(Frozen):
    """The model: embedding, recurrent layers, output."""

    kind: Literal["network", "counts"] = setting(
        "network",
        "network: recurrent layers, which are trained; or counts: an n-gram model of the text, made in seconds, which "
        "no other setting of the model changes",
    )
    counts: Literal["auto", "none"] = setting(
        "auto",
        "auto: also count the training text, for an n-gram model, and mix it with the network if that predicts the "
        "validation text better; or none: the network alone",
    )
    cell: Annotated[str, _known_to(REGISTERED_CELLS)] = setting(
        "lstm",
        "recurrent cell: lstm, gru, rnn, mingru (its gates see only the input, Feng et al. 2024), or one that a "
        "module registers, see --import",
    )
    width: int = setting(192, "width of each recurrent layer (H)", fitted=True, ge=1, le=16384)
    layers: int = setting(2, "number of recurrent layers (L)", ge=1, le=64)
    members: int = setting(
        1,
        "networks of this shape that are trained apart on the same text, each from random weights of its own; their "
        "logits are averaged",
        fitted=True,
        ge=1,
        le=16,
    )
    activation: str = setting(
        "tanh", "activation of a cell's candidate and output: tanh or relu, or one per layer, such as tanh,relu"
    )
    input: Literal["embedding", "onehot"] = setting(
        "embedding", "how the first layer gets a character: as a learned embedding, or one-hot"
    )
    embedding: Annotated[int, Field(ge=0, le=16384)] | str = setting(
        0,
        "width of the character embedding (0: as wide as the layers), or a file with a pretrained one: "
        "word2vec text, .safetensors, or the folder of a run",
    )
    freeze_embedding: bool = setting(False, "do not train the embedding")
    embedding_initial: Literal["normal", "uniform"] = setting("normal", "distribution of the embedding's first values")
    embedding_scale: float = setting(
        1.0,
        "standard deviation of a normal embedding's first values, or the largest value of uniform ones",
        ge=0,
        le=100,
    )
    tied: bool = setting(False, "use the embedding's weights in the output layer too")
    head: Literal["linear", "none"] = setting(
        "linear", "output layer. With none, the last layer is as wide as the vocabulary and gives the logits itself"
    )
    dropout: float = setting(0.0, "dropout between layers", fitted=True, ge=0, lt=1)
    input_dropout: float = setting(
        0.0, "dropout after the embedding; model.dropout unless given", fitted=True, ge=0, lt=1
    )
    output_dropout: float = setting(
        0.0, "dropout before the output layer; model.dropout unless given", fitted=True, ge=0, lt=1
    )
    embedding_dropout: float = setting(
        0.0, "fraction of characters whose whole embedding is dropped in a step", ge=0, lt=1
    )
    variational: bool = setting(False, "drop the same units at every character of a chunk")
    weight_drop: float = setting(0.0, "dropout of the recurrent weights (DropConnect), drawn once per step", ge=0, lt=1)
    residual: bool = setting(False, "add each layer's input to its output, from the second layer on")
    norm: Literal["none", "rms", "layer"] = setting(
        "none", "normalize the input of the later layers and of the output layer"
    )
    initial: Literal["orthogonal", "normal"] = setting(
        "orthogonal", "distribution of the recurrent weights' first values"
    )
    initial_scale: float = setting(
        1.0,
        "factor of the recurrent weights' first values if they are orthogonal, or their standard deviation if normal",
        ge=0,
        le=100,
    )
    input_scale: float = setting(
        0.0,
        "standard deviation of the first values of the layers' input weights; 0 draws them uniformly, as torch does",
        ge=0,
        le=100,
    )
    output_scale: float = setting(
        1.0,
        "factor of the first values of the output layer's weights and biases, which are uniform up to 1 / "
        "sqrt(width); 0 makes all characters equally likely at first",
        ge=0,
        le=100,
    )
    hidden_bias: bool = setting(
        True, "learn a second bias with the recurrent weights, as torch does; without it there is one bias, as in Keras"
    )
    forget_bias: float = setting(
        1.0, "initial bias of the gate that keeps the memory (in an lstm, the forget gate)", ge=-100, le=100
    )
    gate_bias: float = setting(0.0, "initial bias of the other gates, but not of the candidate", ge=-100, le=100)

    @field_validator("embedding", mode="before")
    @classmethod
    def _width(cls, value: object) -> object:
        """Turns a number given as a string, as on the command line, into a width."""
        return int(value) if isinstance(value, str) and value.isdecimal() else value

    @field_validator("activation")
    @classmethod
    def _check_activation(cls, value: str) -> str:
        if not set(value.split(",")) <= set(ACTIVATIONS):
            raise ValueError(f"model.activation: give tanh or relu, or one per layer, such as tanh,relu; not {value!r}")
        return value

    @property
    def name(self) -> str:
        """The model's shape in a word or two, such as `lstm 2x192`, or `2 members of lstm 2x192`."""
        if self.kind == "counts":
            return "counts"
        shape = f"{self.cell} {self.layers}x{self.width}"
        return shape if self.members == 1 else f"{self.members} members of {shape}"

    @property
    def state_arrays(self) -> int:
        """The number of arrays in the state of a layer, unless its cell is registered: h, and an lstm's c."""
        return 2 if self.cell == "lstm" else 1

    @property
    def of_member(self) -> ModelSettings:
        """The settings of one member of the model."""
        return self if self.members == 1 else self.model_copy(update={"members": 1})

    @property
    def prefixes(self) -> list[str]:
        """What the names of each member's weights begin with; with nothing if there is one."""
        return [""] if self.members == 1 else [f"members.{number}." for number in range(self.members)]

    def split_weights(self, weights: Mapping[str, Array]) -> list[dict[str, Array]]:
        """Returns the weights of each member, under the names of a model alone."""
        return [
            {name.removeprefix(prefix): each for name, each in weights.items() if name.startswith(prefix)}
            for prefix in self.prefixes
        ]

    @property
    def activations(self) -> list[str]:
        """The activation of each layer. Its length differs from `layers` when the settings are inconsistent."""
        names = self.activation.split(",")
        return names * self.layers if len(names) == 1 else names


class TrainingSettings(Frozen):
    """How the model is trained."""

    optimizer: Annotated[str, _known_to(REGISTERED_OPTIMIZERS)] = setting(
        "muon",
        "optimizer: muon (of the recurrent matrices, while AdamW trains all other weights), adamw, sgd, rmsprop, or "
        "one that a module registers, see --import",
    )
    learning_rate: float = setting(0.04, "peak learning rate", fitted=True, gt=0, le=100)
    adamw_learning_rate: float = setting(
        0.008, "peak learning rate of the weights that muon does not train", gt=0, le=100
    )
    momentum: float = setting(0.95, "momentum of muon and sgd", ge=0, lt=1)
    beta2: float = setting(
        0.99, "decay of the average squared gradient: beta2 of adamw, alpha of rmsprop", fitted=True, ge=0, lt=1
    )
    epsilon: float = setting(
        1e-8, "adamw, rmsprop: added to the root of the average squared gradient before dividing by it", gt=0, le=1
    )
    early_epsilon: bool = setting(False, "adamw: add epsilon before bias correction, as Keras and Torch 7 do")
    weight_decay: float = setting(0.1, "decoupled weight decay of the recurrent matrices", fitted=True, ge=0, le=100)
    pull: float = setting(
        0.0,
        "decoupled decay of all weights towards those that training began with, such as those of a start",
        ge=0,
        le=100,
    )
    clip: float = setting(
        1.0, "largest gradient norm, per character; larger gradients are scaled down to it; 0 means no limit", ge=0
    )
    clip_value: float = setting(
        0.0, "largest absolute value of any element of the gradient, per character; 0 means no limit", ge=0
    )
    mean: Literal["character", "document"] = setting(
        "character", "average gradients over characters, or over the documents that end in the step"
    )
    accumulate: int = setting(1, "batches whose gradients are added up for one step", ge=1, le=1_000_000)
    schedule: Literal["cosine", "constant", "step"] = setting(
        "cosine",
        "learning rate after the warm-up: a cosine down to 0, constant, or multiplied by training.decay "
        "every few epochs",
    )
    decay: float = setting(0.97, "schedule step: factor by which the learning rate is multiplied each time", gt=0, le=1)
    decay_epochs: float = setting(1.0, "schedule step: epochs between two decays", gt=0)
    decay_after: float = setting(0.0, "schedule step: epochs before the first period starts; may be negative")
    activation_penalty: float = setting(
        0.0, "weight in the loss of the mean square of the last layer's outputs (AR of AWD-LSTM)", ge=0
    )
    slowness_penalty: float = setting(
        0.0,
        "weight in the loss of the mean square change of these outputs from one character to the next (TAR "
        "of AWD-LSTM)",
        ge=0,
    )
    averaging: Literal["none", "nonmonotonic"] = setting(
        "none", "average the weights once the validation loss has stopped falling (NT-ASGD of AWD-LSTM)"
    )
    patience: int = setting(5, "evaluations without improvement before averaging starts", ge=1)
    warmup: float = setting(0.02, "fraction of the budget during which the learning rate rises", ge=0, lt=1)
    seed: int = setting(1, "seed of the initial weights, of dropout and of the samples shown", ge=0, lt=2**63)
    max_skipped_steps: int = setting(
        5,
        "a step whose loss or gradient is not finite is skipped; after this number of them in a row, "
        "training rolls back to the last checkpoint",
        ge=1,
    )
    max_rollbacks: int = setting(
        3, "how often training may roll back before it gives up; each rollback halves the learning rate", ge=0, le=60
    )
    evaluations: int = setting(10, "how often to measure the validation loss, at even intervals", fitted=True, ge=1)
    evaluation_characters: int = setting(
        0, "validation characters to read at each evaluation; 0 means all", fitted=True, ge=0
    )
    workers: int = setting(1, "processes that share each batch", fitted=True, ge=1, le=1024)
    groups: int = setting(
        1,
        "groups that the batch is cut into; gradients are summed over groups in a fixed order, so any "
        "number of workers gives the same result",
        fitted=True,
        ge=1,
    )
    threads: int = setting(
        1,
        "threads per matrix product on a CPU. They affect the last bits of results, so a resumed run keeps "
        "this number on any machine",
        fitted=True,
        ge=1,
        le=1024,
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = setting("auto", "device to compute on")
    precision: Literal["auto", "fp32", "bf16"] = setting(
        "auto", "number format of matrix products; auto takes bf16 where the processor is fast at it"
    )


class MonitorSettings(Frozen):
    """What to watch while the model is trained."""

    every_steps: int = setting(0, "evaluate every N steps; 0 means as often as training.evaluations says", ge=0)
    every_epochs: float = setting(0.0, "evaluate every N epochs; 0 means as often as training.evaluations says", ge=0)
    prompts: tuple[str, ...] = setting(
        ("",),
        "prompts of the samples that are shown at each evaluation. @text takes a new place of the training "
        "text each time, and shows how the text really continues there",
        min_length=1,
    )
    temperatures: tuple[Annotated[float, Field(ge=0)], ...] = setting(
        (0.8,),
        "temperatures of the samples, each used with every prompt; 0 always picks the most likely character",
        min_length=1,
    )
    sample_length: int = setting(240, "characters per sample", ge=0, le=1_000_000)
    choose: Choice = setting(
        "best",
        "which model to keep: best, the one with the lowest validation loss; smoothed, the lowest average "
        "of three evaluations in a row; or the last one",
        fitted=True,
    )
    save_minutes: float = setting(
        2.0,
        "minutes between two saves by the clock, in addition to one at each evaluation. The first comes "
        "within half a minute, and saving takes at most 1 % of the time; 0 saves at evaluations only",
        ge=0,
    )
    keep: str = setting(
        "best",
        "checkpoints to keep: all; best (and the last); or the last N (and the best). One saved by the "
        "clock (monitor.save_minutes) is not counted, and is kept until the next save",
    )

    @field_validator("keep")
    @classmethod
    def _check_keep(cls, value: str) -> str:
        if not (value in {"all", "best"} or (value.isdecimal() and int(value))):
            raise ValueError(f"monitor.keep {value!r}: give all, best, or a number of 1 or more")
        return value

    @model_validator(mode="after")
    def _check_one_interval(self) -> Self:
        if self.every_steps and self.every_epochs:
            raise ValueError("give only one of --monitor.every-steps and --monitor.every-epochs")
        return self


class BudgetSettings(Frozen):
    """How long to train; exactly one of these is set."""

    minutes: float = setting(0.0, "how long to train, in minutes of wall time for the whole command", ge=0)
    epochs: float = setting(0.0, "how long to train, in passes over the training text", ge=0)
    steps: int = setting(0, "how long to train, in optimizer steps", ge=0)
    characters: int = setting(0, "how long to train, in characters read", ge=0)

    @model_validator(mode="after")
    def _check_one_budget(self) -> Self:
        given = [name for name, value in self if value]
        if len(given) > 1:
            raise ValueError(f"give one budget, not {len(given)}: --" + ", --".join(given))
        return self

    def __bool__(self) -> bool:
        """Whether there is a budget."""
        return any(value for _, value in self)


class Settings(Frozen):
    """All settings of a run, written to its `settings.toml`."""

    budget: BudgetSettings = BudgetSettings()
    corpus: CorpusSettings = CorpusSettings()
    reader: ReaderSettings = ReaderSettings()
    model: ModelSettings = ModelSettings()
    training: TrainingSettings = TrainingSettings()
    monitor: MonitorSettings = MonitorSettings()

    def explicit(self) -> dict[str, dict[str, Any]]:
        """Only the settings given explicitly, as nested plain values."""
        return self.model_dump(exclude_unset=True)


def reader_window(settings: ReaderSettings) -> int:
    """Returns the most characters that a model trained with this reader sees together; 0 means no limit."""
    return settings.length if settings.kind == "windows" else 0
