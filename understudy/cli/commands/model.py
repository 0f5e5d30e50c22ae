"""`understudy model`."""

from __future__ import annotations

import click

from understudy.cli.options import Options, pass_options, shared_options
from understudy.cli.values import pages, project_option, resource


@click.group()
def model() -> None:
    """Models: what training runs have learned. A run makes one, of its own id, when it ends.

    \b
        understudy model list --project shot-010
    """


@model.command("list")
@project_option()
@shared_options(hidden=True)
@pass_options
def list_(options: Options, project: str) -> None:
    """List the models of a project.

    \b
        understudy model list --project shot-010
    """
    from understudy.cli.connection import connected
    from understudy.cli.output import show_list
    from understudy.cli.plain import plain
    from understudy.v1 import training_service_pb2

    request = training_service_pb2.ListModelsRequest(parent=project)
    with connected(options) as connection:
        found = [plain(item) for item in pages(connection.client.training.ListModels, request, "models")]
    columns = {
        "NAME": "name",
        "FAMILY": "family",
        "RUN": "run",
        "ITERATION": "checkpoint.iteration",
        "LOSSES": "checkpoint.losses",
        "SAVED": "checkpoint.create_time",
    }
    show_list(options, "models", found, columns)


@model.command("show")
@click.argument("name")
@project_option(required=False)
@shared_options(hidden=True)
@pass_options
def show_(options: Options, name: str, project: str) -> None:
    """Show a model: its architecture, the run that made it, its checkpoint.

    \b
        understudy model show quick96 --project shot-010
    """
    from understudy.cli.connection import connected
    from understudy.cli.output import show
    from understudy.cli.plain import plain
    from understudy.v1 import training_service_pb2

    request = training_service_pb2.GetModelRequest(name=resource(name, "models", project))
    with connected(options) as connection:
        show(options, plain(connection.client.training.GetModel(request)))
