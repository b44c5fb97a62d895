"""A run as one file to send: a ZIP archive of a run folder with one checkpoint, and of nothing else.

It has weights, vocabulary and settings, and the counts if the model is mixed with some. It has no text, no sample, no
log and no path of this machine, and not what resuming needs. The run in it has hashes of all its files, which are
checked when it is unpacked. What is unpacked is treated as hostile: see `unpack_run`.
"""

from __future__ import annotations

import errno
import re
import shutil
import stat
import struct
import zlib
from pathlib import Path
from typing import IO, Literal
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from scriven.corpus.zipped import check_entries
from scriven.errors import InputError, UsageError, close_paths, did_you_mean, shorten
from scriven.runs.checkpoints import MANIFEST_FILE, MODEL_FILE, TRAINING_FILE
from scriven.runs.claim import create_run
from scriven.runs.folder import (
    CHECKPOINTS,
    INDEX_FILE,
    PACKED,
    SETTINGS_FILE,
    VOCABULARY_FILE,
    Run,
    Which,
    open_run,
)
from scriven.runs.ngrams import COUNTS_FILE
from scriven.safe_files import (
    TEXT_LIMIT,
    check_free,
    create_file,
    create_folder,
    flush_file,
    naming,
    refuse_stream,
    staging_folder,
)
from scriven.settings import MonitorSettings, Settings

ORIGIN_KEPT = (
    "text",
    "scriven",
    "kernels",
)  # of the run table: the text's hash, this program's version and its kernels
MANIFEST_KEPT = ("step", "validation", "epochs", "mixture")
STEP = rf"{CHECKPOINTS}/step-[0-9]{{8,16}}/"
ARRAYS = re.compile(rf"{COUNTS_FILE}|{STEP}({re.escape(MODEL_FILE)}|{re.escape(TRAINING_FILE)})")
TEXTS = re.compile(rf"{SETTINGS_FILE}|{VOCABULARY_FILE}|{CHECKPOINTS}/{INDEX_FILE}|{STEP}{MANIFEST_FILE}")
MOST_FILES = 7  # of a run with one checkpoint
FIXED_DATE = (1980, 1, 1, 0, 0, 0)  # of each file: the same model gives the same archive
PLACES = ("corpus", "texts", "initial", "embedding", "replay")  # of the run table: places on the machine of its author
DAMAGE = (BadZipFile, zlib.error, struct.error, EOFError, RuntimeError, ValueError, OverflowError)  # zipfile's errors


def pack_run(name: str, path: Path, which: Which = "best", counts: Literal["auto", "none"] = "auto") -> Run:
    """Writes a run with one checkpoint to a new file. Returns the run as it is in the file.

    Raises InputError if the run is damaged; UsageError if the name of the file is taken.
    """
    check_free(path, replace=False)
    run = open_run(name)
    with staging_folder(path.parent) as work, create_file(path, replace=False) as file:
        with naming(path, work / "run"):
            made = copy_model(run, work / "run", which, counts)
        with ZipFile(file, "w") as archive:
            for each in sorted(each for each in made.path.rglob("*") if each.is_file()):
                _add(archive, each, each.relative_to(made.path).as_posix())
    return made


def copy_model(run: Run, folder: Path, which: Which, counts: Literal["auto", "none"]) -> Run:
    """Makes a run with one checkpoint of another, without anything that says where or from what it was made."""
    checkpoint = run.checkpoint(which)
    alone = run.settings.model.kind == "counts"
    if alone and counts == "none":
        raise UsageError(f"{run.path} is a model of counts alone, so nothing is left of it; drop --counts none")
    mixed = alone or (counts == "auto" and checkpoint.mixture is not None)
    table = run.counts() if mixed else None
    if mixed and table is None:
        raise UsageError("the counts of the run need native code, and there is none; drop them with --counts none")
    origin = {key: run.origin[key] for key in ORIGIN_KEPT if key in run.origin}
    origin |= {"texts": [], "corpus": "", PACKED: True}
    made = create_run(folder, _without_places(run.settings), run.vocabulary, origin, counts=table)
    manifest = {key: checkpoint.manifest[key] for key in MANIFEST_KEPT if key in checkpoint.manifest}
    if not mixed:
        manifest.pop("mixture", None)
    made.save(checkpoint.arrays(run.shapes()), {}, manifest, best=checkpoint.step)
    return made


def _without_places(settings: Settings) -> Settings:
    """Returns the settings without names of files and without what samples were begun with."""
    corpus = settings.corpus.model_copy(update={"validation_file": "", "alphabet": ""})
    return settings.model_copy(update={"corpus": corpus, "monitor": MonitorSettings()})


def _add(archive: ZipFile, path: Path, name: str) -> None:
    """Adds a file. Arrays are stored as they are, so that their size in an archive cannot be a lie."""
    entry = ZipInfo(name, FIXED_DATE)
    entry.compress_type = ZIP_STORED if ARRAYS.fullmatch(name) else ZIP_DEFLATED
    entry.external_attr = (stat.S_IFREG | 0o644) << 16
    with path.open("rb") as source, archive.open(entry, "w") as target:
        shutil.copyfileobj(source, target)


def unpack_run(path: Path, folder: Path) -> Run:
    """Makes a run folder of a file that `pack_run` wrote. Returns the run, all of whose hashes were checked.

    The archive may be hostile. Only plain files of a run's names are taken, each once, and written by these names; no
    file is larger than the archive, or than a text of its kind may be. Nothing is replaced, and nothing is left behind
    if anything is wrong. Raises InputError; UsageError if the folder's name is taken.
    """
    refuse_stream(path, "save what was packed as a plain file")
    try:
        with path.open("rb") as file, create_folder(folder) as work:
            check_entries(file, str(path))
            with ZipFile(file) as archive:
                for entry in _checked_entries(archive, path):
                    _extract(archive, entry, work)
            check_packed(work, path)
    except FileNotFoundError as error:
        if error.filename != str(path):
            raise
        raise InputError(f"{path}: there is no such file{did_you_mean(close_paths(str(path)))}") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a folder; give a file that scriven pack wrote") from None
    except DAMAGE as error:
        raise InputError(f"{path} is damaged or no file of scriven pack ({error}); ask for it again") from None
    except OSError as error:
        if error.errno != errno.EINVAL:  # for a place before the file, which a damaged list may name
            raise
        raise InputError(f"{path} is damaged or no file of scriven pack; ask for it again") from None
    return open_run(folder)


def _checked_entries(archive: ZipFile, path: Path) -> list[ZipInfo]:
    """Returns the files of an archive. Raises InputError unless they are those of a run, plain and of fair sizes."""
    entries = archive.infolist()
    names = [entry.filename for entry in entries]
    if len(entries) > MOST_FILES or len({*names}) < len(names):
        raise _refusal(path, "it has files twice, or more than a run has")
    steps = {name.split("/")[1] for name in names if re.match(STEP, name)}
    if len(steps) != 1 or SETTINGS_FILE not in names:
        raise _refusal(path, "it has no run with one checkpoint")
    for entry in entries:
        shown = shorten(ascii(entry.filename))
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if not is_packed_file(entry.filename):
            raise _refusal(path, f"{shown} is no file of a run")
        if kind not in (0, stat.S_IFREG) or entry.flag_bits & 1:
            raise _refusal(path, f"{shown} is a link, encrypted, or no plain file")
        if ARRAYS.fullmatch(entry.filename):
            if entry.compress_type != ZIP_STORED or entry.file_size != entry.compress_size:
                raise _refusal(path, f"{shown} is compressed, which arrays never are")
        elif entry.compress_type not in (ZIP_STORED, ZIP_DEFLATED) or entry.file_size > TEXT_LIMIT:
            raise _refusal(path, f"{shown} would have {entry.file_size:,} bytes")
    return entries


def is_packed_file(name: str) -> bool:
    """Whether a packed run may have a file of this name."""
    return bool(ARRAYS.fullmatch(name) or TEXTS.fullmatch(name))


def _extract(archive: ZipFile, entry: ZipInfo, work: Path) -> None:
    """Writes a file of a checked name, of exactly the size that was checked; zipfile compares its CRC-32."""
    target = work.joinpath(*entry.filename.split("/"))
    target.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(entry) as source, target.open("xb") as file:
        _copy_at_most(source, file, entry.file_size)
    flush_file(target)


def _copy_at_most(source: IO[bytes], target: IO[bytes], size: int) -> None:
    left = size
    while left and (data := source.read(min(left, 1 << 20))):
        target.write(data)
        left -= len(data)
    if left or source.read(1):
        raise BadZipFile("a file has another size than the list says")


def check_packed(work: Path, path: Path | str) -> None:
    """Reads all of a run that was packed or pushed, and came from `path`.

    Raises InputError, with that name, if anything does not fit.
    """
    try:
        run = open_run(work)
        if not run.origin.get(PACKED) or any(run.origin.get(each) for each in PLACES):
            raise InputError("its settings name texts or files of another machine")
        checkpoint = run.checkpoint("best")
        if [run.index().last] != run.steps():
            raise InputError("its index is of another checkpoint")
        checkpoint.verify(*run.expected_contents())
        run.counts()
    except InputError as error:
        told = str(error).replace(str(work), Path(path).name)
        raise _refusal(path, told.split(";")[0]) from None


def _refusal(path: Path | str, why: str) -> InputError:
    return InputError(f"{path} is not unpacked: {why}; ask for it again, or have it packed anew")
