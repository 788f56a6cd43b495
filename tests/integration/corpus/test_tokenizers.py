"""Tokenizers by themselves: trained, imported, scored."""

from __future__ import annotations

import pytest
from longhaul.common.v1 import resource_pb2
from longhaul.corpus.v1 import corpus_build_pb2 as pb
from longhaul.corpus.v1 import tokenizer_pb2
from longhaul_core.errors import AlreadyExists, InvalidArgument
from longhaul_core.rpc.client import rpc_errors
from tokenizers import Tokenizer

from tests.integration.corpus.conftest import Place
from tests.integration.corpus.support import DATASET, PARENT, Client, spec

pytestmark = pytest.mark.asyncio(loop_scope="module")

TRAINING = pb.TokenizerTraining(vocabulary_size=640, digits="none", maximum_bytes=200_000)


async def test_tokenizer_is_trained_on_a_dataset_and_scored(client: Client, place: Place) -> None:
    wanted = tokenizer_pb2.TokenizerSpec(training=TRAINING, datasets=[DATASET])
    made = await client.tokenizer("own", wanted)
    assert made.status.state == resource_pb2.JOB_STATE_SUCCEEDED, made.status.reason
    assert made.status.vocabulary_size == 640
    read = Tokenizer.from_str(place.store.get(made.status.key).decode())
    assert read.token_to_id("<|endoftext|>") == made.status.end_of_text_id
    assert [score.source for score in made.status.scores] == ["guide", "library", "total"]
    assert all(1 < score.fertility < 4 and 1 < score.bytes_per_token < 6 for score in made.status.scores)


async def test_imported_tokenizer_is_the_same_and_builds_a_token_set(client: Client, place: Place) -> None:
    own = await client.tokenizers.GetTokenizer(tokenizer_pb2.GetTokenizerRequest(name=f"{PARENT}/tokenizers/own"))
    content = place.store.get(own.status.key)
    imported = await client.tokenizer("imported", tokenizer_pb2.TokenizerSpec(tokenizer_json=content))
    assert imported.status.digest == own.status.digest
    named = pb.TokenizerSource(tokenizer=imported.metadata.name)
    done = await client.run("with-imported", spec(tokenizer=named))
    assert done.status.state == resource_pb2.JOB_STATE_SUCCEEDED, done.status.reason
    assert (await client.token_set("with-imported")).tokenizer == imported.metadata.name
    assert (await client.token_set("with-imported")).vocabulary_size == 640


async def test_score_is_the_same_for_the_same_sample_and_changes_nothing(client: Client) -> None:
    name = f"{PARENT}/tokenizers/own"
    before = await client.tokenizers.GetTokenizer(tokenizer_pb2.GetTokenizerRequest(name=name))

    async def score(seed: int) -> tokenizer_pb2.ScoreTokenizerResponse:
        request = tokenizer_pb2.ScoreTokenizerRequest(name=name, dataset=DATASET, documents=20, seed=seed)
        return await client.tokenizers.ScoreTokenizer(request)

    first, again, other = [await score(seed) for seed in (1, 1, 2)]
    assert first == again != other
    assert first.scores[-1].words == sum(score.words for score in first.scores[:-1]) > 500
    assert before == await client.tokenizers.GetTokenizer(tokenizer_pb2.GetTokenizerRequest(name=name))


async def test_tokenizer_of_a_build_does_not_replace_a_users_own(client: Client) -> None:
    with pytest.raises(AlreadyExists) as refused, rpc_errors():
        await client.create("own", spec())
    assert refused.value.reason == "TOKENIZER_EXISTS"


async def test_tokenizer_without_origin_or_with_wrong_digits_is_refused(client: Client) -> None:
    for wrong in (
        tokenizer_pb2.TokenizerSpec(),
        tokenizer_pb2.TokenizerSpec(training=TRAINING),
        tokenizer_pb2.TokenizerSpec(training=pb.TokenizerTraining(vocabulary_size=640, digits="x"), datasets=[DATASET]),
    ):
        with pytest.raises(InvalidArgument), rpc_errors():
            await client.tokenizer("wrong", wrong)
