import asyncio

import pytest

from mlx_server_nano.api.gate import Gate, Interrupt
from mlx_server_nano.errors import UnavailableError


class Reason(Exception):
    pass


def test_interrupt_ends_the_block_and_leaves_the_task_usable():
    async def main() -> None:
        task = asyncio.current_task()
        assert task is not None
        interrupt = Interrupt()
        asyncio.get_running_loop().call_soon(interrupt.fire, Reason())
        with pytest.raises(Reason), interrupt:
            await asyncio.sleep(3600)
        assert task.cancelling() == 0
        await asyncio.sleep(0)

    asyncio.run(main())


def test_fired_outside_it_raises_at_the_next_entry():
    async def main() -> None:
        interrupt = Interrupt()
        with interrupt:
            pass
        interrupt.fire(Reason())
        interrupt.fire(KeyError())
        await asyncio.sleep(0)
        with pytest.raises(Reason), interrupt:
            pytest.fail("the block must not run")

    asyncio.run(main())


def test_a_cancellation_from_elsewhere_stays_one():
    async def work(interrupt: Interrupt) -> None:
        with interrupt:
            await asyncio.sleep(3600)

    async def main() -> None:
        interrupt = Interrupt()
        task = asyncio.create_task(work(interrupt))
        await asyncio.sleep(0)
        interrupt.fire(Reason())
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())


def test_gate():
    async def request(gate: Gate) -> None:
        with gate.admit() as interrupt, interrupt:
            await asyncio.sleep(3600)

    async def main() -> None:
        gate = Gate()
        task = asyncio.create_task(request(gate))
        await asyncio.sleep(0)
        gate.drain()
        assert gate.draining
        assert not gate.idle
        with pytest.raises(UnavailableError), gate.admit():
            pytest.fail("nobody gets in any more")
        gate.interrupt()
        with pytest.raises(UnavailableError):
            await task
        assert gate.idle

    asyncio.run(main())
