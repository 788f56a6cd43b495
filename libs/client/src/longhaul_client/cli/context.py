"""`longhaul context` and `longhaul token`: which installation the commands reach, and who the user is there."""

import secrets
from pathlib import Path
from typing import Annotated, Literal

import typer
from longhaul_core.errors import InvalidArgument
from longhaul_core.rpc.user_tokens import digest_of
from pydantic import SecretStr, ValidationError

from longhaul_client.cli.output import JsonOption, console, print_json, print_table
from longhaul_client.contexts import LOCAL, ClusterContext, contexts_file, read_contexts, write_contexts

app = typer.Typer(no_args_is_help=True, help="Installations that the commands reach.")

NameArgument = Annotated[str, typer.Argument(help="Name of the context.", metavar="NAME")]


@app.command()
def add(
    name: NameArgument,
    endpoint: Annotated[str, typer.Option(help="host:port that reaches all services, or a host with one port each.")],
    token_file: Annotated[Path | None, typer.Option(help="File that holds your token; - reads it from input.")] = None,
    ca: Annotated[Path | None, typer.Option(help="PEM roots; without it those of the system.")] = None,
    plaintext: Annotated[bool, typer.Option("--plaintext", help="No TLS: only where the way is safe.")] = False,
    service: Annotated[
        list[str] | None, typer.Option(help="A service that answers elsewhere: NAME=host:port; may be repeated.")
    ] = None,
    project: Annotated[str, typer.Option(help="Project of the resources.")] = "default",
) -> None:
    """Add an installation, or change it, and make it current.

    Example: longhaul context add lab --endpoint longhaul.lab.example:443 --token-file token --ca ca.pem
    """
    try:
        context = ClusterContext(
            endpoint=endpoint,
            addresses=dict(_pair(item) for item in service or []),
            token=SecretStr(_read(token_file).strip() if token_file else ""),
            tls=not plaintext,
            ca=_read(ca) if ca else "",
            project=project,
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise InvalidArgument(f"{first['loc'][0]}: {first['msg']}", reason="CONTEXT_INVALID") from None
    path = contexts_file()
    write_contexts(path, read_contexts(path).with_context(name, context))
    console.print(f"context {name} is current\n\nnext: longhaul status")


@app.command()
def use(name: NameArgument) -> None:
    """Make a context current; `local` is this machine.

    Example: longhaul context use lab
    """
    path = contexts_file()
    write_contexts(path, read_contexts(path).using(name))
    console.print(f"context {name} is current")


@app.command()
def remove(name: NameArgument) -> None:
    """Forget a context.

    Example: longhaul context remove lab
    """
    path = contexts_file()
    write_contexts(path, read_contexts(path).without(name))
    console.print(f"context {name} is removed")


@app.command("list")
def list_contexts(json: JsonOption = False) -> None:
    """Show the contexts; tokens stay hidden.

    Example: longhaul context list
    """
    known = read_contexts(contexts_file())
    rows = [{"name": LOCAL, "current": known.current == LOCAL, "endpoint": "", "tls": False, "project": ""}]
    rows += [
        {
            "name": name,
            "current": name == known.current,
            "endpoint": item.endpoint,
            "tls": item.tls,
            "project": item.project,
        }
        for name, item in sorted(known.contexts.items())
    ]
    if json:
        print_json(rows)
        return
    shown = [
        ("*" if row["current"] else "", row["name"], row["endpoint"] or "this machine", "yes" if row["tls"] else "no")
        for row in rows
    ]
    print_table(["", "NAME", "ENDPOINT", "TLS"], shown, empty="no contexts")


def token(
    name: Annotated[str, typer.Argument(help="Name of the user.", metavar="NAME")],
    role: Annotated[Literal["viewer", "submitter", "operator"], typer.Option(help="What the user may do.")] = "viewer",
    json: JsonOption = False,
) -> None:
    """Make a token for a user: the token for the user, its entry for the users file of the services.

    Example: longhaul token alice --role submitter
    """
    made = secrets.token_urlsafe(32)
    entry = {"name": name, "role": role, "token_sha256": digest_of(made)}
    if json:
        print_json({"token": made, "user": entry})
        return
    console.print(f"token for {name}, shown once:\n\n{made}\n\nentry for the users file:\n")
    console.print(f"  - {{name: {name}, role: {role}, token_sha256: {entry['token_sha256']}}}", soft_wrap=True)


def _pair(item: str) -> tuple[str, str]:
    service, found, address = item.partition("=")
    if not found:
        raise InvalidArgument(f"--service {item}: it is NAME=host:port", reason="CONTEXT_INVALID")
    return service, address


def _read(path: Path) -> str:
    try:
        return typer.get_text_stream("stdin").read() if str(path) == "-" else path.read_text()
    except OSError as error:
        raise InvalidArgument(f"cannot read {path}: {error.strerror}", reason="FILE_UNREADABLE") from error


def register(main: typer.Typer) -> None:
    """Add the commands to the main one."""
    main.add_typer(app, name="context")
    main.command()(token)
