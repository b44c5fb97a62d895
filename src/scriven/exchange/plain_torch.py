"""Loads a model that `scriven export --to torch` wrote. It needs torch, and nothing of Scriven.

model = load("book-torch")
logits, state = model(torch.tensor(model.encode("Once upon a time"))[:, None])  # (T, N, V)
costs, ends = model.nats("It was a dark and stormy night.")
text = model.sample("Once upon a time", length=200)
"""

from __future__ import annotations

import json
import math
import unicodedata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

AT_ONCE = 4096  # symbols of a text that are read at once

State = list[Any]  # of each layer, as torch's modules have it; with members, of each member


class Network(nn.Module):
    """An embedding, recurrent layers and an output layer: modules of torch, each with the weights of its name."""

    def __init__(self, config: dict[str, Any]) -> None:
        """Makes the modules that config.json describes."""
        super().__init__()
        self.size, self.onehot = config["vocabulary_size"], config["input"] == "onehot"
        self.residual = config["residual"]
        widths, headless = config["widths"], config["head"] == "none"
        self.embedding = None if self.onehot else nn.Embedding(self.size, widths[0])
        self.layers = nn.ModuleList()
        for inputs, width, activation in zip(widths, widths[1:], config["activations"], strict=False):
            own = {"nonlinearity": activation} if config["cell"] == "rnn" else {}
            self.layers.append({"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}[config["cell"]](inputs, width, **own))
        norms = {"none": nn.Identity, "rms": nn.RMSNorm, "layer": nn.LayerNorm}
        eps = {} if config["norm"] == "none" else {"eps": config["norm_epsilon"]}
        self.norms = nn.ModuleList(norms[config["norm"]](width, **eps) for width in widths[1 : len(widths) - headless])
        self.head = None if headless else nn.Linear(widths[-1], self.size)

    def forward(self, ids: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Reads ids (T, N) from a state on, or from zeros. Returns logits (T, N, V), and the state after the last."""
        x = functional.one_hot(ids, self.size).float() if self.embedding is None else self.embedding(ids)
        after = []
        for depth, layer in enumerate(self.layers):
            y, last = layer(x if depth == 0 else self.norms[depth - 1](x), None if state is None else state[depth])
            x = x + y if self.residual and depth else y
            after.append(last)
        return x if self.head is None else self.head(self.norms[-1](x)), after


class CharModel(nn.Module):
    """A network, or the mean of several, with its vocabulary. It remembers nothing: a state goes in and comes out."""

    def __init__(self, config: dict[str, Any], vocabulary: dict[str, Any]) -> None:
        """Makes a model with random weights."""
        super().__init__()
        self.config, self.vocabulary = config, vocabulary
        self.of_tokens = vocabulary["unit"] == "token"
        self.numbers = {symbol: number for number, symbol in enumerate(vocabulary.get("symbols", ()))}
        self.members = nn.ModuleList(Network(config) for _ in range(config["members"]))

    def forward(self, ids: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Reads ids (T, N). Returns logits (T, N, V), and the state after the last."""
        found = [each(ids, state and state[number]) for number, each in enumerate(self.members)]
        return torch.stack([logits for logits, _ in found]).mean(0), [after for _, after in found]

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a text without separators: one for a character or token, or for a byte of its UTF-8."""
        if self.vocabulary["unit"] == "byte":
            return list(text.encode("utf-8", "surrogatepass"))
        symbols = tokens_of(text) if self.of_tokens else text
        return [self.numbers.get(symbol, self.config["unknown"]) for symbol in symbols]

    def decode(self, ids: list[int]) -> str:
        """Returns the text of ids. The boundary becomes the separator, and `<unk>` U+FFFD. One space joins tokens."""
        special = {self.config["unknown"]: "\ufffd", self.config["boundary"]: self.vocabulary.get("separator", "")}
        if self.vocabulary["unit"] == "byte":
            data = b"".join(special[each].encode() if each in special else bytes([each]) for each in ids)
            return data.decode("utf-8", "replace")
        symbols = [special.get(each) or self.vocabulary["symbols"][each] for each in ids]
        return join_tokens(symbols, self.vocabulary.get("separator")) if self.of_tokens else "".join(symbols)

    def prepare(self, text: str) -> str:
        """Returns a text in the form that the model was trained on, such as in lower case."""
        form = self.config["text"]
        text = (text.lower() if form["lowercase"] else text).translate(str.maketrans(form["replaced"]))
        return unicodedata.normalize("NFC", text) if form["normalize"] == "nfc" else text

    def split(self, text: str) -> list[str]:
        """Returns the documents of a text, without empty ones; or the text, if the model knows no documents."""
        kind, separator = self.config["documents"], self.vocabulary.get("separator", "")
        if kind == "lines":
            text = text.replace("\r\n", "\n").replace("\r", "\n")
        parts = text.split(self.prepare(separator)) if kind in ("lines", "separator") else [text]
        return [part for part in parts if (tokens_of(part) if self.of_tokens else part)]

    @torch.no_grad()
    def nats(self, text: str) -> tuple[Tensor, Tensor]:
        """Returns the surprisals in nats of all symbols (M,) of a text, and of the ends of its documents (E,)."""
        costs, ends = [torch.zeros(0)], [torch.zeros(0)]
        for document in self.split(self.prepare(text)):
            ids, boundary = self.encode(document), self.config["boundary"]
            found = self._nats_of(ids if boundary is None else [*ids, boundary])
            costs.append(found[: len(ids)])
            ends.append(found[len(ids) :])
        return torch.cat(costs), torch.cat(ends)

    def _nats_of(self, ids: list[int]) -> Tensor:
        """Returns the surprisals (M,) of ids after what opens a text; without that, the first may be any symbol."""
        opening, state = self.config["opening"], None
        costs = [] if opening else [torch.tensor([math.log(self.config["vocabulary_size"])], dtype=torch.float64)]
        symbols = torch.tensor([*opening, *ids])
        for begin in range(0, len(symbols) - 1, AT_ONCE):
            targets = symbols[begin + 1 : begin + 1 + AT_ONCE]
            logits, state = self(symbols[begin : begin + len(targets), None], state)
            costs.append(functional.cross_entropy(logits[:, 0].double(), targets, reduction="none"))
        unknown = torch.tensor(ids) == self.config["unknown"]
        found: Tensor = torch.cat(costs) + self.config["unknown_nats"] * unknown
        return found

    @torch.no_grad()
    def sample(self, prompt: str = "", length: int = 400, temperature: float = 1.0, seed: int = 1) -> str:
        """Returns text after a prompt: up to `length` symbols, fewer if a document ends."""
        config, state, written = self.config, None, list[int]()
        read = begun = [*config["opening"], *self.encode(self.prepare(prompt))]
        if not begun:
            raise ValueError("this model knows no line end, which would open a text: give a prompt")
        generator = torch.Generator().manual_seed(seed)
        while len(written) < length and config["boundary"] not in written[-1:]:
            if config["window"]:  # it sees only the last symbols, from a zero state
                read, state = [*begun, *written][-config["window"] :], None
            logits, state = self(torch.tensor(read)[:, None], state)
            logits[-1, 0, config["unknown"]] = -torch.inf
            chances = torch.softmax(logits[-1, 0] / temperature, 0)
            written.append(int(torch.multinomial(chances, 1, generator=generator)))
            read = written[-1:]
        text, separator = self.decode(written), self.vocabulary.get("separator") or "\n"
        joins = self.of_tokens and text and prompt and not prompt.endswith((" ", "\t", "\n", "\r", separator))
        return text if not joins or text.startswith(("\n", separator)) else f" {text}"


def tokens_of(text: str) -> list[str]:
    """Returns what stands between the spaces and tabs of a text, and its line ends, each as a line feed."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\n", " \n ")
    return [each for each in text.replace("\t", " ").split(" ") if each]


def join_tokens(tokens: list[str], separator: str | None) -> str:
    """Returns the text of tokens: with a space between two of them in a line, and none around a separator."""
    text = ""
    for token in tokens:
        begins = not text or text.endswith(("\n", separator or "\n"))
        text += token if begins or token in ("\n", separator) else f" {token}"
    return text


def load(folder: str | Path) -> CharModel:
    """Returns the model in a folder that `scriven export --to torch` made."""
    config, vocabulary = (
        json.loads((Path(folder) / name).read_text("utf-8")) for name in ("config.json", "vocabulary.json")
    )
    model = CharModel(config, vocabulary)
    weights = torch.load(Path(folder) / "model.pt", weights_only=True)
    alone = {} if config["members"] > 1 else {f"members.0.{name}": each for name, each in weights.items()}
    model.load_state_dict(alone or weights)
    return model.eval()
