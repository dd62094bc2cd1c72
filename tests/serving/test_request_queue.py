"""The queue: nothing is lost, everyone's things stay in order, and nobody is served twice before another once."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from spatialvla.serving.engine.turns import Client, Turns

THINGS = st.lists(st.tuples(st.integers(0, 4), st.booleans()), max_size=30)


@given(THINGS, st.integers(1, 6))
def test_turns(things, most):
    turns: Turns[tuple[int, int, bool]] = Turns()
    for number, (client, kind) in enumerate(things):
        turns.add(Client(client), kind, (client, number, kind))
    assert len(turns) == len(things)
    served: list[tuple[int, int, bool]] = []
    while turns:
        waiting = {client for client in range(5) if turns.of(Client(client))}
        batch = turns.take(most)
        assert 1 <= len(batch) <= most
        assert len({kind for _, _, kind in batch}) == 1
        counts = Counter(client for client, _, _ in batch)
        if max(counts.values()) > 1:
            # Whoever went without has something of the other kind in front, or had nothing at all.
            for client in waiting - set(counts):
                ahead = [kind for c, number, kind in served if c == client]
                own = [kind for c, kind in things if c == client]
                assert own[len(ahead)] != batch[0][2]
        served += batch
    assert sorted(number for _, number, _ in served) == list(range(len(things)))
    for client in range(5):
        numbers = [number for c, number, _ in served if c == client]
        assert numbers == sorted(numbers)


def test_those_who_were_served_go_to_the_end():
    turns: Turns[str] = Turns()
    for name in ("a", "a", "b", "c"):
        turns.add(Client(name), None, name)
    assert turns.take(2) == ["a", "b"]
    turns.add(Client("b"), None, "b")
    assert turns.take(2) == ["c", "a"]
    assert turns.take_all() == ["b"]
    assert len(turns) == 0


def test_addresses_take_turns_and_within_them_their_clients():
    turns: Turns[str] = Turns()
    for number in range(6):
        turns.add(Client(number, "crowd"), None, f"crowd {number}")
    for _ in range(2):
        turns.add(Client("one", "alone"), None, "alone")
    assert turns.take(4) == ["crowd 0", "alone", "crowd 1", "alone"]
    turns.add(Client("one", "alone"), None, "alone again")
    assert turns.take(2) == ["crowd 2", "alone again"]
    assert turns.take(9) == ["crowd 3", "crowd 4", "crowd 5"]


def test_room_is_made_by_whoever_has_most():
    turns: Turns[int] = Turns()
    for number in range(4):
        turns.add(Client(number % 3, "crowd"), None, number)
    assert turns.make_room(Client(3, "crowd")) == Client(0, "crowd"), "who has two, within the address"
    assert turns.make_room(Client(1, "crowd")) is None, "who would have as many"
    assert turns.make_room(Client(0, "other")) == Client(0, "crowd")
    assert turns.take_last(Client(0, "crowd")) == 3
    assert turns.make_room(Client(0, "other")) == Client(2, "crowd"), "of those with one the last to come"
    assert len(turns) == 3
