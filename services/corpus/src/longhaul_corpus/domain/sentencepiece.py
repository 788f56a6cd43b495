"""SentencePiece models (unigram or BPE) as tokenizers of the `tokenizers` library, with the same ids."""

from typing import Any

from longhaul_core.errors import InvalidArgument
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

SPACE = "▁"
UNIGRAM, BPE = 1, 2
NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4


def read_sentencepiece(document: bytes) -> Tokenizer:
    """Read a model file.

    Raises:
        InvalidArgument: it is none, or of a kind that has no counterpart (words or characters).
    """
    # Its own reader of the file; the library's encoder is not used, because shards are encoded by `tokenizers`.
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]  # made at run time
    model.ParseFromString(document)
    pieces = [(piece.piece, piece.score) for piece in model.pieces]
    if not pieces:
        raise InvalidArgument("it holds no piece", reason="TOKENIZER_INVALID")
    tokenizer = Tokenizer(_model(model, pieces))
    tokenizer.normalizer = _normalizer(model.normalizer_spec)
    tokenizer.pre_tokenizer = _pre_tokenizer(model)
    fallback = [decoders.ByteFallback()] if model.trainer_spec.byte_fallback else []
    strip = [decoders.Strip(" ", 1, 0)] if model.normalizer_spec.add_dummy_prefix else []
    tokenizer.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), *fallback, decoders.Fuse(), *strip])
    control = [piece.piece for piece in model.pieces if piece.type == CONTROL]
    tokenizer.add_special_tokens([AddedToken(piece, special=True, normalized=False) for piece in control])
    defined = [piece.piece for piece in model.pieces if piece.type == USER_DEFINED]
    tokenizer.add_tokens([AddedToken(piece, normalized=False) for piece in defined])
    return tokenizer


def _model(model: Any, pieces: list[tuple[str, float]]) -> models.Model:
    spec = model.trainer_spec
    if spec.model_type == UNIGRAM:
        return models.Unigram(pieces, spec.unk_id, spec.byte_fallback)
    if spec.model_type != BPE:
        raise InvalidArgument("a SentencePiece model of words or characters cannot be used", reason="TOKENIZER_INVALID")
    vocabulary = {piece: number for number, (piece, _) in enumerate(pieces)}
    return models.BPE(
        vocabulary,
        _merges(vocabulary, dict(pieces)),
        unk_token=pieces[spec.unk_id][0],
        fuse_unk=True,
        byte_fallback=spec.byte_fallback,
    )


def _merges(vocabulary: dict[str, int], scores: dict[str, float]) -> list[tuple[str, str]]:
    """Every pair of pieces that together are a piece, in the order in which SentencePiece merges: best score first."""
    found = [
        (scores[piece], vocabulary[piece[:cut]], vocabulary[piece[cut:]], piece[:cut], piece[cut:])
        for piece in vocabulary
        for cut in range(1, len(piece))
        if piece[:cut] in vocabulary and piece[cut:] in vocabulary
    ]
    found.sort(key=lambda row: (-row[0], row[1], row[2]))
    return [(left, right) for _, _, _, left, right in found]


def _normalizer(spec: Any) -> normalizers.Normalizer:
    steps: list[Any] = []
    if spec.precompiled_charsmap:
        steps.append(normalizers.Precompiled(spec.precompiled_charsmap))
    if spec.remove_extra_whitespaces:
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    if spec.add_dummy_prefix:
        steps.append(normalizers.Prepend(SPACE))
    steps.append(normalizers.Replace(" ", SPACE))
    return normalizers.Sequence(steps)


def _pre_tokenizer(model: Any) -> pre_tokenizers.PreTokenizer:
    if not model.trainer_spec.split_by_whitespace:
        return pre_tokenizers.Sequence([])
    return pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="never", split=True)
