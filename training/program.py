"""What every training is as a program: options from the command line, an error in one sentence, a stop by a signal."""

from collections.abc import Callable
from functools import wraps
from typing import NamedTuple

from ddpm_hf.environment import leave_out_notices_of_torchvision
from ddpm_hf.interruptions import clear_exit, raising_interrupted
from ddpm_hf.training.argument_parsing import parse_arguments
from ddpm_hf.training.run_folder import how_to_continue


def stopped_by_signals(train):
    """Decorates a training, `train(args)`: a signal raises `Interrupted`, which says how the run goes on."""

    @wraps(train)
    def stoppable(args):
        with raising_interrupted(lambda signum: how_to_continue(signum, args.output_dir)):
            return train(args)

    return stoppable


class Program(NamedTuple):
    """A training as a program.

    Attributes:
        name (`str`): its name in help and messages.
        train: the function of the options that trains.
        arguments: the dataclass of the options.
        for_memory (`str`): what the sentence about a full memory adds to a smaller --batch_size.
    """

    name: str
    train: Callable
    arguments: type
    for_memory: str = ""

    def main(self, argv=None):
        """Trains by the options of the command line; `argv` are by default the arguments of the process."""
        leave_out_notices_of_torchvision()
        self.run(parse_arguments(argv, self.arguments, prog=self.name))

    def run(self, args, prog=None):
        """Trains as a program does: errors become one sentence, and the exit code says how it ended.

        Args:
            args: the options, of `arguments`.
            prog (`str`, *optional*): the name of the program in its messages, by default that of the training.
        """
        with clear_exit(prog or self.name, how=self.for_memory):
            self.train(args)
