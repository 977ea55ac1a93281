import pytest

from fer_ignite.config import Config, check
from fer_ignite.data.cache.lookup import open_or_build
from fer_ignite.data.cache.spec import CacheSpec
from fer_ignite.recipes import read_recipe, recipe_names
from fer_ignite.runs.unused_settings import _RULES, unused_settings

OWN = {"optimizer_factory": "torch.optim:SGD"}


@pytest.mark.parametrize(
    ("settings", "flag", "needs"),
    [
        ({"momentum": 0.5}, "--momentum 0.5", "--opt muon or rmsprop or sgd"),
        ({"opt": "sgd", "betas": (0.8, 0.9)}, "--betas 0.8,0.9", "--opt adam or adamw or muon"),
        ({"opt": "sgd", "opt_eps": 1e-6}, "--opt-eps 1e-06", "adadelta or adagrad or adam or"),
        ({"decay_epochs": 5}, "--decay-epochs 5.0", "--sched step or cyclic"),
        ({"sched": "cosine", "pct_start": 0.1}, "--pct-start 0.1", "--sched onecycle"),
        ({"milestones": (3, 5)}, "--milestones 3.0,5.0", "--sched multistep"),
        ({"distill_weight": 0.7}, "--distill-weight 0.7", "--teacher"),
        ({"shard_streams": 2}, "--shard-streams 2", "--data shards:URL"),
        ({"augment": False, "rotate": 11}, "--rotate 11.0", "--augment"),
        ({"model_ema_decay": 0.9}, "--model-ema-decay 0.9", "--model-ema"),
        ({"min_delta": 0.1}, "--min-delta 0.1", "--patience or --sched plateau"),
        ({**OWN, "lr": 0.5}, "--lr 0.5", "without --optimizer-factory"),
        ({**OWN, "backbone_lr": 0.5}, "--backbone-lr 0.5", "without --optimizer-factory"),
        ({**OWN, "head_lr": 0.7}, "--head-lr 0.7", "without --optimizer-factory"),
        ({**OWN, "weight_decay": 0.3}, "--weight-decay 0.3", "without --optimizer-factory"),
        ({"data": "my:Data", "classes": "a,b"}, "--classes a,b", "image files or a csv as --data"),
        ({"data": "my:Data", "split": (0.5, 0.3, 0.2)}, "--split 0.5,0.3,0.2", "image files"),
        ({"data": "my:Data", "group_by": "S"}, "--group-by S", "image files"),
        ({"data": "my:Data", "bad_images": "skip"}, "--bad-images skip", "image files"),
        ({"data": "shards:s3://b/x", "channels": "gray"}, "--channels gray", "image files"),
    ],
)
def test_a_changed_setting_without_effect_is_named(settings, flag, needs):
    (sentence,) = unused_settings(check(settings))
    assert sentence.startswith(f"{flag} has no effect here; it needs ")
    assert needs in sentence


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"opt": "sgd", "momentum": 0.5, "nesterov": False},
        {"opt": "muon"},
        {"opt": "adamw", "nesterov": False},
        {"sched": "step", "decay_epochs": 5, "decay_rate": 0.5, "min_lr": 1e-5},
        {"patience": 3, "min_delta": 0.1},
        {**OWN, "sched": "cosine", "min_lr": 1e-5},
        {"lr": 0.5, "backbone_lr": 0.1, "head_lr": 0.7, "weight_decay": 0.3},
        {"loss": "ce+0.5*focal", "focal_gamma": 1.0},
        {"data": "my:Data", "channels": "gray", "resize_mode": "crop", "val_fraction": 0.2},
        {"data": "object:Data", "classes": "a,b"},
        {"rotate": 0, "scale": 0, "translate": 0.1, "padding": "border"},
    ],
)
def test_settings_that_are_read_are_not_named(settings):
    assert unused_settings(check(settings)) == []


def test_settings_that_a_dataset_cache_has_settled_are_named():
    cache = {"data": str(open_or_build(CacheSpec(data="demo:70")))}
    ignored = {"group_by": "S", "split_seed": 7, "val_fraction": 0.3, "resize_mode": "crop"}
    named = {sentence.split()[0] for sentence in unused_settings(check(cache | ignored))}
    assert named == {"--group-by", "--split-seed", "--val-fraction", "--resize-mode"}
    assert unused_settings(check(cache | {"group_by": "S", "classes": "happy,sad"})) == []
    assert unused_settings(check(cache | {"split_seed": 7, "folds": 3})) == []


@pytest.mark.parametrize("name", recipe_names())
def test_no_recipe_sets_what_it_does_not_use(name):
    settings = read_recipe(name)
    if "vote_mode" in settings:
        settings["votes"] = "votes.csv"
    assert unused_settings(check(settings)) == []


def test_what_a_recipe_sets_is_not_the_user_s_word():
    assert unused_settings(check({**read_recipe("robust"), "augment": False})) == []
    assert unused_settings(check({**read_recipe("reference"), "sched": "cosine"})) == []


def test_rules_name_settings_that_exist():
    assert {name for rule in _RULES for name in rule.settings} <= set(Config.model_fields)
