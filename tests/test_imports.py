"""A module imports only what stands above it in the list below, so that there are no cycles; few modules print."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"
MAP = """
    errors arrays runtime arguments strict_json settings settings_values settings_checks sampling_settings
    loss events tokens vocabulary
    rules.patterns rules.json_schema rules.alphabet rules.automaton rules penalties
    recipes starts
    counter_rng safe_files signals
    kernels.interface kernels.native_library kernels.encode kernels.suffixes kernels.counts kernels.context_mixing
    kernels.adamw
    kernels.recurrent kernels.muon kernels.cross_entropy kernels.scan kernels.packing kernels.sampler kernels
    corpus.filesystem corpus.sources corpus.encodings corpus.structure corpus.zipped corpus.decoding
    corpus.header corpus.shard_reader corpus.tables corpus.live corpus.documents corpus.partition corpus.shards
    corpus.inputs corpus.writer corpus.parts corpus.store corpus.build corpus
    batches.batch batches.documents batches.readers batches
    model.reference_cells model.shapes model.backends model.cells model.language_model model.pretrained model.precision
    model
    runs.journal runs.tensors runs.ngrams runs.checkpoints runs.folder runs.claim runs.summary runs.recovery runs.saver
    runs.start_model runs
    inference inference.sampling inference.chunks inference.context inference.numpy_network inference.torch_network
    inference.predictor inference.adaptive inference.ongoing_counts inference.adaptive_mixture inference.surprisal
    inference.stream_decoder inference.generation inference.search inference.saved_session inference.boundaries
    inference.units
    inference.unit_tables inference.protocols inference.loading inference.regions inference.comparison
    inference.guess_numbers inference.proofreading inference.novelty
    runs.doctor
    distributed.collectives distributed.launch distributed.rendezvous distributed
    training.optimizer training.state training.budget training.mixing training.evaluation training.warm_start
    training.gradients
    training.workload training.auto_settings training.auto_start training.notes training.request
    training.new_run training.resume training.loop training.start training.verify training
    report report.words report.metrics report.plot report.files report.terminal report.notebook report.trackers
    results session trained_model own_loop archives lm_eval llm_plugin
    exchange exchange.exported exchange.plain_torch transformers exchange.folders exchange.onnx_graph
    exchange.html_page exchange.packing exchange.card exchange.hub
    exchange.foreign exchange.keras_file exchange.state_dict exchange.torch7_file
    exchange.formats
    api
    server server.responses server.limits server.requests server.writing_requests server.security server.http_limits
    server.prefill server.jobs server.engine server.saved_states server.indexes server.disconnects server.client_tokens
    server.shared server.completions server.searches server.chat server.unit_rows server.scoring server.utility_routes
    server.renewal server.replies server.openapi server.metrics server.run_monitor server.trainings server.app
    cli.help cli.mistakes cli cli.common cli.compress cli.corpus cli.doctor cli.evaluate cli.exchange cli.runs cli.info
    cli.packaged cli.choose cli.tables cli.novelty cli.sample_options cli.sample_texts cli.sample_checks
    cli.sample cli.scoring cli.score cli.compare cli.rank cli.proofread cli.serve cli.train cli.verify_resume
    __main__
"""
ORDER = MAP.split()
SPEAKING = ("cli", "report")
LONGEST_CHAIN = 19  # modules at most, each imported by the one before


def name_of(path: Path) -> str:
    """Dotted name below the package, "" for the package itself."""
    parts = path.relative_to(SOURCE / "scriven").with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


PATHS = {name_of(path): path for path in (SOURCE / "scriven").rglob("*.py")}


def nodes(name: str) -> Iterator[ast.AST]:
    return ast.walk(ast.parse(PATHS[name].read_text("utf-8")))


def imports(name: str) -> set[str]:
    """The modules of the package that a module imports anywhere in it, also inside functions."""
    found = set()
    for node in nodes(name):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name} imports by a relative name"
            below = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {each if each.removeprefix("scriven.") in PATHS else str(node.module) for each in below}
    return {each.removeprefix("scriven.") for each in found if each.startswith("scriven.")}


def test_the_list_names_every_module_once() -> None:
    assert sorted(ORDER) == sorted(PATHS.keys() - {""})


def test_a_module_imports_only_from_above() -> None:
    offenders = {name: sorted(imports(name) - {*ORDER[:place]}) for place, name in enumerate(ORDER)}
    assert {name: below for name, below in offenders.items() if below} == {}


def chain_from(name: str, chains: dict[str, list[str]]) -> list[str]:
    """The longest chain of modules that begins with this one, of those in `chains` for the modules above it."""
    below = (chains[each] for each in sorted(imports(name) & chains.keys()))
    return [name, *max(below, key=len, default=[])]


def test_chains_of_imports_are_short() -> None:
    chains = dict[str, list[str]]()
    for name in ORDER:
        chains[name] = chain_from(name, chains)
    longest = max(chains.values(), key=len)
    assert not imports(longest[-1])
    assert len(longest) <= LONGEST_CHAIN, " -> ".join(longest)


def test_the_check_sees_imports_in_functions_and_of_modules() -> None:
    assert {"corpus", "corpus.build", "settings"} <= imports("cli.corpus")
    assert "runs.journal" in imports("report.files")


def _speaks(node: ast.AST) -> bool:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return node.func.id == "print"
    return isinstance(node, ast.Attribute) and ast.unparse(node) in {"sys.stdout", "sys.stderr", "sys.argv"}


def test_only_the_command_line_and_reports_print_or_read_arguments() -> None:
    silent = [name for name in ORDER if name.split(".")[0] not in SPEAKING]
    assert [name for name in silent if any(map(_speaks, nodes(name)))] == []


@pytest.mark.parametrize("module", ["scriven", "scriven.cli", "scriven.cli.train", "scriven.cli.sample"])
def test_the_command_line_starts_without_torch_or_numpy(module: str) -> None:
    code = f"import sys, {module}; print(*sorted({{'torch', 'numpy', 'matplotlib'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == []
