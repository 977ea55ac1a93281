import pytest
import torch

from fer_ignite.training.muon import Muon, orthogonalise


@pytest.mark.parametrize("shape", [(8, 20), (20, 8), (5, 5)])
def test_singular_values_become_about_one_and_the_directions_stay(shape):
    torch.manual_seed(0)
    matrix = torch.randn(shape)
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    found = orthogonalise(matrix, steps=5)
    values = torch.linalg.svdvals(found)
    assert values.min() > 0.6 and values.max() < 1.3 and s.max() / s.min() > 1.5
    # the same singular vectors: the products with them are diagonal
    inner = u.T @ found @ vh.T
    torch.testing.assert_close(inner, torch.diag(inner.diagonal()), atol=1e-3, rtol=0)


def test_vectors_are_stepped_as_adamw_does():
    torch.manual_seed(1)
    start, gradients = torch.randn(6), torch.randn(4, 6)
    ours, torchs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    settings = {"lr": 0.01, "weight_decay": 0.1, "betas": (0.9, 0.99), "eps": 1e-8}
    pair = ((ours, Muon([ours], **settings)), (torchs, torch.optim.AdamW([torchs], **settings)))
    for gradient in gradients:
        for parameter, optimizer in pair:
            parameter.grad = gradient.clone()
            optimizer.step()
    torch.testing.assert_close(ours, torchs, atol=1e-6, rtol=1e-5)


def test_a_filter_moves_by_the_learning_rate_times_its_scale_whatever_its_gradient_s_size():
    torch.manual_seed(2)
    gradient = torch.randn(8, 4, 3, 3)
    moves = []
    for size in (1e-3, 1.0, 1e3):
        parameter = torch.nn.Parameter(torch.zeros(8, 4, 3, 3))
        optimizer = Muon([parameter], lr=0.1, weight_decay=0.0)
        parameter.grad = gradient * size
        optimizer.step()
        moves.append(parameter.detach().clone())
    for other in (moves[0], moves[2]):  # but for the rounding of bfloat16, where that is native
        assert (other - moves[1]).norm() < 0.1 * moves[1].norm()
    root_mean_square = moves[1].square().mean().sqrt().item()
    # 0.2 * sqrt(36) * singular values near 1 over 8 * 36 entries: 0.2 as AdamW's size, times the rate
    assert root_mean_square == pytest.approx(0.1 * 0.2, rel=0.25)


def test_groups_without_muon_and_the_state_dict():
    torch.manual_seed(3)
    make = lambda: [torch.nn.Parameter(torch.ones(3, 3)), torch.nn.Parameter(torch.ones(3, 3))]  # noqa: E731
    gradients = torch.randn(5, 2, 3, 3)

    def run(parameters, optimizer, part):
        for pair in part:
            for parameter, gradient in zip(parameters, pair, strict=True):
                parameter.grad = gradient.clone()
            optimizer.step()

    def built():
        parameters = make()
        groups = [{"params": parameters[:1]}, {"params": parameters[1:], "use_muon": False}]
        return parameters, Muon(groups, lr=0.01)

    whole, optimizer = built()
    run(whole, optimizer, gradients)
    assert set(optimizer.state[whole[0]]) == {"momentum_buffer"}
    assert set(optimizer.state[whole[1]]) == {"step", "exp_avg", "exp_avg_sq"}
    first, before = built()
    run(first, before, gradients[:2])
    second, after = built()
    for parameter, value in zip(second, first, strict=True):
        parameter.data.copy_(value)
    after.load_state_dict(before.state_dict())
    run(second, after, gradients[2:])
    assert all(torch.equal(a, b) for a, b in zip(whole, second, strict=True))
