import pytest

from mlx_server_nano.api.responses_items import Item
from mlx_server_nano.api.responses_store import ResponseStore, Stored
from mlx_server_nano.errors import NotFoundError


def stored(name: str, size: int = 1000, item: str | None = None) -> Stored:
    items = (Item(type="message", id=item or f"msg_{name}"),)
    return Stored(id=name, body=b"x" * size, history=(), input=items, output=())


def test_least_recently_used_leaves_first():
    store = ResponseStore(3500)
    for name in "abc":
        store.add(stored(name))
    store.get("a")
    store.add(stored("d"))
    assert [store.get(name).id for name in "acd"] == ["a", "c", "d"]
    with pytest.raises(NotFoundError):
        store.get("b")
    assert store.item("msg_b") is None
    assert store.item("msg_a") is not None


def test_history_counts():
    store = ResponseStore(2500)
    store.add(Stored(id="a", body=b"", history=(Item(type="x" * 1500),), input=(), output=()))
    store.add(stored("b", 1500))
    with pytest.raises(NotFoundError):
        store.get("a")


def test_too_large_is_not_kept_and_room_comes_back():
    store = ResponseStore(3000)
    store.add(stored("big", 4000))
    with pytest.raises(NotFoundError):
        store.get("big")
    for name in "ab":
        store.add(stored(name))
    assert store.get("a")
    store.delete("a")
    store.add(stored("c"))
    assert store.get("b")


def test_an_item_in_two_responses_stays_with_the_newer():
    store = ResponseStore()
    store.add(stored("a", item="msg_1"))
    store.add(stored("b", item="msg_1"))
    store.delete("a")
    assert store.item("msg_1") is store.get("b").input[0]
    store.delete("b")
    assert store.item("msg_1") is None
