"""The event map, written from the code's own table."""

from fer_ignite.training.events import EVENT_TABLE, REMOVAL_EFFECTS, EventFacts

__all__ = ["event_map"]

_HEAD = """\
# Event map

Every step of a run, and every decision in it, is an event of [Ignite](https://pytorch-ignite.ai)'s engines. Attach a function to one with
`session.trainer.on(EVENT)`; [Your own handler](../tutorials/own-handler.md) shows how. This page is made from `EVENT_TABLE` in
`fer_ignite/training/events.py`, which is what the program itself registers.

Ignite's own events fire around these: `STARTED`, `EPOCH_STARTED`, then per iteration `ITERATION_STARTED`, the step with the four
`StepEvents`, `ITERATION_COMPLETED`; then `EPOCH_COMPLETED`, where validation, scheduler, best checkpoint and early stopping hang, with the
`RunEvents` behind them; at last `COMPLETED`.

`EVENT(every=n)`, `EVENT(once=n)` and `EVENT(event_filter=f)` count by the event's counter in `trainer.state`.

"""


def event_map() -> str:
    """A section per event: when it fires, what is in the state, what it counts by, what listens already; effects of removals."""
    return _HEAD + "\n".join(_section(facts) for facts in EVENT_TABLE) + "\n" + _removals()


def _removals() -> str:
    rows = "\n".join(f"| `{name}` | {effect} |" for name, effect in REMOVAL_EFFECTS.items())
    return (
        '## Removing a built-in handler\n\n`session.handles["NAME"].remove()` has the effect below and no other. A removal that '
        f"would make results wrong is refused with a `ConfigError`.\n\n| handler | effect of its removal |\n|---|---|\n{rows}\n"
    )


def _section(facts: EventFacts) -> str:
    built_in = ", ".join(f'`session.handles["{name}"]`' for name in facts.built_in) or "none"
    counter = f"`state.{facts.counter}`" if facts.counter else "-"
    rows = {"what is there": facts.payload, "counter": counter, "built-in handlers": built_in}
    table = "\n".join(f"| {name} | {text} |" for name, text in rows.items())
    return f"## {type(facts.event).__name__}.{facts.event.name}\n\n| fires | {facts.fires} |\n|---|---|\n{table}\n"
