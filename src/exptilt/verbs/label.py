"""`exptilt label`: a page on which people compare answers; votes of other tools come in, raw votes go out."""

from __future__ import annotations

import getpass
import json
import sys
import webbrowser
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from exptilt.disk import write_lines, write_whole
from exptilt.errors import ConfigError, DataError
from exptilt.people.desk import Desk
from exptilt.people.items import read_items
from exptilt.people.label_page import label_routes
from exptilt.people.owner_page import owner_routes
from exptilt.people.page_app import create_app
from exptilt.people.page_frame import PageFrame
from exptilt.people.page_guard import people_of, secret_of
from exptilt.people.page_server import bound_socket, links_of, names_of, serve_page
from exptilt.people.raw_votes import as_csv, raw_rows
from exptilt.people.tool_votes import read_tool_votes
from exptilt.settings.label_settings import LabelRequest
from exptilt.settings.load import load
from exptilt.votes.vote_store import VoteStore
from exptilt.wording import counted


def label(request: LabelRequest, *, browser: bool = True) -> None:
    """Open the page and serve it until somebody stops it.

    Args:
        request: what is compared, by whom.
        browser: whether the page of this machine's user is opened in their browser.

    Raises:
        ExptiltError: a source, the store, the guide or the port cannot be used; nothing is served.
    """
    guide = "" if request.guide is None else _read(Path(request.guide).expanduser())
    items = read_items(request.sources, request.known, rank=request.rank)
    with VoteStore(request.store) as store:
        desk = Desk(store, items.items, request.rules)
        people = people_of(request.people, user_name(), secret_of(request.store))
        frame = PageFrame(guide)
        routers = [label_routes(desk, frame), owner_routes(desk, frame)]
        app = create_app(people, names_of(request.host, request.allowed_hosts), routers)
        with bound_socket(request.host, request.port) as listening:
            links = links_of(people, request.host, listening.getsockname()[1])
            _announce(request, items.left_out, desk)
            for person, link in links:
                print(f"  {'results' if not person.rates else person.name}: {link}")
            print("Ctrl-C ends it; every vote is on disk before the page moves on.", flush=True)
            if browser and request.is_local and sys.stdout.isatty():
                webbrowser.open(links[-1][1])
            serve_page(app, listening)
        print(f"\n{counted(len(desk.index.nonces), 'row')} in {store.name}; next: exptilt pair {store.name}")


def import_votes(source: str, store: str) -> int:
    """Add votes of another tool to a store; what is in it already is not added again.

    Returns:
        How many are new.

    Raises:
        DataError: the file holds no votes of a tool that is known.
    """
    found = read_tool_votes(source)
    with VoteStore(store) as votes:
        added = votes.add_all(found.rows)
    print(
        f"{counted(added, 'vote')} of {source} ({found.tool}) added to {store}; {len(found.rows) - added:,} were there"
    )
    for reason, count in found.left_out.items():
        print(f"  left out: {count:,} with {reason}")
    return added


def export_votes(store: str, output: Path, *, names: bool = False) -> Path:
    """Write every vote of a store as a row, by the ending of the file as JSON lines or CSV; a file is not replaced.

    Args:
        store: of votes.
        output: the file to write.
        names: write people's names instead of pseudonyms.
    """
    if output.exists():
        raise ConfigError(f"{output}: is there already and is not replaced; name another file")
    with VoteStore(store, create=False) as votes:
        rows = list(raw_rows(votes, names=names))
    if output.suffix == ".csv":
        write_whole(output, as_csv(rows))
    elif output.suffix == ".jsonl":
        write_lines(output, rows)
    else:
        raise ConfigError(f"{output}: name a .jsonl or a .csv file")
    print(f"{counted(len(rows), 'vote')} of {store}: {output}")
    return output


def move_votes(store: str, source: str | None, output: Path | None, *, names: bool = False) -> None:
    """Add the votes of another tool to a store, or write those it holds, or first the one and then the other."""
    if source is not None:
        import_votes(source, store)
    if output is not None:
        export_votes(store, output, names=names)


def label_request(sources: Sequence[str], people: Sequence[str], stated: Mapping[str, Any]) -> LabelRequest:
    """The request that a command line states.

    Args:
        sources: files, among which names of people may stand; see `sources_and_people`.
        people: names.
        stated: further settings; None stands for the default.

    Raises:
        ConfigError: a setting is wrong.
    """
    files, raters = sources_and_people(sources, people)
    given = {"sources": files, "people": raters, **stated}
    return load(LabelRequest, None, [f"{key}={json.dumps(value)}" for key, value in given.items() if value is not None])


def sources_and_people(sources: Sequence[str], people: Sequence[str]) -> tuple[list[str], list[str]]:
    """Files and names of a command line, where `--people anna ben` leaves the second name among the files.

    Example:
        >>> sources_and_people(["pairs.jsonl", "ben"], ["anna"])
        (['pairs.jsonl'], ['anna', 'ben'])
    """
    if not people:
        return list(sources), []
    names = {one for one in sources[1:] if not Path(one).exists() and not set("./\\:") & set(one)}
    return [one for one in sources if one not in names], [*people, *(one for one in sources if one in names)]


def _announce(request: LabelRequest, left_out: Mapping[str, int], desk: Desk) -> None:
    known = sum(item.right is not None for item in desk.items)
    print(
        f"{counted(len(desk.items) - known, 'comparison')} of {', '.join(request.sources)}"
        f"{f', and {known:,} whose answer is known' if known else ''}; votes go to {desk.store.name}"
    )
    for reason, count in left_out.items():
        print(f"  left out: {count:,} with {reason}")
    if not request.is_local:
        print(
            f"warning: {request.host} is open to other machines, without encryption; give each link to one person only"
        )


def user_name() -> str:
    """What the user of this machine is called."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "me"


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except FileNotFoundError:
        raise ConfigError(f"--guide {path}: there is no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"--guide {path}: cannot be read as text ({error})") from None
