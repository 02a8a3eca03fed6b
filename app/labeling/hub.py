"""An export on the Hugging Face hub: a data set with the file and a card that says what it is.

The token is the hub's own: the variable HF_TOKEN, or `hf auth login`. It is neither stored nor
printed here. What goes up is an export, in which labelers are pseudonyms.
"""

import re
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from huggingface_hub import CommitOperationAdd, HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError

from app.labeling.exporting import Kind
from app.labeling.tables import Export
from podium.errors import PlatformError, PodiumError

NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
# what the hub's library reaches it through has changed from version to version
TRANSPORTS = [name for name in ("httpx", "httpx2", "requests") if find_spec(name)]
TRANSPORT_ERRORS = tuple(
    error
    for module in map(import_module, TRANSPORTS)
    for error in (getattr(module, "HTTPError", OSError), OSError)
)
KIND_OF_BATCH: dict[str, Kind] = {
    "ranking": "rankings",
    "demonstration": "demonstrations",
    "edit": "demonstrations",
    "dialogue": "demonstrations",
    "red_team": "comparisons",
}
RECORDS: dict[str, tuple[str, str]] = {  # what a row is, and how it is loaded and used
    "rankings": (
        "A row is a prompt with K responses and one labeler's ranking of them (`ranks`, 1 is best, "
        "equal numbers are a tie), with ratings and flags.",
        "podium reward RECIPE --set reward.rankings=data/{file}",
    ),
    "pairs": (
        "A row is a preference pair in TRL's conversational form; ties are dropped, and `group_id` "
        "names the ranking that a pair comes from.",
        "trl's RewardTrainer and DPOTrainer read it",
    ),
    "demonstrations": (
        "A row is a conversation whose last message was written, or corrected, by a labeler; "
        "`meta.kind` says how.",
        "podium data check data/{file}",
    ),
    "comparisons": (
        "A row is a prompt with a preferred and a rejected answer. Where `meta.inverted` is true "
        "labelers picked the more harmful answer, which stands as `rejected`: red teaming. **Such "
        "rows hold text that is meant to be harmful.**",
        "podium reward RECIPE --set reward.rankings=data/{file}",
    ),
}


class Pushed(NamedTuple):
    repository: str
    address: str
    commit: str


def check_name(name: str) -> str:
    """`org/name`, as the hub takes it."""
    if not NAME.fullmatch(name) or ".." in name or "--" in name:
        raise PodiumError(f"'{name}' is no name of a data set", "write --to ORGANISATION/NAME")
    return name


def push(
    folder: Path, export: Export, to: str, private: bool = True, endpoint: str | None = None
) -> Pushed:
    """One commit with the file and its card, in a data set that is made where there is none.

    Args:
        folder: where the site keeps its exports.
        to: `org/name`.
        private: of a new data set; one that there is stays as it is.
        endpoint: another hub; None = HF_ENDPOINT or the public one.

    Raises:
        PodiumError: the hub refuses or cannot be reached.
    """
    check_name(to)
    if not get_token():
        raise PodiumError(
            "there is no token for the hub", "export HF_TOKEN=hf_..., or log in: hf auth login"
        )
    api = HfApi(endpoint=endpoint)
    operations = [
        CommitOperationAdd(f"data/{export.file}", str(folder / export.file)),
        CommitOperationAdd("README.md", hub_card(export, to).encode()),
    ]
    message = f"Export {export.id}: {export.rows} {export.kind}"
    try:
        api.create_repo(to, repo_type="dataset", private=private, exist_ok=True)
        done = api.create_commit(to, operations, commit_message=message, repo_type="dataset")
    except OfflineModeIsEnabled as error:
        raise PlatformError("the hub is switched off", "unset HF_HUB_OFFLINE") from error
    except RepositoryNotFoundError as error:
        raise PodiumError(
            f"the hub knows no data set {to} that this token may write to",
            "check the name, and that the token may write (hf auth whoami)",
        ) from error
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else "no"
        raise PodiumError(
            f"the hub answered {status}: {_reason(error)}",
            "check that the token may write to that organisation (hf auth whoami)",
        ) from error
    except TRANSPORT_ERRORS as error:
        raise PlatformError(
            f"the hub cannot be reached: {type(error).__name__}", "try again later"
        ) from error
    return Pushed(to, f"{api.endpoint}/datasets/{to}", done.oid)


def hub_card(export: Export, name: str) -> str:
    """The export's card under the front matter that the hub reads."""
    what, use = RECORDS[export.kind]
    about: dict[str, Any] = {
        "pretty_name": name.partition("/")[2],
        "tags": ["human-feedback", "rlhf", "podium", export.kind],
        "configs": [{"config_name": export.kind, "data_files": f"data/{export.file}"}],
    }
    return "\n".join(
        [
            "---",
            yaml.safe_dump(about, sort_keys=False, allow_unicode=True).rstrip(),
            "---",
            "",
            f"# {name}",
            "",
            f"What people said on a labeling site of Podium. {what}",
            "",
            f"Use: `{use.format(file=export.file)}`",
            "",
            "Labelers are pseudonyms (keyed hashes). Comments are their own words.",
            "",
            export.card.replace("# Export", "## Export", 1),
        ]
    )


def _reason(error: HfHubHTTPError) -> str:
    """What the hub says, on one line and without headers."""
    said = getattr(error, "server_message", None) or "it gives no reason"
    return " ".join(str(said).split())[:300]
