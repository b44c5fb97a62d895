"""Sends a run to the Hugging Face Hub, and fetches one: what `scriven pack` packs, and a card. No code is ever run."""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

from scriven.arguments import check_choice
from scriven.errors import InputError, UsageError, format_bytes, shorten
from scriven.exchange.card import is_as_written, make_card
from scriven.exchange.packing import MOST_FILES, TEXTS, check_packed, copy_model, is_packed_file
from scriven.runs.folder import CHECKPOINTS, INDEX_FILE, SETTINGS_FILE, Run, Which, open_run
from scriven.runtime import hub_endpoint
from scriven.safe_files import TEXT_LIMIT, create_folder, flush_file

EXTRA = "pip install 'scriven[hub]'"
CARD_FILE = "README.md"
EMPTY = {".gitattributes"}  # what a new repository has
REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
NAMES_SHOWN = 3
LONGEST_CARD = 100_000  # bytes; one that was pushed has a few thousand
EditedCard = Literal["refuse", "keep", "replace"]


def push_run(
    name: str,
    repo: str,
    *,
    which: Which = "best",
    licence: str = "",
    private: bool = False,
    with_counts: bool = False,
    edited_card: EditedCard = "refuse",
) -> str:
    """Sends a run's model and its card to the repository USER/NAME, which is made if needed. Returns its address.

    Neither texts, samples and names of files nor, unless `with_counts`, counts of the text are sent. A repository with
    files that Scriven did not push is left alone. `edited_card` says what to do if the card there is no longer as it
    was pushed. Raises UsageError; InputError if the hub refuses or is not reached.
    """
    check_choice("--edited-card", edited_card, get_args(EditedCard))
    check_repo(repo)
    run = open_run(name)
    checkpoint = run.checkpoint(which)
    if run.settings.model.kind == "counts" and not with_counts:
        raise UsageError(f"{name} is a model of counts alone, from which passages can be made out; give --with-counts")
    hub, api = _open_hub()
    if not hub.get_token():
        raise UsageError("there is no token for the Hugging Face Hub; log in with `hf auth login`, or set HF_TOKEN")
    card = make_card(run, checkpoint, repo, licence, with_counts=with_counts)
    with tempfile.TemporaryDirectory() as work, _plain_transfers(hub):
        model = copy_model(run, Path(work) / "run", which, "auto" if with_counts else "none")
        own = {path.relative_to(model.path).as_posix(): path for path in model.path.rglob("*") if path.is_file()}
        with _explain_errors(repo):
            api.create_repo(repo, private=private or None, exist_ok=True)
            info = api.model_info(repo, files_metadata=True)
            there = [each.rfilename for each in info.siblings or []]
            _check_ours(repo, there, public=private and not info.private)
            operations = []
            if edited_card == "replace" or not _is_edited(hub, repo, info, Path(work)):
                operations = [hub.CommitOperationAdd(CARD_FILE, card.encode())]
            elif edited_card == "refuse":
                raise UsageError(
                    f"the card of {repo} was edited on the hub; --edited-card keep leaves it as it is, and "
                    "--edited-card replace puts that of scriven card in its place"
                )
            operations += [hub.CommitOperationAdd(each, str(path)) for each, path in sorted(own.items())]
            gone = [each for each in there if is_packed_file(each) and each not in own]
            operations += [hub.CommitOperationDelete(each) for each in gone]
            message = f"Push the model of step {checkpoint.step}"
            api.create_commit(repo, operations, commit_message=message, parent_commit=info.sha)
    return f"{hub_endpoint()}/{repo}"


def pull_run(repo: str, folder: Path) -> Run:
    """Makes a run folder of a repository that `push_run` wrote. Returns the run, all of whose hashes were checked.

    The repository may be hostile: only files of a run's names are fetched, and nothing is replaced or left behind if
    anything is wrong. Raises UsageError if the folder's name is taken; InputError if the repository cannot be fetched.
    """
    check_repo(repo)
    hub, api = _open_hub()
    with (
        create_folder(folder) as work,
        tempfile.TemporaryDirectory() as fetched,
        _plain_transfers(hub),
        _explain_errors(repo),
    ):
        info = api.model_info(repo, files_metadata=True)
        files = _checked_files(repo, info.siblings or [])
        _check_space(repo, sum(size for _, size in files), work, Path(fetched))
        for name, size in files:
            path = Path(hub.hf_hub_download(repo, name, revision=info.sha, cache_dir=fetched, endpoint=hub_endpoint()))
            if path.stat().st_size != size:
                raise _refusal(repo, f"{name} has another size than the hub says")
            target = work.joinpath(*name.split("/"))
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
            flush_file(target)
        try:
            check_packed(work, repo)
        except InputError as error:
            raise _refusal(repo, str(error).partition(" is not unpacked: ")[2].split(";")[0] or str(error)) from None
    return open_run(folder)


def check_repo(repo: str) -> None:
    """Raises UsageError unless this may be the name of a repository."""
    if not REPO.fullmatch(repo):
        raise UsageError(f"{shorten(repo)!r} is no repository; give USER/NAME, of letters, digits, - . and _")


def _open_hub() -> tuple[Any, Any]:
    """Returns the module of the hub's library, and its interface. Raises UsageError if it is not installed."""
    try:
        hub = importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise UsageError(f"huggingface_hub is not installed; to use the hub, {EXTRA} ({error})") from None
    return hub, hub.HfApi(endpoint=hub_endpoint())


@contextlib.contextmanager
def _plain_transfers(hub: Any) -> Iterator[None]:
    """Lets files travel by plain HTTP while it lasts: hf_xet asks a second server, which not every hub has.

    It serves files of gigabytes. Whoever sets HF_HUB_DISABLE_XET has what it says.
    """
    constants, name = importlib.import_module(f"{hub.__name__}.constants"), "HF_HUB_DISABLE_XET"
    before = getattr(constants, name)
    setattr(constants, name, before if name in os.environ else True)
    try:
        yield
    finally:
        setattr(constants, name, before)


def _check_ours(repo: str, names: list[str], *, public: bool) -> None:
    """Raises UsageError if a repository has files of others, or if it is public and should not be."""
    ours = {SETTINGS_FILE, f"{CHECKPOINTS}/{INDEX_FILE}"} <= {*names}
    allowed = EMPTY | {CARD_FILE} if ours else EMPTY
    others = [each for each in names if not is_packed_file(each) and each not in allowed]
    if others:
        shown = ", ".join(map(shorten, others[:NAMES_SHOWN]))
        raise UsageError(f"{repo} has files that Scriven did not push ({shown}), so it is left alone; name another")
    if public:
        raise UsageError(f"{repo} exists already and is public; make it private on the hub first, or give another name")


def _is_edited(hub: Any, repo: str, info: Any, work: Path) -> bool:
    """Whether a repository has a card that is not as it was pushed. It is fetched into a folder."""
    sizes = {each.rfilename: each.size for each in info.siblings or []}
    if CARD_FILE not in sizes:
        return False
    if not isinstance(sizes[CARD_FILE], int) or sizes[CARD_FILE] > LONGEST_CARD:
        return True
    place = work / "card"
    path = hub.hf_hub_download(repo, CARD_FILE, revision=info.sha, cache_dir=place, endpoint=hub_endpoint())
    return not is_as_written(Path(path).read_bytes().decode("utf-8", "replace"))


def _checked_files(repo: str, siblings: list[Any]) -> list[tuple[str, int]]:
    """Returns names and sizes of a repository's files of a run. Raises InputError unless it is one that was pushed."""
    files = [(each.rfilename, each.size) for each in siblings if is_packed_file(each.rfilename)]
    names = [name for name, _ in files]
    if SETTINGS_FILE not in names:
        raise _refusal(repo, "it has no model that scriven push sent")
    if len(files) > MOST_FILES or len({*names}) < len(names):
        raise _refusal(repo, "it has files twice, or more than a run has")
    for name, size in files:
        if not isinstance(size, int) or (TEXTS.fullmatch(name) and size > TEXT_LIMIT):
            raise _refusal(repo, f"{name} would have {size} bytes")
    return files


def _check_space(repo: str, size: int, *folders: Path) -> None:
    """Raises InputError if files of so many bytes have no space in one of these folders."""
    free = min(shutil.disk_usage(each).free for each in folders)
    if size > free:
        raise InputError(
            f"{repo} has {format_bytes(size)}, and {format_bytes(free)} are free here; make room, or choose another "
            "place with -o and TMPDIR"
        )


def _refusal(repo: str, why: str) -> InputError:
    return InputError(f"{repo} is not pulled: {why}; ask its author to push it anew")


@contextlib.contextmanager
def _explain_errors(repo: str) -> Iterator[None]:
    """Turns errors of the hub and of the network into one sentence each. Raises UsageError or InputError."""
    errors, place = importlib.import_module("huggingface_hub.errors"), hub_endpoint()
    try:
        yield
    except errors.GatedRepoError:
        raise InputError(f"{repo} is gated: ask for access at {place}/{repo}, then `hf auth login`") from None
    except errors.RepositoryNotFoundError:
        raise InputError(f"there is no {repo} at {place}, or your token may not see it; check the name") from None
    except errors.HfHubHTTPError as error:
        code = getattr(error.response, "status_code", 0)
        why = "your token may not do this" if code in (401, 403) else "try again later"
        said = shorten(" ".join(str(error.server_message or "").split()))
        raise InputError(f"{place} refused ({code}{': ' if said else ''}{said}) for {repo}; {why}") from None
    except errors.OfflineModeIsEnabled:
        raise UsageError("HF_HUB_OFFLINE is set, so the hub is not used; unset it") from None
    except (errors.HTTPError, errors.LocalEntryNotFoundError, ConnectionError, RuntimeError) as error:
        why = shorten(" ".join(str(error.__cause__ or error).split()))
        raise InputError(f"{place} cannot be reached, or broke off: {why}; check the network") from None
    except (ValueError, TypeError, AttributeError, LookupError) as error:  # of what huggingface_hub makes of an answer
        why = shorten(" ".join(str(error).split()))
        if "license" in why.lower():  # the hub reads the card's metadata
            raise UsageError(f"{place} refuses {repo}: {why}; see --license") from None
        raise InputError(f"{place} did not answer as a hub does ({why}); check HF_ENDPOINT and HF_TOKEN") from None
