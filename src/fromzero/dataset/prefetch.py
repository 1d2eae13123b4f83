"""What is needed next is made in a thread, while what is there is used."""

from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


class Ahead(Generic[T]):
    """The items of an iterator, of which the next `depth` are made in a thread; its errors come in their place."""

    def __init__(self, items: Iterator[T], depth: int) -> None:
        self._items, self._thread = items, ThreadPoolExecutor(1)
        self._waiting: deque[Future[T]] = deque(self._thread.submit(next, items) for _ in range(depth))

    def next(self) -> T:
        """The next item."""
        self._waiting.append(self._thread.submit(next, self._items))
        return self._waiting.popleft().result()

    def close(self) -> None:
        """Wait for what is being made, and make no more."""
        self._thread.shutdown(cancel_futures=True)


class Prefetch:
    """A loader whose next batches are made while one is computed; its state is that of the batches it has given.

    To be used in a `with` statement, whose end ends the thread.
    """

    def __init__(self, loader: Any, depth: int = 2) -> None:
        self.loader, self.depth = loader, depth
        self._state, self._dealt = loader.state_dict(), loader.dealt
        self._ahead: Ahead[Any] | None = None

    def __enter__(self) -> "Prefetch":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()
        self.loader.close()

    def next_batch(self) -> "tuple[torch.Tensor, torch.Tensor]":
        """The loader's next batch. Raises what the loader raised."""
        self._ahead = self._ahead or Ahead(self._deal(), self.depth)
        batch, self._state, self._dealt = self._ahead.next()
        return batch

    def documents(self) -> list[list[str]]:
        """The documents of each row of this process's last batch."""
        return self.loader.documents(self._dealt)

    def state_dict(self) -> dict[str, Any]:
        """Where the loader stood after the last batch that was given."""
        return self._state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state. Raises UserError as the loader does."""
        self._stop()
        self.loader.load_state_dict(state)
        self._state = self.loader.state_dict()

    def _deal(self) -> Iterator[Any]:
        while True:
            yield self.loader.next_batch(), self.loader.state_dict(), self.loader.dealt

    def _stop(self) -> None:
        if self._ahead is not None:
            self._ahead.close()
            self._ahead = None
