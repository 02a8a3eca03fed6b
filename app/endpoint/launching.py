"""`podium serve`: the endpoint on a port, until Ctrl-C."""

from pathlib import Path

from app.chat.catalog import Catalog
from app.endpoint.application import Endpoint, build_endpoint
from app.endpoint.keys import VARIABLE, read_keys
from app.middleware import is_local
from app.serving import serve
from podium.errors import PodiumError
from podium.progress import say
from podium.widths import Weights


def launch(
    folder: Path, host: str, port: int, keys: Path | None, most: int, weights: Weights = "fp32"
) -> None:
    """Serve the models of a run, or one model, until Ctrl-C, which is raised as KeyboardInterrupt.

    Args:
        keys: a file of bearer keys, beside those of the environment.
        most: answers under way and waiting at a time.
        weights: the width of theirs.

    Raises:
        PodiumError: other machines could reach `host`, and no key is asked for.
        ParentError: the folder holds no model. PlatformError: the port is taken.
    """
    known = read_keys(keys)
    if not known and not is_local(host):
        raise PodiumError(
            f"--host {host} can be reached from other machines, and no key is asked for",
            f"give --keys FILE (a key a line) or set {VARIABLE}",
        )
    catalog = Catalog(folder, weights)
    first, _ = catalog.favourites()
    catalog.speaker(first)  # what cannot be loaded is said now and not to the first client
    names = [model["id"] for model in Endpoint(catalog, most).models()]
    application = build_endpoint(catalog, known, most, local=is_local(host))

    def announce(address: str) -> None:
        say(f"models: {', '.join(names)}")
        say(f"endpoint: {address}/v1   (Ctrl-C ends it)")

    serve(application, host, port, announce)
