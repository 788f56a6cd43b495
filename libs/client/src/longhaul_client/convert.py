"""Recipe to protobuf: the only place where the two meet in the client."""

from typing import Any

from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Struct
from longhaul.checkpoint.v1 import checkpoint_pb2
from longhaul.corpus.v1 import corpus_build_pb2
from longhaul.evaluation.v1 import evaluation_pb2
from longhaul.ingest.v1 import ingestion_pb2
from longhaul.training.v1 import plan_pb2, training_run_pb2

from longhaul_client.recipes import Recipe, dump_recipe


def to_struct(content: dict[str, Any]) -> Struct:
    """Return a protobuf Struct of JSON-able content."""
    return ParseDict(content, Struct())


def ingestion_spec(recipe: Recipe) -> ingestion_pb2.IngestionSpec:
    """Return what ingest is asked for."""
    cleaning = recipe.cleaning
    return ingestion_pb2.IngestionSpec(
        sources=[
            ingestion_pb2.Source(
                name=source.name,
                kind=ingestion_pb2.SourceKind.Value(f"SOURCE_KIND_{source.kind.name}"),
                locations=source.paths,
                text_field=source.text_field,
                url_field=source.url_field,
                extensions=source.extensions,
                lists=source.lists,
                list_base=source.list_base,
            )
            for source in recipe.sources
        ],
        extraction_mode=ingestion_pb2.ExtractionMode.Value(f"EXTRACTION_MODE_{cleaning.extraction.name}"),
        filters=[
            ingestion_pb2.Filter(name=filter_.name, parameters=to_struct(dict(filter_.parameters)))
            for filter_ in cleaning.filters
        ],
        maximum_failed_fraction=cleaning.maximum_failed_fraction,
        drop_samples=cleaning.drop_samples,
        maximum_lost_shards=cleaning.maximum_lost_shards,
        continues=[f"projects/{recipe.project}/datasets/{name}" for name in recipe.continues],
        annotate=cleaning.annotate,
        fix_text=cleaning.fix_text,
    )


def corpus_build_spec(recipe: Recipe, *, dataset: str, tokenizer: str) -> corpus_build_pb2.CorpusBuildSpec:
    """Return what corpus is asked for; an empty tokenizer name means: train one."""
    corpus = recipe.corpus
    return corpus_build_pb2.CorpusBuildSpec(
        datasets=[*(f"projects/{recipe.project}/datasets/{name}" for name in recipe.continues), dataset],
        deduplication=corpus_build_pb2.Deduplication(
            exact=corpus.deduplication.exact,
            minhash=corpus.deduplication.minhash,
            ngram=corpus.deduplication.ngram,
            bands=corpus.deduplication.bands,
            rows=corpus.deduplication.rows,
            seed=corpus.deduplication.seed,
            keep=corpus_build_pb2.KeepRule.Value(f"KEEP_RULE_{corpus.deduplication.keep.name}"),
            keep_score=corpus.deduplication.keep_score,
            paragraph_characters=corpus.deduplication.paragraph_characters,
            substring_sentences=corpus.deduplication.substring_sentences,
            substring_words=corpus.deduplication.substring_words,
        ),
        holdout=corpus_build_pb2.Holdout(**corpus.holdout.model_dump()),
        decontamination=corpus_build_pb2.Decontamination(
            ngram=corpus.decontamination.ngram,
            action=corpus_build_pb2.ContaminationAction.Value(
                f"CONTAMINATION_ACTION_{corpus.decontamination.action.name}"
            ),
            question_ngram=corpus.decontamination.question_ngram,
            files=corpus.decontamination.files,
        ),
        evaluation_tasks=corpus_build_pb2.EvaluationTasks(**corpus.evaluation_tasks.model_dump()),
        tokenizer=_tokenizer_source(recipe, tokenizer),
        mixture=[
            corpus_build_pb2.MixtureWeight(source=source, weight=weight) for source, weight in corpus.mixture.items()
        ],
        sequence_length=recipe.training.data.sequence_length,
        shuffle_seed=corpus.shuffle_seed,
        shard_tokens=corpus.shard_tokens,
        sampling=[corpus_build_pb2.SamplingRule(**rule.model_dump()) for rule in corpus.sampling],
        maximum_repeats=corpus.maximum_repeats,
        maximum_lost_shards=corpus.maximum_lost_shards,
    )


def _tokenizer_source(recipe: Recipe, tokenizer: str) -> corpus_build_pb2.TokenizerSource:
    if tokenizer:
        return corpus_build_pb2.TokenizerSource(tokenizer=tokenizer)
    return corpus_build_pb2.TokenizerSource(
        training=corpus_build_pb2.TokenizerTraining(
            vocabulary_size=recipe.tokenizer.vocabulary_size,
            algorithm=recipe.tokenizer.algorithm.value,
            digits=recipe.tokenizer.digits.value,
            special_tokens=recipe.tokenizer.special_tokens,
            maximum_bytes=recipe.tokenizer.maximum_bytes,
        )
    )


def training_run_spec(recipe: Recipe, *, token_set: str, code_version: str) -> training_run_pb2.TrainingRunSpec:
    """Return what training is asked for."""
    resources, reference = recipe.resources, recipe.reference
    return training_run_pb2.TrainingRunSpec(
        trainer_config=to_struct(recipe.trainer_config().model_dump(mode="json")),
        token_set=token_set,
        resources=training_run_pb2.RunResources(
            nodes=resources.nodes,
            gpus_per_node=resources.gpus_per_node,
            spares=resources.spares,
            priority=resources.priority,
            pool=resources.pool,
            image=resources.image,
            pod=to_struct(resources.pod.model_dump(mode="json", exclude_defaults=True)),
            node_failures_per_day=resources.node_failures_per_day,
            node_repair_hours=resources.node_repair_hours if resources.node_failures_per_day else 0.0,
            minimum_nodes=resources.minimum_nodes,
            preflight="" if resources.preflight == "quick" else resources.preflight,
        ),
        reference_run=f"projects/{recipe.project}/trainingRuns/{reference.run}" if reference.run else "",
        reference_basis=reference.basis if reference.run else "",
        reference_margin=reference.margin if reference.run else 0.0,
        recipe=dump_recipe(recipe),
        code_version=code_version,
    )


def plan_request(recipe: Recipe, *, available_tokens: int = 0) -> plan_pb2.CreatePlanRequest:
    """Return what the plan is computed from."""
    resources = recipe.resources
    config = recipe.trainer_config()
    if not config.model.vocabulary_size and not recipe.tokenizer.path:
        vocabulary = {"vocabulary_size": recipe.tokenizer.vocabulary_size}
        config = config.model_copy(update={"model": config.model.model_copy(update=vocabulary)})
    return plan_pb2.CreatePlanRequest(
        trainer_config=to_struct(config.model_dump(mode="json")),
        nodes=resources.nodes,
        gpus_per_node=resources.gpus_per_node,
        accelerator=resources.accelerator,
        expected_mfu=resources.expected_mfu,
        price_per_gpu_hour=resources.price_per_gpu_hour,
        available_tokens=available_tokens,
        reason=recipe.reason,
    )


def retention(recipe: Recipe, *, run: str) -> checkpoint_pb2.Retention:
    """Return which checkpoints are kept."""
    return checkpoint_pb2.Retention(
        training_run=run,
        keep_last=recipe.checkpoints.keep_last,
        keep_every_steps=recipe.checkpoints.keep_every_steps,
    )


def evaluation_suite_spec(recipe: Recipe, *, run: str, token_set: str) -> evaluation_pb2.EvaluationSuiteSpec:
    """Return what every commit of the run is scored with."""
    evaluation = recipe.evaluation
    return evaluation_pb2.EvaluationSuiteSpec(
        training_run=run,
        token_set=token_set,
        tasks=[
            evaluation_pb2.TaskSelection(task=task.task, few_shot=few_shot, limit=task.limit)
            for task in evaluation.tasks
            for few_shot in task.few_shot
        ],
        every_steps=evaluation.every_steps,
        batch_size=evaluation.batch_size,
        seed=evaluation.seed,
    )
