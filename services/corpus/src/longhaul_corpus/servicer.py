"""RPCs of the corpus service: validate, convert, delegate."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
from longhaul.common.v1 import resource_pb2
from longhaul.corpus.v1 import (
    corpus_build_pb2,
    corpus_build_pb2_grpc,
    token_set_pb2,
    token_set_pb2_grpc,
    tokenizer_pb2,
    tokenizer_pb2_grpc,
)
from longhaul_core.db import Database, Page, ResourceRow, events, resources
from longhaul_core.errors import InvalidArgument
from longhaul_core.ids import Collection, check_id, parse_name, parse_parent
from longhaul_core.rpc.bookmarks import with_bookmarks
from longhaul_core.rpc.paging import decode_page_token, encode_page_token, page_size
from longhaul_core.rpc.watch import watch

from longhaul_corpus import convert
from longhaul_corpus.adapters.records import BUILD, TOKEN_SET, TOKENIZER
from longhaul_corpus.adapters.requests import BuildRequests, TokenizerRequest, TokenizerRequests, TokenSetRequests
from longhaul_corpus.convert import change_type

MAXIMUM_TOKENIZER_BYTES = 32 << 20
BOOKMARK = resource_pb2.CHANGE_TYPE_BOOKMARK

Context = grpc.aio.ServicerContext[Any, Any]


class CorpusBuildServicer(corpus_build_pb2_grpc.CorpusBuildServiceServicer):
    """CorpusBuildService."""

    def __init__(self, db: Database, requests: BuildRequests) -> None:
        self._db = db
        self._requests = requests

    async def CreateCorpusBuild(
        self, request: corpus_build_pb2.CreateCorpusBuildRequest, context: Context
    ) -> corpus_build_pb2.CorpusBuild:
        project, id = parse_parent(request.parent), check_id(request.corpus_build_id, "corpus_build_id")
        spec = convert.build_spec(request.spec)
        return convert.build_to_proto(await self._requests.create(project, id, spec, request.request_id))

    async def GetCorpusBuild(
        self, request: corpus_build_pb2.GetCorpusBuildRequest, context: Context
    ) -> corpus_build_pb2.CorpusBuild:
        return convert.build_to_proto(await _get(self._db, BUILD, request.name, Collection.CORPUS_BUILDS))

    async def ListCorpusBuilds(
        self, request: corpus_build_pb2.ListCorpusBuildsRequest, context: Context
    ) -> corpus_build_pb2.ListCorpusBuildsResponse:
        page = await _page(self._db, BUILD, request.parent, request.page_size, request.page_token)
        return corpus_build_pb2.ListCorpusBuildsResponse(
            corpus_builds=[convert.build_to_proto(row) for row in page.rows],
            next_page_token=page.next_page_token,
            revision=page.revision,
        )

    async def WatchCorpusBuilds(
        self, request: corpus_build_pb2.WatchCorpusBuildsRequest, context: Context
    ) -> AsyncIterator[corpus_build_pb2.WatchCorpusBuildsResponse]:
        async for row, revision in _watch(self._db, BUILD, Collection.CORPUS_BUILDS, request, context):
            if row is None:
                yield corpus_build_pb2.WatchCorpusBuildsResponse(type=BOOKMARK, revision=revision)
                continue
            shown = convert.build_to_proto(row)
            yield corpus_build_pb2.WatchCorpusBuildsResponse(
                type=change_type(row), corpus_build=shown, revision=revision
            )

    async def CancelCorpusBuild(
        self, request: corpus_build_pb2.CancelCorpusBuildRequest, context: Context
    ) -> corpus_build_pb2.CorpusBuild:
        name = parse_name(request.name, Collection.CORPUS_BUILDS)
        return convert.build_to_proto(await self._requests.cancel(name.project, name.id))

    async def ListDuplicates(
        self, request: corpus_build_pb2.ListDuplicatesRequest, context: Context
    ) -> corpus_build_pb2.ListDuplicatesResponse:
        name = parse_name(request.name, Collection.CORPUS_BUILDS)
        size = page_size(request.page_size)
        start = decode_page_token(request.page_token, request.name) or 0
        pairs = await self._requests.duplicates(name.project, name.id, start, size + 1)
        return corpus_build_pb2.ListDuplicatesResponse(
            duplicates=[convert.duplicate_to_proto(pair) for pair in pairs[:size]],
            next_page_token=encode_page_token(start + size, request.name) if len(pairs) > size else "",
        )

    async def GetCorpusReport(
        self, request: corpus_build_pb2.GetCorpusReportRequest, context: Context
    ) -> corpus_build_pb2.CorpusReport:
        name = parse_name(request.name, Collection.CORPUS_BUILDS)
        return convert.report_to_proto(request.name, await self._requests.report(name.project, name.id))

    async def ListCorpusBuildEvents(
        self, request: corpus_build_pb2.ListCorpusBuildEventsRequest, context: Context
    ) -> corpus_build_pb2.ListCorpusBuildEventsResponse:
        row = await _get(self._db, BUILD, request.name, Collection.CORPUS_BUILDS)
        size = page_size(request.page_size)
        found = await self._db.read(
            lambda session: events.list_events(session, BUILD, row.project, row.id, request.after_revision, size)
        )
        return corpus_build_pb2.ListCorpusBuildEventsResponse(
            events=[convert.event_to_proto(event, request.name) for event in found],
            last_revision=found[-1].revision if found else request.after_revision,
        )


class TokenSetServicer(token_set_pb2_grpc.TokenSetServiceServicer):
    """TokenSetService."""

    def __init__(self, db: Database, requests: TokenSetRequests) -> None:
        self._db = db
        self._requests = requests

    async def GetTokenSet(self, request: token_set_pb2.GetTokenSetRequest, context: Context) -> token_set_pb2.TokenSet:
        return convert.token_set_to_proto(await _get(self._db, TOKEN_SET, request.name, Collection.TOKEN_SETS))

    async def ListTokenSets(
        self, request: token_set_pb2.ListTokenSetsRequest, context: Context
    ) -> token_set_pb2.ListTokenSetsResponse:
        page = await _page(self._db, TOKEN_SET, request.parent, request.page_size, request.page_token)
        return token_set_pb2.ListTokenSetsResponse(
            token_sets=[convert.token_set_to_proto(row) for row in page.rows],
            next_page_token=page.next_page_token,
            revision=page.revision,
        )

    async def WatchTokenSets(
        self, request: token_set_pb2.WatchTokenSetsRequest, context: Context
    ) -> AsyncIterator[token_set_pb2.WatchTokenSetsResponse]:
        async for row, revision in _watch(self._db, TOKEN_SET, Collection.TOKEN_SETS, request, context):
            if row is None:
                yield token_set_pb2.WatchTokenSetsResponse(type=BOOKMARK, revision=revision)
                continue
            shown = convert.token_set_to_proto(row)
            yield token_set_pb2.WatchTokenSetsResponse(type=change_type(row), token_set=shown, revision=revision)

    async def DeleteTokenSet(
        self, request: token_set_pb2.DeleteTokenSetRequest, context: Context
    ) -> token_set_pb2.DeleteTokenSetResponse:
        name = parse_name(request.name, Collection.TOKEN_SETS)
        await self._requests.delete(name.project, name.id)
        return token_set_pb2.DeleteTokenSetResponse()


class TokenizerServicer(tokenizer_pb2_grpc.TokenizerServiceServicer):
    """TokenizerService."""

    def __init__(self, db: Database, requests: TokenizerRequests) -> None:
        self._db = db
        self._requests = requests

    async def CreateTokenizer(
        self, request: tokenizer_pb2.CreateTokenizerRequest, context: Context
    ) -> tokenizer_pb2.Tokenizer:
        project, id = parse_parent(request.parent), check_id(request.tokenizer_id, "tokenizer_id")
        row = await self._requests.create(project, id, _tokenizer_request(request.spec), request.request_id)
        return convert.tokenizer_to_proto(row)

    async def GetTokenizer(
        self, request: tokenizer_pb2.GetTokenizerRequest, context: Context
    ) -> tokenizer_pb2.Tokenizer:
        return convert.tokenizer_to_proto(await _get(self._db, TOKENIZER, request.name, Collection.TOKENIZERS))

    async def ListTokenizers(
        self, request: tokenizer_pb2.ListTokenizersRequest, context: Context
    ) -> tokenizer_pb2.ListTokenizersResponse:
        page = await _page(self._db, TOKENIZER, request.parent, request.page_size, request.page_token)
        return tokenizer_pb2.ListTokenizersResponse(
            tokenizers=[convert.tokenizer_to_proto(row) for row in page.rows],
            next_page_token=page.next_page_token,
            revision=page.revision,
        )

    async def WatchTokenizers(
        self, request: tokenizer_pb2.WatchTokenizersRequest, context: Context
    ) -> AsyncIterator[tokenizer_pb2.WatchTokenizersResponse]:
        async for row, revision in _watch(self._db, TOKENIZER, Collection.TOKENIZERS, request, context):
            if row is None:
                yield tokenizer_pb2.WatchTokenizersResponse(type=BOOKMARK, revision=revision)
                continue
            shown = convert.tokenizer_to_proto(row)
            yield tokenizer_pb2.WatchTokenizersResponse(type=change_type(row), tokenizer=shown, revision=revision)

    async def ScoreTokenizer(
        self, request: tokenizer_pb2.ScoreTokenizerRequest, context: Context
    ) -> tokenizer_pb2.ScoreTokenizerResponse:
        parse_name(request.dataset, Collection.DATASETS, "dataset")
        row = await _get(self._db, TOKENIZER, request.name, Collection.TOKENIZERS)
        scores = await self._requests.score(row, request.dataset, request.documents, request.seed)
        return tokenizer_pb2.ScoreTokenizerResponse(scores=[convert.score_to_proto(score) for score in scores])


def _tokenizer_request(spec: tokenizer_pb2.TokenizerSpec) -> TokenizerRequest:
    origin = spec.WhichOneof("origin")
    if origin is None or (origin == "tokenizer_json" and not spec.tokenizer_json):
        message = "exactly one of training and tokenizer_json is needed"
        raise InvalidArgument(message, reason="TOKENIZER_SPEC_INVALID", violations=[("spec.origin", message)])
    if origin == "tokenizer_json":
        _check_size(spec.tokenizer_json)
        return TokenizerRequest(None, (), spec.tokenizer_json, spec.end_of_text)
    for name in spec.datasets:
        parse_name(name, Collection.DATASETS, "datasets")
    training = convert.tokenizer_training(spec.training, spec.end_of_text)
    violations = list(training.violations())
    if not spec.datasets:
        violations.append(("datasets", "at least one dataset is needed to train on"))
    if violations:
        message = "; ".join(f"{field}: {description}" for field, description in violations)
        raise InvalidArgument(message, reason="TOKENIZER_SPEC_INVALID", violations=violations)
    return TokenizerRequest(training, tuple(spec.datasets), b"", training.end_of_text)


def _check_size(document: bytes) -> None:
    if len(document) > MAXIMUM_TOKENIZER_BYTES:
        message = f"the file has {len(document)} bytes, more than {MAXIMUM_TOKENIZER_BYTES}"
        raise InvalidArgument(message, reason="TOKENIZER_TOO_LARGE", violations=[("spec.tokenizer_json", message)])


async def _get(db: Database, kind: str, name: str, collection: Collection) -> ResourceRow:
    parsed = parse_name(name, collection)
    return await db.read(lambda session: resources.get(session, kind, parsed.project, parsed.id))


async def _page(db: Database, kind: str, parent: str, size: int, token: str) -> Page:
    project = parse_parent(parent, any_project=True)
    count = page_size(size)
    return await db.read(lambda session: resources.list_page(session, kind, project, page_size=count, page_token=token))


async def _watch(
    db: Database, kind: str, collection: Collection, request: Any, context: Context
) -> AsyncIterator[tuple[ResourceRow | None, int]]:
    """Changes with their revisions; None with the last one where nothing changed for a while."""
    project = parse_parent(request.parent, any_project=True)
    ids = [parse_name(request.name, collection).id] if request.name else None
    rows = watch(db, kind, project, after_revision=request.after_revision, ids=ids, context=context)
    revision = int(request.after_revision)
    async for row in with_bookmarks(rows):
        revision = row.revision if row is not None else revision
        yield row, revision
