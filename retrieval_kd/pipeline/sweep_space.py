"""What a command with ``-m`` sweeps over: overrides of one value, and overrides of several."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.override_parser.types import IntervalSweep, Override

from retrieval_kd.contracts import UserError
from retrieval_kd.pipeline.compose import conf_dir, read_override


@dataclass(frozen=True)
class Job:
    """One run of a sweep."""

    number: int
    overrides: tuple[str, ...]

    @property
    def name(self) -> str:
        """As it is told of."""
        return " ".join(self.overrides)


@dataclass(frozen=True)
class Space:
    """A command's overrides by key; of two of one key the later counts."""

    overrides: Mapping[str, Override]

    @property
    def swept(self) -> dict[str, Override]:
        """Those of several values."""
        return {key: override for key, override in self.overrides.items() if override.is_sweep_override()}

    def job(self, number: int, values: Mapping[str, str]) -> Job:
        """The job with these values of what is swept."""
        said = (
            f"{key}={values[key]}" if key in values else override.input_line or key
            for key, override in self.overrides.items()
        )
        return Job(number, tuple(said))

    def first(self) -> Job:
        """One job, to look at what all have in common."""
        return self.job(0, {key: some_value(override) for key, override in self.swept.items()})

    def combinations(self) -> list[Job]:
        """Every one, the last key's values next to each other."""
        swept = self.swept
        for key, override in swept.items():
            if not override.is_discrete_sweep():
                raise UserError(f"{key}: {override.input_line} has no end of values; sweep=search draws from it")
        values = itertools.product(*(list_values(override) for override in swept.values()))
        found = dict.fromkeys(self.job(0, dict(zip(swept, one, strict=True))).overrides for one in values)
        return [Job(number, overrides) for number, overrides in enumerate(found)]


def read_space(arguments: Sequence[str], params: Mapping[str, object] | None = None) -> Space:
    """Read a command, and before it the values that ``sweep.params`` gives."""
    loader = ConfigLoaderImpl(config_search_path=create_config_search_path(str(conf_dir())))
    found: dict[str, Override] = {}
    for text in [*(f"{key}={_spelled(value)}" for key, value in (params or {}).items()), *arguments]:
        override = replace(read_override(text), config_loader=loader)  # glob(*) asks it for the options of a group
        found[override.get_key_element()] = override
    for key, override in found.items():
        if override.is_discrete_sweep() and not list_values(override):
            raise UserError(f"{key}: {override.input_line} has no value")
    return Space(found)


def _spelled(value: object) -> str:
    """A list of YAML stands for choices."""
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def list_values(override: Override) -> list[str]:
    """What a choice, a range or a glob stands for, as a command line spells it."""
    return list(override.sweep_string_iterator())


def some_value(override: Override) -> str:
    """The first value, or where an interval begins."""
    value = override.value()
    return str(value.start) if isinstance(value, IntervalSweep) else list_values(override)[0]
