"""Jobs that do nothing under those whose queue is on a server: filled, or consumed by processes.

``queue_servers.py fill|consume COUNT``; PEER says which one, QUEUE is the server's URL. Settings
are the peer's own, but for what is said here.
"""

import asyncio
import os
import signal
import sys

from say import handled

peer, url = os.environ["PEER"], os.environ["QUEUE"]

if peer == "procrastinate":
    from procrastinate import App, PsycopgConnector

    app = App(connector=PsycopgConnector(conninfo=url))

    @app.task(name="nothing")
    async def nothing() -> None:
        handled()

    async def fill(count: int) -> None:
        async with app.open_async():
            await app.schema_manager.apply_schema_async()
            for _ in range(count // 1000):
                await nothing.batch_defer_async(*[{}] * 1000)

    async def consume() -> None:
        async with app.open_async():
            await app.run_worker_async(install_signal_handlers=False)


elif peer == "pgqueuer":
    import asyncpg
    from pgqueuer import AsyncpgDriver, PgQueuer, Queries

    async def fill(count: int) -> None:
        queries = Queries(AsyncpgDriver(await asyncpg.connect(url)))
        await queries.install()
        for _ in range(count // 1000):
            await queries.enqueue(["nothing"] * 1000, [None] * 1000, [0] * 1000)

    async def consume() -> None:
        pgq = PgQueuer(AsyncpgDriver(await asyncpg.connect(url)))

        @pgq.entrypoint("nothing")
        async def nothing(job: object) -> None:
            handled()

        await pgq.run()


elif peer == "rq":
    from redis import Redis
    from rq import Queue, SimpleWorker

    def nothing() -> None:
        handled()

    async def fill(count: int) -> None:
        import queue_servers

        queue = Queue(connection=Redis.from_url(url))
        for _ in range(count // 1000):
            queue.enqueue_many([Queue.prepare_data(queue_servers.nothing) for _ in range(1000)])

    async def consume() -> None:
        connection = Redis.from_url(url)  # without a fork for each job
        SimpleWorker([Queue(connection=connection)], connection=connection).work(
            logging_level="ERROR"
        )


elif peer == "dramatiq":
    import dramatiq
    from dramatiq.brokers.redis import RedisBroker

    dramatiq.set_broker(RedisBroker(url=url))

    @dramatiq.actor(actor_name="nothing")
    def nothing() -> None:
        handled()

    async def fill(count: int) -> None:
        for _ in range(count):
            nothing.send()


elif peer == "arq":
    from arq import Worker, create_pool
    from arq.connections import RedisSettings

    async def nothing(context: object) -> None:
        handled()

    async def fill(count: int) -> None:
        pool = await create_pool(RedisSettings.from_dsn(url))
        for _ in range(count // 100):
            await asyncio.gather(*(pool.enqueue_job("nothing") for _ in range(100)))

    async def consume() -> None:
        settings = RedisSettings.from_dsn(url)
        await Worker(functions=[nothing], redis_settings=settings, handle_signals=False).main()


elif peer == "saq":
    import saq

    async def nothing(context: object) -> None:
        handled()

    async def fill(count: int) -> None:
        queue = saq.Queue.from_url(url)
        await queue.connect()
        for _ in range(count // 100):
            await asyncio.gather(*(queue.enqueue("nothing") for _ in range(100)))

    async def consume() -> None:
        queue = saq.Queue.from_url(url)
        await queue.connect()
        await saq.Worker(queue, functions=[nothing]).start()


if __name__ == "__main__":
    if sys.argv[1] == "fill":
        asyncio.run(fill(int(sys.argv[2])))
    else:
        for _ in range(int(sys.argv[2])):
            if os.fork() == 0:
                asyncio.run(consume())
                os._exit(0)
        signal.pause()
