"""Conversion between whole and sharded tensors (with FSDP2, each process has a part of every weight)."""

from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import tree_map


def is_sharded(tensors):
    return any(isinstance(tensor, DTensor) for tensor in tensors)


def whole(tensor):
    """The whole tensor, in every process; every process must call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def own_part(tensor):
    """This process's part of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def shard_like(tensor, like):
    """This process's part of a whole tensor, if `like` is sharded; every process must call this."""
    return distribute_tensor(tensor, like.device_mesh, like.placements) if isinstance(like, DTensor) else tensor


class SavedWhole:
    """Gathers state that is spread over processes before a checkpoint is written.

    accelerate saves the main process's state of registered objects while it writes files, when a process may fail and
    no other may wait for it. So the state is gathered before.

    Args:
        stateful: an object with a `state_dict`, which every process must call, and a `load_state_dict`.
        is_main_process (`bool`): whether this process keeps the gathered state, to save it.
    """

    def __init__(self, stateful, is_main_process):
        self.stateful, self.is_main_process, self.gathered = stateful, is_main_process, None

    def gather(self):
        """Gathers the state for the next `state_dict`; every process must call this."""
        self.gathered = tree_map(self._kept, self.stateful.state_dict())

    def state_dict(self):
        """The gathered state, which may be large and is released."""
        state, self.gathered = self.gathered, None
        return state

    def _kept(self, value):
        if not isinstance(value, DTensor):
            return value
        value = whole(value)
        return value.cpu() if self.is_main_process else None

    def load_state_dict(self, state):
        self.stateful.load_state_dict(tree_map(shard_like, state, self.stateful.state_dict()))
