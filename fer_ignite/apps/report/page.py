"""``write_report``: runs or checkpoints to one HTML file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fer_ignite.apps.report.comparison import build_comparison
from fer_ignite.apps.report.context import build_context
from fer_ignite.apps.report.evaluation import ReportOptions
from fer_ignite.apps.report.render import render_page, require_jinja
from fer_ignite.apps.report.subject import RunReference, resolve_run
from fer_ignite.checkpoint.atomic_io import write_output
from fer_ignite.checkpoint.remote_files import source_of_download
from fer_ignite.errors import ConfigError

__all__ = ["write_report"]


def write_report(
    runs: str | Path | Sequence[str | Path], *, out: str | Path | None = None, **options: Any
) -> dict[str, Any]:
    """Writes one self-contained page about a run, or one that compares several.

    Args:
        runs: run folders, checkpoints or ensembles ("A,B,C"); a str or a Path is one of them.
        out: the file; by default ``report.html`` in the run's folder, ``NAME.report.html`` here for a checkpoint without
            a run, for a run in an object store and for an ensemble, ``comparison.html`` here for several.
        options: see :class:`fer_ignite.apps.report.evaluation.ReportOptions`. Scores val by default; an evaluation of test
            is written to the run's test-access log.
    Returns:
        ``file``, ``bytes``, and ``sentences``: the outcome in words.
    Raises:
        FerError: as ``evaluate`` does; a ConfigError where jinja2 is missing or a path is no run or checkpoint.
    """
    # First: the scoring may take minutes, and its result would be lost.
    require_jinja()
    runs = [runs] if isinstance(runs, (str, Path)) else runs
    if not runs:
        raise ConfigError("a report needs a run's folder or a checkpoint; name one or several.")
    subjects, chosen = [resolve_run(run) for run in runs], ReportOptions(**options)
    target = Path(out) if out is not None else default_file(subjects)
    if len(subjects) == 1:
        template, facts = "run.html", build_context(subjects[0], chosen)
    else:
        template, facts = "comparison.html", build_comparison(subjects, chosen)
    page = render_page(template, facts)
    write_output(target, page)
    return {"file": str(target), "bytes": len(page.encode()), "sentences": facts["sentences"]}


def default_file(subjects: Sequence[RunReference]) -> Path:
    """The default file of a page."""
    if len(subjects) > 1:
        return Path("comparison.html")
    (subject,) = subjects
    if subject.folder is None:
        return Path(f"{'ensemble' if subject.is_ensemble else subject.checkpoint.stem}.report.html")
    # The copy of a run in a store lies in the cache, where nobody looks for a page.
    if source_of_download(subject.folder.path) is not None:
        return Path(f"{subject.name}.report.html")
    return subject.folder.report
