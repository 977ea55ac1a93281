"""The quick tests with the oldest and the newest declared versions: scripts/test-matrix."""

import nox

nox.options.default_venv_backend = "venv"
nox.options.reuse_existing_virtualenvs = True

# torchvision goes with one torch; the rest are the lower bounds of setup.cfg that matter to the code.
OLDEST = ["torch==2.10.*", "torchvision==0.25.*", "pytorch-ignite==0.5.5", "pydantic==2.7.*"]
NEWEST = ["torch", "torchvision", "pytorch-ignite", "pydantic"]
TOOLS = [
    "pytest>=8",
    "pytest-xdist>=3.6",
    "jsonschema>=4.20",
    "scikit-image>=0.24",
    "httpx>=0.27",
    "httpx2>=2",
    "tensorboard>=2.16",
]


def quick_tests(session: nox.Session, versions: list[str]) -> None:
    session.install("--editable", ".[report,audit,tune,export,faces,serve,jpeg]", *TOOLS, *versions)
    session.run("python", "-m", "fer_ignite", "info")
    session.run(
        *("python", "-m", "pytest", "-n", "logical", "--maxprocesses", "4", "--dist", "worksteal"),
        *("-m", "not slow and not real", *session.posargs),
        env={"OMP_NUM_THREADS": "1"},
    )


@nox.session(python="3.10")
def oldest(session: nox.Session) -> None:
    """The oldest declared Python and torch."""
    quick_tests(session, OLDEST)


@nox.session(python="3.13")
def newest(session: nox.Session) -> None:
    """The newest declared Python, and what the index has newest."""
    quick_tests(session, NEWEST)


@nox.session(python=["3.10", "3.13"])
def lean(session: nox.Session) -> None:
    """No extras: the package imports and trains."""
    session.install(".")
    train = "train --data demo:140 --epochs 1 --out {} --name lean --tta none"
    session.run("python", "-m", "fer_ignite", *train.format(session.create_tmp()).split())
