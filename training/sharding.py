"""Whole tensors of those that an engine shards (FSDP2: each process has a part of every weight), and back."""

from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import tree_map


def is_sharded(tensors):
    return any(isinstance(tensor, DTensor) for tensor in tensors)


def whole(tensor):
    """All of a tensor, in every process; every process must call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def own_part(tensor):
    """What this process has of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def shard_like(tensor, like):
    """The own part of a whole tensor, if `like` is sharded; every process must call this."""
    return distribute_tensor(tensor, like.device_mesh, like.placements) if isinstance(like, DTensor) else tensor


class SavedWhole:
    """Something whose state is spread over the processes, as checkpoints are to have it.

    Of what is registered with it, accelerate saves what the main process has, and asks for it in the middle of writing
    files, where one process may fail and none can wait for another. So the state is gathered before.

    Args:
        stateful: has a `state_dict`, which every process must call, and a `load_state_dict`.
        is_main_process (`bool`): of those processes that need not keep what is not saved.
    """

    def __init__(self, stateful, is_main_process):
        self.stateful, self.is_main_process, self.gathered = stateful, is_main_process, None

    def gather(self):
        """For the `state_dict` that follows; every process must call this."""
        self.gathered = tree_map(self._kept, self.stateful.state_dict())

    def state_dict(self):
        """What was gathered, which may be large and is not kept."""
        state, self.gathered = self.gathered, None
        return state

    def _kept(self, value):
        if not isinstance(value, DTensor):
            return value
        value = whole(value)
        return value.cpu() if self.is_main_process else None

    def load_state_dict(self, state):
        self.stateful.load_state_dict(tree_map(shard_like, state, self.stateful.state_dict()))
