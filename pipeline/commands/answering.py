"""Commands that answer new rows with a model."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.commands.options import (
    Common,
    Real,
    common_options,
    surroundings,
)

if TYPE_CHECKING:
    from pipeline.stages.predict import OnBadRow


@click.command()
@click.argument("model")
@click.argument("data", nargs=-1, required=True)
@click.option(
    "-o",
    "--out",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="Parquet file to write.",
)
@click.option(
    "--format",
    "file_format",
    default="auto",
    show_default=True,
    help="Format of the files, as in data.format; auto: by their names.",
)
@click.option("--n-best", default=0, type=click.IntRange(0), help="Also the N most probable labels.")
@click.option(
    "--n-best-sequences",
    default=0,
    type=click.IntRange(0, 1_000),
    help="Also the N most probable label sequences as wholes, of a model with a CRF.",
)
@click.option("--distribution", is_flag=True, help="Also the probability of every label.")
@click.option(
    "--on-bad-row",
    type=click.Choice(["fail", "drop"]),
    default="fail",
    show_default=True,
    help="What becomes of rows that do not fit; drop: no answer, and listed in OUT.rejected.parquet.",
)
@click.option(
    "--workers", type=click.IntRange(1), help="Processes that predict; left out: as the rows are worth."
)
@click.option("--restart", is_flag=True, help="Throw away what the same command left when it was stopped.")
@common_options
def predict(
    model: str,
    data: Sequence[str],
    out: Path,
    file_format: str,
    n_best: int,
    n_best_sequences: int,
    distribution: bool,
    on_bad_row: "OnBadRow",
    workers: int | None,
    restart: bool,
    common: Common,
) -> None:
    """Predict new rows with MODEL: models:/name@alias, models:/name/3 or a run folder."""
    from pipeline.run import predict_rows
    from pipeline.stages.predict import Options

    options = Options(
        file_format=file_format,
        n_best=n_best,
        n_best_sequences=n_best_sequences,
        distribution=distribution,
        on_bad_row=on_bad_row,
    )
    summary = predict_rows(
        model,
        list(data),
        out=out.absolute(),
        options=options,
        workers=workers,
        restart=restart,
        around=surroundings(common),
    )
    text = f"{summary['rows'] - summary['bad_rows']:,} predictions by {summary['model']} in {out}"
    if summary["bad_rows"]:
        text += f"\n{summary['bad_rows']:,} rows have none: see {summary['rejected']}"
    common.console.result(text, summary)


@click.command()
@click.argument("model")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option(
    "--port", default=5001, show_default=True, type=click.IntRange(0, 65_535), help="0: any that is free."
)
@click.option(
    "--token-file",
    envvar="RECURRA_TOKEN_FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File with the token that clients must show; needed where others reach the host.",
)
@click.option(
    "--allow-host", "hosts", multiple=True, help="Another name that clients may call this server by."
)
@click.option(
    "--replicas",
    default=1,
    show_default=True,
    type=click.IntRange(1),
    help="Copies of the model that answer side by side, each in a process of its own.",
)
@click.option(
    "--batch-wait-ms",
    default=2.0,
    show_default=True,
    type=Real(0),
    help="How long a request waits for others to be answered with.",
)
@click.option(
    "--max-batch-rows", default=256, show_default=True, type=click.IntRange(1), help="Rows of such a batch."
)
@click.option("--max-mb", default=16.0, show_default=True, type=Real(0.001), help="Size of a request.")
@click.option(
    "--max-rows", default=1_000, show_default=True, type=click.IntRange(1), help="Rows of a request."
)
@click.option(
    "--max-steps", default=100_000, show_default=True, type=click.IntRange(1), help="Time steps of a row."
)
@click.option(
    "--max-waiting",
    default=256,
    show_default=True,
    type=click.IntRange(1),
    help="Requests that may wait; more are told to come again.",
)
@click.option("--timeout", default=60.0, show_default=True, type=Real(0.1), help="Seconds per request.")
@click.option("--follow", is_flag=True, help="Change to another version when the alias moves.")
@click.option(
    "--poll-seconds",
    default=15.0,
    show_default=True,
    type=Real(0.1),
    help="How often --follow asks.",
)
@click.option(
    "--grace",
    default=30.0,
    show_default=True,
    type=Real(1),
    help="Seconds that requests have to be answered once the server is to stop.",
)
@common_options
def serve(
    model: str,
    token_file: Path | None,
    batch_wait_ms: float,
    max_mb: float,
    max_rows: int,
    max_steps: int,
    max_waiting: int,
    timeout: float,
    poll_seconds: float,
    common: Common,
    **asked: Any,
) -> None:
    """Answer requests with MODEL over HTTP, as `mlflow models serve` does."""
    from pipeline.jobs.protocol import Limits
    from pipeline.jobs.serve import Options, read_token
    from pipeline.jobs.serve import serve as answer
    from pipeline.run import serving_cluster

    limits = Limits(int(max_mb * 1e6), max_rows, max_steps, max_waiting, timeout)
    token = None if token_file is None else read_token(token_file)
    options = Options(token=token, batch_wait=batch_wait_ms / 1000, limits=limits, poll=poll_seconds, **asked)
    around = surroundings(common)
    with serving_cluster(around) as cluster:
        answer(
            model,
            options=options,
            tracking_uri=common.tracking_uri,
            cluster=cluster,
            scratch=common.storage if common.address else None,
            console=common.console,
        )
