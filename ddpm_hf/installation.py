"""How this package is installed: the one place that cards and errors take the commands from."""

from ddpm_hf import __version__

# No index has the package yet, so that it is installed from the wheel that `make dist` writes in a checkout. A release
# changes this line alone, to the name on the index or to the address of the repository.
SOURCE = f"ddpm_hf-{__version__}-py3-none-any.whl"
INSTALL = f"pip install {SOURCE}"
WHERE = "`make dist` writes this wheel in a checkout of ddpm_hf"


def install_extra(name):
    """The command that adds an extra's packages to the installed ddpm_hf, which pip does not look for again."""
    return f'pip install "ddpm_hf[{name}]"'
