import pytest

from fer_ignite.apps.report.evaluation import ReportOptions, evaluate_for_report
from fer_ignite.apps.report.subject import resolve_run


@pytest.fixture(scope="session")
def seen(finished_run):
    """The finished tiny run's look at its 70 drawn validation faces."""
    return evaluate_for_report(resolve_run(finished_run), ReportOptions())
