"""Frozen, validated settings. One definition each: the same fields are flags, TOML keys and Python arguments.

A field marked "fitted" has a value here only so that the class is complete: what the user does not set
is chosen by `scriven.training.auto_settings` from the text, the budget and the measured speed of the machine.
"""

from __future__ import annotations

import codecs
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from scriven.errors import UsageError
from scriven.suggestions import close_dotted, close_names, did_you_mean

Cell = Literal["lstm", "gru", "rnn", "mingru"]
Choice = Literal["best", "smoothed", "last"]
Unit = Literal["character", "byte"]
PLAINER = {
    "float_parsing": "give a number, such as 5 or 0.5",
    "int_parsing": "give a whole number",
    "int_from_float": "give a whole number",
    "literal_error": "give {expected}",
    "greater_than": "give more than {gt}",
    "greater_than_equal": "give {ge} or more",
    "less_than": "give less than {lt}",
    "less_than_equal": "give {le} or less",
}
ACTIVATIONS = ("tanh", "relu")
MOST_NAMED, MOST_SHOWN = 5, 300  # wrong settings in an error, and characters of each: files may hold anything
TEXT_PLACE = "@text"  # a prompt that stands for a place of the training text
RENAMED = {  # settings by the names that files of earlier versions have
    "training.returns": "training.max_rollbacks",
    "training.skips": "training.max_skipped_steps",
}
Optimizer = Literal["muon", "adamw", "sgd", "rmsprop"]


def setting(default: Any, text: str, *, fitted: bool = False, **bounds: Any) -> Any:
    """A field with its one sentence of help; the help says whether the default is fixed or fitted."""
    origin = "fitted to the text, the budget and the machine" if fitted else f"default: {default}"
    return Field(default, description=f"{text} [{origin}]", json_schema_extra={"fitted": fitted}, **bounds)


class Frozen(BaseModel):
    """Base of all settings: immutable, and an unknown name is an error rather than ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class CorpusSettings(Frozen):
    """How text becomes ids."""

    unit: Unit = setting("character", "what one step of the model reads: a Unicode character, or a byte")
    documents: Literal["none", "lines", "files", "separator"] = setting(
        "none", "what a document is: a text of its own that begins with an empty memory and whose end is learned too"
    )
    separator: str = setting(
        "",
        r"string between two documents, where corpus.documents is separator; as a flag with \n, \t, \r and \\ for "
        "a line feed, a tab, a carriage return and a backslash",
    )
    validation: float = setting(
        0.1,
        "share kept for validation: of the text, at its end; of documents, spread over all of them. From 1 on it is a "
        "number: of characters, or of documents",
        ge=0.0,
        lt=2**53,
    )
    validation_file: str = setting("", "file whose text is the validation text, instead of a share")
    duplicates: Literal["keep", "drop"] = setting(
        "keep", "validation documents that the training text has too, word for word: keep them, or drop them"
    )
    alphabet: str = setting(
        "", "file of the characters to know (JSON, or one a line), instead of all that the training text has"
    )
    encoding: str = setting(
        "utf-8", "encoding of the text, by any of Python's names, such as cp1252, shift_jis, utf-16"
    )
    lowercase: bool = setting(False, "turn the text to lower case")
    punctuation: Literal["keep", "ascii"] = setting(
        "keep", "typographic quotes, dashes, dots and spaces: keep them, or write them as a typewriter does"
    )
    normalize: Literal["none", "nfc"] = setting("none", "Unicode normalisation of the text")
    invalid: Literal["strict", "replace", "bytes"] = setting(
        "strict",
        "what to do with bytes that are not of the encoding: stop, replace each by U+FFFD, or keep each as a "
        "symbol of its own (in UTF-8 alone)",
    )
    column: str = setting(
        "",
        "column of tables (.jsonl, .ndjson, .json, .csv, .tsv, .parquet, .arrow) that has the text, in JSON also a "
        "path such as messages.text; each row is read as a file is",
    )
    bad_rows: Literal["stop", "skip"] = setting(
        "stop", "what to do with rows that have no text in the column: stop, or leave them out and count them"
    )

    @model_validator(mode="after")
    def _check_separator(self) -> Self:
        if (self.documents == "separator") != bool(self.separator):
            raise ValueError("--corpus.documents separator and --corpus.separator STRING need each other")
        return self

    @model_validator(mode="after")
    def _check_encoding(self) -> Self:
        if self.encoding != "utf-8" and self.invalid == "bytes":
            raise ValueError(
                f"--corpus.invalid bytes keeps bytes that are not UTF-8, and --corpus.encoding is {self.encoding}; "
                "give --corpus.invalid replace or strict with it"
            )
        return self

    @field_validator("encoding")
    @classmethod
    def _canonical_encoding(cls, value: str) -> str:
        """The name that Python has for the encoding; UTF-8 has one, with a byte order mark and without."""
        try:
            b"a".decode(value)  # which knows encodings of texts alone
            name = codecs.lookup(value).name
        except UnicodeError:
            name = codecs.lookup(value).name
        except (LookupError, ValueError):
            name = "undefined"
        if name in {"undefined", "idna", "punycode"}:
            raise ValueError(
                f"corpus.encoding {shorten(repr(value))}: there is no such encoding of texts; "
                "give one that Python knows, "
                "such as cp1252 or utf-16"
            )
        return name.removesuffix("-sig")

    @field_validator("validation")
    @classmethod
    def _check_count(cls, value: float) -> float:
        if value >= 1 and not value.is_integer():
            raise ValueError(
                f"corpus.validation {value}: give a share below 1, or a whole number of characters or documents"
            )
        return value


class ReaderSettings(Frozen):
    """How ids become batches."""

    kind: Literal["stream", "documents", "windows"] = setting(
        "stream",
        "how the text is read: as lanes whose state is carried for ever, by documents, or in independent windows",
        fitted=True,
    )
    length: int = setting(64, "characters per row and step (T), through which gradients flow", ge=1, le=65536)
    batch: int = setting(64, "rows read side by side (N), over all workers", fitted=True, ge=1, le=65536)
    restart: float = setting(
        0.01,
        "stream: share of a row's chunks that begin with an empty memory, so that the model learns to begin",
        ge=0,
        le=1,
    )
    pack: bool = setting(
        True,
        "documents: begin the next one where one ends; without, a step has one piece of a document a row, and padding",
    )
    stride: int = setting(1, "windows: characters from the start of one to the start of the next", ge=1)
    loss: Literal["every", "last"] = setting("every", "windows: count every character, or only the last one")
    seed: int = setting(1, "seed of the order in which windows and documents are read", ge=0, lt=2**63)


class ModelSettings(Frozen):
    """The model: embedding, recurrent layers, output."""

    cell: Cell = setting("lstm", "recurrent cell; the gates of a mingru see the input alone (Feng et al. 2024)")
    width: int = setting(192, "width of each recurrent layer (H)", fitted=True, ge=1, le=16384)
    layers: int = setting(2, "number of recurrent layers (L)", ge=1, le=64)
    activation: str = setting(
        "tanh", "what bounds a cell's candidate and its output, tanh or relu; or one for each layer, as tanh,relu"
    )
    input: Literal["embedding", "onehot"] = setting(
        "embedding", "how the first layer sees a character: by a learned embedding, or as one of V inputs"
    )
    embedding: Annotated[int, Field(ge=0, le=16384)] | str = setting(
        0,
        "width of the character embedding, 0 as wide as the layers; or what has pretrained ones: a word2vec text file, "
        "a .safetensors file, a run's folder",
    )
    freeze_embedding: bool = setting(False, "leave the embedding as it is at the start")
    embedding_initial: Literal["normal", "uniform"] = setting("normal", "how the embedding begins")
    embedding_scale: float = setting(
        1.0, "standard deviation of a normal embedding at the start; largest value of a uniform one", ge=0, le=100
    )
    tied: bool = setting(False, "let the output layer use the embedding's weights")
    head: Literal["linear", "none"] = setting(
        "linear", "output layer; with none the last layer is as wide as the vocabulary and gives the logits itself"
    )
    dropout: float = setting(0.0, "share of values dropped between layers", fitted=True, ge=0, lt=1)
    input_dropout: float = setting(
        0.0, "share of the embedding's values dropped; as dropout where not given", fitted=True, ge=0, lt=1
    )
    output_dropout: float = setting(
        0.0, "share of values dropped before the output layer; as dropout where not given", fitted=True, ge=0, lt=1
    )
    embedding_dropout: float = setting(
        0.0, "share of characters whose embedding is dropped whole in a step", ge=0, lt=1
    )
    variational: bool = setting(False, "drop the same values at all characters of a chunk")
    weight_drop: float = setting(0.0, "share of the recurrent weights dropped in a step (DropConnect)", ge=0, lt=1)
    residual: bool = setting(False, "add the input of every layer after the first to its output")
    norm: Literal["none", "rms", "layer"] = setting("none", "normalise what later layers and the output layer read")
    initial: Literal["orthogonal", "normal"] = setting("orthogonal", "how recurrent weights begin")
    initial_scale: float = setting(
        1.0, "factor of orthogonal recurrent weights; standard deviation of normal ones", ge=0, le=100
    )
    input_scale: float = setting(
        0.0, "standard deviation of the layers' input weights at the start; 0 is torch's uniform ones", ge=0, le=100
    )
    output_scale: float = setting(
        1.0,
        "factor of the output layer's weights and biases at the start, which are uniform up to 1 / sqrt(width); with 0 "
        "all characters are equally likely",
        ge=0,
        le=100,
    )
    hidden_bias: bool = setting(
        True, "learn a second bias beside the recurrent weights, as torch has; without it there is one, as in Keras"
    )
    forget_bias: float = setting(1.0, "bias of the gate that keeps the memory: the lstm's forget gate", ge=-100, le=100)
    gate_bias: float = setting(0.0, "bias of the other gates (not of the candidate)", ge=-100, le=100)

    @field_validator("embedding", mode="before")
    @classmethod
    def _width(cls, value: object) -> object:
        """A number that a command line gives as a string is a width."""
        return int(value) if isinstance(value, str) and value.isdecimal() else value

    @field_validator("activation")
    @classmethod
    def _check_activation(cls, value: str) -> str:
        if not set(value.split(",")) <= set(ACTIVATIONS):
            raise ValueError(f"model.activation: give tanh or relu, or one for each layer, as tanh,relu; not {value!r}")
        return value

    @property
    def activations(self) -> list[str]:
        """The activation of each layer; of another length than `layers` where the settings contradict each other."""
        names = self.activation.split(",")
        return names * self.layers if len(names) == 1 else names

    def of_layer(self, depth: int) -> Self:
        """The settings as the layer at `depth` needs them, with its own activation."""
        return self.model_copy(update={"activation": self.activations[depth]})


class TrainingSettings(Frozen):
    """How the model is trained."""

    optimizer: Optimizer = setting(
        "muon", "optimizer of the recurrent matrices; with muon all other weights are trained by AdamW"
    )
    learning_rate: float = setting(0.04, "peak learning rate of the optimizer", fitted=True, gt=0, le=100)
    adamw_learning_rate: float = setting(
        0.008, "peak learning rate of the weights that muon does not train", gt=0, le=100
    )
    momentum: float = setting(0.95, "momentum of muon and sgd", ge=0, lt=1)
    beta2: float = setting(
        0.99, "decay of the mean of squared gradients: adamw's beta2, rmsprop's alpha", fitted=True, ge=0, lt=1
    )
    epsilon: float = setting(
        1e-8, "adamw, rmsprop: added to the root of the mean of squared gradients, which divides steps", gt=0, le=1
    )
    early_epsilon: bool = setting(
        False, "adamw: add epsilon before that mean is corrected for the first steps, as Keras and Torch 7 do"
    )
    weight_decay: float = setting(0.1, "decoupled weight decay of the recurrent matrices", fitted=True, ge=0, le=100)
    clip: float = setting(
        1.0, "largest gradient norm, per character; larger gradients are scaled down to it; 0 is no limit", ge=0
    )
    clip_value: float = setting(0.0, "largest size of a gradient's every value, per character; 0 is no limit", ge=0)
    mean: Literal["character", "document"] = setting(
        "character", "what gradients are a mean over: characters, or documents that end in the step"
    )
    accumulate: int = setting(1, "batches whose gradients make one step", ge=1, le=1_000_000)
    schedule: Literal["cosine", "constant", "step"] = setting(
        "cosine", "learning rate after the warm-up: a cosine to 0, constant, or multiplied by decay every few epochs"
    )
    decay: float = setting(0.97, "schedule step: factor of the learning rate", gt=0, le=1)
    decay_epochs: float = setting(1.0, "schedule step: epochs from one decay to the next", gt=0)
    decay_after: float = setting(0.0, "schedule step: epochs after which they begin to count; may be below 0")
    activation_penalty: float = setting(
        0.0, "weight of the mean square of the last layer's outputs in the loss (AWD-LSTM's AR)", ge=0
    )
    slowness_penalty: float = setting(
        0.0, "weight of the mean square of their change from character to character (AWD-LSTM's TAR)", ge=0
    )
    averaging: Literal["none", "nonmonotonic"] = setting(
        "none", "use the mean of all weights since the validation loss stopped falling (AWD-LSTM's NT-ASGD)"
    )
    patience: int = setting(5, "evaluations without a better one after which averaging begins", ge=1)
    warmup: float = setting(0.02, "share of the budget over which the learning rate rises", ge=0, lt=1)
    seed: int = setting(1, "seed of the initial weights, of dropout and of the samples shown", ge=0, lt=2**63)
    max_skipped_steps: int = setting(
        5,
        "a step whose loss or gradient is not finite is skipped; after this number of them in a row, training rolls "
        "back to the last checkpoint",
        ge=1,
    )
    max_rollbacks: int = setting(
        3, "how often training may roll back, each time with half the learning rate, before it gives up", ge=0, le=60
    )
    evaluations: int = setting(10, "how often the validation loss is measured, evenly spaced", fitted=True, ge=1)
    evaluation_characters: int = setting(
        0, "validation characters read at each evaluation; 0 is all of them", fitted=True, ge=0
    )
    workers: int = setting(1, "processes that share the batch", fitted=True, ge=1, le=1024)
    groups: int = setting(
        1, "groups that the batch is cut into; gradients are summed over groups in a fixed order", fitted=True, ge=1
    )
    threads: int = setting(
        1,
        "threads that torch splits each product over on a CPU: they decide the last bits, so a run keeps them, "
        "however many workers or cores it has later",
        fitted=True,
        ge=1,
        le=1024,
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = setting("auto", "where to compute")
    precision: Literal["auto", "fp32", "bf16"] = setting(
        "auto", "number format of matrix products; auto is bf16 where the processor is fast at it"
    )


class MonitorSettings(Frozen):
    """What is looked at while the model is trained."""

    every_steps: int = setting(0, "evaluate every so many steps; 0 is as training.evaluations says", ge=0)
    every_epochs: float = setting(0.0, "evaluate every so many epochs; 0 is as training.evaluations says", ge=0)
    prompts: tuple[str, ...] = setting(
        ("",),
        "texts that the samples go on from, at every evaluation; @text is a place of the training text, each time "
        "another one, and how it really went on is shown beside",
        min_length=1,
    )
    temperatures: tuple[Annotated[float, Field(ge=0)], ...] = setting(
        (0.8,), "temperatures of the samples, each with every prompt; 0 always takes the likeliest", min_length=1
    )
    sample_length: int = setting(240, "characters of a sample", ge=0, le=1_000_000)
    choose: Choice = setting(
        "best",
        "the model to keep: best, by the validation loss of each; smoothed, by the mean of that and the two before; or "
        "the last one",
        fitted=True,
    )
    save_minutes: float = setting(
        2.0,
        "minutes between two saves by the clock, beside those of evaluations; the first comes within half a minute, "
        "and saving takes at most 1 % of the time; 0 saves with evaluations only",
        ge=0,
    )
    keep: str = setting(
        "best",
        "checkpoints to keep: all; best, with the last; or the N last, with the best. What was saved by the clock "
        "(save_minutes) counts for none of them, and is kept until the next save",
    )

    @field_validator("keep")
    @classmethod
    def _some(cls, value: str) -> str:
        if not (value in {"all", "best"} or (value.isdecimal() and int(value))):
            raise ValueError(f"monitor.keep {value!r}: give all, best, or a number of checkpoints above 0")
        return value

    @model_validator(mode="after")
    def _one_interval(self) -> Self:
        if self.every_steps and self.every_epochs:
            raise ValueError("give one interval: --monitor.every-steps or --monitor.every-epochs")
        return self


class BudgetSettings(Frozen):
    """How long to train: exactly one of them."""

    minutes: float = setting(0.0, "wall time of the whole command", ge=0)
    epochs: float = setting(0.0, "passes over the training text", ge=0)
    steps: int = setting(0, "optimizer steps", ge=0)
    characters: int = setting(0, "characters read", ge=0)

    @model_validator(mode="after")
    def _one_at_most(self) -> Self:
        given = [name for name, value in self if value]
        if len(given) > 1:
            raise ValueError(f"give one budget, not {len(given)}: --" + ", --".join(given))
        return self

    def __bool__(self) -> bool:
        """Whether there is a budget."""
        return any(value for _, value in self)


class SamplingSettings(Frozen):
    """How the next character is drawn from the model's distribution."""

    temperature: float = setting(
        0.8, "divides the logits: lower is more predictable; 0 always takes the likeliest", ge=0
    )
    top_k: int = setting(0, "draw among the k likeliest characters only; 0 is no limit", ge=0)
    top_p: float = setting(1.0, "draw among the likeliest characters that together have this probability", gt=0, le=1)
    min_p: float = setting(0.0, "draw among characters at least this share as likely as the likeliest", ge=0, le=1)


class Settings(Frozen):
    """Everything that a run is made from; written to the run's `settings.toml`."""

    budget: BudgetSettings = BudgetSettings()
    corpus: CorpusSettings = CorpusSettings()
    reader: ReaderSettings = ReaderSettings()
    model: ModelSettings = ModelSettings()
    training: TrainingSettings = TrainingSettings()
    monitor: MonitorSettings = MonitorSettings()

    def explicit(self) -> dict[str, dict[str, Any]]:
        """Only what was set explicitly, as nested plain values."""
        return self.model_dump(exclude_unset=True)


def reader_window(settings: ReaderSettings) -> int:
    """How many characters a model that was trained by this reader ever sees together; 0 where there is no end."""
    return settings.length if settings.kind == "windows" else 0


def check_complete(settings: Settings) -> Settings:
    """The same settings, all resolved.

    Raises UsageError when settings contradict each other: as `check_partial` does, or where the batch and
    what is tied do not agree.
    """
    check_partial(settings)
    model = settings.model
    if model.tied and model.embedding not in (0, model.width):
        raise UsageError(
            f"model.tied needs an embedding as wide as the layers: give model.embedding {model.embedding} and "
            f"model.width {model.width} the same value"
        )
    batch, groups, workers = settings.reader.batch, settings.training.groups, settings.training.workers
    if groups < workers:
        raise UsageError(
            f"training.groups ({groups}) must be training.workers ({workers}) or more, so that each has a share"
        )
    if batch % groups:
        raise UsageError(f"reader.batch ({batch}) must be a multiple of training.groups ({groups})")
    return settings


def check_partial(settings: Settings) -> Settings:
    """The same settings, of which some may still have to be fitted.

    Raises UsageError when what does not depend on those contradicts itself: what is read, what the model is.
    """
    _check_reader(settings)
    _check_model(settings.model)
    return settings


def _check_reader(settings: Settings) -> None:
    kind, documents = settings.reader.kind, settings.corpus.documents != "none"
    if kind == "documents" and not documents:
        raise UsageError(
            "reader.kind documents: say what a document is with --corpus.documents lines, files or separator"
        )
    if kind != "documents" and documents:
        raise UsageError(f"reader.kind {kind} reads one text without documents; drop it, or --corpus.documents")
    if settings.reader.loss == "last" and kind != "windows":
        raise UsageError(f"reader.loss last is for windows, not for reader.kind {kind}; drop one of them")
    if settings.training.mean == "document" and not documents:
        raise UsageError("training.mean document: there are no documents; say what one is with --corpus.documents")
    if settings.training.mean == "document" and settings.reader.pack and "pack" in settings.reader.model_fields_set:
        raise UsageError(
            "training.mean document needs whole documents in a step, and reader.pack cuts them; drop one of them"
        )


def check_cell(model: ModelSettings) -> None:
    """Raises UsageError for what a cell does not have, and for activations of another number of layers."""
    if len(model.activations) != model.layers:
        raise UsageError(
            f"model.activation {shorten(model.activation)} names {len(model.activations)} activations "
            "and model.layers is "
            f"{model.layers}; give one for all layers, or one for each"
        )
    if model.cell == "mingru" and (set(model.activations) != {"tanh"} or model.weight_drop or not model.hidden_bias):
        raise UsageError(
            "model.cell mingru has no recurrent weights to drop, nor a bias beside them, and bounds its candidate in "
            "its own way; drop model.weight_drop, model.hidden_bias and model.activation"
        )


def _check_model(model: ModelSettings) -> None:
    check_cell(model)
    drawn = (model.embedding_initial, model.embedding_scale) != ("normal", 1.0)  # an embedding, unlike by default
    if model.input == "onehot" and (model.embedding or model.tied or model.freeze_embedding or drawn):
        raise UsageError(
            "model.input onehot has no embedding; drop model.embedding, tied, freeze_embedding, embedding_initial and "
            "embedding_scale"
        )
    if model.tied and drawn:
        raise UsageError(
            "model.tied lets the embedding begin as the output layer; drop model.embedding_initial and "
            "embedding_scale, or give model.output_scale instead"
        )
    if model.head == "none" and model.output_scale != 1:
        raise UsageError("model.head none has no output layer; drop model.output_scale")
    if model.residual and model.head == "none" and model.layers > 1:
        raise UsageError("model.residual adds layers of one width, and with model.head none the last has another one")
    if model.tied and (model.head == "none" or model.freeze_embedding):
        other = "model.head none" if model.head == "none" else "model.freeze_embedding"
        raise UsageError(f"model.tied needs an output layer that is trained; drop it, or {other}")


def validate(values: dict[str, Any]) -> Settings:
    """Settings from nested plain values.

    Raises UsageError naming the setting, its value and what it may be.
    """
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise UsageError(describe_errors(error)) from None


def describe_errors(error: ValidationError, prefix: str = "", *, flags: bool = False) -> str:
    """One sentence per wrong setting, with its dotted name (or its flag) and value."""
    lines = []
    errors = error.errors(include_url=False)
    for item in errors[:MOST_NAMED]:
        name = ".".join([*([prefix] if prefix else []), *(str(part)[:MOST_SHOWN] for part in item["loc"])])
        name = f"--{name.replace('_', '-')}" if flags and name else name
        message = item["msg"].removeprefix("Value error, ")
        unshown = item["type"] in {"missing", "extra_forbidden"} or not item["loc"]
        if item["type"] in PLAINER:
            message = PLAINER[item["type"]].format(**{key: _plain(each) for key, each in item.get("ctx", {}).items()})
        shown = "" if unshown else f" {shorten(repr(item['input']))}"
        if item["type"] == "extra_forbidden":
            message = "there is no such setting" + did_you_mean(_close_settings(error.title, item["loc"]))
        if now := RENAMED.get(name):
            lines.append(f"{name} is now called {now}")
            continue
        lines.append(f"{name}{shown}: {message}" if name and item["type"] != "value_error" else message)
    more = [f"and {len(errors) - MOST_NAMED:,} more"] if len(errors) > MOST_NAMED else []
    return "; ".join([*map(shorten, lines), *more])


def with_current_names(values: dict[str, Any]) -> dict[str, Any]:
    """Nested settings under the names of today. Where a file has both an old name and its new one, both stay."""
    result = dict(values)
    for old, new in RENAMED.items():
        (section, before), after = old.split("."), new.split(".")[1]
        group = result.get(section)
        if isinstance(group, dict) and before in group and after not in group:
            result[section] = {after if name == before else name: value for name, value in group.items()}
    return result


def _plain(value: object) -> object:
    """A bound of a setting, as a person writes it."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _close_settings(title: str, place: tuple[int | str, ...]) -> list[str]:
    """The settings that a name may have meant which the class of that title does not have."""
    names = [f"{section}.{name}" for section, values in Settings() for name in type(values).model_fields]
    if title != Settings.__name__:
        names = [name for each in Frozen.__subclasses__() if each.__name__ == title for name in each.model_fields]
    name = ".".join(map(str, place))[:MOST_SHOWN]
    return close_dotted(name, names) or close_names(name, Settings.model_fields if title == Settings.__name__ else ())


def shorten(text: str) -> str:
    """A text that is short enough for a sentence."""
    return text if len(text) <= MOST_SHOWN else text[:MOST_SHOWN] + "..."


def merge_settings(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Nested dictionaries joined, `over` winning."""
    result = dict(base)
    for key, value in over.items():
        old = result.get(key)
        result[key] = merge_settings(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result


ALTERNATIVES = {"budget": set(BudgetSettings.model_fields), "monitor": {"every_steps", "every_epochs"}}


def overlay_settings(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Nested settings joined, `over` winning.

    A budget, or an interval of evaluations, in it replaces the other one, of which there can be only one.
    """
    kept = dict(base)
    for section, names in ALTERNATIVES.items():
        if names & set(over.get(section, {})):
            kept[section] = {name: value for name, value in base.get(section, {}).items() if name not in names}
    return merge_settings(kept, over)
