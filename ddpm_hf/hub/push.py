"""A pipeline folder becomes a repository on the Hub, or a new commit of one: as a whole or not at all.

Everything that can be known is checked first. All files come with one commit, which only follows when the large ones are
there; these are known by their content, so what was uploaded once is not sent again.
"""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard, get_token
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import validate_repo_id
from huggingface_hub.utils.sha import git_hash
from tqdm.auto import tqdm

from ddpm_hf.errors import InputError
from ddpm_hf.hub.cards import CARD_FILE, card_of, is_generated
from ddpm_hf.hub.model_files import INDEX_FILE
from ddpm_hf.hub.model_folder import check_model_folder
from ddpm_hf.hub.retries import Patience, first_line, with_retries
from ddpm_hf.hub.shared_files import check_contents, files_left_out, files_to_share, size_of
from ddpm_hf.pipelines.portable_pipeline import CODE_FILE

WEIGHTS = (".safetensors", ".bin")
PATIENCE = Patience()
# Of one folder that are listed one by one.
MOST_NAMES = 5
# A question before the work is not worth a long wait: the user sits there.
PATIENCE_OF_CHECKS = Patience(attempts=3, silence=30.0)


class Target(NamedTuple):
    """Where a push goes: a full repository id, the user who pushes, a branch, or a pull request to main. Its text has no token."""

    repository: str
    user: str
    private: bool | None = None
    revision: str = "main"
    create_pr: bool = False
    token: str | None = None  # that of `get_token` by default

    @property
    def api(self):
        return HfApi(token=self.token)

    def __repr__(self):
        return f"Target({self.repository!r}, {self.user!r}, {self.private}, {self.revision!r}, {self.create_pr})"


class Changes(NamedTuple):
    """What a commit would do, by path; `kept` is a card on the Hub that a person has edited, which stays."""

    new: list
    changed: list
    same: list
    removed: list
    kept: list

    def __bool__(self):
        return bool(self.new or self.changed or self.removed)


class Push(NamedTuple):
    """What a push did, or with `dry_run` would do.

    url: of the commit or the pull request that has the files, which is an old one if nothing had changed; None for a dry run.
    sizes: {path: bytes} of all files that are shared.
    left_out: paths in the folder of files that are not.
    """

    target: Target
    url: str | None
    changes: Changes
    sizes: dict
    left_out: tuple = ()

    def __str__(self):
        """A line for each file that a commit changes, for each that stays here, and the sum."""
        kinds = {"new": self.changes.new, "changed": self.changes.changed, "removed": self.changes.removed}
        lines = [
            f"{kind:8} {tqdm.format_sizeof(self.sizes.get(name, 0), 'B'):>8}  {name}"
            for kind, names in kinds.items()
            for name in names
        ]
        lines += [f"kept     {'':>8}  {name}, which was edited on the Hub" for name in self.changes.kept]
        lines += [f"left out {'':>8}  {what}, which is no part of the model" for what in _in_few_words(self.left_out)]
        sent = sum(self.sizes[name] for name in self.changes.new + self.changes.changed)
        place = "a pull request to" if self.target.create_pr else f"{self.target.revision} of"
        lines.append(
            f"{len(self.changes.new + self.changes.changed)} files, {tqdm.format_sizeof(sent, 'B')}, for {place} "
            f"{self.target.repository}; {len(self.changes.same)} are there already"
        )
        return "\n".join(lines)


def _in_few_words(names):
    """The names, and of folders with many of them the folder alone."""
    of_folders = Counter(name.split("/")[0] for name in names if "/" in name)
    many = {folder: count for folder, count in of_folders.items() if count > MOST_NAMES}
    few = [name for name in names if name.split("/")[0] not in many]
    return few + [f"{folder}/ with {count} files" for folder, count in many.items()]


def push_folder(
    folder,
    repository,
    private=None,
    revision=None,
    create_pr=False,
    dry_run=False,
    license=None,
    evaluations=(),
    message="Upload a diffusion model",
    patience=PATIENCE,
    token=None,
):
    """Uploads a pipeline folder in one commit, or says what that would change.

    What is uploaded is what a model needs and what was measured of it (`shared_files.SHARED`, and the pictures that the card
    shows), in its public form: without paths of this machine. The token is that of the environment (`HF_TOKEN`) or of
    `hf auth login`, and nothing else is asked for a dry run without one. The folders of the components, and `pipeline.py`,
    become what they are here; other files of the repository stay. An identical folder makes no commit. A `README.md`
    that a person has written or edited is taken as it is, here and on the Hub; any other is made anew for this repository.

    Args:
        folder: a pipeline folder.
        repository (`str`): "name" or "owner/name"; it is created if it is not there.
        private (`bool`, *optional*): create it as private; True is refused where it is there and public.
        revision (`str`, *optional*): a branch, made from main if it is not there; main by default.
        create_pr (`bool`): offer the commit as a pull request, which works for other people's repositories too.
        dry_run (`bool`): change nothing, there or here. Without a token the Hub is not asked: all files count as new.
        license (`str`, *optional*): for the card, as the Hub spells it: "apache-2.0"; by default that of the card there.
        evaluations (*optional*): more files of `ddpm-hf compare` and `evaluate` for the card.
        message (`str`): of the commit.
        patience ([`Patience`]): with a Hub that does not answer.
        token (`str`, *optional*): instead of that of the environment.

    Returns:
        [`Push`]

    Raises:
        InputError: for what cannot be pushed, before anything is sent; and if the Hub does not take it.
    """
    has_hub = not dry_run or (token or get_token()) is not None
    target = (open_target if has_hub else named_target)(repository, private, revision, create_pr, token)
    check_model_folder(folder)
    files, left_out = files_to_share(folder), tuple(files_left_out(folder))
    if has_hub:
        license = license or _ask(lambda: _license_there(target), target, folder, PATIENCE_OF_CHECKS)
    files[CARD_FILE] = card_of(folder, target.repository, license, evaluations).encode()
    check_contents(files, folder)
    if not dry_run:
        return push_files(files, target, message, patience, folder)._replace(left_out=left_out)
    changes = Changes(list(files), [], [], [], [])
    if has_hub:
        changes = _ask(lambda: changes_of(files, target)[0], target, folder, PATIENCE_OF_CHECKS)
    return Push(target, None, changes, _sizes(files), left_out)


def push_files(files, target, message, patience, folder):
    """Uploads `files`, {path: `Path` or bytes}, unless they are there already; `folder` is for messages."""
    changes = []

    def attempt():
        prepare(target)
        found, parent = changes_of(files, target)
        changes.append(found)
        return _commit(files, target, found, parent, message)

    url = _ask(attempt, target, folder, patience)
    # A first attempt may have done it all and lost the answer.
    return Push(target, url, changes[0], _sizes(files))


def _ask(attempt, target, folder, patience):
    try:
        return with_retries(attempt, patience)
    except InputError:
        raise
    # Whatever the client raises, to the user it is one thing.
    except Exception as error:
        raise InputError(
            f"{folder} could not be uploaded to {target.repository} ({first_line(error)}). It is there as a whole or not at "
            f"all; `{_command(target, folder)}` goes on where it stopped."
        ) from error


def _command(target, folder):
    flags = " --private" if target.private else ""
    flags += " --create_pr" if target.create_pr else ""
    flags += f" --revision {target.revision}" if target.revision != "main" else ""
    return f"ddpm-hf push {folder} {target.repository}{flags}"


# Before the work -----------------------------------------------------------------------------------------------------


def named_target(repository, private=None, revision=None, create_pr=False, token=None):
    """The [`Target`] of a name, without asking the Hub whose it is.

    Raises:
        InputError: for a name that the Hub does not allow, and for a pull request to a branch.
    """
    _check_name(repository)
    if create_pr and revision not in (None, "main"):
        raise InputError(f"A pull request goes to main: leave out revision={revision!r}, or --create_pr.")
    return Target(repository, "", private, revision or "main", create_pr, token)


def open_target(repository, private=None, revision=None, create_pr=False, token=None):
    """Checks the name, the token and the rights; changes nothing.

    Returns:
        [`Target`]

    Raises:
        InputError: for a name that the Hub does not allow, without a token or with a refused one, without a network, and
            for a repository of somebody else, unless with `create_pr`.
    """
    target = named_target(repository, private, revision, create_pr, token)
    if (token or get_token()) is None:
        raise InputError(
            f"There is no token to push to {repository} with: log in with `hf auth login`, or set HF_TOKEN (make one at "
            "https://huggingface.co/settings/tokens)."
        )
    account = _account(target)
    owner, name = repository.split("/") if "/" in repository else (account["name"], repository)
    target = target._replace(repository=f"{owner}/{name}", user=account["name"])
    _check_rights(target, account)
    return target


def _check_name(repository):
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise InputError(
            f"{repository!r} is not a name for a repository: give NAME or OWNER/NAME of letters, digits, '-', '_' and '.', at "
            "most 96 of them."
        ) from error


def _account(target):
    """Whose token it is, as the Hub says."""
    repository = target.repository
    try:
        return with_retries(target.api.whoami, PATIENCE_OF_CHECKS)
    except HfHubHTTPError as error:
        if error.response.status_code in (401, 403):
            raise InputError(
                f"The Hub does not know the token to push to {repository} with: log in again with `hf auth login`, or mend "
                "HF_TOKEN, which goes before it."
            ) from error
        raise InputError(f"The Hub does not answer as it should ({first_line(error)}): try again later.") from error
    except Exception as error:
        raise InputError(
            f"The Hub cannot be reached to push to {repository} ({first_line(error)}): check the network, and HF_ENDPOINT and "
            "HF_HUB_OFFLINE if they are set."
        ) from error


def _check_rights(target, account):
    token = account.get("auth", {}).get("accessToken", {})
    if token.get("role") == "read":
        raise InputError(
            f"The token only reads, and to push to {target.repository} takes one that writes: make one at "
            "https://huggingface.co/settings/tokens and log in with it."
        )
    mine = [account["name"], *(organization["name"] for organization in account.get("orgs", []))]
    owner = target.repository.split("/")[0]
    if owner not in mine and not target.create_pr:
        raise InputError(
            f"{target.repository} is not yours ({account['name']} can push to {', '.join(mine)}): choose another name, or "
            "offer it as a pull request with --create_pr."
        )


# Where it goes -------------------------------------------------------------------------------------------------------


def prepare_repository(repository, private=None, revision=None):
    """Checks and creates a repository before the work whose result it is to get.

    Returns:
        [`Target`]
    """
    target = open_target(repository, private, revision)
    try:
        with_retries(lambda: prepare(target), PATIENCE_OF_CHECKS)
    except HfHubHTTPError as error:
        raise InputError(
            f"The Hub does not give {target.repository} ({first_line(error)}): choose another."
        ) from error
    return target


def prepare(target):
    """Creates what is not there yet of the repository and the branch."""
    api = target.api
    try:
        info = api.repo_info(target.repository)
    except RepositoryNotFoundError:
        api.create_repo(target.repository, private=target.private, exist_ok=True)
    else:
        if target.private and not info.private:
            raise InputError(
                f"{target.repository} is there already, and public: make it private in its settings, or leave out --private, "
                "or choose another name."
            )
    if target.revision != "main" and not target.revision.startswith("refs/"):
        api.create_branch(target.repository, branch=target.revision, exist_ok=True)


# What changes --------------------------------------------------------------------------------------------------------


def changes_of(files, target, revision=None):
    """[`Changes`] that would make a revision of the repository, by default that of the target, have these files.

    Returns:
        The changes, and the commit that they are from; None if there is no such repository.
    """
    api = target.api
    try:
        there, commit = _files_there(api, target.repository, revision or target.revision)
    except RepositoryNotFoundError:
        there, commit = {}, None
    except RevisionNotFoundError:  # a branch begins as main
        there, commit = _files_there(api, target.repository, "main")
    _check_kind(target.repository, files, there)
    kept = [CARD_FILE] if _keeps_card(api, target.repository, commit, files, there) else []
    ours = [name for name in files if name not in kept]
    same = [name for name in ours if name in there and _has_content(there[name], files[name])]
    changed = [name for name in ours if name in there and name not in same]
    new = [name for name in ours if name not in there]
    removed = [name for name in there if _is_loaded(name, files) and name not in files]
    return Changes(new, changed, same, removed, kept), commit


def _files_there(api, repository, revision):
    """{path: `RepoFile`}, and the commit that has them."""
    commit = api.repo_info(repository, revision=revision).sha
    entries = api.list_repo_tree(repository, recursive=True, revision=commit)
    return {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}, commit


def _check_kind(repository, files, there):
    for name in there:
        if name.endswith(WEIGHTS) and not _is_loaded(name, files):
            raise InputError(
                f"{repository} holds another kind of model, with {name}, which is no part of this pipeline: choose another "
                "repository, or delete that file there."
            )


def _is_loaded(name, files):
    """Whether a loader of this pipeline would read it: what is in the folders of its components, and the code."""
    components = {path.split("/")[0] for path in files if path.endswith("config.json") and path.count("/") == 1}
    return name in (CODE_FILE, INDEX_FILE) or name.split("/")[0] in components


def _has_content(entry, content):
    """Whether a file of the Hub is this one, by its hash: SHA-256 of large files, that of git of the others."""
    if entry.size != size_of(content):
        return False
    if entry.lfs is not None:
        return CommitOperationAdd(CARD_FILE, content).upload_info.sha256.hex() == entry.lfs.sha256
    return git_hash(content if isinstance(content, bytes) else content.read_bytes()) == entry.blob_id


def _keeps_card(api, repository, commit, files, there):
    """Whether the Hub has a card that a person has edited, and we only one that nobody has."""
    if CARD_FILE not in there or _has_content(there[CARD_FILE], files[CARD_FILE]):
        return False
    if not is_generated(files[CARD_FILE].decode()):
        return False
    card = api.hf_hub_download(repository, CARD_FILE, revision=commit)
    return not is_generated(Path(card).read_text(encoding="utf-8"))


def _license_there(target):
    """That of the card on the Hub, which a new one is not to lose; None without."""
    try:
        card = target.api.hf_hub_download(target.repository, CARD_FILE, revision=target.revision)
    except (RepositoryNotFoundError, RevisionNotFoundError, RemoteEntryNotFoundError):
        return None
    return ModelCard(Path(card).read_text(encoding="utf-8")).data.license


def _sizes(files):
    return {name: size_of(content) for name, content in files.items()}


# The commit ----------------------------------------------------------------------------------------------------------


def _commit(files, target, changes, parent, message):
    """The address of the commit or pull request that has the files: a new one, unless there is one already."""
    api = target.api
    if not changes:
        return f"{api.endpoint}/{target.repository}/commit/{parent}"
    if target.create_pr:
        offered = _pull_request(api, files, target)
        if offered is not None:
            return offered
    commit = api.create_commit(
        target.repository,
        [
            *(CommitOperationAdd(name, files[name]) for name in changes.new + changes.changed),
            *(CommitOperationDelete(name) for name in changes.removed),
        ],
        commit_message=message,
        revision=target.revision,
        create_pr=target.create_pr,
        parent_commit=parent,  # refused if the repository has become another since it was compared
    )
    return commit.pr_url or commit.commit_url


def _pull_request(api, files, target):
    """The address of an open pull request of this user that offers just these files."""
    requests = api.get_repo_discussions(
        target.repository, author=target.user, discussion_type="pull_request", discussion_status="open"
    )
    for request in requests:
        if not changes_of(files, target, request.git_reference)[0]:
            return request.url
    return None
