import torch
from ignite.engine import Events

from fer_ignite import build_session
from fer_ignite.training.events import StepEvents


def test_the_gradient_is_that_of_the_worst_point_and_weights_and_statistics_stay(tiny):
    seen = {}

    def watch(session):
        trainer, model = session.trainer, session.model

        @trainer.on(StepEvents.LOSS_READY)
        def before(engine):
            seen.setdefault("weights", [p.detach().clone() for p in model.parameters()])

        def plain(engine):
            seen.setdefault("plain", [p.grad.clone() for p in model.parameters()])
            seen.setdefault("statistics", [b.clone() for b in model.buffers()])

        trainer.add_event_handler(StepEvents.GRADIENTS_READY, plain)
        # handlers run in the order of their addition: the run's own came first
        handlers = trainer._event_handlers[StepEvents.GRADIENTS_READY]
        handlers.insert(0, handlers.pop())

        @trainer.on(StepEvents.GRADIENTS_READY)
        def after(engine):
            if "sharp" not in seen:
                seen["sharp"] = [p.grad.clone() for p in model.parameters()]
                seen["weights after"] = [p.detach().clone() for p in model.parameters()]
                seen["statistics after"] = [b.clone() for b in model.buffers()]
                seen["batch"] = engine.state.batch

        trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: session.stop())

    with build_session(tiny(sam_rho=0.1, epochs=1), handlers=[watch]) as session:
        session.run()
        model, trainer = session.model, session.trainer
        for pairs in (("weights", "weights after"), ("statistics", "statistics after")):
            assert all(
                torch.equal(a, b) for a, b in zip(*(seen[name] for name in pairs), strict=True)
            )
        # the same by hand
        norm = torch.stack([g.norm() for g in seen["plain"]]).norm()
        with torch.no_grad():
            for parameter, weight, gradient in zip(
                model.parameters(), seen["weights"], seen["plain"], strict=True
            ):
                parameter.copy_(weight + 0.1 * gradient / norm)
        model.train()
        model.zero_grad()
        trainer.compute_loss(seen["batch"])[0].backward()
        for parameter, gradient in zip(model.parameters(), seen["sharp"], strict=True):
            torch.testing.assert_close(parameter.grad, gradient, atol=1e-6, rtol=1e-4)
        assert any(
            not torch.allclose(a, b, rtol=1e-2)
            for a, b in zip(seen["plain"], seen["sharp"], strict=True)
        )
