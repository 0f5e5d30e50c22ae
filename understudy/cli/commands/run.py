"""`understudy run`."""

from __future__ import annotations

from typing import Any

import click

from understudy.cli.options import Options, pass_options, shared_options
from understudy.cli.values import json_pair, nested, pages, project_option, resource


@click.group()
def run() -> None:
    """Training runs.

    \b
        understudy run create --src performer --dst footage --preset quick96 --project shot-010
        understudy run watch quick96-1 --project shot-010
    """


@run.command()
@click.option("--src", required=True, help="Faceset of the performer whose likeness goes in.")
@click.option("--dst", required=True, help="Faceset of the footage that receives it.")
@project_option()
@click.option("--id", "run_id", default="", help="The run's id; the preset's name when not given.")
@click.option(
    "--preset", default="quick96", show_default=True, help="Where the options begin; `run presets` lists them."
)
@click.option("--iterations", type=click.IntRange(0), default=0, help="End there; 0 for the preset's.  [default: 0]")
@click.option(
    "--set",
    "pairs",
    type=json_pair,
    metavar="NAME=VALUE",
    multiple=True,
    help="Override an option, several times: --set batch_size=8.",
)
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Workers that train together.")
@click.option("-d", "--detach", is_flag=True, help="Begin and end at once; `run watch` shows how it goes.")
@shared_options(hidden=True)
@pass_options
def create(
    options: Options,
    src: str,
    dst: str,
    project: str,
    run_id: str,
    preset: str,
    iterations: int,
    pairs: tuple[tuple[str, Any], ...],
    workers: int,
    detach: bool,
) -> None:
    """Train a model on two facesets. Interrupted, `run resume` goes on from the last checkpoint.

    \b
        understudy run create --src performer --dst footage --iterations 20000 --project shot-010
    """
    from understudy.cli.connection import connected
    from understudy.cli.follow import end_with_run, follow_run, warn_when_alone
    from understudy.cli.output import show
    from understudy.cli.plain import plain
    from understudy.swap import ASK_WITHIN_S
    from understudy.v1 import training_service_pb2

    wished = training_service_pb2.TrainingRun(
        src_faceset=resource(src, "facesets", project),
        dst_faceset=resource(dst, "facesets", project),
        preset=preset,
        target_iteration=iterations,
        workers=workers,
    )
    wished.options.update(nested(pairs))
    request = training_service_pb2.CreateRunRequest(parent=project, run_id=run_id or preset, run=wished)
    with connected(options) as connection:
        made = connection.client.training.CreateRun(request, timeout=ASK_WITHIN_S)
        if detach:
            warn_when_alone(options, connection)
            show(options, plain(made), made.name)
            return
        ended = follow_run(options, connection.client, made, stream=False)
    if ended.state != training_service_pb2.TrainingRun.STATE_FAILED:
        show(options, plain(ended))
    end_with_run(ended)


@run.command("list")
@project_option()
@shared_options(hidden=True)
@pass_options
def list_(options: Options, project: str) -> None:
    """List the training runs of a project.

    \b
        understudy run list --project shot-010
    """
    from understudy.cli.connection import connected
    from understudy.cli.output import show_list
    from understudy.cli.plain import plain
    from understudy.v1 import training_service_pb2

    request = training_service_pb2.ListRunsRequest(parent=project)
    with connected(options) as connection:
        found = [plain(item) for item in pages(connection.client.training.ListRuns, request, "runs")]
    columns = {
        "NAME": "name",
        "STATE": "state",
        "PRESET": "preset",
        "ITERATION": "iteration",
        "OF": "target_iteration",
        "LOSSES": "losses",
        "SECONDS LEFT": "eta",
    }
    show_list(options, "runs", found, columns)


@run.command("show")
@click.argument("name")
@project_option(required=False)
@shared_options(hidden=True)
@pass_options
def show_(options: Options, name: str, project: str) -> None:
    """Show a training run with all its options.

    \b
        understudy run show quick96 --project shot-010
    """
    _verb(options, "GetRun", name, project)


@run.command()
@click.argument("name")
@project_option(required=False)
@shared_options(hidden=True)
@pass_options
def watch(options: Options, name: str, project: str) -> None:
    """Show how a run goes until it ends. With --json one object a line. Ctrl-C ends the watching, not the run.

    \b
        understudy run watch quick96 --project shot-010
    """
    from understudy.cli.connection import connected
    from understudy.cli.follow import end_with_run, follow_run
    from understudy.cli.output import show
    from understudy.cli.plain import plain
    from understudy.v1 import training_service_pb2

    request = training_service_pb2.GetRunRequest(name=resource(name, "runs", project))
    with connected(options) as connection:
        found = connection.client.training.GetRun(request)
        ended = follow_run(options, connection.client, found, stream=options.json)
    if not options.json and ended.state != training_service_pb2.TrainingRun.STATE_FAILED:
        show(options, plain(ended))
    end_with_run(ended)


@run.command()
@click.argument("name")
@project_option(required=False)
@click.option("--iterations", type=click.IntRange(0), help="Another end; 0 for none.")
@click.option(
    "--set",
    "pairs",
    type=json_pair,
    metavar="NAME=VALUE",
    multiple=True,
    help="Change an option, several times: --set learning_rate=1e-5.",
)
@shared_options(hidden=True)
@pass_options
def update(
    options: Options, name: str, project: str, iterations: int | None, pairs: tuple[tuple[str, Any], ...]
) -> None:
    """Change the end or options of a run; they hold from the next iteration on. Some are fixed once it has begun.

    \b
        understudy run update quick96 --iterations 40000 --set random_warp=false --project shot-010
    """
    from understudy.cli.connection import connected
    from understudy.cli.output import show
    from understudy.cli.plain import plain
    from understudy.swap import ASK_WITHIN_S
    from understudy.v1 import training_service_pb2

    wished = training_service_pb2.TrainingRun(name=resource(name, "runs", project), target_iteration=iterations or 0)
    wished.options.update(nested(pairs))
    request = training_service_pb2.UpdateRunRequest(run=wished)
    if pairs:
        request.update_mask.paths.append("options")
    if iterations is not None:
        request.update_mask.paths.append("target_iteration")
    if not request.update_mask.paths:
        raise click.UsageError("nothing to change: give --iterations or --set.")
    with connected(options) as connection:
        show(options, plain(connection.client.training.UpdateRun(request, timeout=ASK_WITHIN_S)))


@run.command()
@click.argument("name")
@project_option(required=False)
@shared_options(hidden=True)
@pass_options
def pause(options: Options, name: str, project: str) -> None:
    """Hold a run: it keeps its workers and makes no iterations until `run resume`.

    \b
        understudy run pause quick96 --project shot-010
    """
    _verb(options, "PauseRun", name, project)


@run.command()
@click.argument("name")
@project_option(required=False)
@shared_options(hidden=True)
@pass_options
def resume(options: Options, name: str, project: str) -> None:
    """Go on with a run: from its pause, or from its newest checkpoint.

    \b
        understudy run resume quick96 --project shot-010
    """
    _verb(options, "ResumeRun", name, project)


@run.command()
@click.argument("name")
@project_option(required=False)
@shared_options(hidden=True)
@pass_options
def stop(options: Options, name: str, project: str) -> None:
    """Save and end a run. `run resume` takes it up again.

    \b
        understudy run stop quick96 --project shot-010
    """
    _verb(options, "StopRun", name, project)


@run.command()
@click.argument("name")
@project_option(required=False)
@shared_options(hidden=True)
@pass_options
def save(options: Options, name: str, project: str) -> None:
    """Save a checkpoint after the iteration under way.

    \b
        understudy run save quick96 --project shot-010
    """
    _verb(options, "SaveCheckpoint", name, project)


@run.command()
@click.argument("name")
@project_option(required=False)
@shared_options(hidden=True)
@pass_options
def checkpoints(options: Options, name: str, project: str) -> None:
    """List the checkpoints of a run, newest first.

    \b
        understudy run checkpoints quick96 --project shot-010
    """
    from understudy.cli.connection import connected
    from understudy.cli.output import show_list
    from understudy.cli.plain import plain
    from understudy.v1 import training_service_pb2

    request = training_service_pb2.ListCheckpointsRequest(parent=resource(name, "runs", project))
    with connected(options) as connection:
        found = [plain(item) for item in pages(connection.client.training.ListCheckpoints, request, "checkpoints")]
    columns = {"NAME": "name", "ITERATION": "iteration", "LOSSES": "losses", "WHEN": "create_time"}
    show_list(options, "checkpoints", found, columns)


@run.command()
@shared_options(hidden=True)
@pass_options
def presets(options: Options) -> None:
    """List the presets that a run can begin with; --json shows every option of each.

    \b
        understudy run presets
    """
    from understudy.cli.connection import connected
    from understudy.cli.output import show_list
    from understudy.cli.plain import plain
    from understudy.swap import ASK_WITHIN_S
    from understudy.v1 import training_service_pb2

    request = training_service_pb2.ListPresetsRequest()
    with connected(options) as connection:
        found = connection.client.training.ListPresets(request, timeout=ASK_WITHIN_S).presets
    columns = {"NAME": "name", "WHAT FOR": "description"}
    show_list(options, "presets", [plain(preset) for preset in found], columns)


def _verb(options: Options, method: str, name: str, project: str) -> None:
    from understudy.cli.connection import connected
    from understudy.cli.output import show
    from understudy.cli.plain import plain
    from understudy.v1 import training_service_pb2

    request = getattr(training_service_pb2, f"{method}Request")(name=resource(name, "runs", project))
    with connected(options) as connection:
        show(options, plain(getattr(connection.client.training, method)(request)))
