"""The loop: admit, step, finish."""

from sdxl_lightning_mcp.engine.engine import Engine
from sdxl_lightning_mcp.engine.sdxl import Sdxl
from sdxl_lightning_mcp.request import Parameters
from sdxl_lightning_mcp.run import Admitted, Canceled, Failed, Finished, RunEvent, Stepped


def played(engine: Engine) -> list[RunEvent]:
    """Lets the engine turn until it is idle."""
    events: list[RunEvent] = []
    while not engine.idle:
        events += engine.turn()
    return events


def story(events: list[RunEvent]) -> list[str]:
    return [f"{type(event).__name__} {event.run_id}" for event in events]


def test_a_run_is_admitted_stepped_and_finished(mini: Sdxl, parameters: Parameters) -> None:
    engine = Engine(mini)
    engine.submit("a", parameters)
    events = played(engine)
    steps = [event.step for event in events if isinstance(event, Stepped)]
    assert isinstance(events[0], Admitted)
    assert steps == [1, 2, 3, 4]
    assert isinstance(events[-1], Finished)
    assert events[-1].image.parameters == parameters


def test_runs_are_taken_first_come_first_served(mini: Sdxl, parameters: Parameters) -> None:
    engine = Engine(mini)
    for name in "abc":
        engine.submit(name, parameters.model_copy(update={"steps": 1}))
    told = story(played(engine))
    # A picture is encoded beside the next one's steps, so that its end may come a turn later.
    for event in ("Admitted", "Stepped", "Finished"):
        assert [one for one in told if one.startswith(event)] == [f"{event} {x}" for x in "abc"]


def test_a_run_joins_those_under_way_between_two_steps(mini: Sdxl, parameters: Parameters) -> None:
    engine = Engine(mini, max_batch=2)
    engine.submit("a", parameters)
    [*engine.turn()]
    engine.submit("b", parameters.model_copy(update={"steps": 2}))
    assert story([*engine.turn()]) == ["Admitted b", "Stepped a", "Stepped b"]
    assert story([*engine.turn()])[:2] == ["Stepped a", "Stepped b"]
    told = story(played(engine))
    assert "Stepped a" in told
    assert "Stepped b" not in told
    assert told[-1] == "Finished a"


def test_other_sizes_wait_their_turn_and_none_starves(mini: Sdxl, parameters: Parameters) -> None:
    engine = Engine(mini, max_batch=4)
    small = parameters.model_copy(update={"width": 256, "height": 256, "steps": 2})
    for name, wish in (("a", parameters), ("b", small), ("c", parameters), ("d", small)):
        engine.submit(name, wish)
    finished = [event.run_id for event in played(engine) if isinstance(event, Finished)]
    assert finished == ["a", "c", "b", "d"]


def test_a_canceled_run_is_let_go_between_two_steps(mini: Sdxl, parameters: Parameters) -> None:
    engine = Engine(mini)
    engine.submit("a", parameters)
    engine.submit("b", parameters)
    [*engine.turn()]
    assert [*engine.cancel("a")] == [Canceled("a")]
    assert [*engine.cancel("a")] == []
    assert story(played(engine))[0] == "Admitted b"


def test_a_waiting_run_is_canceled_before_it_began(mini: Sdxl, parameters: Parameters) -> None:
    engine = Engine(mini)
    engine.submit("a", parameters)
    assert [*engine.cancel("a")] == [Canceled("a")]
    assert engine.idle


def test_same_parameters_same_file_but_for_the_date(mini: Sdxl, parameters: Parameters) -> None:
    engine = Engine(mini)
    pixels = []
    for name in "ab":
        engine.submit(name, parameters)
        (finished,) = (event for event in played(engine) if isinstance(event, Finished))
        # The picture's own data follows the headers, where the date is.
        pixels.append(finished.image.jpeg[finished.image.jpeg.index(b"\xff\xdb") :])
    assert pixels[0] == pixels[1]


def test_a_run_that_fails_on_the_device_fails_alone(mini: Sdxl, parameters: Parameters) -> None:
    engine = Engine(mini, max_batch=2)
    # Nothing can be drawn from 0 steps; such parameters never come out of resolve().
    engine.submit("a", parameters.model_copy(update={"steps": 0}))
    engine.submit("b", parameters)
    events = played(engine)
    failed = [event for event in events if isinstance(event, Failed)]
    assert [event.run_id for event in failed] == ["a"]
    assert "The run failed on the device" in str(failed[0].error)
    assert story(events)[-1] == "Finished b"
