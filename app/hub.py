"""`podium push`: a stage with its card on the Hugging Face hub, or on a server that speaks as it
does.

The token is huggingface_hub's own: the environment's HF_TOKEN, or what `hf auth login` keeps. It is
no option of the command, is written nowhere, and is in no message. Folders of this machine are cut
out of the texts that go along (stage.json, the card). A repository that the command makes is
private unless told otherwise; files that are there unchanged are not sent again.
"""

import re
import shutil
import tempfile
from pathlib import Path
from typing import Literal

from podium.errors import ParentError, PlatformError, PodiumError
from podium.run.folders import finished_stages

Kind = Literal["model", "dataset"]
NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
TEXTS = ("README.md", "stage.json", "config.json")  # files whose absolute paths are cut
# An absolute path of two parts or more, where a text begins or after a space, a quote or the like.
PATH = re.compile(r"(?<![\w.:/~-])/(?:[\w.+@-]+/)+([\w.+@-]+)/?")


def push_stage(
    run: Path, stage: str, to: str, public: bool = False, endpoint: str | None = None
) -> str:
    """Send the model of a run's finished stage to the repository `to`; its address.

    Raises:
        ParentError: the stage is not finished or holds no model. PodiumError, PlatformError: as
            `push_folder`.
    """
    final = run / stage / "final"
    models = [s for s in finished_stages(run) if (run / s / "final" / "config.json").is_file()]
    if stage not in models:
        raise ParentError(
            f"{run} has no finished stage '{stage}' with a model",
            f"one of: {', '.join(models)}" if models else f"podium run {run / 'recipe.yaml'}",
        )
    return push_folder(
        final, to, "model", f"Stage {stage} of {run.resolve().name}", public, endpoint
    )


def push_folder(
    folder: Path,
    to: str,
    kind: Kind,
    message: str,
    public: bool = False,
    endpoint: str | None = None,
) -> str:
    """Send what a folder holds as one commit; the repository is made where there is none.

    Args:
        to: `org/name`. endpoint: a server in place of the hub (or HF_ENDPOINT).

    Raises:
        PodiumError: no such name can be, or the hub refused: says what it said.
        PlatformError: no token, or the hub cannot be reached.
    """
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(to if NAME.fullmatch(to) else "")
    except ValueError as error:
        raise PodiumError(f"'{to}' names no repository", "give --to org/name") from error
    if get_token() is None:
        raise PlatformError(
            "the hub asks who you are, and there is no token",
            "set HF_TOKEN to a token with write access, or log in once with `hf auth login`",
        )
    hub = HfApi(endpoint=endpoint)
    with tempfile.TemporaryDirectory() as place:
        sent = Path(place) / "sent"
        shutil.copytree(folder, sent, copy_function=_linked)
        _cut_paths(sent)
        try:
            made = hub.create_repo(to, repo_type=kind, private=not public, exist_ok=True)
            hub.upload_folder(repo_id=to, folder_path=sent, repo_type=kind, commit_message=message)
        except OfflineModeIsEnabled as error:
            raise PlatformError(
                "the hub may not be reached: HF_HUB_OFFLINE is set", "unset it for this command"
            ) from error
        except HfHubHTTPError as error:
            status = error.response.status_code
            raise PodiumError(
                f"the hub refused {to} ({status}): {error.server_message or 'without a reason'}",
                "a token needs write access to that organisation" if status in (401, 403) else None,
            ) from error
        except Exception as error:  # of any kind: the client's HTTP library has kinds of its own
            raise PlatformError(
                f"{hub.endpoint} could not be reached: {error}", "check the connection"
            ) from error
    return str(made)


def _linked(source: str, target: str) -> str:
    """Weights are linked and not copied; the texts are written anew, never through the link."""
    if Path(source).name in TEXTS:
        return shutil.copyfile(source, target)
    Path(target).symlink_to(Path(source).resolve())
    return target


def _cut_paths(folder: Path) -> None:
    """Of every absolute path in a text the last part alone: the others tell of this machine."""
    for path in folder.rglob("*"):
        if path.name in TEXTS:
            text = path.read_text(encoding="utf-8")
            path.write_text(PATH.sub(r"\1", text), encoding="utf-8")
