"""The lock that threads get in turn."""

import signal
import threading
from collections.abc import Iterator

import pytest

from adapterhub.runtime.turns import TurnLock


def wait_until_waiting(lock: TurnLock, count: int) -> None:
    while lock.waiting < count:
        threading.Event().wait(0.001)


def test_who_waited_longest_is_next_even_if_the_holder_asks_again_at_once() -> None:
    lock, order = TurnLock(), list[str]()

    def use(name: str) -> None:
        with lock:
            order.append(name)

    threads = [threading.Thread(target=use, args=(name,)) for name in ("first", "second", "third")]
    with lock:
        for number, thread in enumerate(threads, 1):
            thread.start()
            wait_until_waiting(lock, number)
    use("holder")
    for thread in threads:
        thread.join()
    assert order == ["first", "second", "third", "holder"]


def test_who_holds_it_may_ask_again_and_others_wait_until_all_is_given_back() -> None:
    lock, entered = TurnLock(), threading.Event()

    def use() -> None:
        with lock:
            entered.set()

    with lock:
        with lock:
            thread = threading.Thread(target=use)
            thread.start()
            wait_until_waiting(lock, 1)
        assert not entered.is_set()
        assert lock.waiting == 1
    thread.join()
    assert entered.is_set()


def test_it_is_given_back_when_an_error_leaves() -> None:
    lock = TurnLock()
    with pytest.raises(ZeroDivisionError), lock:
        _ = 1 / 0
    thread = threading.Thread(target=lock.__enter__)
    thread.start()
    thread.join()


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Have SIGINT raise: a shell that puts the tests into the background has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_while_waiting_leaves_the_line() -> None:
    lock, held, done = TurnLock(), threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            held.set()
            wait_until_waiting(lock, 1)
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    with pytest.raises(KeyboardInterrupt):
        lock.__enter__()
    assert lock.waiting == 0
    done.set()
    thread.join()
    with lock:
        pass
