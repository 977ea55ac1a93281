from torch import nn

from fer_ignite.models.emotionnet import EmotionNet
from fer_ignite.models.fer48 import Fer48
from fer_ignite.models.heads import head_prefixes


def test_the_head_of_the_own_networks_is_their_last_layer():
    assert head_prefixes(Fer48(7)) == head_prefixes(EmotionNet(7)) == ("head",)


def test_a_network_may_name_its_head_itself():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    assert head_prefixes(model) == ("1",)
    model.head_prefixes = ("0", "1")
    assert head_prefixes(model) == ("0", "1")


def test_a_network_without_layers_has_no_head():
    assert head_prefixes(nn.Sequential(nn.ReLU())) == ()
