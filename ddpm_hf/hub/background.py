"""Pushes in the background."""

import logging
import threading

from ddpm_hf.hub.push import push_files
from ddpm_hf.hub.retries import Patience
from ddpm_hf.hub.shared_files import check_contents

logger = logging.getLogger(__name__)

# The next push includes what this one failed to upload, so a push does not retry for long.
PATIENCE = Patience(attempts=3, silence=120.0)


class BackgroundPush:
    """Uploads to one repository in a thread, one push at a time; failures are logged and have no other effect."""

    def __init__(self, target, patience=PATIENCE):
        self.target, self.patience = target, patience
        self.thread = None

    @property
    def is_busy(self):
        return self.thread is not None and self.thread.is_alive()

    def start(self, files, message, folder):
        """Starts uploading `files`, {path: `Path` or bytes}, which must not change until the upload is done."""
        # A daemon, because a program should not wait for the network at its end; without the commit nothing changes.
        self.thread = threading.Thread(target=self._push, args=(files, message, folder), daemon=True)
        self.thread.start()

    def wait(self):
        """Waits for the current push."""
        if self.thread is not None:
            self.thread.join()

    def _push(self, files, message, folder):
        try:
            check_contents(files, folder)
            push_files(files, self.target, message, self.patience, folder)
        except Exception as error:
            logger.warning("%s was not pushed, and the next save tries again: %s", message, error)
