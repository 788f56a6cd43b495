"""Submits a recipe: every resource at once, inputs named before they exist. The services go on without this client."""

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

from longhaul.checkpoint.v1 import checkpoint_pb2
from longhaul.corpus.v1 import corpus_build_pb2, tokenizer_pb2
from longhaul.evaluation.v1 import evaluation_pb2
from longhaul.ingest.v1 import ingestion_pb2
from longhaul.training.v1 import training_run_pb2
from longhaul_core.errors import AlreadyExists, InvalidArgument

from longhaul_client import convert
from longhaul_client.recipes import Recipe
from longhaul_client.sdk import Client, call
from longhaul_client.uploads import Report, ignore_report, with_uploaded_sources

ResponseT = TypeVar("ResponseT")

SPEC_DIFFERS = "SPEC_DIFFERS"


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Full names of the resources of one recipe."""

    project: str
    ingestion: str
    dataset: str
    corpus_build: str
    token_set: str
    run: str
    suite: str

    @property
    def parent(self) -> str:
        """The project that all of them are in."""
        return f"projects/{self.project}"


def submit(client: Client, recipe: Recipe, *, new_name: str = "", report: Report = ignore_report) -> Pipeline:
    """Create all resources of a recipe, or attach to those that exist with the same specification.

    Sources that lie on this machine are uploaded first, unless the services run here too.

    Args:
        client: The services to submit to.
        recipe: What to do.
        new_name: Names what differs from an earlier submission of the recipe's name; the rest is shared with it.
        report: Told how far the upload of each source is.

    Raises:
        AlreadyExists: SPEC_DIFFERS, when the name stands for something else and no new name is given.
    """
    if client.connection.data_dir is None:
        recipe = with_uploaded_sources(client, recipe, report)
    submission = _Submission(client, recipe, new_name)
    ingestion = submission.create_ingestion()
    dataset = f"{submission.parent}/datasets/{_id(ingestion)}"
    corpus_build = submission.create_corpus_build(dataset, submission.create_tokenizer())
    token_set = f"{submission.parent}/tokenSets/{_id(corpus_build)}"
    run = submission.create_run(token_set)
    suite = submission.create_suite(run, token_set)
    return Pipeline(
        project=recipe.project,
        ingestion=ingestion,
        dataset=dataset,
        corpus_build=corpus_build,
        token_set=token_set,
        run=run,
        suite=suite,
    )


def submit_run(client: Client, recipe: Recipe, token_set: str) -> training_run_pb2.TrainingRun:
    """Create the run of a recipe on a token set that is there, its retention and its evaluations, and return the run.

    Raises:
        AlreadyExists: SPEC_DIFFERS, when the name stands for another run.
    """
    submission = _Submission(client, recipe, "")
    run = submission.create_run(token_set)
    submission.create_suite(run, token_set)
    return call(client.runs.GetTrainingRun, training_run_pb2.GetTrainingRunRequest(name=run))


def pipeline_of(run: training_run_pb2.TrainingRun, build: corpus_build_pb2.CorpusBuild) -> Pipeline:
    """Return the names of a pipeline from what its run and its corpus build say of their inputs."""
    parent, _, identifier = run.metadata.name.rpartition("/trainingRuns/")
    dataset = build.spec.datasets[-1]  # those before it are the ones that it continues
    return Pipeline(
        project=parent.removeprefix("projects/"),
        ingestion=dataset.replace("/datasets/", "/ingestions/"),
        dataset=dataset,
        corpus_build=build.metadata.name,
        token_set=run.spec.token_set,
        run=run.metadata.name,
        suite=f"{parent}/evaluationSuites/{identifier}",
    )


class _Submission:
    """The calls of one submission, in the order in which resources refer to one another."""

    def __init__(self, client: Client, recipe: Recipe, new_name: str) -> None:
        self._client = client
        self._recipe = recipe
        self._new_name = new_name
        self.parent = f"projects/{recipe.project}"

    def create_ingestion(self) -> str:
        spec = convert.ingestion_spec(self._recipe)
        return self._create(
            lambda name: call(
                self._client.ingestions.CreateIngestion,
                ingestion_pb2.CreateIngestionRequest(parent=self.parent, ingestion_id=name, spec=spec),
            ),
            "sources or cleaning",
        )

    def create_tokenizer(self) -> str:
        if not self._recipe.tokenizer.path:
            return ""
        path = Path(self._recipe.tokenizer.path)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise InvalidArgument(
                f"tokenizer.path: {path} cannot be read: {error.strerror}", reason="TOKENIZER_NOT_FOUND"
            ) from error
        spec = tokenizer_pb2.TokenizerSpec(tokenizer_json=content)
        return self._create(
            lambda name: call(
                self._client.tokenizers.CreateTokenizer,
                tokenizer_pb2.CreateTokenizerRequest(parent=self.parent, tokenizer_id=name, spec=spec),
            ),
            "tokenizer",
        )

    def create_corpus_build(self, dataset: str, tokenizer: str) -> str:
        spec = convert.corpus_build_spec(self._recipe, dataset=dataset, tokenizer=tokenizer)
        return self._create(
            lambda name: call(
                self._client.corpus_builds.CreateCorpusBuild,
                corpus_build_pb2.CreateCorpusBuildRequest(parent=self.parent, corpus_build_id=name, spec=spec),
            ),
            "corpus or tokenizer",
        )

    def create_run(self, token_set: str) -> str:
        spec = convert.training_run_spec(self._recipe, token_set=token_set, code_version=code_version())
        run = self._create(
            lambda name: call(
                self._client.runs.CreateTrainingRun,
                training_run_pb2.CreateTrainingRunRequest(parent=self.parent, training_run_id=name, spec=spec),
            ),
            "model, training, layout, checkpoints or resources",
        )
        policy = checkpoint_pb2.SetRetentionRequest(retention=convert.retention(self._recipe, run=run))
        call(self._client.checkpoints.SetRetention, policy)
        return run

    def create_suite(self, run: str, token_set: str) -> str:
        spec = convert.evaluation_suite_spec(self._recipe, run=run, token_set=token_set)
        return self._create(
            lambda name: call(
                self._client.suites.CreateEvaluationSuite,
                evaluation_pb2.CreateEvaluationSuiteRequest(parent=self.parent, evaluation_suite_id=name, spec=spec),
            ),
            "evaluation",
            identifier=_id(run),
        )

    def _create(self, create: Callable[[str], Any], part: str, *, identifier: str = "") -> str:
        """Create under the recipe's name; where that name stands for something else, under the new one."""
        first = identifier or self._recipe.name
        try:
            return str(create(first).metadata.name)
        except AlreadyExists as error:
            if error.reason != SPEC_DIFFERS:
                raise
            if not self._new_name or identifier:
                raise self._differs(error, part) from None
        try:
            return str(create(self._new_name).metadata.name)
        except AlreadyExists as error:
            raise self._differs(error, part) from None

    def _differs(self, error: AlreadyExists, part: str) -> AlreadyExists:
        changes = "\n".join(f"  {path}: {change}" for path, change in sorted(error.metadata.items()))
        return AlreadyExists(
            f"{self._new_name or self._recipe.name!r} was submitted before with another {part}:\n{changes}",
            reason=SPEC_DIFFERS,
            metadata=error.metadata,
            action="undo the change, or start a new run with --name NEW (what is unchanged is shared)",
        )


def _id(name: str) -> str:
    return name.rpartition("/")[2]


def code_version() -> str:
    """Return the version that a run is stored with: the git commit of a checkout, else the package's."""
    folder = Path(__file__).parent
    try:
        described = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--dirty"],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
        return described.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        pass
    try:
        return version("longhaul-client")
    except PackageNotFoundError:
        return "unknown"
