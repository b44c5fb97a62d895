"""`scriven export` and `import`: models for other programs and of them. `scriven pack` and `unpack`: a run to send."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from scriven.arguments import ExportFormat, ExportNumbers, ImportedUnit, RnnActivation
from scriven.cli.common import Json, Mixing, Output, RunFolder, Switch, Which, note, path_given, put_json, put_path
from scriven.errors import UsageError

To = Annotated[
    ExportFormat,
    Parameter(
        name="--to",
        help="torch: a folder with a state dict for torch's own modules, and a Python file that loads it without "
        "Scriven. onnx: one file for onnxruntime and others. transformers: a folder that Hugging Face's library opens "
        "after import scriven.transformers. safetensors: a folder with weights, config.json and vocabulary for any "
        "program; docs/format.md describes it. html: one page for a browser, offline and on phones too: it writes, "
        "shows alternatives, and reads a text",
    ),
]
Numbers = Annotated[
    ExportNumbers,
    Parameter(
        name="--precision",
        help="onnx: number format of the matrices in the file. int8 takes about a quarter of the bytes; it is computed "
        "in fp32",
    ),
]
Loader = Annotated[
    Switch, Parameter(help="torch: print the source of the loader instead, and write nothing; RUN may be left out")
]


WithCounts = Annotated[
    Switch,
    Parameter(
        help="html: put the counts of the training text into the page too, pruned to 1 MB; passages of the text can be "
        "made out from them"
    ),
]


def export(
    run: RunFolder = "",
    /,
    *,
    to: To,
    output: Output = None,
    precision: Numbers = "fp32",
    checkpoint: Which = "best",
    loader: Loader = False,
    with_counts: WithCounts = False,
    as_json: Json = False,
) -> None:
    """Write a trained model for other programs. What a format cannot hold is said, and never dropped silently.

    An export is the network of the run. Counts of the training text stay behind, unless --with-counts takes them along:
    compare with scriven score --counts none. Before an export to torch, onnx or transformers is put in its place, its
    logits are compared with the run's.

    Parameters
    ----------
    output
        folder or file to write; unless given, the name of the run and of the format, such as book-torch, book.onnx,
        book-int8.onnx or book.html. Nothing is replaced
    """
    from scriven.exchange.folders import loader_source
    from scriven.exchange.formats import export_model

    if loader:
        if to != "torch":
            raise UsageError(f"--loader prints the loader of --to torch, and {to} has none; drop --loader")
        sys.stdout.write(loader_source())
        return
    if not run:
        raise UsageError("scriven export needs run, the folder of the run, or its name if it is in runs/")
    made = export_model(run, to, output, precision=precision, which=checkpoint, with_counts=with_counts)
    for each in made.notes:
        note(each)
    facts: dict[str, Any] = {"format": to, "path": str(made.path), "step": made.step}
    if made.largest_difference is not None:
        facts["largest_difference"] = made.largest_difference
    if to == "html":
        facts["bytes"] = made.path.stat().st_size
    _show(made.path, {**facts, "notes": [*made.notes]}, as_json)


def import_model(
    file: Annotated[Path, Parameter(converter=path_given)],
    /,
    *,
    output: Output = None,
    vocabulary: Annotated[Path | None, Parameter(converter=path_given)] = None,
    text: Annotated[Path | None, Parameter(converter=path_given)] = None,
    unit: ImportedUnit = "character",
    lowercase: Switch = False,
    activation: RnnActivation = "tanh",
    as_json: Json = False,
) -> None:
    """Make a run of a model that another program trained, which then writes, scores and serves as any run does.

    Of Keras (.keras, .h5), torch-rnn (.t7) and torch (.pt or .pth, a state dict; .safetensors): an embedding or one-hot
    vectors, LSTM, GRU or simple recurrent layers, and one output layer. No code of a file is run. What Scriven cannot
    hold is refused with the reason.

    Parameters
    ----------
    file
        model to import
    output
        folder to make; unless given, the name of the file without its ending, in runs/. Nothing is replaced
    vocabulary
        file of the symbols, in the order of the model's numbers: a JSON list, a JSON object of symbols and numbers, as
        torch-rnn's preprocessing writes it, or one on each line. Files of torch-rnn need none
    text
        text that the model was trained on, in place of --vocabulary, if its symbols are the distinct characters of that
        text, sorted, as in Keras's examples
    unit
        byte: the model's numbers are the bytes 0 to 255 of UTF-8, and it needs neither of the two
    lowercase
        the model knows no capitals: texts are put into small letters before it reads them, and --text too
    activation
        activation of an nn.RNN of torch, whose file does not tell
    """
    from scriven.exchange import formats

    made = formats.import_model(
        file, output, vocabulary=vocabulary, text=text, unit=unit, lowercase=lowercase, activation=activation
    )
    if made.window:
        note(
            f"the model reads {made.window:,} characters from an empty memory for each that it predicts; so it writes "
            "here, and scores read the whole text"
        )
    _show(made.path, {"path": str(made.path), "program": made.program, "model": made.model}, as_json)


def pack(
    run: RunFolder,
    /,
    *,
    output: Output = None,
    checkpoint: Which = "best",
    counts: Mixing = "auto",
    as_json: Json = False,
) -> None:
    """Pack a trained model into one file to send. scriven unpack makes a run of it again, with the same losses.

    The file has weights, vocabulary, settings, and the counts if the model is mixed with some. It has no text, no
    sample, no log, no name of a file or folder of this machine, and not what resuming needs.

    Parameters
    ----------
    output
        file to write; unless given, the name of the run with .zip after it. Nothing is replaced
    """
    from scriven.exchange.packing import pack_run

    target = output or Path(Path(run).resolve().name + ".zip")
    packed = pack_run(run, target, checkpoint, counts)
    if "counts" in packed.origin:
        note(
            "the counts of the training text are in the file, and passages of the text can be made out from them; "
            "--counts none leaves them out"
        )
    _show_packed(target, target.stat().st_size, as_json)


def unpack(
    file: Annotated[Path, Parameter(converter=path_given)], /, *, output: Output = None, as_json: Json = False
) -> None:
    """Make a run of a file that scriven pack wrote. A damaged or hostile file is refused, and leaves nothing behind.

    Parameters
    ----------
    file
        file to unpack
    output
        folder to make; unless given, the name of the file without its ending, in runs/. Nothing is replaced
    """
    from scriven.exchange.packing import unpack_run
    from scriven.runs.folder import RUNS

    target = output or RUNS / file.stem
    unpack_run(file, target)
    _show_packed(target, file.stat().st_size, as_json)


Repo = Annotated[str, Parameter(help="name of the repository on the hub, such as ann/novels")]
Licence = Annotated[
    str,
    Parameter(
        name="--license", show_default=False, help="licence of the model and its text, such as cc-by-4.0, for its card"
    ),
]
SendCounts = Annotated[
    Switch,
    Parameter(help="send the counts of the training text too; passages of the text can be made out from them"),
]

EditedCard = Annotated[
    Literal["refuse", "keep", "replace"],
    Parameter(help="what to do if the card was edited on the hub: refuse to push, keep it as it is, or replace it"),
]


def push(
    run: RunFolder,
    repo: Repo,
    /,
    *,
    license: Licence = "",
    private: Annotated[Switch, Parameter(help="make a repository that only you can see")] = False,
    checkpoint: Which = "best",
    with_counts: SendCounts = False,
    edited_card: EditedCard = "refuse",
    as_json: Json = False,
) -> None:
    """Send a trained model to the Hugging Face Hub, with a card of what was measured. scriven pull fetches it.

    What is sent is what scriven pack packs, without counts unless --with-counts asks for them: no text, no sample, no
    log, no name of a file or folder of this machine. scriven card prints the card first; a later push replaces the card
    in the repository, too, unless it was edited there. Log in with hf auth login.
    """
    from scriven.exchange.hub import push_run

    address = push_run(
        run,
        repo,
        which=checkpoint,
        licence=license,
        private=private,
        with_counts=with_counts,
        edited_card=edited_card,
    )
    _show(address, {"url": address}, as_json)


def pull(repo: Repo, /, *, output: Output = None, as_json: Json = False) -> None:
    """Make a run of a model that scriven push sent. Nothing in it is executed, and all its hashes are checked.

    Parameters
    ----------
    output
        folder to make; unless given, the name of the repository, in runs/. Nothing is replaced
    """
    from scriven.exchange.hub import check_repo, pull_run
    from scriven.runs.folder import RUNS

    check_repo(repo)
    target = output or RUNS / repo.partition("/")[2]
    pull_run(repo, target)
    _show(target, {"path": str(target), "repo": repo}, as_json)


def card(
    run: RunFolder,
    /,
    *,
    license: Licence = "",
    checkpoint: Which = "best",
    with_counts: SendCounts = False,
) -> None:
    """Print the card of a model: what it is, its losses with their protocols, what it was made from, how to use it.

    It has no text, no sample and no name of a file. scriven push sends it with the model.
    """
    from scriven.exchange.card import make_card
    from scriven.runs import open_run

    opened = open_run(run)
    repo = f"USER/{opened.path.resolve().name}"  # a name for the commands that the card shows
    sys.stdout.write(make_card(opened, opened.checkpoint(checkpoint), repo, license, with_counts=with_counts))


def _show_packed(target: Path, size: int, as_json: bool) -> None:
    """Prints the path that was made, with the size of the packed file in JSON."""
    _show(target, {"path": str(target), "packed_bytes": size}, as_json)


def _show(target: Path | str, facts: dict[str, Any], as_json: bool) -> None:
    """Prints the path that was made, or facts about it as JSON."""
    if as_json:
        put_json(facts)
    else:
        put_path(target)
