"""`understudy project`."""

from __future__ import annotations

import click

from understudy.cli.options import Options, pass_options, shared_options
from understudy.cli.values import pages, project_name, text_pair

_PURGED_WITHIN_S = 3600.0  # each object is deleted by itself; interrupted, the same command goes on


@click.group()
def project() -> None:
    """Projects: what clips, facesets, runs and sessions live in.

    \b
        understudy project create shot-010 --name "Shot 010" --label show=demo
        understudy project list
    """


@project.command()
@click.argument("project_id", metavar="ID")
@click.option("--name", "display_name", default="", help="A name for people.")
@click.option(
    "--label",
    "labels",
    type=text_pair,
    metavar="NAME=VALUE",
    multiple=True,
    help="Free label, several times: --label show=demo.",
)
@shared_options(hidden=True)
@pass_options
def create(options: Options, project_id: str, display_name: str, labels: tuple[tuple[str, str], ...]) -> None:
    """Make a project. ID is 1 to 63 of a-z, 0-9 and '-'.

    \b
        understudy project create shot-010
    """
    from understudy.cli.connection import connected
    from understudy.cli.output import show
    from understudy.cli.plain import plain
    from understudy.v1 import project_service_pb2

    wished = project_service_pb2.Project(display_name=display_name, labels=dict(labels))
    request = project_service_pb2.CreateProjectRequest(project_id=project_id, project=wished)
    with connected(options) as connection:
        made = connection.client.projects.CreateProject(request)
    show(options, plain(made), made.name)


@project.command("list")
@click.option("--deleted", is_flag=True, help="Also those in the trash.")
@shared_options(hidden=True)
@pass_options
def list_(options: Options, deleted: bool) -> None:
    """List projects.

    \b
        understudy project list --deleted
    """
    from understudy.cli.connection import connected
    from understudy.cli.output import show_list
    from understudy.cli.plain import plain
    from understudy.v1 import project_service_pb2

    request = project_service_pb2.ListProjectsRequest(show_deleted=deleted)
    with connected(options) as connection:
        found = [plain(item) for item in pages(connection.client.projects.ListProjects, request, "projects")]
    columns = {"NAME": "name", "TITLE": "display_name", "MADE": "create_time", "DELETED": "delete_time"}
    show_list(options, "projects", found, columns)


@project.command("show")
@click.argument("name")
@shared_options(hidden=True)
@pass_options
def show_(options: Options, name: str) -> None:
    """Show a project.

    \b
        understudy project show shot-010
    """
    _one(options, "GetProject", name)


@project.command()
@click.argument("name")
@shared_options(hidden=True)
@pass_options
def delete(options: Options, name: str) -> None:
    """Put a project into the trash. Nothing is lost: `undelete` brings it back.

    \b
        understudy project delete shot-010
    """
    _one(options, "DeleteProject", name)


@project.command()
@click.argument("name")
@shared_options(hidden=True)
@pass_options
def undelete(options: Options, name: str) -> None:
    """Take a project out of the trash.

    \b
        understudy project undelete shot-010
    """
    _one(options, "UndeleteProject", name)


@project.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Needed: what is removed cannot be brought back.")
@shared_options(hidden=True)
@pass_options
def purge(options: Options, name: str, yes: bool) -> None:
    """Remove a project that is in the trash, with its footage, faces, models and films, for good.

    \b
        understudy project purge shot-010 --yes
    """
    from understudy.cli.connection import connected
    from understudy.cli.output import show
    from understudy.v1 import project_service_pb2

    full_name = project_name(name)
    if not yes:
        raise click.UsageError(f"{full_name} and all that is in it will be gone for good: add --yes.")
    request = project_service_pb2.PurgeProjectRequest(name=full_name, confirm_project_id=full_name.partition("/")[2])
    with connected(options) as connection:
        connection.client.projects.PurgeProject(request, timeout=_PURGED_WITHIN_S)
    show(options, {"name": full_name, "purged": True}, f"{full_name} is gone")


def _one(options: Options, method: str, name: str) -> None:
    from understudy.cli.connection import connected
    from understudy.cli.output import show
    from understudy.cli.plain import plain
    from understudy.v1 import project_service_pb2

    request = getattr(project_service_pb2, f"{method}Request")(name=project_name(name))
    with connected(options) as connection:
        found = getattr(connection.client.projects, method)(request)
    show(options, plain(found))
