"""`longhaul datasets` and `longhaul tokenizers`."""

from pathlib import Path
from typing import Annotated

import typer
from longhaul.common.v1 import resource_pb2
from longhaul.corpus.v1 import corpus_build_pb2, tokenizer_pb2
from longhaul.ingest.v1 import dataset_pb2, ingestion_pb2
from longhaul_core.errors import InvalidArgument

from longhaul_client.cli.output import JsonOption, console, print_json, print_labelled, print_table
from longhaul_client.cli.session import session_of
from longhaul_client.formatting import age, quantity, short_name, size, state_name
from longhaul_client.report.tokenizer_plot import tokenizer_plot
from longhaul_client.sdk import call, pages

datasets_app = typer.Typer(no_args_is_help=True, help="Clean documents that ingest made.")
tokenizers_app = typer.Typer(no_args_is_help=True, help="Tokenizers that corpus trained or imported.")

NameArgument = Annotated[str, typer.Argument(help="Id or full name.", metavar="NAME")]


@datasets_app.command("list")
def list_datasets(context: typer.Context, json: JsonOption = False) -> None:
    """List the datasets of the project, newest first.

    Example: longhaul datasets list
    """
    session = session_of(context)
    with session.client() as client:
        request = dataset_pb2.ListDatasetsRequest(parent=session.parent)
        found = list(pages(client.datasets.ListDatasets, request, "datasets"))
    if json:
        print_json(found)
        return
    rows = [
        (
            short_name(dataset.metadata.name),
            quantity(dataset.documents),
            size(dataset.text_bytes),
            dataset.shards,
            dataset.digest[:12],
            age(dataset.metadata.create_time),
        )
        for dataset in found
    ]
    print_table(["DATASET", ">DOCUMENTS", ">TEXT", ">SHARDS", "DIGEST", ">AGE"], rows, empty="no datasets")


@datasets_app.command("show")
def show_dataset(context: typer.Context, name: NameArgument, json: JsonOption = False) -> None:
    """Show a dataset, and how many documents each rule dropped.

    Example: longhaul datasets show my-data
    """
    session = session_of(context)
    with session.client() as client:
        full_name = session.resource(name, "datasets")
        dataset = call(client.datasets.GetDataset, dataset_pb2.GetDatasetRequest(name=full_name))
        ingestion = call(client.ingestions.GetIngestion, ingestion_pb2.GetIngestionRequest(name=dataset.ingestion))
    if json:
        print_json({"dataset": dataset, "ingestion": ingestion})
        return
    rows = [
        ("documents", dataset.documents),
        ("text", size(dataset.text_bytes)),
        ("digest", dataset.digest),
        ("manifest", dataset.manifest_key),
        ("read", ingestion.status.documents_read),
        ("dropped", ingestion.status.documents_dropped),
        ("failed", ingestion.status.documents_failed),
    ]
    print_table(["DATASET", short_name(dataset.metadata.name)], rows, empty="")
    console.print()
    drops = [(drop.source, drop.rule, drop.documents) for drop in ingestion.status.drops]
    print_table(["SOURCE", "RULE", ">DOCUMENTS"], drops, empty="nothing was dropped")
    for damage in ingestion.status.damages:
        print_labelled("damage read around:", str(damage), style="yellow")


@datasets_app.command("drops")
def drops(
    context: typer.Context,
    name: NameArgument,
    rule: Annotated[str, typer.Option(help="Only this rule.")] = "",
    json: JsonOption = False,
) -> None:
    """Show samples of what each rule dropped.

    Example: longhaul datasets drops my-data --rule gopher_quality.short_document
    """
    session = session_of(context)
    with session.client() as client:
        request = ingestion_pb2.ListDropSamplesRequest(name=session.resource(name, "ingestions"), rule=rule)
        samples = list(pages(client.ingestions.ListDropSamples, request, "drop_samples"))
    if json:
        print_json(samples)
        return
    rows = [(sample.rule, sample.detail, sample.url, " ".join(sample.text.split())[:80]) for sample in samples]
    print_table(["RULE", "DETAIL", "URL", "TEXT"], rows, empty="no samples")


@tokenizers_app.command("list")
def list_tokenizers(context: typer.Context, json: JsonOption = False) -> None:
    """List the tokenizers of the project with their figures.

    Example: longhaul tokenizers list
    """
    session = session_of(context)
    with session.client() as client:
        request = tokenizer_pb2.ListTokenizersRequest(parent=session.parent)
        found = list(pages(client.tokenizers.ListTokenizers, request, "tokenizers"))
    if json:
        print_json(found)
        return
    rows = []
    for tokenizer in found:
        total = tokenizer.status.scores[-1] if tokenizer.status.scores else None
        rows.append(
            (
                short_name(tokenizer.metadata.name),
                state_name(resource_pb2.JobState.Name(tokenizer.status.state), "JOB_STATE_"),
                tokenizer.status.vocabulary_size,
                *(_figures(total) if total else ("-", "-", "-")),
            )
        )
    columns = ["TOKENIZER", "STATE", ">ENTRIES", ">TOKENS/WORD", ">CONTINUED WORDS", ">BYTES/TOKEN"]
    print_table(columns, rows, empty="no tokenizers")


def _figures(score: tokenizer_pb2.TokenizerScore) -> tuple[str, str, str]:
    return f"{score.fertility:.3f}", f"{score.continued_word_proportion:.1%}", f"{score.bytes_per_token:.2f}"


@tokenizers_app.command("show")
def show_tokenizer(context: typer.Context, name: NameArgument, json: JsonOption = False) -> None:
    """Show a tokenizer and its figures by source.

    Example: longhaul tokenizers show my-data
    """
    session = session_of(context)
    with session.client() as client:
        request = tokenizer_pb2.GetTokenizerRequest(name=session.resource(name, "tokenizers"))
        tokenizer = call(client.tokenizers.GetTokenizer, request)
    if json:
        print_json(tokenizer)
        return
    rows = [
        ("entries", tokenizer.status.vocabulary_size),
        ("end of text", tokenizer.status.end_of_text_id),
        ("key", tokenizer.status.key),
        ("digest", tokenizer.status.digest),
    ]
    print_table(["TOKENIZER", short_name(tokenizer.metadata.name)], rows, empty="")
    console.print()
    scores = [(s.source, *_figures(s)) for s in tokenizer.status.scores]
    print_table(["SOURCE", ">TOKENS/WORD", ">CONTINUED WORDS", ">BYTES/TOKEN"], scores, empty="not scored")


@tokenizers_app.command("compare")
def compare_tokenizers(
    context: typer.Context,
    names: Annotated[list[str], typer.Argument(help="Ids or full names of two or more.", metavar="NAME...")],
    dataset: Annotated[str, typer.Option(help="Dataset to take the sample from.")],
    documents: Annotated[int, typer.Option(help="Documents of the sample.")] = 200,
    plot: Annotated[Path | None, typer.Option(help="Write the figures as an SVG here.")] = None,
    json: JsonOption = False,
) -> None:
    """Score candidates side by side on one sample, by source and by language.

    Example: longhaul tokenizers compare small large --dataset my-data --plot tokenizers.svg
    """
    session = session_of(context)
    scores = {}
    with session.client() as client:
        for name in names:
            request = tokenizer_pb2.ScoreTokenizerRequest(
                name=session.resource(name, "tokenizers"),
                dataset=session.resource(dataset, "datasets"),
                documents=documents,
            )
            scores[name] = list(call(client.tokenizers.ScoreTokenizer, request).scores)
    if plot is not None:
        plot.write_text(tokenizer_plot(scores), encoding="utf-8")
    if json:
        print_json(scores)
        return
    rows = [(s.source, name, *_figures(s), quantity(s.words)) for name, found in scores.items() for s in found]
    rows.sort(key=lambda row: (row[0] == "total", row[0]))  # candidates beside each other, the total last
    columns = ["SAMPLE", "TOKENIZER", ">TOKENS/WORD", ">CONTINUED WORDS", ">BYTES/TOKEN", ">WORDS"]
    print_table(columns, rows, empty="not scored")


@tokenizers_app.command("train")
def train_tokenizer(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Id of the new tokenizer.")],
    dataset: Annotated[str, typer.Option(help="Dataset to train on.")],
    vocabulary_size: Annotated[int, typer.Option(help="Entries; a multiple of 128 is best.")] = 32768,
    algorithm: Annotated[str, typer.Option(help="bpe or unigram.")] = "bpe",
    digits: Annotated[str, typer.Option(help="individual, triples or none.")] = "individual",
    maximum_bytes: Annotated[int, typer.Option(help="Sample the text down to this; 0: all.")] = 0,
    json: JsonOption = False,
) -> None:
    """Train a candidate on a dataset; the corpus service goes on by itself.

    Example: longhaul tokenizers train large --dataset my-data --vocabulary-size 65536
    """
    session = session_of(context)
    training = corpus_build_pb2.TokenizerTraining(
        vocabulary_size=vocabulary_size, algorithm=algorithm, digits=digits, maximum_bytes=maximum_bytes
    )
    with session.client() as client:
        spec = tokenizer_pb2.TokenizerSpec(training=training, datasets=[session.resource(dataset, "datasets")])
        request = tokenizer_pb2.CreateTokenizerRequest(parent=session.parent, tokenizer_id=name, spec=spec)
        made = call(client.tokenizers.CreateTokenizer, request)
    if json:
        print_json(made)
        return
    console.print(f"{made.metadata.name}: see `longhaul tokenizers show {name}`")


@tokenizers_app.command("import")
def import_tokenizer(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Id of the new tokenizer.")],
    path: Annotated[Path, typer.Argument(help="A tokenizer.json or SentencePiece model.")],
    end_of_text: Annotated[str, typer.Option(help="Its token for the end of a document; empty: found.")] = "",
    json: JsonOption = False,
) -> None:
    """Import a tokenizer of yours, to compare it or to build with it.

    Example: longhaul tokenizers import theirs tokenizer.json
    """
    session = session_of(context)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InvalidArgument(f"{path} cannot be read: {error.strerror}", reason="TOKENIZER_NOT_FOUND") from error
    with session.client() as client:
        spec = tokenizer_pb2.TokenizerSpec(tokenizer_json=content, end_of_text=end_of_text)
        request = tokenizer_pb2.CreateTokenizerRequest(parent=session.parent, tokenizer_id=name, spec=spec)
        made = call(client.tokenizers.CreateTokenizer, request)
    if json:
        print_json(made)
        return
    console.print(f"{made.metadata.name}: see `longhaul tokenizers show {name}`")
