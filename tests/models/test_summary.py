import torch
from torch import nn

from fer_ignite.models.blocks import AttentionStage
from fer_ignite.models.summary import describe_groups, describe_layers, flops, parameter_count
from fer_ignite.training.optim import build_optimizer, parameter_groups


def test_shared_parameters_are_counted_once():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    model.add_module("again", model[0])
    assert parameter_count(model) == (3 * 4 + 4) + (4 * 2 + 2)


def test_flops_are_two_per_multiply_add():
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 8 * 8, 7)
    ).train()
    expected = 2 * (8 * 8 * 4 * 9 + 4 * 8 * 8 * 7)
    assert flops(model, (1, 1, 8, 8)) == expected
    assert model.training
    assert model[1].num_batches_tracked == 0


def test_each_group_is_one_line_with_its_rates():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    groups = parameter_groups(model, lr=0.1, head_lr=0.5, weight_decay=0.01)
    text = describe_groups(build_optimizer("sgd", groups, lr=0.1))
    lines = text.splitlines()
    assert len(lines) == 4
    assert lines[0].split()[:4] == ["backbone", "1", "tensors", "12"]
    assert "lr 0.5" in lines[2] and "weight decay 0.01" in lines[2]
    assert "weight decay 0" in lines[3]


def test_a_group_without_a_name_is_numbered():
    assert describe_groups(torch.optim.SGD([nn.Parameter(torch.zeros(2))], lr=0.1)).startswith(
        "group 0"
    )


def test_rows_of_layers_add_up_to_all_parameters():
    """AttentionStage holds a parameter itself, beside its parts."""
    model = AttentionStage(32, hidden=32, depth=1, areas=1)
    rows = describe_layers(model, (1, 32, 8, 8)).splitlines()
    counts = [int(row.split()[-1].replace(",", "")) for row in rows]
    assert sum(counts) == parameter_count(model)
