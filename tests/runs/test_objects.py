"""Networks, data sets, losses and optimizers given as Python objects."""

import functools
import gc
import json
import weakref

import numpy as np
import pytest
import torch
from ignite.engine import Events
from torch import nn
from torch.utils.data import Dataset, Subset, TensorDataset

import fer_ignite
from fer_ignite import Config, build_session, evaluate, load_model, predict, train
from fer_ignite.apps.export.exporter import export_checkpoint
from fer_ignite.checkpoint.format import load_checkpoint, state_digest, write_checkpoint
from fer_ignite.data.drawn_faces import DEMO_CLASSES, draw_faces
from fer_ignite.distributed import Outcome
from fer_ignite.errors import CheckpointError, ConfigError, DataError, FerError
from fer_ignite.imports import local_objects, register_object
from fer_ignite.inference.predictor import open_predictor
from fer_ignite.training.objects import find_objects


class Net(nn.Sequential):
    """A network whose constructor takes no arguments."""

    def __init__(self):
        super().__init__(nn.AdaptiveAvgPool2d(8), nn.Flatten(), nn.Linear(64, 7))


class Named(Net):
    def __init__(self, num_classes, width=8):
        super().__init__()
        self[2] = nn.Linear(64, num_classes)


class Faces(Dataset):
    """Drawn faces as uint8 pixels, with names and labels."""

    classes = DEMO_CLASSES

    def __init__(self, count=140, seed=3):
        self.pixels, self.targets = draw_faces(count, seed=seed)

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        return self.pixels[index], int(self.targets[index])


def squared(logits_BK, targets_BK):
    return (logits_BK.softmax(1) - targets_BK).square().sum(dim=1)


def slow_sgd(groups):
    return torch.optim.SGD(groups, lr=1e-3, weight_decay=0.25)


@pytest.mark.parametrize(
    "model", [Net, Named, lambda: Net(), Net()], ids=["class", "arguments", "function", "module"]
)
def test_a_network_is_given_as_a_module_or_as_what_makes_one(tiny, tmp_path, model):
    summary = train(tiny(epochs=1, model_args={}), model=model)
    assert summary["status"] == "completed"
    best = tmp_path / "run" / "checkpoints" / "best.pt"
    with pytest.raises(
        CheckpointError,
        match=r"was a Python object, which no file holds; give the same again from Python: model=",
    ):
        load_model(best)
    found = evaluate(best, model=model, split="test", quiet=True)
    assert found["accuracy"] == summary["test"]["accuracy"]
    assert len(load_model(best, model=model).predict(draw_faces(3, seed=1)[0])) == 3


def test_a_run_has_its_own_objects_and_no_part_of_their_names():
    with local_objects():
        register_object("model", "Net", thing=1)
        register_object("model", "Net_", thing=2, besides=["object:Net"])
        found = find_objects(Config(model="object:Net_2", loss="ce+0.5*object:Other"))
        assert found == {"object:Net_2": 2}


def test_a_name_given_from_python_is_checked_like_a_setting(tiny):
    with pytest.raises(ConfigError, match="--data"):
        train(tiny(), data="")


def test_the_objects_of_a_run_are_not_kept_in_memory(tiny):
    net = Net()
    train(tiny(epochs=1, model_args={}), model=net)
    kept = weakref.ref(net)
    del net
    gc.collect()
    assert kept() is None


def test_the_objects_of_evaluate_and_load_model_are_not_kept_in_memory(tiny, tmp_path):
    net, faces = Net(), Faces(28)
    train(tiny(epochs=1, model_args={}), model=Net)
    evaluate(tmp_path / "run", model=net, data=faces, quiet=True)
    load_model(tmp_path / "run", model=net)
    kept = weakref.ref(net), weakref.ref(faces)
    del net, faces
    gc.collect()
    assert [part() for part in kept] == [None, None]


def test_a_module_that_is_given_is_trained_itself(tiny):
    net = Net()
    before = [parameter.detach().clone() for parameter in net.parameters()]
    train(tiny(epochs=1, model_args={}), model=net)
    assert not any(map(torch.equal, before, (p.detach() for p in net.parameters())))


def test_a_module_is_copied_by_evaluate_and_load_model(tiny, tmp_path):
    net = Net()
    pixels = torch.from_numpy(draw_faces(4, seed=1)[0])
    single = {}
    for name, seed in (("one", 1), ("two", 2)):
        train(tiny(epochs=1, model_args={}, name=name, seed=seed, lr=0.05), model=Net)
        single[name] = load_model(tmp_path / name, model=Net).probabilities(pixels)
    before = [parameter.detach().clone() for parameter in net.parameters()]
    one = load_model(tmp_path / "one", model=net)
    both = load_model([tmp_path / "one", tmp_path / "two"], model=net).probabilities(pixels)
    evaluate(tmp_path / "two", model=net, quiet=True)
    assert all(map(torch.equal, before, (p.detach() for p in net.parameters()))) and net.training
    assert torch.equal(one.probabilities(pixels), single["one"])
    assert (single["one"] - single["two"]).abs().max() > 1e-3
    torch.testing.assert_close(both, (single["one"] + single["two"]) / 2)


class FinishedFaces(Faces):
    """The faces as ToTensor and Normalize make them."""

    def __getitem__(self, index):
        pixels_HW1, label = super().__getitem__(index)
        return (torch.from_numpy(pixels_HW1).permute(2, 0, 1) / 255 - 0.5) / 0.25, label


def test_a_network_of_finished_tensors_is_not_given_pictures(tiny, tmp_path):
    data = {"train": FinishedFaces(), "val": FinishedFaces(28, seed=5)}
    train(tiny(epochs=1), data=data)
    best = tmp_path / "run" / "checkpoints" / "best.pt"
    log = (tmp_path / "run" / "log.txt").read_text()
    warning = "the data set gives float tensors, which are used as they are: augmentation"
    assert log.count(warning) == 1
    with build_session(tiny(name="by-hand"), data=data) as session:
        assert (session.folder.path / "log.txt").read_text().count(warning) == 1
    assert evaluate(best, data=data, quiet=True)["n"] == 28
    network = load_model(best)
    face = draw_faces(1, seed=1)[0]
    for call in (
        lambda: network.predict(face),
        lambda: network.probabilities(torch.from_numpy(face)),
        lambda: predict(best, face),
        lambda: open_predictor(best),  # of serve and demo
        lambda: export_checkpoint(best, out=str(tmp_path / "x.onnx")),
    ):
        with pytest.raises(CheckpointError, match=r"trained on float tensors.*or train it on PIL"):
            call()
    for options in ({"data": "demo:140"}, {"data": Faces(28)}):
        with pytest.raises(DataError, match="gives images, and the network was trained on float"):
            evaluate(best, quiet=True, **options)


def test_a_network_of_images_is_not_given_finished_tensors(finished_run):
    with pytest.raises(
        DataError, match="gives finished float tensors, and the network was trained"
    ):
        evaluate(finished_run, data=FinishedFaces(28), quiet=True)


def test_all_of_an_object_of_the_same_class_is_neither_the_run_s_own_data_nor_its_test(
    tiny, tmp_path
):
    train(tiny(epochs=1), data={"train": Faces(), "val": Faces(28, seed=5)})
    found = evaluate(tmp_path / "run", data=Faces(21, seed=6), quiet=True)
    assert found["warning"] is None and "test_evaluations" not in found


def test_a_checkpoint_without_a_mark_of_finished_tensors_is_used_as_before(tiny, tmp_path):
    train(tiny(epochs=1), data={"train": FinishedFaces(), "val": FinishedFaces(28)})
    content = load_checkpoint(tmp_path / "run")
    del content["preprocessing"]["finished_tensors"]
    with (tmp_path / "old.pt").open("wb") as file:
        write_checkpoint(content, file)
    assert len(load_model(tmp_path / "old.pt").predict(draw_faces(1, seed=1)[0])) == 1


def test_data_loss_and_optimizer_are_objects_too(tiny, tmp_path):
    groups_seen = []

    def factory(groups):
        groups_seen.extend(groups)
        return slow_sgd(groups)

    summary = train(
        tiny(epochs=2),
        data={"train": Faces(), "val": Faces(28, seed=5), "test": Faces(21, seed=6)},
        loss=squared,
        optimizer=factory,
    )
    assert summary["data"]["counts"] == {"train": 140, "val": 28, "test": 21}
    assert summary["test"]["n"] == 21 and summary["status"] == "completed"
    assert all("lr" not in group or group["lr"] <= 1e-3 for group in groups_seen)
    line = json.loads((tmp_path / "run" / "history.jsonl").read_text().splitlines()[0])
    assert line["lr"] <= 1e-3 and line["train_loss"] < 2


def test_lambdas_of_one_call_are_different_objects(tiny):
    summary = train(
        tiny(epochs=1, model_args={}),
        model=lambda: Net(),
        loss=lambda logits_BK, targets_BK: squared(logits_BK, targets_BK),
        optimizer=lambda groups: slow_sgd(groups),
    )
    assert summary["status"] == "completed"


@pytest.mark.parametrize(
    "loss", [nn.CrossEntropyLoss(), nn.CrossEntropyLoss(label_smoothing=0.1), squared]
)
def test_torch_s_losses_are_taken_per_image(tiny, loss):
    assert train(tiny(epochs=1), loss=loss)["status"] == "completed"


def test_a_single_data_set_gives_a_share_to_val_and_can_be_a_subset(tiny):
    faces = Faces()
    summary = train(tiny(epochs=1), data=Subset(faces, list(range(0, 140, 2))))
    assert summary["data"]["counts"]["train"] + summary["data"]["counts"]["val"] == 70
    assert summary["data"]["counts"]["val"] == 7 and "test" not in summary


def test_labels_without_names_are_numbers_or_named_by_classes(tiny, tmp_path):
    pixels_NHW1, labels_N = draw_faces(70, seed=2)
    pixels = torch.from_numpy(pixels_NHW1).permute(0, 3, 1, 2)
    data = TensorDataset(pixels, torch.from_numpy(labels_N.astype(np.int64)))
    train(tiny(epochs=1), data=data)
    assert load_model(tmp_path / "run").classes == tuple("0123456")
    train(tiny(epochs=1, classes=",".join(DEMO_CLASSES), exist_ok=True), data=data)
    assert load_model(tmp_path / "run").classes == DEMO_CLASSES


def test_labels_without_names_are_the_places_of_the_network_s_outputs(tiny, tmp_path):
    class Unnamed(Faces):
        classes = ()

    train(tiny(epochs=1), data={"train": Subset(Unnamed(70), range(60)), "val": Unnamed(14)})
    assert evaluate(tmp_path / "run", data=Unnamed(21), quiet=True)["n"] == 21


def test_classes_that_are_named_by_numbers_are_refused_for_other_numbers(tiny, tmp_path):
    """torchvision's ImageFolder over folders 0 to 6 has these names, whatever the numbers mean."""

    class Numbered(Faces):
        classes = tuple("0123456")

    train(tiny(epochs=1), data={"train": Numbered(70), "val": Numbered(14)})
    # The same class of objects, and other data.
    with pytest.raises(DataError, match=r"whose meaning may differ .* --classes '0,1,2,3"):
        evaluate(tmp_path / "run", data=Numbered(21), quiet=True)
    confirmed = evaluate(tmp_path / "run", data=Numbered(21), classes="0,1,2,3,4,5,6", quiet=True)
    assert confirmed["n"] == 21


def test_a_data_set_object_is_scored_whole(finished_run):
    faces = Faces(35, seed=8)
    found = evaluate(finished_run, data=faces, quiet=True)
    assert found["n"] == 35 and found["split"] == "all" and found["accuracy"] > 0.3
    parts = evaluate(
        finished_run, data={"val": faces, "test": Faces(7, seed=1)}, split="test", quiet=True
    )
    assert parts["n"] == 7


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"model": 3}, "model is a int; give a torch.nn.Module"),
        ({"data": {"train": Faces(70), "night": Faces(70)}}, "data has the splits night"),
        ({"data": [1, 2, 3][0]}, r"data \(train\) is a int; give a map-style"),
        ({"loss": 0.5}, "loss is a float; give a callable"),
        (
            {"optimizer": torch.optim.SGD(Net().parameters(), lr=1)},
            "optimizer is a SGD; give a function",
        ),
        (
            {"optimizer": lambda groups: None},
            "made a NoneType; it must make a torch.optim.Optimizer",
        ),
        ({"model": lambda: 5}, "made a int; it must make a torch.nn.Module"),
        ({"loss": lambda a, b: a.mean()}, "it must give one value per image"),
    ],
)
def test_objects_of_another_kind_get_a_sentence(tiny, given, words):
    with pytest.raises(FerError, match=words):
        train(
            tiny(
                epochs=1,
                model_args={} if "model" in given else {"widths": [8, 8], "blocks": [0, 0]},
            ),
            **given,
        )


def test_a_resumed_run_wants_the_same_objects_again(tiny, tmp_path):
    settings = {"model_args": {}, "name": "run"}
    train(tiny(epochs=1, **settings), model=Net, optimizer=slow_sgd)
    with pytest.raises(ConfigError, match=r"used Python objects: .*model=.*optimizer="):
        train(Config(out=str(tmp_path), name="run", resume="auto", epochs=2, quiet=True))
    again = Config(out=str(tmp_path), name="run", resume="auto", epochs=2, quiet=True)
    assert train(again, model=Net, optimizer=slow_sgd)["epochs"] == 2


def test_a_resumed_run_wants_data_with_the_same_labels(tiny):
    train(tiny(epochs=1), data=Faces())
    other = Faces()
    other.targets = other.targets[::-1]
    with pytest.raises(DataError, match="labels of object:Faces are not what the run began with"):
        train(tiny(epochs=2, resume="auto"), data=other)
    allowed = tiny(epochs=2, resume="auto", override=("data",))
    assert train(allowed, data=other)["epochs"] == 2


def test_a_resumed_run_keeps_the_side_and_the_statistics_of_its_images(tiny, tmp_path, monkeypatch):
    # Another version may choose another side, and samples may be random.
    train(tiny(epochs=1), data=Faces())
    before = load_model(tmp_path / "run").preprocessing
    monkeypatch.setattr("fer_ignite.data.dataset.choose_side", lambda *_, **__: (40, False))
    train(tiny(epochs=2, resume="auto"), data=Faces())
    last = tmp_path / "run" / "checkpoints" / "last.pt"
    assert load_model(last).preprocessing == before
    allowed = tiny(epochs=3, resume="auto", override=("data",))
    train(allowed, data=Faces())
    assert load_model(last).preprocessing.image_px == 40


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def forward(self, logits_BK, targets_BK):
        self.seen += len(logits_BK)
        return squared(logits_BK, targets_BK)


def test_a_resumed_run_has_the_buffers_of_its_loss(tiny):
    train(tiny(epochs=1), loss=Counting())
    loss = Counting()
    train(tiny(epochs=2, resume="auto"), loss=loss)
    assert int(loss.seen) == 2 * 112


def test_what_can_t_be_sent_to_other_processes_is_named_before_they_start(tiny):
    class Local(Net):
        pass

    with pytest.raises(
        ConfigError,
        match=r"Local can't be sent to other processes \(.*\); define it at the top level",
    ):
        train(tiny(epochs=1, model_args={}), model=Local, nproc=2)
    with pytest.raises(ConfigError, match=r"lambda can't be sent to other processes"):
        train(tiny(epochs=1), loss=lambda a, b: squared(a, b), nproc=2)


def test_objects_are_sent_to_processes_that_prepare_by_themselves(tiny, monkeypatch):
    sent = []
    monkeypatch.setattr(
        "fer_ignite.runs.execute.launch", lambda *args, spec: sent.extend(args) or Outcome()
    )
    machines = {"nnodes": 2, "master_addr": "127.0.0.1", "master_port": 29500}
    train(tiny(**machines), loss=nn.CrossEntropyLoss())
    assert list(sent[-1]) == ["object:CrossEntropyLoss"]


@pytest.mark.slow
def test_objects_of_a_module_train_in_two_processes_as_in_one(tiny, tmp_path):
    # as importlib loads test modules, this one can't be imported by name in other processes
    optimizer = functools.partial(torch.optim.SGD, lr=0.01)
    one = train(tiny(epochs=1, name="one"), optimizer=optimizer, loss=nn.CrossEntropyLoss())
    two = train(
        tiny(epochs=1, name="two"), optimizer=optimizer, loss=nn.CrossEntropyLoss(), nproc=2
    )
    assert two["world_size"] == 2
    assert two["val"]["loss"] == pytest.approx(one["val"]["loss"], abs=1e-4)


@pytest.mark.slow
def test_a_module_has_the_weights_that_two_processes_have_trained(tiny, tmp_path):
    net = Net()
    train(tiny(epochs=1, model_args={}), model=net, nproc=2)
    trained = load_checkpoint(tmp_path / "run" / "checkpoints" / "last.pt")["model"]
    assert state_digest(net.state_dict()) == state_digest(trained)


def test_a_module_has_the_weights_of_a_run_that_is_complete_already(tiny, tmp_path, caplog):
    train(tiny(epochs=1, model_args={}), model=Net())
    net = Net()
    train(tiny(epochs=1, model_args={}, resume="auto"), model=net)
    trained = load_checkpoint(tmp_path / "run" / "checkpoints" / "last.pt")["model"]
    assert state_digest(net.state_dict()) == state_digest(trained)
    assert "the run is complete" in caplog.text


def test_a_session_ends_as_train_does_and_says_what_it_is(tiny, tmp_path):
    config = tiny(epochs=1)
    expected = train(config.model_copy(update={"name": "other"}))
    with build_session(config) as session:
        assert (
            "Session of" in repr(session)
            and "iteration 0" in repr(session)
            and "\n" not in repr(session)
        )
        session.run()
        assert session.summary["test"]["accuracy"] == expected["test"]["accuracy"]
        assert session.summary["weights_sha256"] == expected["weights_sha256"]
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["val"]["n"] == 14


def test_a_session_has_the_threads_of_its_settings_and_logs_what_has_no_effect(tiny, tmp_path):
    found = []

    def look(session):
        event = Events.ITERATION_STARTED(once=1)
        session.trainer.add_event_handler(event, lambda: found.append(torch.get_num_threads()))

    with build_session(tiny(epochs=1, threads=3, focal_gamma=1.0), handlers=[look]) as session:
        assert torch.get_num_threads() == 1  # the caller's
        session.run()
    assert found == [3] and torch.get_num_threads() == 1
    assert "focal_gamma" in (tmp_path / "run" / "log.txt").read_text().replace("-", "_")


def test_a_session_of_several_processes_is_refused(tiny, tmp_path):
    with pytest.raises(ConfigError, match=r"nproc is 2: leave it out, or call train\("):
        build_session(tiny(nproc=2))
    with pytest.raises(ConfigError, match="nnodes is 2"):
        build_session(tiny(nnodes=2, master_addr="127.0.0.1", master_port=29500))
    assert not (tmp_path / "run").exists()


def test_names_and_descriptions_are_short(finished_run):
    assert dir(fer_ignite) == sorted([*fer_ignite.__all__, "__version__"])
    assert repr(Config()) == "Config()"
    assert repr(Config(epochs=3, opt="sgd")) == "Config(opt='sgd', epochs=3)"
    text = repr(load_model(finished_run))
    assert text.startswith("LoadedModel fer48: ") and "48 px gray" in text and len(text) < 250
