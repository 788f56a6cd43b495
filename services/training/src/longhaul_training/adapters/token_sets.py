"""Token sets that runs wait for, learnt by watching the corpus service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import grpc
from longhaul.common.v1 import resource_pb2
from longhaul.corpus.v1 import corpus_build_pb2, corpus_build_pb2_grpc, token_set_pb2, token_set_pb2_grpc
from longhaul_core.clock import Clock

from longhaul_training.adapters.upstream import follow
from longhaul_training.domain.observations import InputStatus, InputView

_FAILED_BUILDS = frozenset({resource_pb2.JOB_STATE_FAILED, resource_pb2.JOB_STATE_CANCELLED})


class TokenSets:
    """What is known of the token sets of the projects that have waiting runs."""

    def __init__(self, channel: grpc.aio.Channel, clock: Clock, stop: asyncio.Event, wake: Callable[[], None]) -> None:
        self._sets: Any = token_set_pb2_grpc.TokenSetServiceStub(channel)
        self._builds: Any = corpus_build_pb2_grpc.CorpusBuildServiceStub(channel)
        self._clock = clock
        self._stop = stop
        self._wake = wake
        self._ready: dict[str, token_set_pb2.TokenSet] = {}
        self._failed: dict[str, str] = {}
        self._followers: dict[str, tuple[asyncio.Task[None], ...]] = {}

    def view(self, name: str) -> InputView:
        """What is known of one token set."""
        found = self._ready.get(name)
        if found is not None:
            return InputView(InputStatus.READY, manifest_key=found.manifest_key, digest=found.digest)
        if name in self._failed:
            return InputView(InputStatus.FAILED, self._failed[name])
        return InputView(InputStatus.MISSING, f"{name} is not there yet")

    def need(self, projects: Iterable[str]) -> None:
        """Follows the token sets of these projects and of no others."""
        wanted = frozenset(projects)
        for project in wanted - self._followers.keys():
            self._followers[project] = (
                asyncio.create_task(self._follow_sets(project), name=f"token sets of {project}"),
                asyncio.create_task(self._follow_builds(project), name=f"builds of {project}"),
            )
        for project in self._followers.keys() - wanted:
            for task in self._followers.pop(project):
                task.cancel()

    async def close(self) -> None:
        """Ends all following."""
        tasks = [task for pair in self._followers.values() for task in pair]
        self.need(())
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _follow_sets(self, project: str) -> None:
        def open_stream(revision: int) -> AsyncIterator[Any]:
            request = token_set_pb2.WatchTokenSetsRequest(parent=f"projects/{project}", after_revision=revision)
            stream: AsyncIterator[Any] = self._sets.WatchTokenSets(request)
            return stream

        def handle(message: token_set_pb2.WatchTokenSetsResponse) -> None:
            name = message.token_set.metadata.name
            if message.type == resource_pb2.CHANGE_TYPE_UPDATED:
                self._ready[name] = message.token_set
                self._wake()
            elif message.type == resource_pb2.CHANGE_TYPE_DELETED:
                self._ready.pop(name, None)

        await follow("token sets", open_stream, handle, lambda: self._forget(project), self._clock, self._stop)

    async def _follow_builds(self, project: str) -> None:
        def open_stream(revision: int) -> AsyncIterator[Any]:
            request = corpus_build_pb2.WatchCorpusBuildsRequest(parent=f"projects/{project}", after_revision=revision)
            stream: AsyncIterator[Any] = self._builds.WatchCorpusBuilds(request)
            return stream

        def handle(message: corpus_build_pb2.WatchCorpusBuildsResponse) -> None:
            build, status = message.corpus_build, message.corpus_build.status
            if message.type == resource_pb2.CHANGE_TYPE_BOOKMARK:
                return
            if status.state in _FAILED_BUILDS:
                self._failed[status.token_set] = f"{build.metadata.name} failed: {status.reason.message}"
                self._wake()
            else:
                self._failed.pop(status.token_set, None)

        await follow("corpus builds", open_stream, handle, lambda: self._forget(project), self._clock, self._stop)

    def _forget(self, project: str) -> None:
        prefix = f"projects/{project}/"
        self._ready = {name: known for name, known in self._ready.items() if not name.startswith(prefix)}
        self._failed = {name: why for name, why in self._failed.items() if not name.startswith(prefix)}
