import pytest

from fer_ignite.apps.tune.space import read_space
from fer_ignite.errors import ConfigError

optuna = pytest.importorskip("optuna")


@pytest.fixture
def space(tmp_path):
    """(text, **given) -> the dimensions in a file of that text."""
    path = tmp_path / "space.yaml"

    def read(text, **given):
        path.write_text(text)
        return read_space(str(path), given=given)

    return read


def test_a_space_has_ranges_by_ratio_by_step_and_choices(space):
    lr, rotate, epochs, opt = space(
        "lr: {log: [1e-4, 0.01]}\nrotate: {float: [0, 30], step: 5}\nepochs: {int: [4, 32], log: true}\nopt: [adamw, sgd]\n"
    )
    assert (lr.kind, lr.low, lr.high, lr.log) == ("float", 0.0001, 0.01, True)
    assert (rotate.low, rotate.high, rotate.step, rotate.log) == (0, 30, 5, False)
    assert (epochs.kind, epochs.low, epochs.high, epochs.log) == ("int", 4, 32, True)
    assert opt.choices == ("adamw", "sgd")


def test_choices_may_be_anything_that_the_setting_takes(space):
    widths, ema, dropout = space(
        "model_args: [{widths: [8, 8]}, {widths: [16, 16]}]\nmodel-ema: [true, false]\ndropout: {float: [0, 0.5]}"
    )
    trial = optuna.trial.FixedTrial(
        {"model_args": "{widths: [16, 16]}", "model_ema": True, "dropout": 0.25}
    )
    assert widths.suggest(trial) == {"widths": [16, 16]}
    assert ema.suggest(trial) is True and dropout.suggest(trial) == 0.25


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no settings to try; write e.g. lr"),
        ("learnrate: {log: [0.1, 1]}", "there is no setting 'learnrate'"),
        ("optimizer: [adam, sgd]", "did you mean 'opt'"),
        ("lr: 0.1", "lr: got 0.1; write e.g."),
        ("lr: {log: [0.1, 1], base: 2}", "write e.g."),
        ("lr: {log: [0.1, 5000]}", r"lr: tries 5000\.0, needs to be less than or equal to 1000"),
        ("lr: {log: [0, 1]}", "begins above 0"),
        ("lr: {float: [1, 0.5]}", "first number must be below the second"),
        ("lr: {float: [0.1, 0.2], step: 1}", "a step fit between them"),
        ("lr: {float: [0.1, 1], step: 0.2}", r"steps of 0\.2 from 0\.1 reach 0\.9 and not 1: end"),
        ("batch_size: {int: [64, 200], step: 64}", "reach 192 and not 200"),
        ("lr: {float: [0.1, .inf]}", "inf is no finite number"),
        ("lr: {float: [0.1]}", r"needs two numbers, \[lowest, highest\]"),
        ("lr: {log: [low, high]}", "'low' is no finite number"),
        ("epochs: {float: [1, 9]}", "takes no fraction; give int"),
        ("epochs: {int: [1, 9.5]}", "int needs whole numbers"),
        ("opt: {float: [0, 1]}", "takes no number; give a list of choices"),
        ("betas: {float: [0, 1]}", "takes no number; give a list of choices"),
        ("nesterov: {int: [0, 1]}", "takes no number; give a list of choices"),
        ("opt: [adamw, lion]", "opt: tries 'lion', needs to be 'sgd', 'adam'"),
        ("opt: [adamw]", "two choices or more"),
        ("data: [a, b]", "data sets what is compared"),
        ("tta: [none, ten]", "is the same in all trials; set it with --tta"),
        ("out: [a, b]", "set it with --out"),
        ("smoothing: {float: [0, 1]}", "smoothing: tries 1.0, needs to be less than 1"),
    ],
)
def test_what_can_t_be_tried_is_refused_in_one_sentence_that_names_file_and_setting(
    space, text, said
):
    with pytest.raises(ConfigError, match=said) as caught:
        space(text)
    assert "space.yaml" in str(caught.value) and "\n" not in str(caught.value)


def test_a_setting_is_either_tried_or_given(space):
    with pytest.raises(ConfigError, match=r"lr is tried there and also set to 0\.1"):
        space("lr: {log: [0.1, 1]}", lr=0.1)


def test_a_space_that_is_not_there_is_reported_with_how_to_write_one(tmp_path):
    with pytest.raises(
        ConfigError,
        match=r"there is no file .*absent\.yaml with settings to try; write e\.g\. lr: ",
    ):
        read_space(str(tmp_path / "absent.yaml"), given={})
