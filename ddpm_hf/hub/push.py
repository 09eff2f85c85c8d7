"""Pushes a pipeline folder to a repository on the Hub in a single commit.

All checks precede the upload. The commit follows once all large files are uploaded; these are sent once, by content.
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
from ddpm_hf.hub.model_files import CONFIG_FILE, INDEX_FILE
from ddpm_hf.hub.model_folder import check_model_folder
from ddpm_hf.hub.retries import Patience, first_line, with_retries
from ddpm_hf.hub.shared_files import LOG, NOTES, check_contents, files_left_out, files_to_share, size_of
from ddpm_hf.pipelines.portable_pipeline import CODE_FILE

WEIGHTS = (".safetensors", ".bin")
PATIENCE = Patience()
# The most files of one folder that are listed one by one.
MOST_NAMES = 5
# Checks before the work wait briefly, because the user is watching.
PATIENCE_OF_CHECKS = Patience(attempts=3, silence=30.0)


class Target(NamedTuple):
    """The target of a push: repository id, user, and branch or pull request to main. Its text hides the token."""

    repository: str
    user: str
    private: bool | None = None
    revision: str = "main"
    create_pr: bool = False
    token: str | None = None  # by default from `get_token`

    @property
    def api(self):
        return HfApi(token=self.token)

    def __repr__(self):
        return f"Target({self.repository!r}, {self.user!r}, {self.private}, {self.revision!r}, {self.create_pr})"


class Changes(NamedTuple):
    """The changes of a commit by path; `kept` is an edited card on the Hub, which stays."""

    new: list
    changed: list
    same: list
    removed: list
    kept: list

    def __bool__(self):
        return bool(self.new or self.changed or self.removed)


class Push(NamedTuple):
    """The result of a push, or with `dry_run` its plan.

    url: address of the commit or the pull request with the files, an existing one if nothing changed; None for a dry
    run.
    sizes: {path: bytes} of all shared files.
    left_out: paths of the files in the folder that are not shared.
    """

    target: Target
    url: str | None
    changes: Changes
    sizes: dict
    left_out: tuple = ()

    def __str__(self):
        """One line per changed file and per file left out, and the total."""
        kinds = {"new": self.changes.new, "changed": self.changes.changed, "removed": self.changes.removed}
        lines = [
            f"{kind:8} {tqdm.format_sizeof(self.sizes.get(name, 0), 'B'):>8}  {name}{_note(name)}"
            for kind, names in kinds.items()
            for name in names
        ]
        lines += [f"kept     {'':>8}  {name}, which was edited on the Hub" for name in self.changes.kept]
        lines += [f"left out {'':>8}  {what}, which is no part of the model" for what in _in_few_words(self.left_out)]
        offered = self.changes.new + self.changes.changed
        sent = sum(self.sizes[name] for name in offered)
        place = "a pull request to" if self.target.create_pr else f"{self.target.revision} of"
        lines.append(
            f"{len(offered)} files, {tqdm.format_sizeof(sent, 'B')}, for {place} "
            f"{self.target.repository}; {len(self.changes.same)} are there already"
        )
        if log := [name for name in LOG if name in offered]:
            lines.append(f"To leave out the log of the training ({', '.join(log)}), give --no_log.")
        return "\n".join(lines)


def _note(name):
    return f" ({NOTES[name]})" if name in NOTES else ""


def _in_few_words(names):
    """The names; a folder with many of them is named alone."""
    of_folders = Counter(name.split("/")[0] for name in names if "/" in name)
    many = {folder: count for folder, count in of_folders.items() if count > MOST_NAMES}
    few = [name for name in names if name.split("/")[0] not in many]
    return few + [f"{folder}/ with {count} files" for folder, count in many.items()]


class PushOptions(NamedTuple):
    """The options of `push_folder`, with their defaults."""

    private: bool | None = None
    revision: str | None = None
    create_pr: bool = False
    dry_run: bool = False
    license: str | None = None
    evaluations: tuple = ()
    message: str = "Upload a diffusion model"
    patience: Patience = PATIENCE
    token: str | None = None
    log: bool = True


def push_folder(folder, repository, **options):
    """Uploads a pipeline folder in one commit, or reports what that would change.

    The upload holds the files of the model and its results (`shared_files.SHARED`, and the pictures in the card) in
    their public form, without paths of this machine. The token comes from `HF_TOKEN` or `hf auth login`. The folders
    of the components and `pipeline.py` are replaced; other files of the repository stay. An identical folder makes no
    commit. A `README.md` that somebody wrote or edited is kept, here and on the Hub; any other is made anew.

    Args:
        folder: a pipeline folder.
        repository (`str`): "name" or "owner/name"; it is created if it does not exist.
        private (`bool`, *optional*): create the repository as private; True is refused for an existing public one.
        revision (`str`, *optional*): a branch, created from main if it does not exist; by default main.
        create_pr (`bool`): open a pull request, which works for other people's repositories too.
        dry_run (`bool`): change nothing, here or on the Hub. Without a token all files count as new.
        license (`str`, *optional*): the Hub's identifier, such as "apache-2.0"; by default that of the Hub's card.
        evaluations (*optional*): further files of `ddpm-hf compare` and `evaluate` for the card.
        message (`str`): the commit message.
        patience ([`Patience`]): retries while the Hub does not answer.
        token (`str`, *optional*): replaces the token of the environment.
        log (`bool`): share the log of the training too, which nothing loads: `shared_files.LOG`.

    Returns:
        [`Push`]

    Raises:
        InputError: for a folder that cannot be pushed, before anything is sent; and if the Hub refuses it.
    """
    options = PushOptions(**options)
    has_hub = not options.dry_run or (options.token or get_token()) is not None
    place = options.private, options.revision, options.create_pr, options.token
    target = (open_target if has_hub else named_target)(repository, *place)
    check_model_folder(folder)
    files, left_out = files_to_share(folder), tuple(files_left_out(folder))
    if not options.log:
        files = {name: content for name, content in files.items() if name not in LOG}
    license = options.license
    if has_hub:
        license = license or _ask(lambda: _license_there(target), target, folder, PATIENCE_OF_CHECKS)
    files[CARD_FILE] = card_of(folder, target.repository, license, options.evaluations).encode()
    check_contents(files, folder)
    if not options.dry_run:
        return push_files(files, target, options.message, options.patience, folder)._replace(left_out=left_out)
    changes = Changes(list(files), [], [], [], [])
    if has_hub:
        changes = _ask(lambda: changes_of(files, target)[0], target, folder, PATIENCE_OF_CHECKS)
    return Push(target, None, changes, _sizes(files), left_out)


def push_files(files, target, message, patience, folder):
    """Uploads `files`, {path: `Path` or bytes}, unless the repository has them; messages name `folder`."""
    changes = []

    def attempt():
        prepare(target)
        found, parent = changes_of(files, target)
        changes.append(found)
        return _commit(files, target, found, parent, message)

    url = _ask(attempt, target, folder, patience)
    # An earlier attempt may have succeeded and lost the answer.
    return Push(target, url, changes[0], _sizes(files))


def _ask(attempt, target, folder, patience):
    try:
        return with_retries(attempt, patience)
    except InputError:
        raise
    # The client raises many kinds of errors; users see one kind.
    except Exception as error:
        raise InputError(
            f"{folder} could not be uploaded to {target.repository} ({first_line(error)}). It is there as a whole or "
            f"not at all; `{_command(target, folder)}` goes on where it stopped."
        ) from error


def _command(target, folder):
    flags = " --private" if target.private else ""
    flags += " --create_pr" if target.create_pr else ""
    flags += f" --revision {target.revision}" if target.revision != "main" else ""
    return f"ddpm-hf push {folder} {target.repository}{flags}"


# Before the work -----------------------------------------------------------------------------------------------------


def named_target(repository, private=None, revision=None, create_pr=False, token=None):
    """The [`Target`] of a name, without asking the Hub for its owner.

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
        InputError: for a name that the Hub does not allow; without a valid token or a network; and for somebody else's
            repository without `create_pr`.
    """
    target = named_target(repository, private, revision, create_pr, token)
    if (token or get_token()) is None:
        raise InputError(
            f"There is no token to push to {repository} with: log in with `hf auth login`, or set HF_TOKEN (make one "
            "at https://huggingface.co/settings/tokens)."
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
            f"{repository!r} is not a name for a repository: give NAME or OWNER/NAME of letters, digits, '-', '_' and "
            "'.', at most 96 of them."
        ) from error


def _account(target):
    """The account of the token, from the Hub."""
    repository = target.repository
    try:
        return with_retries(target.api.whoami, PATIENCE_OF_CHECKS)
    except HfHubHTTPError as error:
        if error.response.status_code in (401, 403):
            raise InputError(
                f"The Hub does not accept the token for pushing to {repository}: log in again with `hf auth login`, "
                "or correct HF_TOKEN, which takes precedence."
            ) from error
        raise InputError(f"The Hub does not answer as it should ({first_line(error)}): try again later.") from error
    except Exception as error:
        raise InputError(
            f"The Hub cannot be reached to push to {repository} ({first_line(error)}): check the network, and "
            "HF_ENDPOINT and HF_HUB_OFFLINE if they are set."
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
            f"{target.repository} is not yours ({account['name']} can push to {', '.join(mine)}): choose another "
            "name, or offer it as a pull request with --create_pr."
        )


# Where it goes -------------------------------------------------------------------------------------------------------


def prepare_repository(repository, private=None, revision=None):
    """Checks and creates a repository before the work whose result it will hold.

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
    """Creates the repository and the branch if they do not exist."""
    api = target.api
    try:
        info = api.repo_info(target.repository)
    except RepositoryNotFoundError:
        api.create_repo(target.repository, private=target.private, exist_ok=True)
    else:
        if target.private and not info.private:
            raise InputError(
                f"{target.repository} is there already, and public: make it private in its settings, or leave out "
                "--private, or choose another name."
            )
    if target.revision != "main" and not target.revision.startswith("refs/"):
        api.create_branch(target.repository, branch=target.revision, exist_ok=True)


# What changes --------------------------------------------------------------------------------------------------------


def changes_of(files, target, revision=None):
    """The [`Changes`] that give a revision of the repository, by default the target's, these files.

    Returns:
        The changes, and the commit they start from; None if there is no such repository.
    """
    api = target.api
    try:
        there, commit = _files_there(api, target.repository, revision or target.revision)
    except RepositoryNotFoundError:
        there, commit = {}, None
    except RevisionNotFoundError:  # a new branch starts from main
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
    """{path: `RepoFile`} of a revision, and its commit."""
    commit = api.repo_info(repository, revision=revision).sha
    entries = api.list_repo_tree(repository, recursive=True, revision=commit)
    return {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}, commit


def _check_kind(repository, files, there):
    for name in there:
        if name.endswith(WEIGHTS) and not _is_loaded(name, files):
            raise InputError(
                f"{repository} holds another kind of model, with {name}, which is no part of this pipeline: choose "
                "another repository, or delete that file there."
            )


def _is_loaded(name, files):
    """Whether a loader of this pipeline reads the file: code, and files in the folders of components."""
    components = {path.split("/")[0] for path in files if path.endswith("config.json") and path.count("/") == 1}
    is_of_network = "/" not in name and name.endswith(WEIGHTS) and CONFIG_FILE in files  # an autoencoder by itself
    return name in (CODE_FILE, INDEX_FILE) or name.split("/")[0] in components or is_of_network


def _has_content(entry, content):
    """Whether a file on the Hub equals this one by its hash: SHA-256 for large files, git's hash for others."""
    if entry.size != size_of(content):
        return False
    if entry.lfs is not None:
        return CommitOperationAdd(CARD_FILE, content).upload_info.sha256.hex() == entry.lfs.sha256
    return git_hash(content if isinstance(content, bytes) else content.read_bytes()) == entry.blob_id


def _keeps_card(api, repository, commit, files, there):
    """Whether the card on the Hub is edited and ours is generated."""
    if CARD_FILE not in there or _has_content(there[CARD_FILE], files[CARD_FILE]):
        return False
    if not is_generated(files[CARD_FILE].decode()):
        return False
    card = api.hf_hub_download(repository, CARD_FILE, revision=commit)
    return not is_generated(Path(card).read_text(encoding="utf-8"))


def _license_there(target):
    """The license in the card on the Hub, which a new card keeps; None without one."""
    try:
        card = target.api.hf_hub_download(target.repository, CARD_FILE, revision=target.revision)
    except (RepositoryNotFoundError, RevisionNotFoundError, RemoteEntryNotFoundError):
        return None
    return ModelCard(Path(card).read_text(encoding="utf-8")).data.license


def _sizes(files):
    return {name: size_of(content) for name, content in files.items()}


# The commit ----------------------------------------------------------------------------------------------------------


def _commit(files, target, changes, parent, message):
    """The address of the commit or pull request with the files; an existing one is reused."""
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
        parent_commit=parent,  # refused if the repository changed since the comparison
    )
    return commit.pr_url or commit.commit_url


def _pull_request(api, files, target):
    """The address of an open pull request of this user with exactly these files."""
    requests = api.get_repo_discussions(
        target.repository, author=target.user, discussion_type="pull_request", discussion_status="open"
    )
    for request in requests:
        if not changes_of(files, target, request.git_reference)[0]:
            return request.url
    return None
