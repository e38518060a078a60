"""The table of streams: whatever fails, expires or comes twice, no step is lost halfway or taken twice."""

import asyncio

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from deployments.engines.base import StreamOptions
from deployments.stream_table import Step, StreamTable, TableFull, UnknownStep

OPTIONS = StreamOptions()
OTHER = StreamOptions(chunk_size=(5, 10, 5))


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def table(clock: Clock) -> StreamTable[str]:
    return StreamTable(max_streams=2, idle_seconds=10, clock=clock)


def take(
    table: StreamTable[str], stream_id: str, number: int, leaves: str = "", *, final: bool = False
) -> Step[str]:
    with table.step(stream_id, number, OPTIONS, final=final) as step:
        before = Step(step.state, step.options)
        step.state = leaves or f"{step.state or ''}{number}"
        step.done()
    return before


def test_each_step_gets_what_the_one_before_left(table: StreamTable[str]) -> None:
    states = [take(table, "a", number).state for number in range(3)]
    assert states == [None, "0", "01"]
    assert take(table, "b", 0).state is None


def test_the_options_are_those_of_the_begin(table: StreamTable[str]) -> None:
    with table.step("a", 0, OTHER, final=False) as step:
        step.done()
    assert take(table, "a", 1).options == OTHER


def test_the_final_step_makes_room(table: StreamTable[str]) -> None:
    take(table, "a", 0)
    take(table, "a", 1, final=True)
    assert len(table) == 0
    with pytest.raises(UnknownStep):
        take(table, "a", 2)


def test_a_whole_stream_may_be_one_step(table: StreamTable[str]) -> None:
    take(table, "a", 0, final=True)
    assert len(table) == 0


@pytest.mark.parametrize("number", [1, 3, -1])
def test_a_step_that_is_not_the_next_one_is_not_taken(table: StreamTable[str], number: int) -> None:
    take(table, "a", 0)
    take(table, "a", 1)
    with pytest.raises(UnknownStep, match="step 2 was expected"):
        take(table, "a", number)
    assert take(table, "a", 2).state == "01"


def test_a_stream_of_another_replica_is_unknown(table: StreamTable[str]) -> None:
    with pytest.raises(UnknownStep, match="does not know"):
        take(table, "a", 4)
    assert len(table) == 0


def test_a_stream_can_begin_anew(table: StreamTable[str]) -> None:
    take(table, "a", 0)
    take(table, "a", 1)
    assert take(table, "a", 0).state is None
    assert take(table, "a", 1).state == "0"


@pytest.mark.parametrize("error", [ValueError("bad"), asyncio.CancelledError()])
def test_a_step_that_failed_can_be_repeated(table: StreamTable[str], error: BaseException) -> None:
    def half_taken() -> None:
        with table.step("a", 1, OPTIONS, final=True) as step:
            step.state = "half"
            raise error

    take(table, "a", 0)
    with pytest.raises(type(error)):
        half_taken()
    assert take(table, "a", 1).state == "0"


def test_a_stream_whose_first_step_failed_never_began(table: StreamTable[str]) -> None:
    with pytest.raises(ValueError, match="bad"), table.step("a", 0, OPTIONS, final=False):
        raise ValueError("bad")
    assert len(table) == 0


def test_a_second_step_at_the_same_time_is_refused(table: StreamTable[str]) -> None:
    take(table, "a", 0)
    with table.step("a", 1, OPTIONS, final=False) as step:
        for number in (1, 2):
            with pytest.raises(UnknownStep, match="still running"):
                take(table, "a", number)
        step.state = "x"
        step.done()
    assert take(table, "a", 2).state == "x"


@pytest.mark.parametrize("anew", [False, True])
def test_what_a_running_step_leaves_does_not_bring_a_dropped_stream_back(
    table: StreamTable[str], anew: bool
) -> None:
    take(table, "a", 0)
    with table.step("a", 1, OPTIONS, final=False) as step:
        table.drop("a")
        if anew:
            take(table, "a", 0, "new")
        step.state = "old"
        step.done()
    assert len(table) == anew
    if anew:
        assert take(table, "a", 1).state == "new"


def test_dropping_an_unknown_stream_is_no_error(table: StreamTable[str]) -> None:
    table.drop("a")


def test_an_idle_stream_expires_and_a_used_one_stays(table: StreamTable[str], clock: Clock) -> None:
    take(table, "a", 0)
    take(table, "b", 0)
    clock.now = 6
    take(table, "a", 1)
    clock.now = 12
    table.sweep()
    assert len(table) == 1
    assert take(table, "a", 2).state == "01"


def test_a_running_step_does_not_expire(table: StreamTable[str], clock: Clock) -> None:
    with table.step("a", 0, OPTIONS, final=False) as step:
        clock.now = 100
        table.sweep()
        step.state = "x"
        step.done()
    assert take(table, "a", 1).state == "x"


def test_a_full_table_refuses_new_streams_only(table: StreamTable[str], clock: Clock) -> None:
    take(table, "a", 0)
    take(table, "b", 0)
    with pytest.raises(TableFull):
        take(table, "c", 0)
    assert take(table, "a", 1).state == "0"
    table.max_streams = 3
    take(table, "c", 0)
    clock.now = 20
    table.max_streams = 1
    take(table, "d", 0)
    assert len(table) == 1


def test_idle_streams_make_room_by_themselves(table: StreamTable[str], clock: Clock) -> None:
    take(table, "a", 0)
    take(table, "b", 0)
    clock.now = 11
    take(table, "c", 0)
    assert len(table) == 1


class AnyOrder(RuleBasedStateMachine):
    """Against a model that keeps, for each stream, the steps that were taken."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.table = StreamTable[str](3, 10, self.clock)
        self.taken: dict[str, str] = {}
        self.used: dict[str, float] = {}

    @rule(
        stream_id=st.sampled_from("abcd"),
        number=st.integers(0, 3),
        fails=st.booleans(),
        final=st.booleans(),
    )
    def step(self, stream_id: str, number: int, fails: bool, final: bool) -> None:
        expected = self.expected_state(stream_id, number)
        try:
            with self.table.step(stream_id, number, OPTIONS, final=final) as step:
                assert (step.state or "") == expected
                if fails:
                    raise ValueError
                step.state = expected + str(number)
                step.done()
        except UnknownStep:
            assert expected is None
        except TableFull:
            assert expected == ""
            assert len(self.taken) == 3
        except ValueError:
            self.used[stream_id] = self.clock.now
            if number == 0:
                self.forget(stream_id)
        else:
            self.taken[stream_id] = f"{expected}{number}"
            self.used[stream_id] = self.clock.now
            if final:
                self.forget(stream_id)

    @rule(stream_id=st.sampled_from("abcd"))
    def drop(self, stream_id: str) -> None:
        self.table.drop(stream_id)
        self.forget(stream_id)

    @rule(seconds=st.sampled_from([1, 6, 11]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds
        self.table.sweep()
        for stream_id in [id_ for id_, used in self.used.items() if used <= self.clock.now - 10]:
            self.forget(stream_id)

    @invariant()
    def it_holds_what_was_taken(self) -> None:
        assert len(self.table) == len(self.taken)

    def expected_state(self, stream_id: str, number: int) -> str | None:
        if number == 0:
            return ""
        taken = self.taken.get(stream_id)
        return taken if taken is not None and len(taken) == number else None

    def forget(self, stream_id: str) -> None:
        self.taken.pop(stream_id, None)
        self.used.pop(stream_id, None)


TestAnyOrder = AnyOrder.TestCase
