import pytest

from fer_ignite.apps.report.evaluation import Options, look
from fer_ignite.apps.report.subject import find_subject


@pytest.fixture(scope="session")
def seen(finished_run):
    """The finished tiny run's look at its 70 drawn validation faces."""
    return look(find_subject(finished_run), Options())
