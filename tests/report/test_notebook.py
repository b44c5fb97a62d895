"""What a notebook shows."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from scriven.api import TrainedRun
from scriven.events import Evaluated, Event, Finished, Sampled, Started, Stepped
from scriven.loss import Loss
from scriven.report import consume
from scriven.report.files import FilesReport
from scriven.report.notebook import NotebookReport, in_notebook

STARTED = Started("run", "lstm 2x8", 100, 1000, 100, 64, 1, "cpu", "fp32", 60.0, 1 << 20, 0, 0.0)
EVENTS: list[Event] = [
    STARTED,
    Stepped(1, 0.5, Loss(30.0, 10), 0.01, 1.0, 64, 1.0, "aa"),
    Evaluated(1, 0.5, "stream", Loss(20.0, 10), True, 1.5),
    Sampled(1, "a <b>", " sample", 0.8, 1),
    Finished(1, "budget", 1, Loss(20.0, 10), 2.0),
]


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Everything that the one display of a notebook has shown."""
    updates: list[str] = []

    def display(html: str, display_id: bool) -> SimpleNamespace:
        assert display_id
        updates.append(html)
        return SimpleNamespace(update=updates.append)

    class ZMQInteractiveShell:
        pass

    shell, module = ModuleType("IPython"), ModuleType("IPython.display")
    vars(shell)["get_ipython"] = ZMQInteractiveShell
    vars(module).update(HTML=str, display=display)
    monkeypatch.setitem(sys.modules, "IPython", shell)
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    return updates


def test_progress_is_one_display_that_changes(shown: list[str]) -> None:
    assert in_notebook()
    assert list(consume(EVENTS, [NotebookReport()])) == EVENTS
    assert len(shown) == 1 + len(EVENTS)
    assert 'value="0.5000"' in shown[2]
    assert "step 1" in shown[2]
    assert "a &lt;b&gt; sample" in shown[-1]


def test_outside_of_a_notebook_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    assert not in_notebook()


def test_a_run_shows_its_picture_and_its_last_sample(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    events: list[Event] = [Started(str(tmp_path / "run"), *list(vars(STARTED).values())[1:]), *EVENTS[1:]]
    *_, finished = consume(events, [FilesReport()])
    assert isinstance(finished, Finished)
    run = TrainedRun(tmp_path / "run", finished)
    assert "<b>a &lt;b&gt;</b> sample" in run._repr_html_()
    assert "<svg" in run._repr_html_()
    assert "2.8854 bits per character" in run._repr_html_()
