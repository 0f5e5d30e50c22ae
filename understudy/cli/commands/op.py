"""`understudy op`."""

from __future__ import annotations

import click

from understudy.cli.options import Options, pass_options, shared_options
from understudy.cli.values import pages, project_option, resource


@click.group()
def op() -> None:
    """Operations: long work, its progress and its end.

    \b
        understudy op list --project shot-010
        understudy op watch projects/shot-010/operations/extract-0f3c
    """


@op.command("list")
@project_option()
@shared_options(hidden=True)
@pass_options
def list_(options: Options, project: str) -> None:
    """List the operations of a project.

    \b
        understudy op list --project shot-010
    """
    from google.longrunning import operations_pb2

    from understudy.cli.connection import connected
    from understudy.cli.output import show_list
    from understudy.cli.plain import plain

    request = operations_pb2.ListOperationsRequest(name=project)
    with connected(options) as connection:
        found = [plain(item) for item in pages(connection.client.operations.ListOperations, request, "operations")]
    columns = {
        "NAME": "name",
        "STATE": "state",
        "DONE": "progress.done_units",
        "OF": "progress.total_units",
        "UNIT": "progress.unit",
        "TARGET": "target",
        "MADE": "create_time",
    }
    show_list(options, "operations", found, columns)


@op.command("show")
@click.argument("name")
@project_option(required=False)
@shared_options(hidden=True)
@pass_options
def show_(options: Options, name: str, project: str) -> None:
    """Show an operation: its state, how far it is, what came of it.

    \b
        understudy op show extract-0f3c --project shot-010
    """
    from google.longrunning import operations_pb2

    from understudy.cli.connection import connected
    from understudy.cli.output import show
    from understudy.cli.plain import plain

    request = operations_pb2.GetOperationRequest(name=resource(name, "operations", project))
    with connected(options) as connection:
        show(options, plain(connection.client.operations.GetOperation(request)))


@op.command()
@click.argument("name")
@project_option(required=False)
@shared_options(hidden=True)
@pass_options
def watch(options: Options, name: str, project: str) -> None:
    """Show how an operation goes until it ends. With --json one object a line. Ctrl-C ends the watching, not the work.

    \b
        understudy op watch extract-0f3c --project shot-010
    """
    from google.longrunning import operations_pb2

    from understudy.cli.connection import connected
    from understudy.cli.follow import end_with, followed, stream_operation
    from understudy.cli.output import show
    from understudy.cli.plain import plain

    full_name = resource(name, "operations", project)
    with connected(options) as connection:
        client = connection.client
        if options.json:
            end_with(stream_operation(client, full_name))
            return
        operation = client.operations.GetOperation(operations_pb2.GetOperationRequest(name=full_name))
        ended = followed(options, client, operation, full_name.rpartition("/")[2])
        if not ended.HasField("error"):
            show(options, plain(ended))
        end_with(ended)


@op.command()
@click.argument("name")
@project_option(required=False)
@shared_options(hidden=True)
@pass_options
def cancel(options: Options, name: str, project: str) -> None:
    """Ask for the end of an operation. What it has done stays: the same work asked for again goes on from there.

    \b
        understudy op cancel extract-0f3c --project shot-010
    """
    from google.longrunning import operations_pb2

    from understudy.cli.connection import connected
    from understudy.cli.output import show
    from understudy.cli.plain import plain

    full_name = resource(name, "operations", project)
    with connected(options) as connection:
        client = connection.client
        client.operations.CancelOperation(operations_pb2.CancelOperationRequest(name=full_name))
        show(options, plain(client.operations.GetOperation(operations_pb2.GetOperationRequest(name=full_name))))
