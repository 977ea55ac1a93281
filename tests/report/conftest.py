import pytest

from fer_ignite.report.look import Options, look
from fer_ignite.report.subject import find_subject


@pytest.fixture(scope="session")
def seen(finished_run):
    """The finished tiny run's look at its 70 drawn validation faces."""
    return look(find_subject(finished_run), Options())
