import torch
from ignite.engine import Events

from fer_ignite import build_session, load_model
from fer_ignite.checkpoint.format import load_checkpoint


def test_the_average_is_the_mean_of_the_last_epochs_weights_and_is_what_evaluation_uses(
    tiny, tmp_path
):
    ends, seen = [], {}

    def watch(session):
        @session.trainer.on(Events.EPOCH_COMPLETED)
        def keep(engine):
            ends.append({name: p.detach().clone() for name, p in session.model.named_parameters()})
            if engine.state.epoch == 2:  # averaging begins with the third of four epochs
                assert all(
                    torch.equal(ends[-1][name], p)
                    for name, p in session.averaged.named_parameters()
                )

    with build_session(tiny(swa_start=0.5, epochs=4), handlers=[watch]) as session:
        session.run()
        assert session.evaluated is session.averaged
        for name, parameter in session.averaged.named_parameters():
            torch.testing.assert_close(parameter.detach(), (ends[2][name] + ends[3][name]) / 2)
        # the statistics are those of the train images under the averaged weights
        norm = next(m for m in session.averaged.modules() if isinstance(m, torch.nn.BatchNorm2d))
        before = norm.running_mean.clone()
        norm.running_mean.zero_()
        session.trainer.state.epoch = 4
        session.swa.update(session.trainer)
        assert norm.momentum is not None and not norm.training
        assert norm.running_mean.abs().sum() > 0 and before.shape == norm.running_mean.shape
        seen["weights"] = {n: p.detach().clone() for n, p in session.model.named_parameters()}
    last = load_checkpoint(tmp_path / "run" / "checkpoints" / "last.pt")
    assert last["ema"] is not None
    name = next(iter(ends[3]))
    torch.testing.assert_close(last["ema"][name], (ends[2][name] + ends[3][name]) / 2)
    assert load_model(tmp_path / "run").config.swa_start == 0.5


def test_the_statistics_of_frozen_normalisations_stay_in_the_average(tiny):
    with build_session(tiny(swa_start=0.0, epochs=2, freeze="*norm*")) as session:
        session.run()
        pairs = zip(session.model.modules(), session.averaged.modules(), strict=True)
        norms = [pair for pair in pairs if isinstance(pair[0], torch.nn.BatchNorm2d)]
        assert norms
        for frozen, average in norms:
            assert torch.equal(frozen.running_mean, average.running_mean)
            assert torch.equal(frozen.running_var, average.running_var)
