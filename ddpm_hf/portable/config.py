"""How a config of ours passes through stock classes that do not know its keys.

Stock diffusers classes keep unknown keys of a config and warn of each, except keys that begin with an underscore. So
our own keys are packed under one such key wherever a stock class may read them: in the JSON file, and in the items of
`.config`, which `DDIMScheduler.from_config(ours.config)` reads.
"""

import inspect
import json

from diffusers.configuration_utils import FrozenDict

from ddpm_hf.portable.packed_key import PACKED_KEY


def own_value(config, key):
    """The value of a key of ours in a config of ours or of a stock class; None where it is not there."""
    return config.get(key, config.get(PACKED_KEY, {}).get(key))


class PortableConfig(FrozenDict):
    """The config of one of our classes: lookups and attributes see every value, `items()` what stock classes read.

    Args:
        values: every key of the config with its value.
        own_keys: the keys that stock classes do not have.
        stand_ins: for keys that stock classes have, `{key: {value that only ours knows: value for them}}`.
    """

    def __init__(self, values, own_keys=(), stand_ins=None):
        self._own_keys, self._stand_ins = own_keys, stand_ins or {}
        super().__init__(values)
        for key in own_keys:
            if key in self:
                setattr(self, key, self[key])
        for key in self._stand_ins:
            if key in self:
                setattr(self, key, self[key])

    def items(self):
        portable, packed = {}, {}
        for key, value in super().items():
            stand_ins = self._stand_ins.get(key, {})
            if key in self._own_keys:
                packed[key] = value
            elif isinstance(value, str) and value in stand_ins:
                packed[key], portable[key] = value, stand_ins[value]
            else:
                portable[key] = value
        return (portable | {PACKED_KEY: packed} if packed else portable).items()

    def __reduce__(self):
        return type(self), (dict(self), self._own_keys, self._stand_ins)


class PortableConfigMixin:
    """Packs own keys when a config is written and unpacks them on reading; goes before `ConfigMixin`."""

    _own_keys = ()
    _shadowed_keys = ()  # own keys with another meaning in other classes: read from the packed ones alone
    _stand_ins = {}  # noqa: RUF012
    _kept_keys = ()  # keys whose defaults differ from class to class

    @classmethod
    def extract_init_dict(cls, config_dict, **kwargs):
        values = {key: value for key, value in config_dict.items() if key not in cls._left_out(config_dict)}
        return super().extract_init_dict(values | values.pop(PACKED_KEY, {}), **kwargs)

    @classmethod
    def _left_out(cls, config_dict):
        """The keys of a config that this class ignores.

        A config in memory records which values are defaults of its class. Diffusers drops these, and would replace
        them with the defaults of this class, which may describe another schedule. Here they are read, and dropped only
        if the key belongs to another class. None where this class needs a value means that the other class has no use
        for it.
        """
        ours = inspect.signature(cls).parameters
        needed = {key for key, parameter in ours.items() if parameter.default is not None}
        foreign = set(config_dict.get("_use_default_values", ())) - set(ours)
        missing = {key for key, value in config_dict.items() if value is None and key in needed}
        return {*cls._shadowed_keys, "_use_default_values"} | foreign | missing

    def register_to_config(self, **kwargs):
        if not hasattr(self, "_internal_dict"):  # all arguments of the constructor
            kwargs["_use_default_values"] = self._replaceable(kwargs)
        super().register_to_config(**kwargs)
        self._internal_dict = PortableConfig(dict(self._internal_dict), self._own_keys, self._stand_ins)

    def _replaceable(self, values):
        """The keys with default values that a class made from this config in memory may replace with its own defaults.

        Diffusers lists every key that was not given by name, so a stock class would change the noise schedule.
        """
        defaults = {key: parameter.default for key, parameter in inspect.signature(type(self)).parameters.items()}
        same = (key for key in defaults.keys() & values.keys() if _is_same(values[key], defaults[key]))
        return sorted(key for key in same if key not in self._kept_keys)

    def to_json_string(self):
        values = json.loads(super().to_json_string())
        portable = PortableConfig(values, self._own_keys, self._stand_ins).items()
        return json.dumps(dict(portable), indent=2, sort_keys=True) + "\n"


def _is_same(value, default):
    return value is default or (isinstance(value, (bool, int, float, str)) and value == default)
