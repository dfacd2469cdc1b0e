"""The models, in the process that runs them: real models, real sockets."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from structlog.testing import capture_logs

from registry.core.clock import SystemClock
from registry.core.metrics import Metrics
from registry.search.embedding import model_process
from registry.search.embedding.errors import EmbeddingFailedError, ModelUnavailableError
from registry.search.embedding.model_client import (
    ModelClient,
    ModelState,
    QueryEmbedder,
    chosen,
)
from registry.search.embedding.model_process import MODELS, QUERY, embed_all, load
from tests.fakes.clock import FakeClock
from tests.kit.waiting import until

pytestmark = pytest.mark.integration

MAIL = "send email | Sends a message to the mailbox of a person."
MAIL_TOO = "deliver an e-mail to someone"
WEATHER = "get forecast | Returns tomorrow's weather for a city."


def has_ended(pid: int) -> bool:
    """Whether a process has, even if nobody has asked how."""
    state = Path(f"/proc/{pid}/stat")
    return not state.exists() or " Z " in state.read_text()


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[ModelClient]:
    made = ModelClient("wordllama", tmp_path, clock=SystemClock(), metrics=Metrics())
    yield made
    await made.close()


@pytest.mark.parametrize("name", MODELS)
def test_texts_of_similar_meaning_have_similar_vectors(name: str) -> None:
    embedder = load(name)

    query, mail, weather = embed_all(embedder, [MAIL_TOO, MAIL, WEATHER])

    assert query.shape == (embedder.dimensions,)
    assert float(query @ mail) > float(query @ weather) + 0.2


@pytest.mark.parametrize("name", MODELS)
def test_a_vector_does_not_depend_on_the_other_texts(name: str) -> None:
    embedder = load(name)
    texts = [WEATHER * n for n in (1, 7, 2, 5, 3)] + ["", "天气", "\U0001f600", MAIL, "x" * 9000]

    together = embed_all(embedder, texts)

    alone = np.vstack([embed_all(embedder, [text]) for text in texts])
    assert np.isfinite(together).all()
    # Padding adds rounding of the order of the weights' eight bits.
    assert np.allclose((together * alone).sum(axis=1), (alone * alone).sum(axis=1), atol=0.02)


def test_a_damaged_model_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_process, "MINILM_SHA256", "0" * 64)

    with pytest.raises(model_process.ModelUnusableError, match=r"model\.onnx is not the file"):
        load("minilm-int8")


def test_the_better_of_the_installed_models_is_chosen() -> None:
    assert chosen("auto") == "minilm-int8"
    assert chosen("wordllama") == "wordllama"
    assert chosen("none") is None


async def test_the_process_embeds_like_the_model(client: ModelClient) -> None:
    vectors = await client.embed([MAIL, WEATHER])

    assert np.array_equal(vectors, embed_all(load("wordllama"), [MAIL, WEATHER]))
    assert client.status().state is ModelState.READY


async def test_workers_of_one_host_share_a_process(client: ModelClient, tmp_path: Path) -> None:
    other = ModelClient("wordllama", tmp_path, clock=SystemClock(), metrics=Metrics())

    await asyncio.gather(*(one.embed([MAIL]) for one in (client, other)))

    assert [client.pid is None, other.pid is None].count(True) == 1
    await other.close()


async def test_a_process_that_was_killed_is_started_again(client: ModelClient) -> None:
    before = await client.embed([MAIL])
    assert client._process is not None
    os.kill(client._process.pid, signal.SIGKILL)
    await client._process.wait()

    after = await client.embed([MAIL])

    assert np.array_equal(before, after)


async def test_another_worker_takes_over_when_the_first_ends(
    client: ModelClient, tmp_path: Path
) -> None:
    other = ModelClient("wordllama", tmp_path, clock=SystemClock(), metrics=Metrics())
    await client.embed([MAIL])
    await other.embed([MAIL])
    await client.close()

    with suppress(EmbeddingFailedError):
        # Unless it has noticed already.
        await other.embed([WEATHER])
    vectors = await other.embed([WEATHER])

    assert vectors.shape == (1, 256)
    await other.close()


async def test_a_model_that_cannot_be_started_is_reported_once(tmp_path: Path) -> None:
    clock = FakeClock()
    command = (sys.executable, "-c", "print('the packages are not installed')")
    client = ModelClient("minilm-int8", tmp_path, clock=clock, metrics=Metrics(), command=command)

    with capture_logs() as logs:
        for _ in range(3):
            with pytest.raises(ModelUnavailableError, match="the packages are not installed"):
                await client.embed([MAIL])
            clock.move(600)

    assert [entry["event"] for entry in logs] == ["embedding_model_unavailable"]
    assert client.status().state is ModelState.FAILED


async def test_a_model_that_failed_is_not_tried_at_each_query(tmp_path: Path) -> None:
    started = tmp_path / "started"
    command = ("/bin/sh", "-c", f"echo x >> {started}; echo broken")
    client = ModelClient(
        "minilm-int8", tmp_path, clock=FakeClock(), metrics=Metrics(), command=command
    )
    queries = QueryEmbedder(client)

    answers = [await queries.embed_query(f"query {n}") for n in range(20)]

    assert answers == [None] * 20
    assert started.read_text().count("x") == 1


async def test_a_query_is_embedded_once(client: ModelClient) -> None:
    await client.embed([MAIL])
    queries = QueryEmbedder(client, seconds=30)

    first = await queries.embed_query("send  an email ")
    assert await queries.embed_query("half a character \ud83d") is not None
    await client.close()
    second = await queries.embed_query("send an email")

    assert first is not None
    assert first is second


async def test_a_query_that_takes_too_long_is_searched_by_words(tmp_path: Path) -> None:
    client = ModelClient(
        "wordllama", tmp_path, clock=SystemClock(), metrics=Metrics(), command=("sleep", "60")
    )
    queries = QueryEmbedder(client, seconds=0.01)

    assert await queries.embed_query("send an email") is None
    await client.close()


async def test_a_query_that_gave_up_does_not_stop_the_start(client: ModelClient) -> None:
    impatient = QueryEmbedder(client, seconds=0.0)
    for n in range(3):
        assert await impatient.embed_query(f"query {n}") is None

    vector = await QueryEmbedder(client, seconds=30).embed_query("query")

    assert vector is not None


async def test_a_query_overtakes_a_batch(client: ModelClient) -> None:
    finished: list[str] = []

    async def embed(name: str, texts: list[str], priority: int) -> None:
        await client.embed(texts, priority=priority)
        finished.append(name)

    await client.embed([MAIL])
    async with asyncio.TaskGroup() as group:
        group.create_task(embed("batch", [f"{MAIL} {n} " * 100 for n in range(2000)], 1))
        group.create_task(embed("query", [MAIL_TOO], QUERY))

    assert finished == ["query", "batch"]


async def test_the_process_ends_with_its_parent(tmp_path: Path) -> None:
    script = (
        "import asyncio, sys, os, signal\n"
        "from pathlib import Path\n"
        "from registry.core.clock import SystemClock\n"
        "from registry.core.metrics import Metrics\n"
        "from registry.search.embedding.model_client import ModelClient\n"
        "async def main():\n"
        "    client = ModelClient('wordllama', Path(sys.argv[1]), clock=SystemClock(),"
        " metrics=Metrics())\n"
        "    await client.embed(['a'])\n"
        "    print(client.pid, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "asyncio.run(main())\n"
    )
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, str(tmp_path), stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    pid = int((await parent.stdout.read()).splitlines()[-1])
    await parent.wait()

    client = ModelClient("wordllama", tmp_path, clock=SystemClock(), metrics=Metrics())
    await until(partial(has_ended, pid))
    vectors = await client.embed([MAIL])

    assert vectors.shape == (1, 256)
    await client.close()
