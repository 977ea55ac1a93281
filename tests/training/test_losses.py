import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fer_ignite.errors import ConfigError
from fer_ignite.imports import register_object
from fer_ignite.training.class_weights import logit_adjustment
from fer_ignite.training.losses import LossBuffers, build_loss

B, K = 6, 7
WEIGHTS_K = torch.tensor([0.5, 2.0, 1.0, 0.1, 3.0, 1.0, 0.7])


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    logits_BK = torch.randn(B, K, generator=generator) * 3
    labels_B = torch.randint(0, K, (B,), generator=generator)
    soft_BK = torch.rand(B, K, generator=generator).softmax(dim=1)
    return logits_BK, labels_B, soft_BK


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights_K", [None, WEIGHTS_K])
def test_cross_entropy_equals_torch_s_for_labels_and_for_soft_targets(batch, smoothing, weights_K):
    logits_BK, labels_B, soft_BK = batch
    loss = build_loss("ce", smoothing=smoothing, weights_K=weights_K)
    options = {"label_smoothing": smoothing, "weight": weights_K, "reduction": "none"}
    torch.testing.assert_close(
        loss(logits_BK, F.one_hot(labels_B, K).float()),
        F.cross_entropy(logits_BK, labels_B, **options),
    )
    torch.testing.assert_close(
        loss(logits_BK, soft_BK), F.cross_entropy(logits_BK, soft_BK, **options)
    )


def test_the_weighted_mean_is_over_images_and_torch_s_over_weights(batch):
    logits_BK, labels_B, _ = batch
    losses_B = build_loss("ce", weights_K=WEIGHTS_K)(logits_BK, F.one_hot(labels_B, K).float())
    torchs = F.cross_entropy(logits_BK, labels_B, weight=WEIGHTS_K)
    torch.testing.assert_close(losses_B.sum() / WEIGHTS_K[labels_B].sum(), torchs)
    assert not torch.isclose(losses_B.mean(), torchs)


def test_sums_over_slices_are_the_sum_over_the_batch(batch):
    logits_BK, _, soft_BK = batch
    loss = build_loss("ce+0.5*focal+bce", smoothing=0.1, weights_K=WEIGHTS_K)
    whole = loss(logits_BK, soft_BK)
    parts = [
        loss(logits_BK[part], soft_BK[part]) for part in (slice(0, 1), slice(1, 1), slice(1, B))
    ]
    torch.testing.assert_close(torch.cat(parts), whole)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_follows_its_formula(batch, gamma):
    logits_BK, labels_B, _ = batch
    p_B = logits_BK.softmax(dim=1)[torch.arange(B), labels_B]
    expected_B = -WEIGHTS_K[labels_B] * (1 - p_B) ** gamma * p_B.log()
    loss = build_loss("focal", focal_gamma=gamma, weights_K=WEIGHTS_K)
    torch.testing.assert_close(loss(logits_BK, F.one_hot(labels_B, K).float()), expected_B)


def test_focal_has_finite_gradients_where_the_network_is_certain():
    logits_BK = torch.tensor([[200.0, 0.0], [-200.0, 0.0]], requires_grad=True)
    build_loss("focal", focal_gamma=0.5)(
        logits_BK, F.one_hot(torch.tensor([0, 0]), 2).float()
    ).sum().backward()
    assert logits_BK.grad.isfinite().all()


def test_soft_is_cross_entropy_against_the_votes_as_they_are(batch):
    logits_BK, _, soft_BK = batch
    loss = build_loss("soft", smoothing=0.3, weights_K=WEIGHTS_K)
    torch.testing.assert_close(
        loss(logits_BK, soft_BK), F.cross_entropy(logits_BK, soft_BK, reduction="none")
    )


def test_bce_is_torch_s_mean_over_one_question_per_expression(batch):
    logits_BK, labels_B, _ = batch
    targets_BK = F.one_hot(labels_B, K).float()
    expected_B = F.binary_cross_entropy_with_logits(
        logits_BK, targets_BK, weight=WEIGHTS_K, reduction="none"
    ).mean(1)
    torch.testing.assert_close(
        build_loss("bce", weights_K=WEIGHTS_K)(logits_BK, targets_BK), expected_B
    )
    smoothed = build_loss("bce", smoothing=0.2)(torch.zeros(1, K), targets_BK[:1])
    # logit 0 is undecided about any target
    torch.testing.assert_close(smoothed, torch.tensor([math.log(2)]))


def test_half_precision_logits_give_float32_losses(batch):
    logits_BK, labels_B, _ = batch
    for name in ("ce", "focal", "soft", "bce"):
        assert (
            build_loss(name)(logits_BK.bfloat16(), F.one_hot(labels_B, K).float()).dtype
            == torch.float32
        )


def test_a_sum_shows_each_term_before_its_factor(batch):
    logits_BK, labels_B, _ = batch
    targets_BK = F.one_hot(labels_B, K).float()
    loss = build_loss("ce + 0.5*focal")
    terms = loss.terms(logits_BK, targets_BK)
    assert list(terms) == ["ce", "focal"]
    torch.testing.assert_close(terms["focal"], build_loss("focal")(logits_BK, targets_BK))
    torch.testing.assert_close(loss.total(terms), terms["ce"] + 0.5 * terms["focal"])
    assert torch.equal(loss(logits_BK, targets_BK), loss.total(terms))


def test_a_user_s_function_is_a_term_like_any_other(batch, tmp_path):
    logits_BK, labels_B, _ = batch
    path = tmp_path / "own_losses.py"
    path.write_text(
        "def margin(logits, targets):\n    return logits.max(1).values - (logits * targets).sum(1)\n"
        "def mean(logits, targets):\n    return margin(logits, targets).mean()\n"
    )
    targets_BK = F.one_hot(labels_B, K).float()
    name = f"{path}:margin"
    terms = build_loss(f"ce+2*{name}").terms(logits_BK, targets_BK)
    torch.testing.assert_close(
        terms[name], logits_BK.max(dim=1).values - logits_BK[torch.arange(B), labels_B]
    )
    with pytest.raises(ConfigError, match=r"gave \[\] for 6 images.*one value per image"):
        build_loss(f"{path}:mean")(logits_BK, targets_BK)


def test_class_weights_travel_with_the_loss_and_are_no_weights_of_a_network():
    loss = build_loss("ce+focal", weights_K=WEIGHTS_K)
    assert len(list(loss.buffers())) >= 1
    assert not loss.state_dict() and not list(loss.parameters())


class Counting(nn.Module):
    """A loss with a running figure and a frozen parameter."""

    def __init__(self, scale=1.0):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale), requires_grad=False)
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def forward(self, logits_BK, targets_BK):
        self.seen = self.seen + len(logits_BK)
        return F.cross_entropy(self.scale * logits_BK, targets_BK, reduction="none")


class Bank(nn.Module):
    """A loss whose buffers grow, and are made in the first step."""

    def __init__(self):
        super().__init__()
        self.register_buffer("bank", torch.zeros(0, K))
        self.register_buffer("mean", None)

    def forward(self, logits_BK, targets_BK):
        self.bank = torch.cat([self.bank, logits_BK.detach()])
        self.mean = self.bank.mean(dim=0)
        return F.cross_entropy(logits_BK, targets_BK, reduction="none")


def test_buffers_that_grow_or_are_made_late_are_restored(batch):
    logits_BK, _, soft_BK = batch
    name = register_object("loss", "Bank", thing=Bank())
    loss = build_loss(name)
    assert LossBuffers(loss) and not LossBuffers(build_loss("ce"))
    loss(logits_BK, soft_BK)
    fresh = Bank()
    LossBuffers(build_loss(register_object("loss", "Bank", thing=fresh))).load_state_dict(
        LossBuffers(loss).state_dict()
    )
    torch.testing.assert_close(fresh.bank, logits_BK)
    torch.testing.assert_close(fresh.mean, logits_BK.mean(dim=0))


def test_a_loss_with_trainable_parameters_is_refused_with_their_names():
    name = register_object("loss", "Counting", thing=Counting().requires_grad_(True))
    with pytest.raises(ConfigError, match=r"trainable parameters \(scale\).*into the network"):
        build_loss(f"ce+{name}")


def test_buffers_of_a_user_s_loss_are_kept_and_settings_are_not(batch):
    logits_BK, _, soft_BK = batch
    weighted = nn.CrossEntropyLoss(weight=WEIGHTS_K, reduction="none")
    names = [
        register_object("loss", shown, thing=thing)
        for shown, thing in (("Weighted", weighted), ("Counting", Counting(2.0)))
    ]
    loss = build_loss("+".join(["ce", *names]), weights_K=WEIGHTS_K)
    loss(logits_BK, soft_BK)
    state = LossBuffers(loss).state_dict()
    assert state == {"1": {"seen": torch.tensor(B)}}
    fresh = Counting(3.0)
    register_object("loss", "Counting", thing=fresh)
    LossBuffers(build_loss("+".join(["ce", *names]))).load_state_dict(state)
    assert (int(fresh.seen), float(fresh.scale)) == (B, 3.0)
    LossBuffers(build_loss("ce")).load_state_dict(state)  # another loss has no use for them
    assert not LossBuffers(build_loss("ce+focal", weights_K=WEIGHTS_K)).state_dict()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("crossentropy", "no loss 'crossentropy'; choose from ce, focal, soft, bce"),
        ("ce+", "'' in 'ce\\+' is no term"),
        ("ce*2", "is no term"),
        ("-1*ce", "no loss|no term"),
        ("ce+0.5*ce", "names ce twice"),
        ("0*ce", "every factor"),
    ],
)
def test_a_loss_that_can_not_be_read_is_answered_with_the_form(text, words):
    with pytest.raises(ConfigError, match=words):
        build_loss(text)


def test_logit_adjustment_adds_the_logs_of_the_shares_before_every_term(batch):
    logits_BK, labels_B, _ = batch
    counts_K = [10, 40, 0, 25, 5, 10, 10]
    adjustment_K = logit_adjustment(0.5, counts_K)
    shares_K = torch.tensor([10, 40, 1, 25, 5, 10, 10]) / 101  # the class without images has one
    torch.testing.assert_close(adjustment_K, 0.5 * shares_K.log())
    targets_BK = F.one_hot(labels_B, K).float()
    adjusted = build_loss("ce+0.5*focal", smoothing=0.1, adjustment_K=adjustment_K)
    plain = build_loss("ce+0.5*focal", smoothing=0.1)
    torch.testing.assert_close(
        adjusted(logits_BK, targets_BK), plain(logits_BK + adjustment_K, targets_BK)
    )
    assert logit_adjustment(0.0, counts_K) is None


def test_a_network_without_features_learns_equal_logits_under_full_adjustment():
    """Without the adjustment it would learn the logs of the shares, and always name the largest class."""
    labels_B = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)
    bias_K = torch.zeros(3, requires_grad=True)
    loss = build_loss("ce", adjustment_K=logit_adjustment(1.0, [60, 30, 10]))
    optimizer = torch.optim.SGD([bias_K], lr=1.0)
    for _ in range(200):
        optimizer.zero_grad()
        loss(bias_K.expand(100, 3), F.one_hot(labels_B, 3).float()).mean().backward()
        optimizer.step()
    torch.testing.assert_close(bias_K.detach(), torch.zeros(3), atol=1e-3, rtol=0)
