"""How a configuration of ours travels through classes that do not know it.

Stock diffusers classes keep unknown keys of a config, but print each in a warning; one key that begins with an
underscore they carry along in silence. So what only we understand is packed under that one key wherever a stock class
may read it: in the JSON file, and in the items of `.config` (`DDIMScheduler.from_config(ours.config)` reads these).
"""

import inspect
import json

from diffusers.configuration_utils import FrozenDict

PACKED_KEY = "_ddpm_hf"


class PortableConfig(FrozenDict):
    """The config of a class of ours: lookups and attributes see every value, `items()` is what stock classes may read.

    Args:
        values: every key of the config with its value.
        own_keys: the keys that stock classes do not have.
        stand_ins: for keys that stock classes have: `{key: {value that only we understand: value for the others}}`.
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
    """Packs on the way out and unpacks on the way in; comes before `ConfigMixin` among the bases."""

    _own_keys = ()
    _shadowed_keys = ()  # own keys that other classes use too, for something else: read from the packed ones alone
    _stand_ins = {}  # noqa: RUF012
    _kept_keys = ()  # keys whose defaults differ from class to class

    @classmethod
    def extract_init_dict(cls, config_dict, **kwargs):
        values = {key: value for key, value in config_dict.items() if key not in cls._left_out(config_dict)}
        return super().extract_init_dict(values | values.pop(PACKED_KEY, {}), **kwargs)

    @classmethod
    def _left_out(cls, config_dict):
        """The keys of a config that say nothing to this class.

        In memory a config says which values are the defaults of its class. Diffusers leaves those out, and so would take the
        defaults of this class for a schedule that has others: here they are read, and left out only where the key is
        another's. None where this class needs a value is how another class says that it does without.
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
        """The keys with default values that a class made from this config in memory may give defaults of its own.

        Diffusers counts all that was not given by name, and so a stock class would take another noise schedule than this one.
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
